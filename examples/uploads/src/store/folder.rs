//! Files in a folder, as a volume has them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::fs::File;
use tokio::io::{AsyncWriteExt, BufWriter};

use super::{ABANDONED, Entry, Listing, free_names, random};
use crate::name::{SafeName, is_safe};

/// Files that are being received. Clients can neither ask for nor make a name with a leading dot.
const TEMPORARY: &str = ".receiving-";

/// Pieces arrive small; each write to the disk costs a hop to another thread.
const BUFFER: usize = 256 << 10;

/// The folder that holds the files.
#[derive(Debug, Clone)]
pub struct Folder {
    folder: Arc<Path>,
}

impl Folder {
    /// Makes the folder where there is none, and removes what uploads that were cut off by a crash left.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let is_temporary = entry.file_name().to_string_lossy().starts_with(TEMPORARY);
            if is_temporary && entry.metadata()?.modified()?.elapsed().is_ok_and(|age| age > ABANDONED) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { folder: fs::canonicalize(folder)?.into() })
    }

    /// Begins to receive a file.
    pub async fn receive(&self) -> io::Result<Receiving> {
        let path = self.folder.join(format!("{TEMPORARY}{:016x}", random()));
        let file = File::options().write(true).create_new(true).open(&path).await?;
        let temporary = Temporary(path);
        Ok(Receiving {
            file: BufWriter::with_capacity(BUFFER, file),
            temporary,
            folder: Arc::clone(&self.folder),
            size: 0,
        })
    }

    /// Opens a file for reading; `NotFound` for every name that the store would not have given.
    pub async fn read(&self, name: &str) -> io::Result<(File, Entry)> {
        if !is_safe(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let path = self.folder.join(name);
        if !tokio::fs::symlink_metadata(&path).await?.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = File::open(path).await?;
        let metadata = file.metadata().await?;
        Ok((file, Entry { name: name.to_owned(), size: metadata.len(), modified: metadata.modified()? }))
    }

    /// At most `limit` files whose names come after `after`. Memory does not grow with the number of files.
    pub async fn list(&self, after: Option<String>, limit: usize) -> io::Result<Listing> {
        let folder = Arc::clone(&self.folder);
        blocking(move || {
            let mut first: BTreeMap<String, fs::DirEntry> = BTreeMap::new();
            let mut more = false;
            for name in names(&folder)? {
                let (name, entry) = name?;
                if after.as_ref().is_none_or(|after| name > *after) {
                    first.insert(name, entry);
                }
                if first.len() > limit {
                    first.pop_last();
                    more = true;
                }
            }
            let mut entries = Vec::with_capacity(first.len());
            for (name, entry) in first {
                match entry.metadata() {
                    Ok(metadata) => entries.push(Entry { name, size: metadata.len(), modified: metadata.modified()? }),
                    // Removed by hand in between.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
            }
            Ok(Listing { entries, more })
        })
        .await
    }

    pub async fn count(&self) -> io::Result<i64> {
        let folder = Arc::clone(&self.folder);
        blocking(move || names(&folder)?.try_fold(0, |count, name| name.map(|_| count + 1))).await
    }

    /// Whether a file could be stored now: one is made and removed.
    pub async fn probe(&self) -> io::Result<()> {
        let folder = Arc::clone(&self.folder);
        blocking(move || {
            let path = Temporary(folder.join(format!("{TEMPORARY}{:016x}", random())));
            fs::write(&path.0, b"probe")
        })
        .await
    }
}

/// A file on its way. Dropped before `keep`, it leaves nothing.
#[derive(Debug)]
pub struct Receiving {
    file: BufWriter<File>,
    temporary: Temporary,
    folder: Arc<Path>,
    size: u64,
}

impl Receiving {
    pub async fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.size += piece.len() as u64;
        self.file.write_all(piece).await
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Makes it a file of this name, or of the first free one beside it; gives the name. Once this returns, the file
    /// survives a loss of power.
    pub async fn keep(mut self, name: &SafeName) -> io::Result<String> {
        self.file.flush().await?;
        self.file.get_ref().sync_all().await?;
        let (name, folder, temporary) = (name.clone(), self.folder, self.temporary);
        blocking(move || {
            let taken = link(&temporary.0, &folder, &name)?;
            drop(temporary);
            fs::File::open(&folder)?.sync_all()?;
            Ok(taken)
        })
        .await
    }
}

/// Removes its file when dropped.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.0.display(), "a temporary file stays");
        }
    }
}

