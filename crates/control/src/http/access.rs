//! Who asks, and whether they may: each route has a rule, and is reached only through it.
//!
//! Whoever reaches the Unix socket is the daemon's own user or root, and may do everything. Whoever comes through the edge has a
//! token, and may do what the rule of the route gives its role, to the apps that the token is for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::connect_info::ConnectInfo;
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bowline_core::access::{Role, Scope};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::AppKey;
use bowline_core::time::Timestamp;
use serde_json::{Map, Value, json};

use super::answer::Refusal;
use super::peer::Peer;
use super::{Api, app_key};
use crate::store::{EventRecord, NewEvent, StoreError, Tx};
use crate::tokens::Token;

/// Nobody from elsewhere: it names things of the daemon's machine, or ends the daemon.
pub(super) const HERE: &[Role] = &[];
/// Whoever has a token.
pub(super) const ANYONE: &[Role] = &Role::ALL;
pub(super) const ADMIN: &[Role] = &[Role::Admin];
pub(super) const READ: &[Role] = &[Role::Viewer, Role::Deployer, Role::Operator, Role::Auditor, Role::Admin];
/// What apps say of themselves, which may be anything.
pub(super) const LOGS: &[Role] = &[Role::Viewer, Role::Deployer, Role::Operator, Role::Admin];
pub(super) const DEPLOY: &[Role] = &[Role::Deployer, Role::Admin];
/// What is brought out is the deployer's, what runs the operator's; both steer.
pub(super) const STEER: &[Role] = &[Role::Deployer, Role::Operator, Role::Admin];
pub(super) const OPERATE: &[Role] = &[Role::Operator, Role::Admin];
/// Names and versions, never values.
pub(super) const NAMES: &[Role] = ANYONE;
pub(super) const SECRETS: &[Role] = &[Role::SecretWriter, Role::Admin];
pub(super) const AUDIT: &[Role] = &[Role::Auditor, Role::Admin];

/// What a token does again in this time is one event, with the number of times.
const AGAIN: Duration = Duration::from_secs(60);
const TIMES: &str = "times";
/// The newest events, among which it is looked for.
const RECENT: u32 = 200;

/// How the app that is meant is known, and so whether a token is for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// It is about no app.
    Nothing,
    /// `{env}` and `{app}` of the path.
    App,
    /// The handler looks at the scope: what it shows, or what the body names.
    Handler,
    /// Only a token that is for all apps.
    All,
}

/// A route, and who may use it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) roles: &'static [Role],
    pub(super) reach: Reach,
    /// What the event says that a token has done with it; `None`: it changes nothing, or tells by itself.
    pub(super) does: Option<&'static str>,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// The daemon's own user, or root.
    Owner {
        uid: Option<u32>,
    },
    Token(Arc<Token>),
}

impl Caller {
    /// As the store and events keep it.
    pub(super) fn actor(&self) -> Option<u32> {
        match self {
            Self::Owner { uid } => *uid,
            Self::Token(token) => Some(token.record.id.actor()),
        }
    }

    /// Whether this app is for them.
    pub(super) fn covers(&self, key: &AppKey) -> bool {
        match self {
            Self::Owner { .. } => true,
            Self::Token(token) => token.record.scope.covers(key),
        }
    }

    /// Whether all apps are.
    pub(super) fn covers_all(&self) -> bool {
        match self {
            Self::Owner { .. } => true,
            Self::Token(token) => token.record.scope.is_whole(),
        }
    }

    /// The apps that are.
    pub(super) fn scope(&self) -> Scope {
        match self {
            Self::Owner { .. } => Scope::default(),
            Self::Token(token) => token.record.scope.clone(),
        }
    }

    /// # Errors
    /// The app is not for them.
    pub(super) fn require(&self, key: &AppKey) -> Result<(), Refusal> {
        match self {
            Self::Token(token) if !self.covers(key) => Err(out_of_scope(token, &key.to_string())),
            Self::Owner { .. } | Self::Token(_) => Ok(()),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        parts.extensions.get::<Self>().cloned().ok_or_else(nobody)
    }
}

/// No listener leads here without having said who asks.
fn nobody() -> Refusal {
    Fault::new(FaultKind::Refused, "it is not known who asks").hint("this is a defect of Bowline").into()
}

/// What comes before the handler of a route.
pub(super) async fn enforce(
    State((api, rule)): State<(Api, Rule)>,
    caller: Caller,
    path: RawPathParams,
    request: Request,
    next: Next,
) -> Response {
    match allowed(&api, &rule, &caller, &path).await {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            if let Caller::Token(token) = &caller {
                let (name, id) = (&token.record.name, token.record.id);
                tracing::info!(token = %name, %id, method = rule.method, path = rule.path, why = %refusal.fault, "not permitted");
            }
            refusal.into_response()
        }
    }
}

