//! Rows with checksums: the only way in and out of a table.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Params, Row, params_from_iter};

use super::checksum::{ChecksumKey, SetDigest, Tag};
use super::error::StoreError;

/// A table's columns; the first `key` of them are its primary key. A column `mac` follows them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: &'static [&'static str],
    pub(super) key: usize,
}

/// The columns of a row whose checksum was right.
pub(super) type Columns = Vec<Value>;

impl Table {
    /// Rows for which `condition` holds, an SQL text that may also order and limit.
    pub(super) fn select(
        &self,
        conn: &Connection,
        key: &ChecksumKey,
        condition: &str,
        params: impl Params,
    ) -> Result<Vec<Columns>, StoreError> {
        let sql = format!("SELECT {}, mac FROM {} {condition}", self.columns.join(", "), self.name);
        let mut statement = conn.prepare_cached(&sql)?;
        let mut rows = statement.query(params)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(self.verified(key, row)?.0);
        }
        Ok(found)
    }

    /// The row with this primary key.
    pub(super) fn get(
        &self,
        conn: &Connection,
        key: &ChecksumKey,
        id: &[Value],
    ) -> Result<Option<Columns>, StoreError> {
        let condition = format!("WHERE {}", self.match_key());
        Ok(self.select(conn, key, &condition, params_from_iter(id))?.pop())
    }

    /// Inserts the row, or replaces the one with the same primary key.
    pub(super) fn put(
        &self,
        conn: &Connection,
        key: &ChecksumKey,
        digest: &mut SetDigest,
        row: &[Value],
    ) -> Result<(), StoreError> {
        debug_assert_eq!(row.len(), self.columns.len(), "{}", self.name);
        let before = self.tag_of(conn, key, &row[..self.key])?;
        let tag = key.row(self.name, row);
        let mac = Value::Blob(tag.to_vec());
        conn.prepare_cached(&self.upsert())?.execute(params_from_iter(row.iter().chain([&mac])))?;
        before.iter().for_each(|tag| digest.remove(tag));
        digest.add(&tag);
        Ok(())
    }

    /// Deletes the row with this primary key, if it is there.
    pub(super) fn delete(
        &self,
        conn: &Connection,
        key: &ChecksumKey,
        digest: &mut SetDigest,
        id: &[Value],
    ) -> Result<(), StoreError> {
        let Some(tag) = self.tag_of(conn, key, id)? else { return Ok(()) };
        let sql = format!("DELETE FROM {} WHERE {}", self.name, self.match_key());
        conn.prepare_cached(&sql)?.execute(params_from_iter(id))?;
        digest.remove(&tag);
        Ok(())
    }

    /// Adds every row to the digest, each verified.
    pub(super) fn scan(&self, conn: &Connection, key: &ChecksumKey, digest: &mut SetDigest) -> Result<(), StoreError> {
        let sql = format!("SELECT {}, mac FROM {}", self.columns.join(", "), self.name);
        let mut statement = conn.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            digest.add(&self.verified(key, row)?.1);
        }
        Ok(())
    }

    /// Writes every row's checksum anew, without looking at the old one: for rows verified before, whose form or key
    /// has changed.
    pub(super) fn reseal(
        &self,
        conn: &Connection,
        key: &ChecksumKey,
        digest: &mut SetDigest,
    ) -> Result<(), StoreError> {
        let mut statement = conn.prepare(&format!("SELECT {} FROM {}", self.columns.join(", "), self.name))?;
        let rows = statement.query_map([], |row| self.columns(row))?.collect::<Result<Vec<_>, _>>()?;
        let mut update = conn.prepare(&format!("UPDATE {} SET mac = ? WHERE {}", self.name, self.match_key()))?;
        for row in rows {
            let tag = key.row(self.name, &row);
            let mac = Value::Blob(tag.to_vec());
            update.execute(params_from_iter([&mac].into_iter().chain(&row[..self.key])))?;
            digest.add(&tag);
        }
        Ok(())
    }

    fn tag_of(&self, conn: &Connection, key: &ChecksumKey, id: &[Value]) -> Result<Option<Tag>, StoreError> {
        let sql = format!("SELECT {}, mac FROM {} WHERE {}", self.columns.join(", "), self.name, self.match_key());
        let mut statement = conn.prepare_cached(&sql)?;
        let found = statement.query_row(params_from_iter(id), |row| Ok(self.verified(key, row))).optional()?;
        Ok(found.transpose()?.map(|(_, tag)| tag))
    }

    fn columns(&self, row: &Row<'_>) -> rusqlite::Result<Columns> {
        (0..self.columns.len()).map(|i| row.get(i)).collect()
    }

    fn verified(&self, key: &ChecksumKey, row: &Row<'_>) -> Result<(Columns, Tag), StoreError> {
        let unreadable = |e: rusqlite::Error| StoreError::corrupt(self.name, e.to_string());
        let columns = self.columns(row).map_err(unreadable)?;
        let stored: Vec<u8> = row.get(self.columns.len()).map_err(unreadable)?;
        let tag = key.row(self.name, &columns);
        match stored == tag {
            true => Ok((columns, tag)),
            false => Err(StoreError::corrupt(self.name, self.describe(&columns))),
        }
    }

    /// The primary key for people: `env = local, app = uploads`.
    fn describe(&self, row: &[Value]) -> String {
        let parts = self.columns.iter().zip(row).take(self.key).map(|(column, value)| match value {
            Value::Null => format!("{column} is null"),
            Value::Integer(n) => format!("{column} = {n}"),
            Value::Real(x) => format!("{column} = {x}"),
            Value::Text(text) => format!("{column} = {}", text.escape_debug()),
            Value::Blob(bytes) => format!("{column} = {} bytes", bytes.len()),
        });
        parts.collect::<Vec<_>>().join(", ")
    }

    fn match_key(&self) -> String {
        self.columns[..self.key].iter().map(|c| format!("{c} = ?")).collect::<Vec<_>>().join(" AND ")
    }

    fn upsert(&self) -> String {
        let set = self.columns[self.key..].iter().chain(&["mac"]);
        format!(
            "INSERT INTO {}({}, mac) VALUES({}?) ON CONFLICT({}) DO UPDATE SET {}",
            self.name,
            self.columns.join(", "),
            "?, ".repeat(self.columns.len()),
            self.columns[..self.key].join(", "),
            set.map(|c| format!("{c} = excluded.{c}")).collect::<Vec<_>>().join(", ")
        )
    }
}
