//! The routes of tokens.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use bowline_api::wire;
use bowline_core::access::{Scope, TokenId};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppName, EnvName, NameError, TokenName};

use super::access::{Caller, now};
use super::answer::json;
use super::{Api, Handled, bad_name, read_json};
use crate::tokens::{Token, Wanted};

/// Longest time that a token may hold and end by itself: ten years.
const LONGEST: u64 = 10 * 365 * 24 * 60 * 60;

pub(super) async fn who_am_i(caller: Caller) -> Response {
    let answer = match &caller {
        Caller::Owner { uid } => wire::WhoAmI { uid: *uid, token: None },
        Caller::Token(token) => wire::WhoAmI { uid: None, token: Some(info(token)) },
    };
    json(StatusCode::OK, &answer)
}

pub(super) async fn list(State(api): State<Api>) -> Handled {
    let tokens = api.kept()?.tokens.list();
    Ok(json(StatusCode::OK, &wire::Tokens { tokens: tokens.iter().map(|token| info(token)).collect() }))
}

pub(super) async fn create(State(api): State<Api>, caller: Caller, body: Body) -> Handled {
    let wanted = wanted(read_json(body).await?)?;
    let (token, made) = api.kept()?.tokens.create(wanted, by(&caller)?, now()).await?;
    let token = String::from_utf8_lossy(token.expose()).into_owned();
    Ok(json(StatusCode::CREATED, &wire::CreatedToken { token, info: info(&made) }))
}

pub(super) async fn revoke(State(api): State<Api>, caller: Caller, Path(which): Path<String>) -> Handled {
    let revoked = api.kept()?.tokens.revoke(&which, by(&caller)?, now()).await?;
    Ok(json(StatusCode::OK, &info(&revoked)))
}

fn by(caller: &Caller) -> Result<u32, Fault> {
    caller.actor().ok_or_else(|| Fault::new(FaultKind::Refused, "the system does not say who asks"))
}

fn wanted(asked: wire::NewToken) -> Result<Wanted, super::Refusal> {
    let wire::NewToken { name, role, apps, environments, seconds } = asked;
    let apps = apps.iter().map(|name| AppName::new(name).map_err(|error| bad_name(name, &error)));
    let environments = environments.iter().map(|name| EnvName::new(name).map_err(|error| bad_name(name, &error)));
    let scope = Scope { apps: apps.collect::<Result<_, _>>()?, environments: environments.collect::<Result<_, _>>()? };
    let name = TokenName::new(&name).map_err(|error: NameError| bad_name(&name, &error))?;
    if let Some(seconds) = seconds.filter(|seconds| !(1..=LONGEST).contains(seconds)) {
        let fault = Fault::new(FaultKind::Invalid, format!("a token does not hold for {seconds} seconds"));
        return Err(fault.hint("say from one second to ten years, or leave it out").into());
    }
    Ok(Wanted { name, role: role.into(), scope, time: seconds.map(Duration::from_secs) })
}

fn info(token: &Token) -> wire::TokenInfo {
    let record = &token.record;
    let by_token = TokenId::of_actor(record.created_by);
    wire::TokenInfo {
        id: record.id.0,
        name: record.name.to_string(),
        role: record.role.into(),
        apps: record.scope.apps.iter().map(ToString::to_string).collect(),
        environments: record.scope.environments.iter().map(ToString::to_string).collect(),
        created: record.created.0,
        by_uid: by_token.is_none().then_some(record.created_by),
        by_token: by_token.map(|id| id.0),
        expires: record.expires.map(|at| at.0),
        used: token.used().map(|at| at.0),
        revoked: record.revoked.map(|at| at.0),
    }
}
