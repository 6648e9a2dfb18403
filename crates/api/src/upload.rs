//! What is sent as the body of a request, in parts as they are read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;

/// One read of a file that is sent.
const PART: usize = 64 * 1024;

/// A file that is sent, perhaps more than once.
pub(crate) struct Parts<F> {
    file: Arc<File>,
    sent: Arc<F>,
    /// How far it was sent at most, in bytes.
    reached: Arc<AtomicU64>,
}

impl<F: Fn(u64) + Send + Sync + 'static> Parts<F> {
    /// `sent` is told of every part that is read for the first time, in bytes.
    pub(crate) fn of(file: File, sent: F) -> Self {
        Self { file: Arc::new(file), sent: Arc::new(sent), reached: Arc::default() }
    }

    /// From its beginning, wherever another one is that is still being read.
    pub(crate) fn stream(&self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let (file, sent, reached) = (Arc::clone(&self.file), Arc::clone(&self.sent), Arc::clone(&self.reached));
        stream::try_unfold(0, move |at: u64| {
            let (file, sent, reached) = (Arc::clone(&file), Arc::clone(&sent), Arc::clone(&reached));
            async move {
                let read = tokio::task::spawn_blocking(move || part(&file, at)).await;
                let part = read.map_err(io::Error::other)??;
                let end = at + part.len() as u64;
                sent(end.saturating_sub(reached.fetch_max(end, Ordering::Relaxed)));
                Ok((!part.is_empty()).then_some((part, end)))
            }
        })
    }
}

/// At the end nothing. Blocks.
fn part(file: &File, at: u64) -> io::Result<Bytes> {
    let mut part = vec![0; PART];
    loop {
        match file.read_at(&mut part, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => {
                part.truncate(read?);
                return Ok(part.into());
            }
        }
    }
}

type Frames = dyn Stream<Item = io::Result<Frame<Bytes>>> + Send;

/// What is sent, from its parts.
pub(crate) fn body<S>(parts: S) -> StreamBody<Pin<Box<Frames>>>
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    StreamBody::new(Box::pin(parts.map_ok(Frame::data)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LENGTH: usize = 5 * PART + 7;

    /// Two that send the same at the same time, as when the first was given up and is still at it.
    #[tokio::test]
    async fn what_is_sent_again_is_whole_whoever_still_reads_it() {
        let mut file = tempfile::tempfile().unwrap();
        let whole: Vec<u8> = (0..LENGTH).map(|at| (at / 251) as u8).collect();
        file.write_all(&whole).unwrap();
        let told = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&told);
        let sent = move |part| _ = count.fetch_add(part, Ordering::Relaxed);
        let parts = Parts::of(file, sent);
        let (mut first, mut second) = (Box::pin(parts.stream()), Box::pin(parts.stream()));
        let (mut one, mut two) = (Vec::new(), Vec::new());
        loop {
            let (a, b) = (first.try_next().await.unwrap(), second.try_next().await.unwrap());
            let is_end = a.is_none() && b.is_none();
            a.into_iter().for_each(|part| one.extend_from_slice(&part));
            b.into_iter().for_each(|part| two.extend_from_slice(&part));
            if is_end {
                break;
            }
        }
        assert!(one == whole && two == whole);
        assert_eq!(told.load(Ordering::Relaxed), LENGTH as u64, "what was sent twice counts once");
    }
}
