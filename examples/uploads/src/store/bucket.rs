//! Files in a bucket of S3, which any number of instances on any number of machines may share.
//!
//! A small file is put under its name on the condition that nothing has it (`If-None-Match: *`). A large one is sent in
//! parts under a name of its own, and gets its final one by a copy within the server on the same condition.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3Builder, S3ConditionalPut, S3CopyIfNotExists};
use object_store::path::Path;
use object_store::{
    ClientOptions, Error, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig, WriteMultipart,
};
use tokio::runtime::Handle;

use super::{ABANDONED, Content, Entry, Listing, free_names, random};
use crate::config::BucketUrl;
use crate::name::{SafeName, is_safe};

/// Files that are being received. Clients can neither ask for nor make a name with a slash.
const TEMPORARY: &str = ".receiving";

/// Is there for all instances: what is asked for every second to see whether the bucket answers, which costs less than
/// writing, and what must not be overwritten.
const PROBE: &str = ".probe";

/// S3 takes no smaller part but the last. One is under way while the next is filled: two for each upload are in memory.
const PART: usize = 5 << 20;

#[derive(Debug, Clone)]
pub struct Bucket {
    s3: Arc<dyn ObjectStore>,
}

impl Bucket {
    /// Asks the bucket whether it is there, and removes what uploads that were cut off by a crash left.
    pub(super) async fn open(url: &BucketUrl) -> io::Result<Self> {
        // A request that waits for an upload to be stored waits no longer than its client does.
        let retry = RetryConfig { max_retries: 3, retry_timeout: Duration::from_secs(30), ..RetryConfig::default() };
        let builder = AmazonS3Builder::new()
            .with_endpoint(&url.endpoint)
            .with_bucket_name(&url.name)
            .with_region(&url.region)
            .with_access_key_id(&url.key)
            .with_secret_access_key(&url.secret)
            .with_client_options(ClientOptions::new().with_allow_http(true))
            .with_retry(retry)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_copy_if_not_exists(S3CopyIfNotExists::Multipart);
        let bucket = Self { s3: Arc::new(builder.build().map_err(failed)?) };
        bucket.try_out().await?;
        bucket.remove_abandoned().await?;
        Ok(bucket)
    }

    /// A server that does not know the condition would overwrite files.
    async fn try_out(&self) -> io::Result<()> {
        let probe = Path::from(PROBE);
        self.s3.put(&probe, PROBE.into()).await.map_err(failed)?;
        let put = self.s3.put_opts(&probe, PROBE.into(), PutMode::Create.into()).await.map(drop);
        let copied = self.s3.copy_if_not_exists(&probe, &probe).await;
        for refused in [put, copied] {
            match refused {
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
                Err(error) => return Err(failed(error)),
                Ok(()) => return Err(io::Error::other("the server overwrites a file where If-None-Match forbids it")),
            }
        }
        Ok(())
    }

    async fn remove_abandoned(&self) -> io::Result<()> {
        let folder = Path::from(TEMPORARY);
        let mut found = self.s3.list(Some(&folder));
        while let Some(object) = found.try_next().await.map_err(failed)? {
            if modified(&object).elapsed().is_ok_and(|age| age > ABANDONED) {
                self.s3.delete(&object.location).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    pub(super) fn receive(&self) -> Receiving {
        Receiving { bucket: self.clone(), size: 0, parts: Parts::Few(Vec::new()) }
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
            Some(after) => self.s3.list_with_offset(None, &key(after)?),
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
        match self.s3.head(&Path::from(PROBE)).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Gives what is there already under another name a free one.
    async fn name(&self, temporary: &Path, name: &SafeName) -> io::Result<String> {
        for name in free_names(name) {
            match self.s3.copy_if_not_exists(temporary, &key(&name)?).await {
                Ok(()) => return Ok(name),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    async fn put(&self, pieces: Vec<Bytes>, name: &SafeName) -> io::Result<String> {
        let payload: PutPayload = pieces.into_iter().collect();
        for name in free_names(name) {
            match self.s3.put_opts(&key(&name)?, payload.clone(), PutMode::Create.into()).await {
                Ok(_) => return Ok(name),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// A file on its way.
#[derive(Debug)]
pub struct Receiving {
    bucket: Bucket,
    size: u64,
    parts: Parts,
}

#[derive(Debug)]
enum Parts {
    /// Nothing is sent before there is more than one part.
    Few(Vec<Bytes>),
    Many {
        upload: WriteMultipart,
        temporary: Path,
    },
    Kept,
}

impl Receiving {
    pub(super) async fn write(&mut self, piece: Bytes) -> io::Result<()> {
        self.size += piece.len() as u64;
        if let Parts::Few(pieces) = &mut self.parts {
            pieces.push(piece);
            if self.size <= PART as u64 {
                return Ok(());
            }
            let pieces = std::mem::take(pieces);
            let temporary = Path::from(TEMPORARY).join(format!("{:016x}", random()));
            let upload = self.bucket.s3.put_multipart(&temporary).await.map_err(failed)?;
            let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
            pieces.into_iter().for_each(|piece| upload.put(piece));
            self.parts = Parts::Many { upload, temporary };
            return Ok(());
        }
        if let Parts::Many { upload, .. } = &mut self.parts {
            upload.wait_for_capacity(1).await.map_err(failed)?;
            upload.put(piece);
        }
        Ok(())
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) async fn keep(mut self, name: &SafeName) -> io::Result<String> {
        match std::mem::replace(&mut self.parts, Parts::Kept) {
            Parts::Few(pieces) => self.bucket.put(pieces, name).await,
            Parts::Many { upload, temporary } => {
                // Of what fails, it tells the server itself that the parts are not wanted.
                upload.finish().await.map_err(failed)?;
                let named = self.bucket.name(&temporary, name).await;
                if let Err(error) = self.bucket.s3.delete(&temporary).await {
                    tracing::warn!(%error, %temporary, "a temporary file stays for a day");
                }
                named
            }
            Parts::Kept => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if let Parts::Many { upload, temporary } = std::mem::replace(&mut self.parts, Parts::Kept)
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move {
                if let Err(error) = upload.abort().await {
                    tracing::warn!(%error, %temporary, "parts of a file that is not wanted stay");
                }
            });
        }
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
        Bucket { s3: Arc::new(InMemory::new()) }
    }

    async fn put(bucket: &Bucket, name: &str, content: Vec<u8>) -> String {
        let mut receiving = bucket.receive();
        for piece in content.chunks(700_001) {
            receiving.write(Bytes::copy_from_slice(piece)).await.unwrap();
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
    async fn what_is_not_kept_leaves_nothing() {
        let bucket = bucket();
        for size in [4, 2 * PART] {
            let mut receiving = bucket.receive();
            receiving.write(vec![b'x'; size].into()).await.unwrap();
            receiving.write(vec![b'x'; 4].into()).await.unwrap();
            drop(receiving);
        }
        while Arc::strong_count(&bucket.s3) > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(keys(&bucket).await, Vec::<String>::new());
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
        for name in ["folder/x.txt", ".hidden.txt", ".receiving/1", "../a.txt", "missing.txt"] {
            assert_eq!(bucket.read(name).await.err().unwrap().kind(), io::ErrorKind::NotFound, "{name}");
        }
    }
}
