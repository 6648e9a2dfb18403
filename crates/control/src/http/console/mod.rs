//! The console: one page that says at a glance whether all is well, and the Server-Sent Events that keep it so.
//!
//! `GET /` is the page, `GET /console/live` its events; their shape is between page and daemon, which come from one binary, and
//! is no part of the API.
//!
//! Architecture invariant: read-only, like all of the admin port. A client holds no more than one answer in memory: it is told what is
//! new when it has read what was told before.

mod board;
mod history;
mod page;
mod shape;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bowline_core::fault::{Fault, FaultKind};
use futures_util::stream;

use super::answer::Refusal;
pub(crate) use board::{Board, Watched};

/// Who may load what: the page's own parts, from where the page came. Nothing runs that is written into the page, and no text becomes
/// markup (Trusted Types).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

pub(super) fn router(board: Arc<Board>) -> Router {
    let own = Router::new()
        .route("/console/live", get(live))
        .route("/console/{part}", get(page::part))
        .layer(from_fn(require_own_page))
        .with_state(board);
    Router::new().route("/", get(page::page)).merge(own)
}

/// What a browser is to hold on to, with every answer of the admin port.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A page of somebody else could not read the answer, but would take a seat. Browsers say who asks; others need not.
async fn require_own_page(request: Request, next: Next) -> Response {
    match request.headers().get("sec-fetch-site").map(HeaderValue::as_bytes) {
        None | Some(b"same-origin" | b"none") => next.run(request).await,
        Some(_) => {
            let fault = Fault::new(FaultKind::Refused, "the console answers its own page only");
            Refusal::from(fault.hint("open the console itself: `bowline console` says where")).into_response()
        }
    }
}

async fn live(State(board): State<Arc<Board>>) -> Response {
    let viewer = match board.enter() {
        Ok(viewer) => viewer,
        Err(refusal) => return refusal.into_response(),
    };
    let body = Body::from_stream(stream::unfold(viewer, |mut viewer| async move {
        let told = viewer.next().await?;
        Some((Ok::<Bytes, Infallible>(told), viewer))
    }));
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, body).into_response()
}
