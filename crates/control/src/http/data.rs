//! The routes of `bowline data`.

use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::IntoResponse;
use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::AppKey;
use bowline_core::resource::data::{DataId, Rights};
use bowline_core::secret::Secret;

use super::access::Caller;
use super::answer::Refusal;
use super::{Api, Handled, app_key, covers, misunderstood, read_json};
use crate::reconcile::request::{Answer, DataVerb, Lent, Request};
use crate::secrets::generate;

type DataPath = Path<(String, String, String)>;

pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    query: Result<Query<wire::DataQuery>, QueryRejection>,
) -> Handled {
    let Query(query) = query.map_err(|error| misunderstood(&error))?;
    let mut answer = api.door.ask(Request::DataList(query)).await?;
    if let Answer::DataList(list) = &mut answer {
        list.data.retain(|one| covers(&caller, &one.env, &one.app));
    }
    Ok(answer.into_response())
}

pub(super) async fn lend(State(api): State<Api>, caller: Caller, path: DataPath, body: Body) -> Handled {
    let (key, id) = named(path)?;
    let wire::Lend { rights, seconds } = read_json(body).await?;
    let rights = match rights {
        wire::Rights::Read => Rights::Read,
        wire::Rights::Write => Rights::Write,
        wire::Rights::Import => Rights::Import,
    };
    let password = generate().map_err(|error| Fault::from(crate::secrets::VaultError::from(error)))?;
    let verb = DataVerb::Lend { rights, time: Duration::from_secs(seconds), password };
    api.ask(Request::Data { key, id, verb, by_uid: caller.actor() }).await
}

pub(super) async fn give_back(
    State(api): State<Api>,
    caller: Caller,
    Path((env, app, data, user)): Path<(String, String, String, String)>,
) -> Handled {
    let (key, id) = named(Path((env, app, data)))?;
    api.ask(Request::Data { key, id, verb: DataVerb::Return { user }, by_uid: caller.actor() }).await
}

pub(super) async fn fill(State(api): State<Api>, caller: Caller, path: DataPath, body: Body) -> Handled {
    let (key, id) = named(path)?;
    let wire::Fill { source, replace } = read_json(body).await?;
    let verb = DataVerb::Fill { source: source.into(), replace };
    api.ask(Request::Data { key, id, verb, by_uid: caller.actor() }).await
}

pub(super) async fn remove(
    State(api): State<Api>,
    caller: Caller,
    path: DataPath,
    query: Result<Query<wire::RemoveQuery>, QueryRejection>,
) -> Handled {
    let (key, id) = named(path)?;
    let Query(wire::RemoveQuery { force }) = query.map_err(|error| misunderstood(&error))?;
    api.ask(Request::Data { key, id, verb: DataVerb::Remove { force }, by_uid: caller.actor() }).await
}

fn named(Path((env, app, data)): DataPath) -> Result<(AppKey, DataId), Refusal> {
    let id = DataId::parse(&data).map_err(|error| {
        Fault::new(FaultKind::Invalid, format!("{data:?} names no data"))
            .source(&error)
            .hint("`bowline data list` shows what there is")
    })?;
    Ok((app_key(&env, &app)?, id))
}

/// For the one who asked.
pub(super) fn lent(lent: Lent) -> wire::Lent {
    let clear = |secret: &Secret| String::from_utf8_lossy(secret.expose()).into_owned();
    let Lent { endpoint, until, empty } = lent;
    wire::Lent {
        external: until.is_none(),
        url: clear(&endpoint.url),
        host: endpoint.host,
        port: endpoint.port,
        database: endpoint.database,
        user: endpoint.user,
        password: endpoint.password.as_ref().map(clear),
        until: until.map(|until| until.0),
        empty,
    }
}
