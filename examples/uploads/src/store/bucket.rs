//! Files in a bucket of S3, which any number of instances on any number of machines may share.
//!
//! What comes is kept in an unnamed file of the temporary folder until it is whole and judged: it takes as long as the
//! client does, and no memory. A small file is then put under its name on the condition that nothing has it
//! (`If-None-Match: *`). A large one is sent in parts under a name of its own, and gets its final one by a copy within
//! the server on the same condition.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3Builder, S3ConditionalPut, S3CopyIfNotExists};
use object_store::path::Path;
use object_store::{ClientOptions, Error, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufWriter};
use tokio::sync::Semaphore;

use super::{ABANDONED, BUFFER, Content, Entry, Listing, free_names, random};
use crate::config::BucketUrl;
use crate::name::{SafeName, is_safe};

/// Files that are being received. Clients can neither ask for nor make a name with a slash.
const TEMPORARY: &str = ".receiving";

/// Is there for all instances: what is asked for every second to see whether the bucket answers, which costs less than
/// writing, and what must not be overwritten.
const PROBE: &str = ".probe";

/// S3 takes no smaller part but the last.
const PART: usize = 5 << 20;

/// Files that are sent to the bucket at once, each with a part in memory. More wait, at the bucket's pace and no client's.
const TRANSFERS: usize = 8;

/// Longest wait for a bucket that does nothing. A download has no end of its own: it goes as its client reads.
const SILENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct Bucket {
    s3: Arc<dyn ObjectStore>,
    transfers: Arc<Semaphore>,
}

impl Bucket {
    /// Asks the bucket whether it is there, and removes what uploads that were cut off by a crash left.
    pub(super) async fn open(url: &BucketUrl) -> io::Result<Self> {
        let retry = RetryConfig { max_retries: 3, retry_timeout: SILENCE, ..RetryConfig::default() };
        let options = ClientOptions::new().with_allow_http(true).with_timeout_disabled().with_read_timeout(SILENCE);
        let builder = AmazonS3Builder::new()
            .with_endpoint(&url.endpoint)
            .with_bucket_name(&url.name)
            .with_region(&url.region)
            .with_access_key_id(&url.key)
            .with_secret_access_key(&url.secret)
            .with_client_options(options)
            .with_retry(retry)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_copy_if_not_exists(S3CopyIfNotExists::Multipart);
        let bucket = Self::of(Arc::new(builder.build().map_err(failed)?));
        bucket.try_out().await?;
        bucket.remove_abandoned().await?;
        Ok(bucket)
    }

    fn of(s3: Arc<dyn ObjectStore>) -> Self {
        Self { s3, transfers: Arc::new(Semaphore::new(TRANSFERS)) }
    }

    /// A server that does not know the condition would overwrite files.
    async fn try_out(&self) -> io::Result<()> {
        let probe = Path::from(PROBE);
        self.s3.put(&probe, PROBE.into()).await.map_err(failed)?;
        let put = self.s3.put_opts(&probe, PROBE.into(), PutMode::Create.into()).await.map(drop);
        let copied = self.s3.copy_if_not_exists(&probe, &probe).await;
        refused(put)?;
        refused(copied)
    }