async fn allowed(api: &Api, rule: &Rule, caller: &Caller, path: &RawPathParams) -> Result<(), Refusal> {
    let Caller::Token(token) = caller else { return Ok(()) };
    let key = match rule.reach {
        Reach::Nothing | Reach::Handler | Reach::All => None,
        Reach::App => {
            let param = |name: &str| path.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value);
            Some(app_key(param("env"), param("app"))?)
        }
    };
    permit(rule, token.record.role, &token.record.scope, key.as_ref()).map_err(|missing| missing.fault(rule, token))?;
    match rule.does {
        Some(what) => told(api, token, what, key.as_ref()).await,
        None => Ok(()),
    }
}

/// Why a token may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Missing {
    Role,
    Scope(String),
}

/// The one place in which it is decided.
pub(super) fn permit(rule: &Rule, role: Role, scope: &Scope, key: Option<&AppKey>) -> Result<(), Missing> {
    if !rule.roles.contains(&role) {
        return Err(Missing::Role);
    }
    match (rule.reach, key) {
        (Reach::Nothing | Reach::Handler, _) => Ok(()),
        (Reach::App, Some(key)) if scope.covers(key) => Ok(()),
        (Reach::App, Some(key)) => Err(Missing::Scope(key.to_string())),
        (Reach::App, None) => Err(Missing::Scope("an app without a name".to_owned())),
        (Reach::All, _) if scope.is_whole() => Ok(()),
        (Reach::All, _) => Err(Missing::Scope("all apps".to_owned())),
    }
}

impl Missing {
    fn fault(self, rule: &Rule, token: &Token) -> Refusal {
        match self {
            Self::Scope(what) => out_of_scope(token, &what),
            Self::Role => {
                let (name, role) = (&token.record.name, token.record.role);
                let message = format!("token {name} may not {} {}", rule.method, rule.path);
                let roles: Vec<&str> = rule.roles.iter().map(|role| role.as_str()).collect();
                let fault = Fault::new(FaultKind::Refused, message).caused_by(format!("its role is {role}"));
                let hint = match roles.as_slice() {
                    [] => "that is possible on the machine alone: by ssh://USER@HOST, or there".to_owned(),
                    roles => format!("it needs one of: {}; an admin makes tokens", roles.join(", ")),
                };
                fault.hint(hint).into()
            }
        }
    }
}

fn out_of_scope(token: &Token, what: &str) -> Refusal {
    let of = |names: Vec<&str>, all: &str| if names.is_empty() { all.to_owned() } else { names.join(", ") };
    let Scope { apps, environments } = &token.record.scope;
    let apps = of(apps.iter().map(|name| name.as_str()).collect(), "all apps");
    let environments = of(environments.iter().map(|name| name.as_str()).collect(), "all environments");
    Fault::new(FaultKind::Refused, format!("token {} is not for {what}", token.record.name))
        .caused_by(format!("it is for {apps} in {environments}"))
        .hint("an admin makes one that is: bowline token create NAME --role ROLE --app APP --env ENV")
        .into()
}

/// Who did what is recorded before it is done. What is done again within a minute is counted where it is recorded already.
pub(super) async fn told(api: &Api, token: &Token, what: &str, key: Option<&AppKey>) -> Result<(), Refusal> {
    api.rates.take(token.record.id, Instant::now())?;
    let event = used(token, what, key, now());
    let store = &api.kept()?.store;
    store.commit(move |tx| tell(tx, event)).await.map_err(|error| Refusal::from(Fault::from(error)))
}

fn used(token: &Token, what: &str, key: Option<&AppKey>, at: Timestamp) -> NewEvent {
    let (name, id, role) = (&token.record.name, token.record.id, token.record.role);
    let message = match key {
        Some(key) => format!("token {name} asks to {what} {key}"),
        None => format!("token {name} asks to {what}"),
    };
    let fields = json!({ "token": name.as_str(), "token_id": id.0, "role": role.as_str(), "what": what });
    NewEvent { at, key: key.cloned(), kind: "token.used".to_owned(), message, fields: fields.to_string() }
}

