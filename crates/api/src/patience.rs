//! How long a daemon elsewhere may take: whoever answers in its place can hold nobody for ever by saying nothing, by saying it
//! slowly, or by never coming to the point.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::{Notify, watch};
use tokio::time::{Sleep, sleep};

/// Interim answers (1xx) before the one that counts: the edge sends one at most.
const MOST_INTERIM: u32 = 16;

/// What a request is answered after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    /// What is known already. A stream begins at once, too.
    Nothing,
    /// Work that takes a while: a folder is put together or read, instances drain.
    Work,
    /// Something that comes when it comes, as the end of a run; a peer that is dead is seen by the connection.
    Event,
}

/// `None`: without end. On this machine, and behind the user's own ssh, which may ask its user something first and looks after
/// its connection, nobody stands in for the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    /// From the last part of the request that was taken to the end of the answer's head.
    head: Option<Duration>,
    /// The same where the answer waits on work.
    work: Option<Duration>,
    /// Between two parts of a body that is no stream.
    idle: Option<Duration>,
    /// For all of it.
    whole: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Impatience {
    #[error("it did not answer within {0:?}")]
    Head(Duration),
    #[error("it answered, and then said nothing for {0:?}")]
    Idle(Duration),
    #[error("its answer did not end within {0:?}")]
    Whole(Duration),
    #[error("it sent more than {MOST_INTERIM} interim answers and none that counts")]
    Interim,
}

impl Patience {
    pub(crate) const ENDLESS: Self = Self { head: None, work: None, idle: None, whole: None };

    pub(crate) const OF_HTTPS: Self = Self {
        head: Some(Duration::from_secs(30)),
        work: Some(Duration::from_secs(10 * 60)),
        idle: Some(Duration::from_secs(30)),
        whole: Some(Duration::from_secs(2 * 60)),
    };

    /// Waits for the head of the answer to what `send` sends.
    pub(crate) async fn head<B, F: Future>(
        self,
        waits: Waits,
        request: Request<B>,
        send: impl FnOnce(Request<Watched<B>>) -> F,
    ) -> Result<F::Output, Impatience> {
        let limit = match waits {
            Waits::Nothing => self.head,
            Waits::Work => self.work,
            Waits::Event => None,
        };
        let (taken, mut seen) = watch::channel(());
        let taken = Arc::new(taken);
        let mut request = request.map(|body| Watched { body, taken: Arc::clone(&taken) });
        let flooded = Arc::new(Notify::new());
        let (interim, tell) = (AtomicU32::new(0), Arc::clone(&flooded));
        hyper::ext::on_informational(&mut request, move |_| {
            if interim.fetch_add(1, Ordering::Relaxed) >= MOST_INTERIM {
                tell.notify_one();
            }
        });
        let answer = send(request);
        tokio::pin!(answer);
        loop {
            tokio::select! {
                answer = &mut answer => return Ok(answer),
                () = flooded.notified() => return Err(Impatience::Interim),
                // Another part was taken: the time begins anew. The sender is held here, so that this never fails.
                _ = seen.changed() => {}
                limit = over(limit) => return Err(Impatience::Head(limit)),
            }
        }
    }

    pub(crate) fn body(self, body: Incoming) -> Hurried<Incoming> {
        Hurried { body, idle: self.idle, pause: None }
    }

    pub(crate) async fn whole<F: Future>(self, future: F) -> Result<F::Output, Impatience> {
        tokio::select! {
            done = future => Ok(done),
            limit = over(self.whole) => Err(Impatience::Whole(limit)),
        }
    }
}

/// Returns after the limit, or never.
async fn over(limit: Option<Duration>) -> Duration {
    match limit {
        Some(limit) => {
            sleep(limit).await;
            limit
        }
        None => std::future::pending().await,
    }
}

/// A body that says when a part of it was taken.
#[derive(Debug)]
pub(crate) struct Watched<B> {
    body: B,
    taken: Arc<watch::Sender<()>>,
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_ready() {
            self.taken.send_replace(());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body whose next part comes in time, or an error does.
#[derive(Debug)]
pub(crate) struct Hurried<B> {
    body: B,
    idle: Option<Duration>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<B: Body<Error = hyper::Error> + Unpin> Body for Hurried<B> {
    type Data = B::Data;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.pause = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let Some(idle) = this.idle else { return Poll::Pending };
        let pause = this.pause.get_or_insert_with(|| Box::pin(sleep(idle)));
        match pause.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(Impatience::Idle(idle).into()))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};

    use super::*;
    use crate::{Client, ClientError, wire};

    const SHORT: Patience = Patience {
        head: Some(Duration::from_millis(200)),
        work: Some(Duration::from_secs(20)),
        idle: Some(Duration::from_millis(200)),
        whole: Some(Duration::from_millis(800)),
    };

    /// A daemon that answers every request with `first`, and then with `more` again and again.
    fn daemon(first: &'static [u8], more: &'static [u8], pause: Duration) -> (tempfile::TempDir, Client) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, first, more, pause));
            }
        });
        let client = Client::new(&path).with(SHORT);
        (dir, client)
    }

    async fn answer(mut stream: UnixStream, first: &[u8], more: &[u8], pause: Duration) {
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(first).await;
        while stream.write_all(more).await.is_ok() {
            sleep(pause).await;
        }
    }

    fn words(error: &ClientError) -> String {
        let source = std::error::Error::source(error).expect("it says why");
        format!("{source}")
    }

    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    const QUICK: Duration = Duration::from_millis(20);
    const NEVER: Duration = Duration::from_secs(1000);

    #[tokio::test]
    async fn who_says_nothing_holds_nobody() {
        let (_dir, client) = daemon(b"", b"", NEVER);
        assert_eq!(words(&client.version().await.unwrap_err()), "it did not answer within 200ms");
        // The end of a run comes when it comes.
        let run = client.run("local", "shop", 1, wire::RunQuery { wait: true });
        assert!(tokio::time::timeout(3 * SHORT.head.unwrap(), run).await.is_err());
        let (_dir, client) = daemon(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n", QUICK);
        assert_eq!(words(&client.version().await.unwrap_err()), "it did not answer within 200ms");
    }

    #[tokio::test]
    async fn interim_answers_come_to_an_end() {
        let (_dir, client) = daemon(b"", b"HTTP/1.1 102 Processing\r\n\r\n", Duration::ZERO);
        assert!(words(&client.version().await.unwrap_err()).contains("interim"));
        let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 25\r\n\r\n\
                       {\"version\":\"1\",\"api\":[1]}";
        let (_dir, client) = daemon(answer, b"", NEVER);
        assert_eq!(client.version().await.unwrap().version, "1");
    }

    #[tokio::test]
    async fn an_answer_that_drips_or_stops_is_given_up_and_a_stream_may_be_silent() {
        let (_dir, silent) = daemon(HEAD, b"", NEVER);
        assert!(words(&silent.version().await.unwrap_err()).contains("said nothing for 200ms"));
        let mut lines = silent.change(1).await.unwrap();
        assert!(tokio::time::timeout(2 * SHORT.whole.unwrap(), lines.next()).await.is_err());
        let (_dir, drips) = daemon(HEAD, b"1\r\n \r\n", QUICK);
        let drips = drips.with(Patience { idle: Some(Duration::from_secs(20)), ..SHORT });
        assert_eq!(words(&drips.version().await.unwrap_err()), "its answer did not end within 800ms");
    }
}
