//! The row that every commit rewrites: its number, the digest of all rows, and the chain over both.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::checksum::{ChecksumKey, KeyId, SetDigest, Tag};
use super::error::StoreError;
use super::head::Record;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Commit {
    /// The number of migrations taken.
    pub(super) form: u32,
    pub(super) sequence: u64,
    pub(super) digest: SetDigest,
    /// The chain of the commit before.
    pub(super) previous: Tag,
    pub(super) chain: Tag,
    pub(super) key: KeyId,
}

impl Commit {
    /// The empty store, before any commit.
    pub(super) fn origin(key: &ChecksumKey) -> Self {
        let digest = SetDigest::default();
        Self { form: 0, sequence: 0, digest, previous: [0; 32], chain: [0; 32], key: key.id() }
    }

    /// What follows this commit.
    pub(super) fn next(&self, form: u32, digest: SetDigest, key: &ChecksumKey) -> Self {
        let (sequence, previous) = (self.sequence + 1, self.chain);
        let chain = chain(key, form, sequence, &digest, &previous);
        Self { form, sequence, digest, previous, chain, key: key.id() }
    }

    pub(super) fn record(&self) -> Record {
        Record { sequence: self.sequence, chain: self.chain, key: self.key }
    }

    pub(super) fn verify(&self, key: &ChecksumKey) -> Result<(), StoreError> {
        match chain(key, self.form, self.sequence, &self.digest, &self.previous) == self.chain {
            true => Ok(()),
            false => Err(damaged("its checksum is wrong")),
        }
    }

    /// `None`: the database is empty.
    pub(super) fn read(conn: &Connection) -> Result<Option<Self>, StoreError> {
        let count = "SELECT count(*) FROM sqlite_schema WHERE name = 'commits'";
        if conn.query_row(count, [], |row| row.get::<_, i64>(0))? == 0 {
            return Ok(None);
        }
        let sql = "SELECT form, sequence, rows, sum, previous, chain, key FROM commits WHERE one = 1";
        let row = conn.query_row(sql, [], |row| Ok(Self::from_row(row))).optional()?;
        match row {
            Some(commit) => commit.map(Some).map_err(|_| damaged("it cannot be read")),
            None => Err(damaged("it is missing")),
        }
    }

    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let count = |i| row.get(i).map(i64::cast_unsigned);
        let digest = SetDigest { rows: count(2)?, sum: row.get(3)? };
        let (previous, chain, key) = (row.get(4)?, row.get(5)?, row.get(6)?);
        Ok(Self { form: row.get(0)?, sequence: count(1)?, digest, previous, chain, key })
    }

    pub(super) fn write(&self, conn: &Connection) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO commits(one, form, sequence, rows, sum, previous, chain, key)
            VALUES(1, ?, ?, ?, ?, ?, ?, ?)";
        let Self { form, sequence, digest, previous, chain, key } = self;
        let (sequence, rows) = (sequence.cast_signed(), digest.rows.cast_signed());
        conn.prepare_cached(sql)?.execute(params![form, sequence, rows, digest.sum, previous, chain, key])?;
        Ok(())
    }
}

fn chain(key: &ChecksumKey, form: u32, sequence: u64, digest: &SetDigest, previous: &Tag) -> Tag {
    let parts: [&[u8]; 5] =
        [&form.to_be_bytes(), &sequence.to_be_bytes(), &digest.rows.to_be_bytes(), &digest.sum, previous];
    key.tag(b"commit", &parts)
}

fn damaged(what: &str) -> StoreError {
    StoreError::corrupt("commits", what)
}