    pub(super) async fn remove_abandoned(&self) -> io::Result<()> {
        let folder = Path::from(TEMPORARY);
        let mut found = self.s3.list(Some(&folder));
        while let Some(object) = found.try_next().await.map_err(failed)? {
            if modified(&object).elapsed().is_ok_and(|age| age > ABANDONED) {
                self.s3.delete(&object.location).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    pub(super) async fn receive(&self) -> io::Result<Receiving> {
        let path = std::env::temp_dir().join(format!("uploads-{:016x}", random()));
        let file = File::options().read(true).write(true).create_new(true).open(&path).await?;
        // It lives as long as it is open, whatever ends this process.
        tokio::fs::remove_file(&path).await?;
        Ok(Receiving { bucket: self.clone(), file: BufWriter::with_capacity(BUFFER, file), size: 0 })
    }

    pub(super) async fn read(&self, name: &str) -> io::Result<(Content, Entry)> {
        if !is_safe(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let found = self.s3.get(&key(name)?).await.map_err(failed)?;
        let entry = Entry { name: name.to_owned(), size: found.meta.size, modified: modified(&found.meta) };
        Ok((Box::pin(found.into_stream().map_err(failed)), entry))
    }

    pub(super) async fn list(&self, after: Option<&str>, limit: usize) -> io::Result<Listing> {
        let objects = match after {
            Some(after) => {
                let after = Path::parse(after).unwrap_or_else(|_| Path::from(after));
                self.s3.list_with_offset(None, &after)
            }
            None => self.s3.list(None),
        };
        let files = objects.try_filter_map(|object| std::future::ready(Ok(file(&object))));
        let mut entries: Vec<Entry> = files.take(limit + 1).try_collect().await.map_err(failed)?;
        let more = entries.len() > limit;
        entries.truncate(limit);
        Ok(Listing { entries, more })
    }

    pub(super) async fn count(&self) -> io::Result<i64> {
        let objects = self.s3.list(None);
        objects.try_fold(0, async |count, object| Ok(count + i64::from(file(&object).is_some()))).await.map_err(failed)
    }

    pub(super) async fn probe(&self) -> io::Result<()> {
        let probe = Path::from(PROBE);
        match self.s3.head(&probe).await {
            Ok(_) => Ok(()),
            // Of a bucket that is gone, too, nothing else is said.
            Err(Error::NotFound { .. }) => self.s3.put(&probe, PROBE.into()).await.map(drop).map_err(failed),
            Err(error) => Err(failed(error)),
        }
    }

    /// Keeps what has come, under the first free name.
    async fn store(&self, mut file: File, size: u64, name: &SafeName) -> io::Result<String> {
        file.rewind().await?;
        if size <= PART as u64 {
            let payload = PutPayload::from(part(&mut file).await?);
            return self.first_free(name, &Source::Memory(payload)).await;
        }
        let temporary = Path::from(TEMPORARY).join(format!("{:016x}", random()));
        self.send(file, &temporary).await?;
        let named = self.first_free(name, &Source::Temporary(temporary.clone())).await;
        if let Err(error) = self.s3.delete(&temporary).await {
            tracing::warn!(%error, %temporary, "a temporary file stays for a day");
        }
        named
    }

    async fn send(&self, mut file: File, to: &Path) -> io::Result<()> {
        let mut upload = self.s3.put_multipart(to).await.map_err(failed)?;
        let sent = async {
            loop {
                let part = part(&mut file).await?;
                if part.is_empty() {
                    return upload.complete().await.map(drop).map_err(failed);
                }
                upload.put_part(part.into()).await.map_err(failed)?;
            }
        };
        let sent = sent.await;
        if sent.is_err()
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(%error, %to, "parts of a file that is not wanted stay");
        }
        sent
    }

    /// The judge is the server. Asking before spares sending it in vain.
    async fn first_free(&self, name: &SafeName, from: &Source) -> io::Result<String> {
        for name in free_names(name) {
            let key = key(&name)?;
            match self.s3.head(&key).await {
                Ok(_) => continue,
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
            let put = match from {
                Source::Memory(all) => self.s3.put_opts(&key, all.clone(), PutMode::Create.into()).await.map(drop),
                Source::Temporary(other) => self.s3.copy_if_not_exists(other, &key).await,
            };
            match put {
                Ok(()) => return Ok(name),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// What gets its name.
enum Source {
    Memory(PutPayload),
    /// In the bucket already.
    Temporary(Path),
}

/// A file on its way.
#[derive(Debug)]
pub struct Receiving {
    bucket: Bucket,
    file: BufWriter<File>,
    size: u64,
}

impl Receiving {
    pub(super) async fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.size += piece.len() as u64;
        self.file.write_all(piece).await
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) async fn keep(mut self, name: &SafeName) -> io::Result<String> {
        self.file.flush().await?;
        let name = name.clone();
        // A client that leaves while it waits for its turn takes its file with it.
        let permit = Arc::clone(&self.bucket.transfers).acquire_owned().await.map_err(io::Error::other)?;
        // Where it leaves later, this comes to its end: nothing is left half done.
        let stored = tokio::spawn(async move {
            let _permit = permit;
            self.bucket.store(self.file.into_inner(), self.size, &name).await
        });
        stored.await.map_err(io::Error::other)?
    }
}

/// The next part of a file; empty: it is at its end.
async fn part(file: &mut File) -> io::Result<Bytes> {
    let mut part = Vec::with_capacity(PART);
    file.take(PART as u64).read_to_end(&mut part).await?;
    Ok(part.into())
}

/// Of what must be refused.
fn refused(tried: Result<(), Error>) -> io::Result<()> {
    match tried {
        Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(()) => Err(io::Error::other("the server overwrites a file where If-None-Match forbids it")),
    }
}

/// Names are safe, and so are keys as they are.
fn key(name: &str) -> io::Result<Path> {
    Path::parse(name).map_err(io::Error::other)
}

fn file(object: &ObjectMeta) -> Option<Entry> {
    let name = object.location.as_ref();
    is_safe(name).then(|| Entry { name: name.to_owned(), size: object.size, modified: modified(object) })
}

fn modified(object: &ObjectMeta) -> SystemTime {
    object.last_modified.into()
}

fn failed(error: Error) -> io::Error {
    let kind = match &error {
        Error::NotFound { .. } => io::ErrorKind::NotFound,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn bucket() -> Bucket {
        Bucket::of(Arc::new(InMemory::new()))
    }

    async fn put(bucket: &Bucket, name: &str, content: Vec<u8>) -> String {
        let mut receiving = bucket.receive().await.unwrap();
        for piece in content.chunks(700_001) {
            receiving.write(piece).await.unwrap();
        }
        assert_eq!(receiving.size(), content.len() as u64);
        receiving.keep(&SafeName::from_client(name).unwrap()).await.unwrap()
    }

    async fn contents(bucket: &Bucket, name: &str) -> Vec<u8> {
        let (content, entry) = bucket.read(name).await.unwrap();
        let content: Vec<Bytes> = content.try_collect().await.unwrap();
        assert_eq!(entry.size, content.iter().map(|piece| piece.len() as u64).sum::<u64>());
        content.concat()
    }

    async fn keys(bucket: &Bucket) -> Vec<String> {
        let mut keys: Vec<String> =
            bucket.s3.list(None).map_ok(|object| object.location.to_string()).try_collect().await.unwrap();
        keys.sort();
        keys
    }

    fn large(seed: u8) -> Vec<u8> {
        (0..2 * PART + 12_345).map(|at| seed.wrapping_add((at % 251) as u8)).collect()
    }

    #[tokio::test]
    async fn small_and_large_files_come_back_and_nothing_is_overwritten() {
        let bucket = bucket();
        for (number, content) in [b"one".to_vec(), large(1), b"two".to_vec(), large(2)].into_iter().enumerate() {
            let name = if number == 0 { "a.txt".to_owned() } else { format!("a-{}.txt", number + 1) };
            assert_eq!(put(&bucket, "a.txt", content.clone()).await, name);
            assert!(contents(&bucket, &name).await == content, "{name}");
        }
        assert_eq!(keys(&bucket).await, ["a-2.txt", "a-3.txt", "a-4.txt", "a.txt"], "nothing temporary is left");
        assert_eq!(bucket.count().await.unwrap(), 4);
        bucket.probe().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn uploads_at_once_get_names_of_their_own() {
        let bucket = bucket();
        let mut tasks = tokio::task::JoinSet::new();
        for i in 0..20_u8 {
            let bucket = bucket.clone();
            let content = if i % 4 == 0 { large(i) } else { vec![i] };
            tasks.spawn(async move { (put(&bucket, "a.txt", content.clone()).await, content) });
        }
        for (name, content) in tasks.join_all().await {
            assert!(contents(&bucket, &name).await == content, "{name}");
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_kept_whoever_has_left_and_what_is_not_leaves_nothing() {
        let bucket = bucket();
        let receive = async || {
            let mut receiving = bucket.receive().await.unwrap();
            receiving.write(&large(3)).await.unwrap();
            receiving
        };
        drop(receive().await);
        let name = SafeName::from_client("a.txt").unwrap();
        let tasks = tokio::runtime::Handle::current().metrics();
        let held = bucket.transfers.acquire_many(TRANSFERS as u32).await.unwrap();
        let mut waiting = Box::pin(receive().await.keep(&name));
        for _ in 0..100 {
            assert!(futures_util::poll!(waiting.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        drop((waiting, held));
        assert_eq!((tasks.num_alive_tasks(), keys(&bucket).await), (0, Vec::new()), "it has not had its turn");
        let mut leaving = Box::pin(receive().await.keep(&name));
        while tasks.num_alive_tasks() == 0 {
            assert!(futures_util::poll!(leaving.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        drop(leaving);
        while tasks.num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(keys(&bucket).await, ["a.txt"]);
        assert!(contents(&bucket, "a.txt").await == large(3));
    }

    #[test]
    fn a_server_that_overwrites_is_not_taken() {
        assert!(refused(Ok(())).is_err());
        let error = |path: &str| Error::AlreadyExists { path: path.to_owned(), source: "there".into() };
        assert!(refused(Err(error("a"))).is_ok());
        let gone = Error::NotFound { path: "a".to_owned(), source: "gone".into() };
        assert_eq!(refused(Err(gone)).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_server_that_keeps_what_is_there_is_taken() {
        let bucket = bucket();
        for _ in 0..2 {
            bucket.try_out().await.unwrap();
        }
        assert_eq!((bucket.count().await.unwrap(), keys(&bucket).await), (0, vec![PROBE.to_owned()]));
    }

    #[tokio::test]
    async fn lists_come_in_pages_of_files_alone() {
        let bucket = bucket();
        for key in [".receiving/1", "folder/x.txt", ".hidden.txt", "no-extension"] {
            bucket.s3.put(&Path::from(key), "x".into()).await.unwrap();
        }
        for name in ["c.txt", "a.txt", "b.txt"] {
            put(&bucket, name, b"x".to_vec()).await;
        }
        let check = async |after: Option<&str>, limit, expected: &[&str], more| {
            let page = bucket.list(after, limit).await.unwrap();
            let names: Vec<&str> = page.entries.iter().map(|e| e.name.as_str()).collect();
            assert_eq!((names.as_slice(), page.more), (expected, more));
        };
        check(None, 2, &["a.txt", "b.txt"], true).await;
        check(Some("b.txt"), 2, &["c.txt"], false).await;
        check(Some("c.txt"), 2, &[], false).await;
        check(None, 3, &["a.txt", "b.txt", "c.txt"], false).await;
        for after in ["..", "a//b", "\u{1}"] {
            bucket.list(Some(after), 10).await.unwrap();
        }
        for name in ["folder/x.txt", ".hidden.txt", ".receiving/1", "../a.txt", "missing.txt"] {
            assert_eq!(bucket.read(name).await.err().unwrap().kind(), io::ErrorKind::NotFound, "{name}");
        }
    }
}