/// A hard link is refused by the kernel where a name is taken, so two uploads at once cannot get the same one.
fn link(from: &Path, folder: &Path, name: &SafeName) -> io::Result<String> {
    for name in free_names(name) {
        match fs::hard_link(from, folder.join(&name)) {
            Ok(()) => return Ok(name),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn names(folder: &Path) -> io::Result<impl Iterator<Item = io::Result<(String, fs::DirEntry)>>> {
    Ok(fs::read_dir(folder)?.filter_map(|entry| match entry {
        Err(e) => Some(Err(e)),
        Ok(entry) => {
            let name = entry.file_name().into_string().ok().filter(|name| is_safe(name))?;
            entry.file_type().is_ok_and(|t| t.is_file()).then_some(Ok((name, entry)))
        }
    }))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    async fn put(store: &Folder, name: &str, content: &[u8]) -> String {
        let mut receiving = store.receive().await.unwrap();
        receiving.write(content).await.unwrap();
        receiving.keep(&SafeName::from_client(name).unwrap()).await.unwrap()
    }

    fn on_disk(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_taken_name_gets_a_number_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let store = Folder::open(folder.path()).unwrap();
        assert_eq!(put(&store, "a.txt", b"one").await, "a.txt");
        assert_eq!(put(&store, "a.txt", b"two").await, "a-2.txt");
        assert_eq!(fs::read(folder.path().join("a.txt")).unwrap(), b"one");
        for _ in 0..30 {
            put(&store, "a.txt", b"more").await;
        }
        assert_eq!(store.count().await.unwrap(), 32);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn uploads_at_once_get_names_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let store = Folder::open(folder.path()).unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for i in 0..20_u8 {
            let store = store.clone();
            tasks.spawn(async move { (put(&store, "a.txt", &[i]).await, i) });
        }
        for (name, i) in tasks.join_all().await {
            assert_eq!(fs::read(folder.path().join(name)).unwrap(), [i]);
        }
    }

    #[tokio::test]
    async fn what_is_not_kept_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Folder::open(folder.path()).unwrap();
        let mut receiving = store.receive().await.unwrap();
        receiving.write(b"half").await.unwrap();
        assert_eq!(on_disk(folder.path()).len(), 1);
        assert_eq!(store.count().await.unwrap(), 0);
        drop(receiving);
        store.probe().await.unwrap();
        assert_eq!(on_disk(folder.path()), Vec::<String>::new());
    }

    #[tokio::test]
    async fn only_old_leftovers_are_removed_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, age: Duration| {
            let file = fs::File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        make(".receiving-1", ABANDONED * 2);
        make(".receiving-2", Duration::from_secs(60));
        make("a.txt", ABANDONED * 2);
        Folder::open(folder.path()).unwrap();
        assert_eq!(on_disk(folder.path()), [".receiving-2", "a.txt"]);
    }

    #[tokio::test]
    async fn lists_come_in_pages() {
        let folder = tempfile::tempdir().unwrap();
        let store = Folder::open(folder.path()).unwrap();
        for name in ["c.txt", "a.txt", "b.txt"] {
            put(&store, name, b"x").await;
        }
        let check = async |after: Option<&str>, limit, expected: &[&str], more| {
            let page = store.list(after.map(str::to_owned), limit).await.unwrap();
            let names: Vec<&str> = page.entries.iter().map(|e| e.name.as_str()).collect();
            assert_eq!((names.as_slice(), page.more), (expected, more));
        };
        check(None, 2, &["a.txt", "b.txt"], true).await;
        check(Some("b.txt"), 2, &["c.txt"], false).await;
        check(Some("c.txt"), 2, &[], false).await;
        check(None, 3, &["a.txt", "b.txt", "c.txt"], false).await;
    }

    #[tokio::test]
    async fn links_and_hidden_files_are_not_served() {
        let folder = tempfile::tempdir().unwrap();
        let store = Folder::open(folder.path()).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("passwd.txt")).unwrap();
        fs::write(folder.path().join(".receiving-1"), "x").unwrap();
        for name in ["passwd.txt", ".receiving-1", "../a.txt", "missing.txt"] {
            assert_eq!(store.read(name).await.unwrap_err().kind(), io::ErrorKind::NotFound, "{name}");
        }
        assert_eq!(store.count().await.unwrap(), 0);
    }
}
