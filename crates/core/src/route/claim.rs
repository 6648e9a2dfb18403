//! Which hosts and paths an app's routes claim in its environment.
//!
//! In environment `local` every host of the file becomes one below `<app>.localhost`, which resolves to loopback
//! everywhere (RFC 6761) and never needs a public certificate:
//!
//! - the main host becomes `<app>.localhost`. It is the host that starts with the app's name; else one of route `main`;
//!   else the one with the fewest labels; else the first of the file's first route.
//! - `*.<anything>` becomes `*.<app>.localhost`.
//! - any other becomes `<first label>.<app>.localhost`, or, where two would become the same,
//!   `<whole-name-with-dashes>.<app>.localhost`.
//! - a host that is `localhost` or below it stays as it is written.

use std::collections::{BTreeMap, BTreeSet};

use crate::access::Scope;
use crate::app::{Access, App, HostName, Limit, Origin, PathPrefix, Route, RouteTo, Tls, Transfer};
use crate::fault::{Fault, FaultKind};
use crate::id::{AppKey, RouteName, ServiceName};

/// The environment of `bowline up`.
pub const LOCAL: &str = "local";

/// The route that an app without any is given, and the route whose host is the main one.
const MAIN: &str = "main";

/// A host and path that belong to a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    pub host: HostName,
    pub path: PathPrefix,
    pub key: AppKey,
    pub route: RouteName,
}

/// Two routes claim the same host and path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("route {} of {} wants {}{}, which route {} of {} holds", .wanted.route, .wanted.key, .wanted.host, .wanted.path, .holder.route, .holder.key)]
pub struct Conflict {
    pub wanted: Box<Claim>,
    pub holder: Box<Claim>,
}

impl From<Conflict> for Fault {
    fn from(conflict: Conflict) -> Self {
        let Conflict { wanted, holder } = &conflict;
        let hint = match wanted.key == holder.key {
            true => format!("give route.{} or route.{} another path or host", wanted.route, holder.route),
            false => format!("give route.{} another path or host, or stop {}", wanted.route, holder.key),
        };
        Self::new(FaultKind::Refused, conflict.to_string()).hint(hint)
    }
}

/// An app that has hosts: by the release that it was brought out with last, and by one that is on its way.
#[derive(Debug, Clone, Copy)]
pub struct Holder<'a> {
    pub key: &'a AppKey,
    pub app: &'a App,
    /// Whether it is served, or about to be: a stopped app has its hosts, too.
    pub serves: bool,
}

/// A host that another app has is wanted by whoever does not speak for that app.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("route {} wants {}{}, and {} belongs to {}", .wanted.route, .wanted.host, .wanted.path, .holder.host, .holder.key)]
pub struct Foreign {
    pub wanted: Box<Claim>,
    pub holder: Box<Claim>,
}

/// The routes of an app, the implicit one included, with their hosts in its environment.
pub(super) fn routes(key: &AppKey, app: &App) -> BTreeMap<RouteName, Route> {
    let mut routes = app.routes.clone();
    if routes.is_empty() {
        routes.extend(implicit(app));
    }
    if key.env.as_str() == LOCAL {
        let hosts = local_hosts(key, &routes);
        for route in routes.values_mut() {
            let of = |host: &HostName| hosts.get(host).cloned();
            route.hosts = match route.hosts.is_empty() {
                true => below(key, "").into_iter().collect(),
                false => route.hosts.iter().filter_map(of).collect(),
            };
        }
    }
    for route in routes.values_mut() {
        let mut seen = BTreeSet::new();
        route.hosts.retain(|host| seen.insert(host.clone()));
    }
    routes
}

