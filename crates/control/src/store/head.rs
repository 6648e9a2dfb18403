//! `store.head`: the last commit, kept apart from the database, so that commits that vanish are noticed.
//!
//! Two slots of one page are written in turn and in place, one `fdatasync` each; a commit's record never overwrites
//! the one before it. (A new file renamed over the old one costs two more journal commits; see the measurement in
//! `tests/bench.rs`.) A write torn by a crash damages at most the slot of the commit that was being confirmed.
//!
//! A slot: magic, form, sequence, chain, key id, HMAC over these, zeros, SHA-256 over all before it. The plain hash
//! tells damage from a key that is not ours.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::checksum::{ChecksumKey, KeyId, Keys, Tag};
use super::error::StoreError;

const MAGIC: &[u8; 8] = b"BOWLHEAD";
const FORM: u32 = 1;
const SLOT: usize = 4096;
const HASH_AT: usize = SLOT - 32;
/// Magic, form, sequence, chain, key id.
const BODY: usize = 8 + 4 + 8 + 32 + 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) sequence: u64,
    pub(super) chain: Tag,
    pub(super) key: KeyId,
}

/// What the head file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) newest: Record,
    /// The other slot is damaged. A crash does that only while the commit after `newest` is being confirmed.
    pub(super) torn: bool,
}

#[derive(Debug)]
pub(super) struct HeadFile {
    file: File,
    path: PathBuf,
}

impl HeadFile {
    /// Makes the file with commit 0, the empty store. It appears whole or not at all.
    pub(super) fn create(path: &Path, key: &ChecksumKey) -> Result<(), StoreError> {
        let fresh = path.with_extension("head.new");
        let mut bytes = encode(&Record { sequence: 0, chain: [0; 32], key: key.id() }, key);
        bytes.resize(2 * SLOT, 0);
        let write = || -> io::Result<()> {
            let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&fresh, path)?;
            File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
        };
        write().map_err(StoreError::io("create", path))
    }

    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        match File::options().read(true).write(true).open(path) {
            Ok(file) => Ok(Self { file, path: path.to_owned() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(StoreError::HeadMissing(path.to_owned())),
            Err(e) => Err(StoreError::io("open", path)(e)),
        }
    }

    pub(super) fn read(&self, keys: &Keys) -> Result<Head, StoreError> {
        let mut bytes = vec![0; 2 * SLOT];
        let length = self.file.metadata().map_err(StoreError::io("read", &self.path))?.len();
        if length != bytes.len() as u64 {
            return Err(StoreError::HeadDamaged("its length is wrong"));
        }
        self.file.read_exact_at(&mut bytes, 0).map_err(StoreError::io("read", &self.path))?;
        let (even, odd) = bytes.split_at(SLOT);
        let head = newest(decode(even)?, decode(odd)?)?;
        let body = if head.newest.sequence.is_multiple_of(2) { even } else { odd };
        let key = keys.find(head.newest.key).ok_or(StoreError::ForeignKey)?;
        match key.tag(b"head", &[&body[..BODY]]) == body[BODY..BODY + 32] {
            true => Ok(head),
            false => Err(StoreError::HeadDamaged("its checksum is wrong")),
        }
    }

    /// Durable when it returns.
    pub(super) fn write(&self, record: &Record, key: &ChecksumKey) -> io::Result<()> {
        let at = (record.sequence % 2) * SLOT as u64;
        self.file.write_all_at(&encode(record, key), at)?;
        self.file.sync_data()
    }
}

enum Slot {
    Holds(Record),
    /// All zeros: the odd slot before the first commit.
    Empty,
    Damaged,
}

fn newest(even: Slot, odd: Slot) -> Result<Head, StoreError> {
    let disagree = Err(StoreError::HeadDamaged("its two halves do not follow each other"));
    match (even, odd) {
        (Slot::Holds(even), _) if !even.sequence.is_multiple_of(2) => disagree,
        (_, Slot::Holds(odd)) if odd.sequence.is_multiple_of(2) => disagree,
        (Slot::Holds(even), Slot::Holds(odd)) => match even.sequence.abs_diff(odd.sequence) {
            1 if even.sequence > odd.sequence => Ok(Head { newest: even, torn: false }),
            1 => Ok(Head { newest: odd, torn: false }),
            _ => disagree,
        },
        (Slot::Holds(even), Slot::Empty) if even.sequence == 0 => Ok(Head { newest: even, torn: false }),
        (Slot::Holds(one), Slot::Damaged | Slot::Empty) | (Slot::Damaged | Slot::Empty, Slot::Holds(one)) => {
            Ok(Head { newest: one, torn: true })
        }
        (Slot::Damaged | Slot::Empty, Slot::Damaged | Slot::Empty) => {
            Err(StoreError::HeadDamaged("neither half can be read"))
        }
    }
}

fn encode(record: &Record, key: &ChecksumKey) -> Vec<u8> {
    let mut slot = Vec::with_capacity(SLOT);
    slot.extend(MAGIC);
    slot.extend(FORM.to_be_bytes());
    slot.extend(record.sequence.to_be_bytes());
    slot.extend(record.chain);
    slot.extend(record.key);
    debug_assert_eq!(slot.len(), BODY);
    slot.extend(key.tag(b"head", &[&slot]));
    slot.resize(HASH_AT, 0);
    slot.extend(Sha256::digest(&slot));
    slot
}

fn decode(slot: &[u8]) -> Result<Slot, StoreError> {
    if slot.iter().all(|byte| *byte == 0) {
        return Ok(Slot::Empty);
    }
    if Sha256::digest(&slot[..HASH_AT])[..] != slot[HASH_AT..] || &slot[..8] != MAGIC {
        return Ok(Slot::Damaged);
    }
    let found = u32::from_be_bytes(array(&slot[8..12]));
    if found > FORM {
        return Err(StoreError::TooNew { found, known: FORM });
    }
    let sequence = u64::from_be_bytes(array(&slot[12..20]));
    Ok(Slot::Holds(Record { sequence, chain: array(&slot[20..52]), key: array(&slot[52..BODY]) }))
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("sliced to its length")
}
