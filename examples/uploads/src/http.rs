//! The routes, and what each answers.

use std::io;
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::multipart::{Field, Multipart, MultipartError, MultipartRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};

use crate::content::{Check, Mismatch, is_passive, media_type};
use crate::metrics::{Extension, Reason};
use crate::name::SafeName;
use crate::store::{Entry, Receiving};
use crate::{Config, Metrics, Store, page};

/// Field of the form that holds the file.
const FIELD: &str = "file";

/// What a form needs around the file: boundaries, headers, small other fields.
const AROUND: u64 = 1 << 20;

/// How much of a refused upload is still read, so that the client gets to read the answer. Closing with unread bytes
/// resets the connection, and browsers then show that instead.
const READ_ON: u64 = 8 << 20;

const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

/// No script, no frame, nothing from elsewhere.
const PAGE_POLICY: &str =
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
const FILE_POLICY: &str = "default-src 'none'; sandbox";

#[derive(Debug)]
struct Service {
    config: Config,
    store: Store,
    metrics: Arc<Metrics>,
}

type Shared = State<Arc<Service>>;

/// The whole service.
pub fn router(config: Config, store: Store, metrics: Arc<Metrics>) -> Router {
    let limit = usize::try_from(config.max_bytes.saturating_add(AROUND)).unwrap_or(usize::MAX);
    Router::new()
        .route("/", get(index).post(upload))
        .route("/files", get(list).post(upload))
        .route("/files/{name}", get(download))
        .route("/style.css", get(style))
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(scrape))
        .layer(DefaultBodyLimit::max(limit))
        .with_state(Arc::new(Service { config, store, metrics }))
}

/// A file as the API shows it.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    size: u64,
    url: String,
    /// Seconds since 1970-01-01 UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    modified: Option<u64>,
}

impl Shown {
    fn of(entry: &Entry) -> Self {
        let modified = entry.modified.duration_since(UNIX_EPOCH).map(|d| d.as_secs()).ok();
        Self { name: entry.name.clone(), size: entry.size, url: url(&entry.name), modified }
    }
}

