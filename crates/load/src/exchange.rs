//! One request and its answer.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::arrivals::Draw;
use crate::connect::{Connection, chain, kind_of};
use crate::expected::Expected;
use crate::payload::Payload;
use crate::plan::{Body, Plan, Protocol};
use crate::tally::Kind;

/// Of an answer that failed, so much of its body is told.
pub(crate) const TOLD_BODY: usize = 160;

/// The plan's requests, as far as they are the same each time.
#[derive(Debug)]
pub(crate) struct Requests {
    protocol: Protocol,
    all: Vec<Prepared>,
}

#[derive(Debug)]
struct Prepared {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
}

impl Requests {
    /// `None` if the plan has a header or a target that cannot be written.
    pub(crate) fn of(plan: &Plan) -> Option<Self> {
        let target = &plan.target;
        let scheme = if target.https { "https" } else { "http" };
        let uri: Uri = match plan.protocol {
            Protocol::Http1 => target.path.parse().ok()?,
            Protocol::Http2 => format!("{scheme}://{}{}", target.authority(), target.path).parse().ok()?,
        };
        let mut all = Vec::with_capacity(plan.requests.len());
        for template in &plan.requests {
            let mut headers = template.headers.clone();
            headers
                .entry(USER_AGENT)
                .or_insert(HeaderValue::from_static(concat!("bowline-bench/", env!("CARGO_PKG_VERSION"))));
            if plan.protocol == Protocol::Http1 && !headers.contains_key(HOST) {
                headers.insert(HOST, target.authority().parse().ok()?);
            }
            if let Body::Upload(upload) = &template.body {
                headers.insert(CONTENT_TYPE, upload.content_type().parse().ok()?);
            }
            let (method, body) = (template.method.clone(), template.body.clone());
            all.push(Prepared { method, uri: uri.clone(), headers, body });
        }
        Some(Self { protocol: plan.protocol, all })
    }

    /// The so-manieth request of the run.
    pub(crate) fn build(&self, draw: Draw, number: u64) -> Request<Payload> {
        let prepared = &self.all[draw.template];
        let body = match &prepared.body {
            Body::None => Payload::default(),
            Body::Bytes(bytes) => Payload::new([bytes.clone()]),
            Body::Upload(upload) => Payload::new(upload.form(number)),
        };
        let mut request = Request::new(body);
        *request.method_mut() = prepared.method.clone();
        *request.uri_mut() = prepared.uri.clone();
        *request.headers_mut() = prepared.headers.clone();
        if draw.fresh && self.protocol == Protocol::Http1 {
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        request
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) received: u64,
    pub(crate) wrong: Option<(Kind, String)>,
}

/// No whole answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// The connection gave the request back: not a byte of it was sent.
    Unsent(Box<Request<Payload>>),
    Failed(Kind, String),
}

/// Sends a request and reads its answer to the end. `due`: when the request was.
pub(crate) async fn exchange(
    connection: &mut Connection,
    request: Request<Payload>,
    expected: &Expected,
    due: Duration,
) -> Result<Answer, NoAnswer> {
    let sent = match connection {
        Connection::Http1(sender) => sender.try_send_request(request).await,
        Connection::Http2(sender) => sender.try_send_request(request).await,
    };
    let response = sent.map_err(|mut error| match error.take_message() {
        Some(request) => NoAnswer::Unsent(Box::new(request)),
        None => no_answer(error.error()),
    })?;
    read(response, expected, due).await
}

async fn read(response: Response<Incoming>, expected: &Expected, due: Duration) -> Result<Answer, NoAnswer> {
    let (head, mut body) = response.into_parts();
    let keep = expected.keeps(due, head.status);
    let mut kept = Kept::default();
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| no_answer(&error))?;
        if let Ok(data) = frame.into_data() {
            received += u64::try_from(data.len()).unwrap_or(u64::MAX);
            kept.push(data, keep);
        }
    }
    let kept = kept.into_bytes();
    let wrong = expected.judge(due, head.status, &head.headers, &kept).map(|wrong| {
        let text: String = String::from_utf8_lossy(&kept).chars().take(TOLD_BODY).collect();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        (Kind::from(wrong), format!("status {}: {text}", head.status.as_u16()))
    });
    Ok(Answer { status: head.status.as_u16(), received, wrong })
}

/// The beginning of a body.
#[derive(Default)]
struct Kept {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Kept {
    fn push(&mut self, mut piece: Bytes, limit: usize) {
        piece.truncate(limit - self.len.min(limit));
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Without a copy where it came in one piece.
    fn into_bytes(mut self) -> Bytes {
        match self.pieces.len() {
            0 => Bytes::new(),
            1 => self.pieces.pop_front().unwrap_or_default(),
            _ => self.pieces.into_iter().flatten().collect(),
        }
    }
}

fn no_answer(error: &hyper::Error) -> NoAnswer {
    let kind = kind_of(error).unwrap_or(match error {
        error if error.is_incomplete_message() || error.is_canceled() || error.is_closed() => Kind::Closed,
        _ => Kind::Protocol,
    });
    NoAnswer::Failed(kind, chain(error))
}
