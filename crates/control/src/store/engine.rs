//! The writer's connection and the head file together: opening, verifying, committing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::checksum::{ChecksumKey, Keys, SetDigest};
use super::commit::Commit;
use super::error::StoreError;
use super::head::{Head, HeadFile};
use super::record::SecretRecord;
use super::schema::{self, Migration};
use super::tx::Tx;
use super::writer::Job;
use super::{Files, Opening};

/// A log longer than this is written back into the database, after the answers are given.
const WAL_LIMIT: u64 = 4 << 20;

/// How long a write-back waits for readers before it is put off to the next commit.
const BUSY: Duration = Duration::from_millis(100);

/// Gives the wrapped data key of a secret under the new master key.
pub(super) type Rewrap = dyn FnMut(&SecretRecord, &[u8]) -> Result<Vec<u8>, StoreError> + Send;

#[derive(Debug)]
pub(super) struct Engine {
    conn: Connection,
    head: HeadFile,
    last: Commit,
    key: ChecksumKey,
    wal: PathBuf,
    /// The database has `last`, the head file may not.
    unconfirmed: bool,
}

impl Engine {
    /// Opens and verifies everything: head against database, schema, trees, every row. Nothing is written to a store
    /// that is refused.
    pub(super) fn open(files: &Files, keys: &Keys, migrations: &[Migration]) -> Result<(Self, Opening), StoreError> {
        let fresh = files.are_absent()?;
        if fresh {
            HeadFile::create(&files.head, &keys.current)?;
        }
        let head_file = HeadFile::open(&files.head)?;
        let head = head_file.read(keys)?;
        files.expect_database(head.newest.sequence)?;
        let conn = connect(&files.db, head.newest.sequence == 0)?;
        let found = Commit::read(&conn)?;
        let opening = match (&found, fresh) {
            (None, _) | (_, true) => Opening::Created,
            (Some(found), false) => compare(found, &head)?,
        };
        let (last, key) = match found {
            None if head.newest.sequence == 0 => (Commit::origin(&keys.current), keys.current.clone()),
            None => return Err(StoreError::LostCommits { have: 0, want: head.newest.sequence }),
            Some(found) => {
                let key = keys.find(found.key).ok_or_else(|| StoreError::corrupt("commits", "its key is unknown"))?;
                verify(&conn, &found, key, migrations)?;
                (found, key.clone())
            }
        };
        let unconfirmed = opening == Opening::HeadRepaired;
        let mut engine = Self { conn, head: head_file, last, key, wal: files.wal.clone(), unconfirmed };
        engine.confirm()?;
        engine.migrate(migrations)?;
        match engine.write_back() {
            // The log holds it all; it stays until there is room in the database.
            Err(StoreError::DiskFull) => tracing::warn!("store log not written back: no space is left"),
            result => result?,
        }
        Ok((engine, opening))
    }

    pub(super) fn sequence(&self) -> u64 {
        self.last.sequence
    }