/// Why an upload is refused.
#[derive(Debug)]
enum Refusal {
    NotAForm(String),
    NoFile,
    SeveralFiles,
    NoName,
    Extension { extension: String, allowed: String },
    Content { extension: String },
    TooLarge { limit: u64 },
    Broken(String),
    Full,
    Disk,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotAForm(_) | Self::NoFile | Self::SeveralFiles | Self::NoName | Self::Broken(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::Extension { .. } | Self::Content { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Full => StatusCode::INSUFFICIENT_STORAGE,
            Self::Disk => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Label of the metric, and of the answer.
    fn reason(&self) -> &'static str {
        match self {
            Self::NotAForm(_) => "not_a_form",
            Self::NoFile => "no_file",
            Self::SeveralFiles => "several_files",
            Self::NoName => "no_name",
            Self::Extension { .. } => "extension",
            Self::Content { .. } => "content",
            Self::TooLarge { .. } => "too_large",
            Self::Broken(_) => "broken",
            Self::Full => "full",
            Self::Disk => "disk",
        }
    }

    fn message(&self) -> String {
        match self {
            Self::NotAForm(why) => format!("send multipart/form-data with a field {FIELD:?}: {why}"),
            Self::NoFile => format!("the form has no field {FIELD:?} with a file"),
            Self::SeveralFiles => "send one file per request".to_owned(),
            Self::NoName => "the file has no name with an extension".to_owned(),
            Self::Extension { extension, allowed } => {
                format!("files ending in .{extension} are not accepted; allowed are {allowed}")
            }
            Self::Content { extension } => format!("the content is not what .{extension} says"),
            Self::TooLarge { limit } => format!("a file may have at most {limit} bytes"),
            Self::Broken(why) => format!("the upload is broken off or malformed: {why}"),
            Self::Full => "there is no room left".to_owned(),
            Self::Disk => "the file could not be stored".to_owned(),
        }
    }
}

async fn upload(State(service): Shared, headers: HeaderMap, form: Result<Multipart, MultipartRejection>) -> Response {
    let started = Instant::now();
    let _in_flight = InFlight::of(&service.metrics);
    let result = match form {
        Ok(form) => accept(&service, form).await,
        Err(rejection) => Err(Refusal::NotAForm(rejection.body_text())),
    };
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let in_browser = wants_page(&headers);
    match result {
        Ok(stored) => {
            tracing::info!(name = stored.name, size = stored.size, ms, "stored");
            let location = if in_browser { format!("/?stored={}", encode(&stored.name)) } else { stored.url.clone() };
            let location = [(header::LOCATION, location)];
            match in_browser {
                // See other: reloading the page does not upload again.
                true => (StatusCode::SEE_OTHER, location).into_response(),
                false => (StatusCode::CREATED, location, Json(stored)).into_response(),
            }
        }
        Err(refusal) => {
            let (reason, message) = (refusal.reason(), refusal.message());
            tracing::info!(reason, message, ms, "refused");
            service.metrics.refused.get_or_create(&Reason { reason }).inc();
            match in_browser {
                true => (refusal.status(), page(page::refused(&message))).into_response(),
                false => {
                    let body = serde_json::json!({ "error": message, "reason": reason });
                    (refusal.status(), Json(body)).into_response()
                }
            }
        }
    }
}

/// Reads the form to its end before anything is kept: a request that breaks off later leaves nothing.
async fn accept(service: &Service, mut form: Multipart) -> Result<Shown, Refusal> {
    let mut received: Option<(Receiving, SafeName)> = None;
    let result = loop {
        let field = match form.next_field().await {
            Ok(Some(field)) => field,
            Ok(None) => break Ok(()),
            Err(error) => break Err(broken(service, &error)),
        };
        // A form that is sent without a file chosen has the field, with an empty name.
        let is_file = field.name() == Some(FIELD) && field.file_name().is_some_and(|name| !name.is_empty());
        if !is_file {
            continue;
        }
        if received.is_some() {
            break Err(Refusal::SeveralFiles);
        }
        match receive(service, field).await {
            Ok(file) => received = Some(file),
            Err(refusal) => break Err(refusal),
        }
    };
    if let Err(refusal) = result {
        drop(received);
        read_on(form).await;
        return Err(refusal);
    }
    let (file, name) = received.ok_or(Refusal::NoFile)?;
    let size = file.size();
    let stored = file.keep(&name).await.map_err(|e| disk(&e))?;
    let metrics = &service.metrics;
    metrics.files.get_or_create(&Extension { extension: name.extension().to_owned() }).inc();
    metrics.bytes.inc_by(size);
    metrics.stored.inc();
    Ok(Shown { url: url(&stored), name: stored, size, modified: None })
}

async fn receive(service: &Service, mut field: Field<'_>) -> Result<(Receiving, SafeName), Refusal> {
    let name = SafeName::from_client(field.file_name().unwrap_or_default()).ok_or(Refusal::NoName)?;
    let extension = name.extension().to_owned();
    if !service.config.extensions.contains(&extension) {
        let allowed = service.config.extensions.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(Refusal::Extension { extension, allowed });
    }
    let limit = service.config.max_bytes;
    let mut check = Check::new(&extension);
    let mut file = service.store.receive().await.map_err(|e| disk(&e))?;
    while let Some(piece) = field.chunk().await.map_err(|e| broken(service, &e))? {
        if file.size() + piece.len() as u64 > limit {
            return Err(Refusal::TooLarge { limit });
        }
        check.feed(&piece).map_err(|Mismatch| Refusal::Content { extension: extension.clone() })?;
        file.write(piece).await.map_err(|e| disk(&e))?;
    }
    check.finish().map_err(|Mismatch| Refusal::Content { extension })?;
    Ok((file, name))
}

fn broken(service: &Service, error: &MultipartError) -> Refusal {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Refusal::TooLarge { limit: service.config.max_bytes },
        _ => Refusal::Broken(error.body_text()),
    }
}

fn disk(error: &io::Error) -> Refusal {
    tracing::error!(%error, "a file could not be stored");
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Refusal::Full,
        _ => Refusal::Disk,
    }
}

