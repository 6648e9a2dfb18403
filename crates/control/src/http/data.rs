//! The routes of `bowline data`.

use std::net::Ipv4Addr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::IntoResponse;
use bowline_api::session::TUNNEL;
use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::AppKey;
use bowline_core::resource::data::{DataId, FillSource, Rights};
use bowline_core::secret::Secret;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::access::Caller;
use super::answer::Refusal;
use super::peer::Peer;
use super::{Api, Handled, app_key, covers, misunderstood, read_json, session};
use crate::reconcile::request::{Answer, DataVerb, Lent, Request};
use crate::secrets::generate;

/// A server on this machine answers at once, or not at all.
const CONNECT: Duration = Duration::from_secs(5);

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
    let verb = DataVerb::Fill { source: FillSource::Here(source.into()), replace };
    api.ask(Request::Data { key, id, verb, by_uid: caller.actor() }).await
}

/// Whether [`fill_with`] would take an archive now: who is refused while still sending may not come to hear why.
pub(super) async fn may_fill(
    State(api): State<Api>,
    caller: Caller,
    path: DataPath,
    query: Result<Query<wire::FillQuery>, QueryRejection>,
) -> Handled {
    let (key, id) = named(path)?;
    let Query(wire::FillQuery { replace }) = query.map_err(|error| misunderstood(&error))?;
    api.ask(Request::Data { key, id, verb: DataVerb::MayFill { replace }, by_uid: caller.actor() }).await
}

/// The same from elsewhere, with what is sent. It is done whole or not at all: nothing of it is to be seen before.
pub(super) async fn fill_with(
    State(api): State<Api>,
    caller: Caller,
    path: DataPath,
    query: Result<Query<wire::FillQuery>, QueryRejection>,
    body: Body,
) -> Handled {
    let (key, id) = named(path)?;
    let Query(wire::FillQuery { replace }) = query.map_err(|error| misunderstood(&error))?;
    let request = |verb| Request::Data { key: key.clone(), id: id.clone(), verb, by_uid: caller.actor() };
    // It may have changed since it was looked at.
    api.door.ask(request(DataVerb::MayFill { replace })).await?;
    let archive = api.kept()?.sources.take_archive(&key, body).await?;
    let source = FillSource::Sent(archive.path().to_owned());
    let (door, request) = (api.door.clone(), request(DataVerb::Fill { source, replace }));
    // It lies there until it is unpacked, also where nobody waits for that any more.
    let filling = tokio::spawn(async move {
        let filled = door.ask(request).await;
        tokio::task::spawn_blocking(move || drop(archive));
        filled
    });
    let broke_off = |error| Fault::new(FaultKind::Failed, "filling the volume broke off").source(&error);
    Ok(filling.await.map_err(broke_off)??.into_response())
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

/// A connection to the server itself: whoever has been lent an account reaches it from elsewhere, too.
pub(super) async fn tunnel(
    State(api): State<Api>,
    caller: Caller,
    ConnectInfo(peer): ConnectInfo<Peer>,
    path: DataPath,
    mut request: axum::extract::Request,
) -> Handled {
    let (key, id) = named(path)?;
    let upgrade = session::asked_for(&mut request, TUNNEL)?;
    let wanted = Request::Data { key, id: id.clone(), verb: DataVerb::Reach, by_uid: caller.actor() };
    let Answer::Reached(port) = api.door.ask(wanted).await? else {
        return Err(Fault::new(FaultKind::Failed, "the tunnel was answered by something else").into());
    };
    let away = |error: &dyn std::error::Error| {
        Fault::new(FaultKind::Failed, format!("the server of {id} cannot be reached"))
            .source(error)
            .hint("`bowline status` shows how it is")
    };
    let connecting = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
    let server = tokio::time::timeout(CONNECT, connecting).await.map_err(|error| away(&error))?;
    let server = server.map_err(|error| away(&error))?;
    // Small requests would wait for an acknowledgement; without it they are only slower.
    let _ = server.set_nodelay(true);
    peer.patience.is_without_end();
    tokio::spawn(async move { pass(upgrade, server, (&api, &caller)).await });
    Ok(session::agreed(TUNNEL))
}

/// Until one of both ends, or the token does with which it was opened.
async fn pass(upgrade: OnUpgrade, mut server: TcpStream, (api, caller): (&Api, &Caller)) {
    let Ok(client) = upgrade.await else { return };
    let mut client = TokioIo::new(client);
    tokio::select! {
        fault = session::is_over(api, caller) => tracing::info!(%fault, "a tunnel ends with its token"),
        passed = tokio::io::copy_bidirectional(&mut client, &mut server) => match passed {
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "a tunnel broke off"),
        },
    }
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