/// The services that a route leads to: their instances must listen, and their health gates traffic.
pub fn routed(app: &App) -> BTreeSet<ServiceName> {
    let implicit = if app.routes.is_empty() { implicit(app) } else { None };
    let all = app.routes.values().chain(implicit.as_ref().map(|(_, route)| route));
    let to = |route: &Route| match &route.to {
        RouteTo::Service(service) => Some(service.clone()),
        RouteTo::Redirect(_) | RouteTo::Deny => None,
    };
    all.filter_map(to).collect()
}

/// Whether an app has anything that an edge has to lead to it.
pub(crate) fn is_reached(app: &App) -> bool {
    let is_local = app.environment.name.as_str() == LOCAL;
    let has_host = |route: &Route| is_local || !route.hosts.is_empty();
    app.routes.values().any(has_host) || app.routes.is_empty() && is_local && implicit(app).is_some()
}

/// All that an app claims. An app of another environment than `local` without hosts claims nothing.
pub fn claims(key: &AppKey, app: &App) -> Vec<Claim> {
    let of = |(name, route): (RouteName, Route)| {
        let claim =
            move |host: HostName| Claim { host, path: route.path.clone(), key: key.clone(), route: name.clone() };
        route.hosts.into_iter().map(claim).collect::<Vec<_>>()
    };
    routes(key, app).into_iter().flat_map(of).collect()
}

/// The route that has each host and path.
pub fn places(key: &AppKey, app: &App) -> BTreeMap<(HostName, PathPrefix), (RouteName, Route)> {
    let of = |(name, route): (RouteName, Route)| {
        let hosts = route.hosts.clone().into_iter();
        hosts.map(move |host| ((host, route.path.clone()), (name.clone(), route.clone()))).collect::<Vec<_>>()
    };
    routes(key, app).into_iter().flat_map(of).collect()
}

/// Whether an app can be served beside the others, which came first.
pub fn check_claims(key: &AppKey, app: &App, others: &[(&AppKey, &App)]) -> Result<(), Conflict> {
    let mut held = BTreeMap::new();
    let others = others.iter().filter(|(other, _)| *other != key).flat_map(|(key, app)| claims(key, app));
    held.extend(others.map(|claim| ((claim.host.clone(), claim.path.clone()), claim)));
    claims(key, app).into_iter().try_for_each(|claim| hold(&mut held, claim))
}

/// Whether whoever asks may bring this app to its hosts. A host belongs to the apps that have it, and so does each that a wildcard
/// stands for. What an app has itself, as one of `holders`, it keeps and may divide; of what others have it takes only
/// where `scope` covers all of them.
///
/// # Errors
/// The first claim of the app that is of such a host, with one of an app outside of `scope`.
pub fn check_owners(key: &AppKey, app: &App, holders: &[Holder<'_>], scope: &Scope) -> Result<(), Foreign> {
    if scope.is_whole() {
        return Ok(());
    }
    let of = |holder: &Holder<'_>| {
        let serves = holder.serves;
        claims(holder.key, holder.app).into_iter().map(move |claim| (claim, serves)).collect::<Vec<_>>()
    };
    let (own, others): (Vec<_>, Vec<_>) = holders.iter().flat_map(of).partition(|(claim, _)| claim.key == *key);
    for wanted in claims(key, app) {
        if has(&own, &wanted).is_some_and(|own| Some(own) >= has(&others, &wanted)) {
            continue;
        }
        let foreign = |(claim, _): &&(Claim, bool)| is_of(&claim.host, &wanted.host) && !scope.covers(&claim.key);
        if let Some((holder, _)) = others.iter().find(foreign) {
            return Err(Foreign { holder: Box::new(holder.clone()), wanted: Box::new(wanted) });
        }
    }
    Ok(())
}

/// How well the best of them has the requests that a claim wants: by the length of its path, then by whether it serves.
fn has(held: &[(Claim, bool)], wanted: &Claim) -> Option<(usize, bool)> {
    let above = held.iter().filter(|(claim, _)| claim.host == wanted.host && claim.path.matches(wanted.path.as_str()));
    above.map(|(claim, serves)| (claim.path.as_str().len(), *serves)).max()
}

