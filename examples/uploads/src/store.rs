//! Where files are kept: in a folder, or in a bucket of S3. A file is there whole or not at all, and is never overwritten.

mod bucket;
mod folder;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use futures_util::Stream;
use tokio_util::io::ReaderStream;

use self::bucket::Bucket;
use self::folder::Folder;
use crate::config::Place;
use crate::name::SafeName;

/// Nobody uploads one file for so long: what is older was left by a crash. Another instance may share the place, so
/// younger ones are not ours to judge.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// How many numbers are tried in order for a taken name (`a-2.txt`, `a-3.txt`, …); after that, random ones, so that
/// the ten-thousandth `a.txt` does not try ten thousand names.
const IN_ORDER: u32 = 16;
const ATTEMPTS: u32 = 64;

/// Piece of a file on its way out.
const PIECE: usize = 64 << 10;

/// All that was uploaded.
#[derive(Debug, Clone)]
pub enum Store {
    Folder(Folder),
    Bucket(Bucket),
}

/// One file as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub size: u64,
    pub modified: SystemTime,
}

/// A part of the list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// By name.
    pub entries: Vec<Entry>,
    /// There are more after the last.
    pub more: bool,
}

/// A file's bytes, in pieces.
pub type Content = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

impl Store {
    /// Removes what uploads that were cut off by a crash left.
    pub async fn open(place: &Place) -> io::Result<Self> {
        Ok(match place {
            Place::Folder(folder) => Self::Folder(Folder::open(folder)?),
            Place::Bucket(url) => Self::Bucket(Bucket::open(url).await?),
        })
    }

    /// Begins to receive a file.
    pub async fn receive(&self) -> io::Result<Receiving> {
        Ok(match self {
            Self::Folder(folder) => Receiving::Folder(folder.receive().await?),
            Self::Bucket(bucket) => Receiving::Bucket(bucket.receive()),
        })
    }

    /// Opens a file for reading; `NotFound` for every name that the store would not have given.
    pub async fn read(&self, name: &str) -> io::Result<(Content, Entry)> {
        Ok(match self {
            Self::Folder(folder) => {
                let (file, entry) = folder.read(name).await?;
                (Box::pin(ReaderStream::with_capacity(file, PIECE)), entry)
            }
            Self::Bucket(bucket) => bucket.read(name).await?,
        })
    }

    /// At most `limit` files whose names come after `after`. Memory does not grow with the number of files.
    pub async fn list(&self, after: Option<String>, limit: usize) -> io::Result<Listing> {
        match self {
            Self::Folder(folder) => folder.list(after, limit).await,
            Self::Bucket(bucket) => bucket.list(after.as_deref(), limit).await,
        }
    }

    pub async fn count(&self) -> io::Result<i64> {
        match self {
            Self::Folder(folder) => folder.count().await,
            Self::Bucket(bucket) => bucket.count().await,
        }
    }

    /// Whether a file could be stored now.
    pub async fn probe(&self) -> io::Result<()> {
        match self {
            Self::Folder(folder) => folder.probe().await,
            Self::Bucket(bucket) => bucket.probe().await,
        }
    }
}

/// A file on its way. Dropped before `keep`, it leaves nothing.
#[derive(Debug)]
pub enum Receiving {
    Folder(folder::Receiving),
    Bucket(bucket::Receiving),
}

impl Receiving {
    pub async fn write(&mut self, piece: Bytes) -> io::Result<()> {
        match self {
            Self::Folder(file) => file.write(&piece).await,
            Self::Bucket(file) => file.write(piece).await,
        }
    }

    pub fn size(&self) -> u64 {
        match self {
            Self::Folder(file) => file.size(),
            Self::Bucket(file) => file.size(),
        }
    }

    /// Makes it a file of this name, or of the first free one beside it; gives the name. Once this returns, the file
    /// survives a loss of power.
    pub async fn keep(self, name: &SafeName) -> io::Result<String> {
        match self {
            Self::Folder(file) => file.keep(name).await,
            Self::Bucket(file) => file.keep(name).await,
        }
    }
}

/// The names to be tried, one after the other, until one is free.
fn free_names(name: &SafeName) -> impl Iterator<Item = String> {
    (1..=ATTEMPTS).map(|attempt| {
        let number = if attempt <= IN_ORDER { attempt } else { (random() as u32).max(IN_ORDER) };
        name.nth(number)
    })
}

/// From the seeds that the standard library takes from the system for its hash maps.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
