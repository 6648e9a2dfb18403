//! The routes, and what each answers.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Query, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde::Serialize;
use serde_json::json;

use crate::database::User;
use crate::page::Page;
use crate::unavailable::Unavailable;
use crate::{Database, Metrics, metrics};

/// When to come again while the database is away.
const RETRY_SECONDS: u64 = 1;

#[derive(Debug)]
struct Service {
    database: Database,
    metrics: Arc<Metrics>,
}

type Shared = State<Arc<Service>>;

/// The whole service.
pub fn router(database: Database, metrics: Arc<Metrics>) -> Router {
    let service = Arc::new(Service { database, metrics });
    Router::new()
        .route("/", get(|| async { ([(header::LOCATION, "users")], StatusCode::TEMPORARY_REDIRECT) }))
        .route("/users", get(list))
        .route("/health", get(|| async { Json(json!({ "status": "live" })) }))
        .route("/ready", get(ready))
        .route("/metrics", get(scrape))
        .fallback(|| async { refusal(StatusCode::NOT_FOUND, "no_such_path", "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            let message = "this path does not take this method; the header Allow says which it takes";
            refusal(StatusCode::METHOD_NOT_ALLOWED, "method", message)
        })
        .layer(from_fn_with_state(Arc::clone(&service), record))
        .with_state(service)
}

/// A page of the list.
#[derive(Debug, Serialize)]
struct Listing {
    users: Vec<User>,
    /// The address of the next page.
    next: Option<String>,
}

async fn list(
    State(service): Shared,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Result<Response, Unavailable> {
    let page = match Page::parse(&parameters) {
        Ok(page) => page,
        Err(message) => return Ok(refusal(StatusCode::BAD_REQUEST, "parameter", &message)),
    };
    let (users, is_more) = service.database.users(page).await?;
    let next = users.last().filter(|_| is_more).map(|last| page.next(last.id));
    Ok(Json(Listing { users, next }).into_response())
}

async fn ready(State(service): Shared) -> Result<Response, Unavailable> {
    service.database.ready().await?;
    Ok(Json(json!({ "status": "ready" })).into_response())
}

async fn scrape(State(service): Shared) -> Response {
    service.database.measure();
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, media_type)], service.metrics.text()).into_response()
}

fn refusal(status: StatusCode, reason: &str, message: &str) -> Response {
    (status, Json(json!({ "error": message, "reason": reason }))).into_response()
}

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        let again = [(header::RETRY_AFTER, RETRY_SECONDS)];
        (again, refusal(StatusCode::SERVICE_UNAVAILABLE, self.reason(), &self.to_string())).into_response()
    }
}

/// Counts and logs each request. Addresses of people are not for caches on the way.
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
        "/health" | "/ready" | "/metrics" => tracing::debug!(route, method, status, ms, "request"),
        _ => tracing::info!(route, method, status, ms, "request"),
    }
    service.metrics.answered(metrics::Request { route, method, status }, took);
    response
}

fn known(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];
    KNOWN.into_iter().find(|known| method == known).unwrap_or("other")
}