fn tell(tx: &mut Tx<'_>, event: NewEvent) -> Result<(), StoreError> {
    let recent = tx.events_after(tx.newest_event()?.saturating_sub(u64::from(RECENT)), RECENT)?;
    match recent.into_iter().rev().find_map(|before| again(before, &event)) {
        Some(counted) => tx.amend_event(&counted),
        None => tx.append_event(event).map(drop),
    }
}

/// `before` with `event` counted in, if it is the same a moment later.
fn again(before: EventRecord, event: &NewEvent) -> Option<EventRecord> {
    let is_same = before.kind == event.kind && before.key == event.key;
    if !is_same || event.at < before.at || event.at.since(before.at) >= AGAIN {
        return None;
    }
    let mut fields: Map<String, Value> = serde_json::from_str(&before.fields).ok()?;
    let times = fields.remove(TIMES).and_then(|times| times.as_u64()).unwrap_or(1).saturating_add(1);
    let wanted: Map<String, Value> = serde_json::from_str(&event.fields).ok()?;
    if fields != wanted {
        return None;
    }
    fields.insert(TIMES.to_owned(), times.into());
    let message = format!("{}, {times} times within a minute", event.message);
    Some(EventRecord { message, fields: Value::from(fields).to_string(), ..before })
}

pub(super) fn now() -> Timestamp {
    crate::run::wall()
}

/// Of the Unix socket: says that its owner asks. Behind [`super::peer::require_owner`].
pub(super) async fn as_owner(ConnectInfo(peer): ConnectInfo<Peer>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Caller::Owner { uid: peer.uid });
    next.run(request).await
}

#[cfg(test)]
pub(super) mod tests {
    use bowline_core::access::TokenId;
    use bowline_core::id::{AppName, Digest, EnvName, TokenName};

    use super::*;
    use crate::store::{ChecksumKey, Keys, Store, TokenRecord};
    use crate::tokens::Token;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn made(id: u32) -> Arc<Token> {
        Token::new(TokenRecord {
            id: TokenId(id),
            name: TokenName::new(&format!("token-{id}")).unwrap(),
            digest: Digest([0; 32]),
            role: Role::Deployer,
            scope: Scope::default(),
            created: NOW,
            created_by: 0,
            expires: None,
            used: None,
            revoked: None,
        })
    }

    /// Somebody with the token of this number.
    pub(in crate::http) fn token(id: u32) -> Caller {
        Caller::Token(made(id))
    }

    #[test]
    fn what_is_done_again_within_a_minute_is_counted_in_one_event() {
        let dir = tempfile::tempdir().unwrap();
        let key = ChecksumKey::new(zeroize::Zeroizing::new([7; 32]));
        let store = Store::open(dir.path(), Keys { current: key, retiring: None }).unwrap();
        let app = |name: &str| AppKey { env: EnvName::new("beta").unwrap(), app: AppName::new(name).unwrap() };
        let tell_it = |id: u32, what: &str, name: &str, after: u64| {
            let event = used(&made(id), what, Some(&app(name)), NOW + Duration::from_secs(after));
            store.commit_blocking(move |tx| tell(tx, event)).unwrap();
        };
        (0..5).for_each(|_| tell_it(1, "stop", "shop", 0));
        tell_it(1, "stop", "board", 1);
        tell_it(2, "stop", "shop", 1);
        tell_it(1, "restart", "shop", 1);
        tell_it(1, "stop", "shop", 59);
        tell_it(1, "stop", "shop", 60);
        let events = store.read(|view| view.events_after(0, 100)).unwrap();
        let told: Vec<&str> = events.iter().map(|event| event.message.as_str()).collect();
        let expected = [
            "token token-1 asks to stop beta/shop, 6 times within a minute",
            "token token-1 asks to stop beta/board",
            "token token-2 asks to stop beta/shop",
            "token token-1 asks to restart beta/shop",
            "token token-1 asks to stop beta/shop",
        ];
        assert_eq!(told, expected);
        assert!(events[0].fields.contains("\"times\":6"), "{}", events[0].fields);
    }
}