/// Whether two hosts are the same, or one is among those that the other stands for.
fn is_of(one: &HostName, other: &HostName) -> bool {
    one == other || one.wildcard().as_ref() == Some(other) || other.wildcard().as_ref() == Some(one)
}

type Held = BTreeMap<(HostName, PathPrefix), Claim>;

fn hold(held: &mut Held, wanted: Claim) -> Result<(), Conflict> {
    let at = (wanted.host.clone(), wanted.path.clone());
    match held.get(&at) {
        Some(holder) => Err(Conflict { wanted: Box::new(wanted), holder: Box::new(holder.clone()) }),
        None => {
            held.insert(at, wanted);
            Ok(())
        }
    }
}

/// An app without routes: everything goes to service `web`, or to the only service. A lone service called `worker` is
/// taken for one that does not listen, unless it says `health` or `port`.
fn implicit(app: &App) -> Option<(RouteName, Route)> {
    let only = app.services.iter().next().filter(|_| app.services.len() == 1);
    let (name, service) = app.services.get_key_value("web").or(only)?;
    let listens = match service.origin {
        Origin::Static { .. } => true,
        Origin::Folder { .. } | Origin::BuildOf(_) | Origin::Image(_) | Origin::Dockerfile { .. } => {
            name.as_str() != "worker" || service.health.is_some() || service.fixed_port.is_some()
        }
    };
    let route = Route {
        hosts: Vec::new(),
        path: PathPrefix::root(),
        strip: false,
        to: RouteTo::Service(name.clone()),
        tls: Tls::default(),
        access: Access::default(),
        limit: Limit::default(),
        upload: None,
        transfer: Transfer::default(),
    };
    listens.then(|| (RouteName::new(MAIN).expect("`main` is a name"), route))
}

/// `<label>.<app>.localhost`; without a label the app's own.
fn below(key: &AppKey, label: &str) -> Option<HostName> {
    let dot = if label.is_empty() { "" } else { "." };
    HostName::new(&format!("{label}{dot}{}.localhost", key.app)).ok()
}

/// What each host of the file becomes in `local`.
fn local_hosts(key: &AppKey, routes: &BTreeMap<RouteName, Route>) -> BTreeMap<HostName, HostName> {
    let all = routes.iter().flat_map(|(name, route)| route.hosts.iter().map(move |host| (name, host)));
    let (kept, foreign): (Vec<_>, Vec<_>) = all.partition(|(_, host)| is_local(host));
    let mut hosts: BTreeMap<HostName, HostName> =
        kept.into_iter().map(|(_, host)| (host.clone(), host.clone())).collect();
    let mut taken: BTreeSet<HostName> = hosts.values().cloned().collect();
    let rank = |(name, host): &(&RouteName, &HostName)| {
        let text = host.as_str();
        let named = text.split('.').next() == Some(key.app.as_str());
        (host.is_wildcard(), !named, name.as_str() != MAIN, text.split('.').count())
    };
    let mut foreign = foreign;
    foreign.sort_by_key(rank);
    for (i, (_, host)) in foreign.into_iter().enumerate() {
        if hosts.contains_key(host) {
            continue;
        }
        let text = host.as_str();
        let label = text.split('.').next().unwrap_or(text);
        let whole = text.replace(['.', ':', '[', ']', '*', '_'], "-");
        let main = if i == 0 && !host.is_wildcard() { "" } else { label };
        let names = [main, label, whole.trim_matches('-')].map(|label| below(key, label));
        let free = names.into_iter().flatten().find(|name| !taken.contains(name));
        if let Some(free) = free {
            taken.insert(free.clone());
            hosts.insert(host.clone(), free);
        }
    }
    hosts
}

fn is_local(host: &HostName) -> bool {
    host.as_str() == "localhost" || host.as_str().ends_with(".localhost")
}
