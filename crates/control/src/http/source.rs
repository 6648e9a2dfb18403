//! The routes by which a folder comes from another machine.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::Digest;

use super::answer::{Refusal, json};
use super::{Api, Handled, app_key, misunderstood};

pub(super) async fn offer(State(api): State<Api>, Path((env, app)): Path<(String, String)>, body: Body) -> Handled {
    let key = app_key(&env, &app)?;
    let sources = api.kept()?.sources.clone();
    let manifest = sources.take(&key, body).await?;
    let turn = sources.turn_to_offer().await?;
    let offered = blocking(move || {
        let _turn = turn;
        sources.offer(&key, manifest)
    });
    Ok(json(StatusCode::OK, &offered.await?))
}

type SourcePath = Path<(String, String, String)>;

pub(super) async fn put(State(api): State<Api>, Path((env, app, content)): SourcePath, body: Body) -> Handled {
    let (key, content) = (app_key(&env, &app)?, digest(&content)?);
    api.kept()?.sources.put(&key, content, body).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn place(State(api): State<Api>, Path((env, app, source)): SourcePath) -> Handled {
    let (key, source) = (app_key(&env, &app)?, digest(&source)?);
    let sources = api.kept()?.sources.clone();
    let turn = sources.turn_to_place().await?;
    let placed = blocking(move || {
        let _turn = turn;
        sources.place(&key, source)
    });
    Ok(json(StatusCode::OK, &placed.await?))
}

fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|error| misunderstood(&error))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Fault::new(FaultKind::Failed, "taking a source broke off").source(&error)))
}