    /// Runs the jobs, each in its own savepoint, and commits what they did at once. An error is for all of them.
    pub(super) fn commit(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(), StoreError> {
        self.confirm()?;
        let done = self.run(jobs).and_then(|digest| match digest == self.last.digest {
            true => self.roll_back().map(|()| None),
            false => self.seal(self.last.form, digest, self.key.clone()).map(Some),
        });
        match done {
            Ok(None) => Ok(()),
            Ok(Some(next)) => self.advance(next),
            Err(error) => {
                self.roll_back()?;
                Err(error)
            }
        }
    }

    fn run(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<SetDigest, StoreError> {
        self.execute("BEGIN IMMEDIATE")?;
        let mut digest = self.last.digest;
        for job in jobs {
            self.execute("SAVEPOINT job")?;
            let mut tx = Tx::new(&self.conn, &self.key, digest);
            match job.run(&mut tx) {
                true => digest = tx.digest,
                // A full disk or a failed write may have ended the whole transaction; that is everyone's error.
                false if self.conn.is_autocommit() => return Err(job.error()),
                false => self.execute("ROLLBACK TO job")?,
            }
            self.execute("RELEASE job")?;
        }
        Ok(digest)
    }

    /// Writes the commit's row and commits the database.
    fn seal(&self, form: u32, digest: SetDigest, key: ChecksumKey) -> Result<(Commit, ChecksumKey), StoreError> {
        let next = self.last.next(form, digest, &key);
        next.write(&self.conn)?;
        self.execute("COMMIT")?;
        Ok((next, key))
    }

    fn advance(&mut self, (next, key): (Commit, ChecksumKey)) -> Result<(), StoreError> {
        self.last = next;
        self.key = key;
        self.unconfirmed = true;
        self.confirm()
    }

    /// Brings the head file up to the database. No commit may follow one that is not confirmed: two ahead could not be
    /// told from damage.
    fn confirm(&mut self) -> Result<(), StoreError> {
        if self.unconfirmed {
            let written = self.head.write(&self.last.record(), &self.key);
            written.map_err(|e| StoreError::Unconfirmed(std::sync::Arc::new(e)))?;
            self.unconfirmed = false;
        }
        Ok(())
    }

    fn roll_back(&self) -> Result<(), StoreError> {
        match self.conn.is_autocommit() {
            true => Ok(()),
            false => self.execute("ROLLBACK"),
        }
    }

    fn migrate(&mut self, migrations: &[Migration]) -> Result<(), StoreError> {
        let taken = self.last.form as usize;
        for (i, migration) in migrations.iter().enumerate().skip(taken) {
            let step = u32::try_from(i + 1).expect("a handful of migrations");
            tracing::info!(form = step, was = self.last.form, "store migrated");
            let key = self.key.clone();
            self.rewrite(step, key, |conn, key| {
                conn.execute_batch(migration.sql)?;
                reseal(conn, key, migration)
            })?;
        }
        Ok(())
    }

    /// Writes all checksums and wrapped data keys under `key`; a second commit puts it into both halves of the head,
    /// so that the old key may be forgotten.
    pub(super) fn rekey(
        &mut self,
        key: ChecksumKey,
        migrations: &[Migration],
        rewrap: &mut Rewrap,
    ) -> Result<(), StoreError> {
        self.rekey_once(key.clone(), migrations, rewrap)?;
        let digest = self.last.digest;
        self.rewrite(self.last.form, key, |_, _| Ok(digest))
    }

    pub(super) fn rekey_once(
        &mut self,
        key: ChecksumKey,
        migrations: &[Migration],
        rewrap: &mut Rewrap,
    ) -> Result<(), StoreError> {
        self.confirm()?;
        let current = migrations.last().expect("the first form is a migration, too");
        let (old, digest) = (self.key.clone(), self.last.digest);
        self.rewrite(self.last.form, key, |conn, key| {
            Tx::new(conn, &old, digest).rewrap_secrets(rewrap)?;
            reseal(conn, key, current)
        })
    }

    fn rewrite(
        &mut self,
        form: u32,
        key: ChecksumKey,
        change: impl FnOnce(&Connection, &ChecksumKey) -> Result<SetDigest, StoreError>,
    ) -> Result<(), StoreError> {
        self.execute("BEGIN IMMEDIATE")?;
        match change(&self.conn, &key).and_then(|digest| self.seal(form, digest, key)) {
            Ok(next) => self.advance(next),
            Err(error) => {
                self.roll_back()?;
                Err(error)
            }
        }
    }

    /// Writes a long log back into the database. Called when nobody waits for an answer.
    pub(super) fn tidy(&self) {
        let length = std::fs::metadata(&self.wal).map_or(0, |wal| wal.len());
        if length > WAL_LIMIT
            && let Err(error) = self.write_back()
        {
            tracing::warn!(%error, wal_bytes = length, "store log not written back");
        }
    }

    fn write_back(&self) -> Result<(), StoreError> {
        self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }

    /// Leaves everything in the database file and an empty log.
    pub(super) fn close(self) {
        if let Err(error) = self.write_back() {
            tracing::warn!(%error, "store log not written back");
        }
    }

    fn execute(&self, sql: &str) -> Result<(), StoreError> {
        self.conn.prepare_cached(sql)?.execute([])?;
        Ok(())
    }
}

/// A connection that never writes back or deletes the log on its own: a log that is damaged must stay as it is.
fn connect(path: &Path, create: bool) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let flags = if create { flags | OpenFlags::SQLITE_OPEN_CREATE } else { flags };
    let conn = Connection::open_with_flags(path, flags)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    conn.busy_timeout(BUSY)?;
    let mode = if create { "PRAGMA journal_mode = WAL" } else { "PRAGMA journal_mode" };
    let mode: String = conn.query_row(mode, [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(StoreError::corrupt("(database)", format!("its journal mode is {mode}, not wal")));
    }
    conn.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA wal_autocheckpoint = 0;
         PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0;",
    )?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

/// A connection that only reads, beside the writer's.
pub(super) fn connect_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.busy_timeout(BUSY)?;
    conn.execute_batch("PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0;")?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

/// The database against its head. One commit ahead is a crash between the two writes; anything else is damage.
fn compare(found: &Commit, head: &Head) -> Result<Opening, StoreError> {
    let (have, want) = (found.sequence, head.newest.sequence);
    let foreign = || StoreError::HeadForeign { sequence: want };
    match have.checked_sub(want) {
        None => Err(StoreError::LostCommits { have, want }),
        Some(0) if found.chain != head.newest.chain => Err(foreign()),
        // The torn half held the commit before, or one after that the database no longer has.
        Some(0) if head.torn => Err(StoreError::HeadDamaged("one half cannot be read")),
        Some(0) => Ok(Opening::Clean),
        Some(1) if found.previous == head.newest.chain => Ok(Opening::HeadRepaired),
        Some(1) => Err(foreign()),
        Some(_) => Err(StoreError::HeadStale { have, head: want }),
    }
}

/// Everything the database holds, against the commit it claims to be.
pub(super) fn verify(
    conn: &Connection,
    commit: &Commit,
    key: &ChecksumKey,
    migrations: &[Migration],
) -> Result<(), StoreError> {
    commit.verify(key)?;
    let known = schema::form(migrations);
    let steps = migrations.get(..commit.form as usize).ok_or(StoreError::TooNew { found: commit.form, known })?;
    schema::verify(conn, steps)?;
    let check: String = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    let mut digest = SetDigest::default();
    for table in steps.last().map_or(&[][..], |step| step.tables) {
        table.scan(conn, key, &mut digest)?;
    }
    match (check.as_str(), digest == commit.digest) {
        ("ok", true) => Ok(()),
        ("ok", false) => Err(StoreError::corrupt(
            "commits",
            format!("{} rows found, other than the {} committed", digest.rows, commit.digest.rows),
        )),
        (problem, _) => Err(StoreError::corrupt("(database)", problem)),
    }
}

fn reseal(conn: &Connection, key: &ChecksumKey, form: &Migration) -> Result<SetDigest, StoreError> {
    let mut digest = SetDigest::default();
    form.tables.iter().try_for_each(|table| table.reseal(conn, key, &mut digest))?;
    Ok(digest)
}