async fn read_on(mut form: Multipart) {
    let mut read = 0;
    while let Ok(Some(mut field)) = form.next_field().await {
        while let Ok(Some(piece)) = field.chunk().await {
            read += piece.len() as u64;
            if read > READ_ON {
                return;
            }
        }
    }
}

/// Counts an upload for as long as it takes.
struct InFlight<'m>(&'m Metrics);

impl<'m> InFlight<'m> {
    fn of(metrics: &'m Metrics) -> Self {
        metrics.in_flight.inc();
        Self(metrics)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}

#[derive(Debug, Deserialize)]
struct Paging {
    after: Option<String>,
    limit: Option<usize>,
}

async fn list(State(service): Shared, Query(paging): Query<Paging>) -> Response {
    let limit = paging.limit.unwrap_or(PAGE).clamp(1, MAX_PAGE);
    match service.store.list(paging.after, limit).await {
        Ok(listing) => {
            let next = listing.entries.last().filter(|_| listing.more);
            let next = next.map(|last| format!("/files?after={}&limit={limit}", encode(&last.name)));
            let files: Vec<Shown> = listing.entries.iter().map(Shown::of).collect();
            Json(serde_json::json!({ "files": files, "next": next })).into_response()
        }
        Err(error) => failed(&error),
    }
}

#[derive(Debug, Deserialize)]
struct Index {
    after: Option<String>,
    stored: Option<String>,
}

async fn index(State(service): Shared, Query(query): Query<Index>) -> Response {
    match service.store.list(query.after, PAGE).await {
        Ok(listing) => {
            let files = listing.entries.iter().map(|e| (e, url(&e.name))).collect::<Vec<_>>();
            let next = listing.entries.last().filter(|_| listing.more);
            let next = next.map(|last| format!("/?after={}", encode(&last.name)));
            let config = &service.config;
            page(page::index(&files, next.as_deref(), query.stored.as_deref(), &config.extensions, config.max_bytes))
        }
        Err(error) => failed(&error),
    }
}

async fn download(State(service): Shared, Path(name): Path<String>) -> Response {
    let (content, entry) = match service.store.read(&name).await {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return (StatusCode::NOT_FOUND, "no such file\n").into_response();
        }
        Err(error) => return failed(&error),
    };
    let extension = name.rsplit('.').next().unwrap_or_default();
    let how = if is_passive(extension) { "inline" } else { "attachment" };
    let headers = [
        (header::CONTENT_TYPE, media_type(extension).to_owned()),
        (header::CONTENT_LENGTH, entry.size.to_string()),
        (header::CONTENT_DISPOSITION, format!("{how}; filename*=UTF-8''{}", encode(&name))),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::CONTENT_SECURITY_POLICY, FILE_POLICY.to_owned()),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin".to_owned()),
    ];
    (headers, Body::from_stream(content)).into_response()
}

async fn style() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, "max-age=3600")];
    (headers, page::STYLE).into_response()
}

/// Ready is who could store a file now. Whoever cannot is still alive: a restart would not free the disk.
async fn ready(State(service): Shared) -> Response {
    match service.store.probe().await {
        Ok(()) => "ready\n".into_response(),
        Err(error) => {
            tracing::warn!(%error, "not ready: nothing can be stored");
            (StatusCode::SERVICE_UNAVAILABLE, format!("nothing can be stored: {error}\n")).into_response()
        }
    }
}

async fn scrape(State(service): Shared) -> Response {
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, media_type)], service.metrics.text()).into_response()
}

fn failed(error: &io::Error) -> Response {
    tracing::error!(%error, "the files could not be read");
    (StatusCode::INTERNAL_SERVER_ERROR, "the files could not be read\n").into_response()
}

fn page(html: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, html).into_response()
}

/// A browser that sent the form names HTML first; programs do not name it at all.
fn wants_page(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).map(HeaderValue::as_bytes).is_some_and(|accept| accept.starts_with(b"text/html"))
}

fn url(name: &str) -> String {
    format!("/files/{}", encode(name))
}

/// RFC 3986, section 2.3: everything but unreserved characters.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
