//! The same bytes, as hyper reads them: in memory, on one thread, and always alike.

use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::rt::ReadBufCursor;
use hyper::service::service_fn;

use crate::message::{Body, Fields, Request, Response};

/// More than the edge ever sends.
const MAX_FIELDS: usize = 256;

/// A peer that has said all of this and closed its side. Whatever it is told, it takes.
struct Wire<'a> {
    said: &'a [u8],
    piece: usize,
    /// It answers: nothing is said before anything was heard.
    awaits: bool,
    reader: Option<Waker>,
}

impl<'a> Wire<'a> {
    fn new(said: &'a [u8], piece: usize, awaits: bool) -> Self {
        Self { said, piece, awaits, reader: None }
    }
}

impl hyper::rt::Read for Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.awaits {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let (now, later) = self.said.split_at(self.said.len().min(self.piece).min(buffer.remaining()));
        buffer.put_slice(now);
        self.said = later;
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Wire<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.awaits = false;
        self.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// The requests that hyper's server finds, in order.
pub(crate) fn requests(said: &[u8], piece: usize) -> Vec<Request> {
    let found = RefCell::new(Vec::new());
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (head, mut body) = request.into_parts();
        let at = found.borrow().len();
        let query = head.uri.query().map_or(String::new(), |query| format!("?{query}"));
        found.borrow_mut().push(Request {
            method: head.method.as_str().to_owned(),
            target: format!("{}{query}", head.uri.path()),
            fields: fields(&head.headers),
            body: Body { payload: Vec::new(), whole: false },
        });
        let found = &found;
        async move {
            take(&mut body, |so_far| found.borrow_mut()[at].body = so_far).await;
            Ok::<_, Infallible>(hyper::Response::new(Empty::<Bytes>::new()))
        }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.half_close(true).max_headers(MAX_FIELDS);
    // What is wrong shows in what was found.
    let _ = block_on(server.serve_connection(Wire::new(said, piece, false), service));
    found.into_inner()
}

/// The final response that hyper's client finds, if it finds one.
pub(crate) fn response(said: &[u8], to_head: bool, piece: usize) -> Option<Response> {
    block_on(async {
        let mut client = hyper::client::conn::http1::Builder::new();
        client.max_headers(MAX_FIELDS);
        let (mut sender, connection) = client.handshake(Wire::new(said, piece, true)).await.ok()?;
        let method = if to_head { "HEAD" } else { "GET" };
        let request = hyper::Request::builder().method(method).uri("/").header("host", "a.test");
        let request = request.body(Empty::<Bytes>::new()).ok()?;
        let asking = async move {
            let (head, mut body) = sender.send_request(request).await.ok()?.into_parts();
            let mut read = Body { payload: Vec::new(), whole: false };
            take(&mut body, |so_far| read = so_far).await;
            Some(Response { status: head.status.as_u16(), fields: fields(&head.headers), body: read })
        };
        tokio::join!(asking, connection).0
    })
}

/// Reads a body to its end, and tells after each piece what was read so far.
async fn take(body: &mut Incoming, mut tell: impl FnMut(Body)) {
    let mut payload = Vec::new();
    loop {
        let frame = body.frame().await;
        let whole = frame.is_none();
        if let Some(Ok(frame)) = &frame {
            payload.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
        tell(Body { payload: payload.clone(), whole });
        if !matches!(frame, Some(Ok(_))) {
            return;
        }
    }
}

fn fields(map: &hyper::HeaderMap) -> Fields {
    Fields::new(map.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
}
