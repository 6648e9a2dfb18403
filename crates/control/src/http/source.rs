//! The routes by which a folder comes from another machine.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::Digest;
use bowline_core::source::Manifest;

use super::answer::{Refusal, json};
use super::{Api, Handled, app_key, misunderstood, read};

pub(super) async fn offer(State(api): State<Api>, Path((env, app)): Path<(String, String)>, body: Body) -> Handled {
    let key = app_key(&env, &app)?;
    let sources = api.kept()?.sources.clone();
    let bytes = read(body, wire::MAX_MANIFEST).await?;
    let offered = blocking(move || {
        let wrong = |error: &dyn std::error::Error| {
            Fault::new(FaultKind::Invalid, format!("the source of {key} cannot be taken")).source(error)
        };
        let source: wire::Source = serde_json::from_slice(&bytes).map_err(|error| wrong(&error))?;
        let manifest = Manifest::try_from(source).map_err(|error| wrong(&error))?;
        sources.offer(&key, &manifest)
    });
    Ok(json(StatusCode::OK, &offered.await?))
}

pub(super) async fn put(State(api): State<Api>, Path(content): Path<String>, body: Body) -> Handled {
    let content = digest(&content)?;
    api.kept()?.sources.put(content, body).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn place(State(api): State<Api>, Path((env, app, source)): Path<(String, String, String)>) -> Handled {
    let (key, source) = (app_key(&env, &app)?, digest(&source)?);
    let sources = api.kept()?.sources.clone();
    Ok(json(StatusCode::OK, &blocking(move || sources.place(&key, source)).await?))
}

fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|error| misunderstood(&error))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Fault::new(FaultKind::Failed, "taking a source broke off").source(&error)))
}
