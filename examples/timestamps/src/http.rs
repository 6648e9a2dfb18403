//! The routes, and what each answers.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Query, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{MethodFilter, get, on};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use crate::store::{Unavailable, shown};
use crate::version::Version;
use crate::{Metrics, Store, metrics};

/// When to come again while Redis is away.
const RETRY_SECONDS: u64 = 1;

#[derive(Debug)]
struct Service {
    store: Store,
    metrics: Arc<Metrics>,
}

type Shared = State<Arc<Service>>;

/// The whole service.
pub fn router(store: Store, metrics: Arc<Metrics>) -> Router {
    let service = Arc::new(Service { store, metrics });
    // GET too, so that a browser or the plainest script can drive it. HEAD never changes anything.
    let changes = MethodFilter::GET.or(MethodFilter::POST).or(MethodFilter::PUT);
    Router::new()
        .route("/", get(|| async { ([(header::LOCATION, "get")], StatusCode::TEMPORARY_REDIRECT) }))
        .route("/get", get(read))
        .route("/set", on(changes, set))
        .route("/reset", on(changes.or(MethodFilter::DELETE), reset))
        .route("/version", get(|| async { Json(Version::of_this_build()) }))
        .route("/healthz", get(|| async { Json(json!({ "status": "live" })) }))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .fallback(|| async { refusal(StatusCode::NOT_FOUND, "no_such_path", "there is nothing at this path") })
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(Arc::clone(&service), record))
        .with_state(service)
}

async fn read(State(service): Shared) -> Result<Response, Unavailable> {
    Ok(answer(service.store.get().await?))
}

#[derive(Debug, Deserialize)]
struct Set {
    at: Option<String>,
}

async fn set(State(service): Shared, method: Method, Query(set): Query<Set>) -> Result<Response, Unavailable> {
    if method == Method::HEAD {
        return Ok(method_not_allowed().await);
    }
    let timestamp = match set.at.as_deref().map(str::parse).transpose() {
        Ok(at) => at.unwrap_or_else(Timestamp::now),
        Err(_) => {
            let message = "`at` is no time with an offset: write 2026-01-31T12:00:00Z, and a + of the offset as %2B";
            return Ok(refusal(StatusCode::BAD_REQUEST, "not_a_timestamp", message));
        }
    };
    service.store.set(timestamp).await?;
    Ok(answer(Some(timestamp)))
}

async fn reset(State(service): Shared, method: Method) -> Result<Response, Unavailable> {
    if method == Method::HEAD {
        return Ok(method_not_allowed().await);
    }
    service.store.reset().await?;
    Ok(answer(None))
}

async fn ready(State(service): Shared) -> Result<Response, Unavailable> {
    service.store.ping().await?;
    Ok(Json(json!({ "status": "ready" })).into_response())
}

async fn scrape(State(service): Shared) -> Response {
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, media_type)], service.metrics.text()).into_response()
}

/// The state after the request; null: none is set.
fn answer(timestamp: Option<Timestamp>) -> Response {
    Json(json!({ "timestamp": timestamp.map(shown) })).into_response()
}

fn refusal(status: StatusCode, reason: &str, message: &str) -> Response {
    (status, Json(json!({ "error": message, "reason": reason }))).into_response()
}

async fn method_not_allowed() -> Response {
    let message = "this path does not take this method; the header Allow says which it takes";
    refusal(StatusCode::METHOD_NOT_ALLOWED, "method", message)
}

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        let (reason, message) = (self.reason(), self.to_string());
        match self {
            Self::NotATimestamp => refusal(StatusCode::INTERNAL_SERVER_ERROR, reason, &message),
            Self::Unreachable | Self::Timeout | Self::Password | Self::Loading | Self::Refused => {
                let again = [(header::RETRY_AFTER, RETRY_SECONDS)];
                (again, refusal(StatusCode::SERVICE_UNAVAILABLE, reason, &message)).into_response()
            }
        }
    }
}

/// Counts and logs each request. Nothing here may be kept by a cache: GET can change the timestamp.
async fn record(State(service): Shared, route: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = known(request.method());
    let route = route.map_or_else(|| "other".to_owned(), |route| route.as_str().to_owned());
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let (status, took) = (response.status().as_u16(), began.elapsed());
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    match route.as_str() {
        // Asked for every second by whoever watches.
        "/healthz" | "/readyz" | "/metrics" => tracing::debug!(route, method, status, ms, "request"),
        _ => tracing::info!(route, method, status, ms, "request"),
    }
    service.metrics.answered(metrics::Request { route, method, status }, took);
    response
}

fn known(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];
    KNOWN.into_iter().find(|known| method == known).unwrap_or("other")
}
