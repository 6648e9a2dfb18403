//! What somebody should know before a plan is applied.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Proposal, Shown, Side};
use crate::app::{
    App, Cage, Command, Database, DatabaseSource, HostName, PathPrefix, Redis, RedisSource, Route, RouteTo, Tls,
};
use crate::id::{EnvName, Port, ResourceName, RouteName, ServiceName};
use crate::release::{has_volume, reads_metrics};
use crate::resource::ResourceId;
use crate::rollout::{self, Transition, Until};
use crate::route::{LOCAL, places};

/// One risk. It prints as a line for people. What cannot be had back comes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Risk {
    /// Its contents do not outlive the server any more.
    Forgets { data: ResourceId },
    /// Another server takes its place, without the data.
    Leaves { data: ResourceId },
    /// In no file any more: its data stay, and nothing is given them.
    Orphans { data: String },
    /// A server of another major version.
    Version { data: ResourceId, from: u16, to: u16 },
    /// What runs before the release is not undone by a rollback.
    NotUndone { command: String, kept: Vec<ResourceName> },
    /// For a while no instance of the service runs.
    StopsFirst { service: ServiceName, port: Option<Port> },
    /// Instances with open WebSockets go.
    ClosesWebSockets { service: ServiceName },
    /// Not answered any more.
    Unserved { host: HostName, path: PathPrefix },
    /// Answered from now on, for everyone who gets to the machine.
    Public { host: HostName, path: PathPrefix, plain: bool },
    /// A route lets in more than before.
    Opens { route: RouteName, lost: Lost },
    /// It reads the metrics of every app of the machine.
    Watches,
    /// The next release needs no plan.
    Unprotects { env: EnvName },
    /// It also runs where its cage cannot be enforced.
    LoosensCage { service: ServiceName },
    /// Two releases use it at once while one takes over from the other.
    SharesVolume { service: ServiceName, volume: ResourceName },
}

/// What a route asked for, and asks for no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lost {
    Proof,
    Addresses,
    Tls,
    Rate,
    Upload,
}

impl Risk {
    /// Its name for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::StopsFirst { .. } => "stops_first",
            Self::ClosesWebSockets { .. } => "closes_websockets",
            Self::Public { .. } => "public",
            Self::Opens { .. } => "opens",
            Self::Unserved { .. } => "unserved",
            Self::Orphans { .. } => "orphans",
            Self::Forgets { .. } => "forgets",
            Self::Leaves { .. } => "leaves",
            Self::Version { .. } => "version",
            Self::SharesVolume { .. } => "shares_volume",
            Self::NotUndone { .. } => "not_undone",
            Self::Watches => "watches",
            Self::Unprotects { .. } => "unprotects",
            Self::LoosensCage { .. } => "loosens_cage",
        }
    }
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StopsFirst { service, port: Some(port) } => {
                write!(
                    f,
                    "{service} is down for a moment: it is stopped first, since one process can have port {}",
                    port
                )
            }
            Self::StopsFirst { service, port: None } => {
                write!(f, "{service} is down for a moment: it is stopped before its successor starts")
            }
            Self::ClosesWebSockets { service } => {
                write!(
                    f,
                    "open WebSockets of {service} are closed (1001) as its instances go; clients must connect again"
                )
            }
            Self::Public { host, path, plain } => {
                let scheme = if *plain { "http" } else { "https" };
                write!(f, "{scheme}://{host}{path} is answered from now on, for everyone")
            }
            Self::Opens { route, lost } => write!(f, "route.{route} {lost}"),
            Self::Unserved { host, path } => write!(f, "{host}{path} is not answered any more"),
            Self::Orphans { data } => {
                write!(f, "{data} is in the file no more: its data stay, and nothing of the app is given them")
            }
            Self::Forgets { data } => write!(f, "{data} persists no more: what it holds is lost when its server ends"),
            Self::Leaves { data } => {
                write!(f, "{data} is another server now: data of the one before do not come along")
            }
            Self::Version { data, from, to } => {
                write!(f, "{data} asks for version {to} instead of {from}: data of another major version are refused")
            }
            Self::SharesVolume { service, volume } => {
                write!(f, "instances of both releases of {service} use volume.{volume} while one takes over")
            }
            Self::NotUndone { command, kept } => {
                write!(f, "`{command}` runs once before the release; a rollback does not undo it")?;
                match kept.is_empty() {
                    true => Ok(()),
                    false => {
                        let names: Vec<&str> = kept.iter().map(ResourceName::as_str).collect();
                        write!(f, "; what is in {} is kept first", names.join(", "))
                    }
                }
            }
            Self::Watches => f.write_str("it may read the metrics of every app of the machine (`bowline.metrics`)"),
            Self::Unprotects { env } => write!(f, "{env} is protected no more: the next release needs no plan"),
            Self::LoosensCage { service } => {
                write!(f, "{service} may run where its cage cannot be enforced: `cage` is not \"required\" any more")
            }
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proof => "asks for no proof any more (`auth`)",
            Self::Addresses => "lets in every address (`allow`)",
            Self::Tls => "is answered in the clear, too (`tls`)",
            Self::Rate => "has no rate any more (`limit.rate`)",
            Self::Upload => "takes files of every kind (`upload`)",
        })
    }
}

/// All of them, of a new release.
pub(super) fn risks(proposal: Proposal<'_>, rollout: &rollout::Plan) -> Vec<Risk> {
    let new = proposal.wanted.app;
    let old = proposal.stable.map(|stable| stable.side);
    let mut found = BTreeSet::new();
    found.extend(new.release.before.as_ref().map(|before| not_undone(before, &new.release.snapshot)));
    let places = |app| places(proposal.key, app);
    let of_places = of_places(&old.map(|old| places(old.app)).unwrap_or_default(), &places(new));
    // `local` is this machine alone.
    let is_local = proposal.key.env.as_str() == LOCAL;
    found.extend(of_places.into_iter().filter(|risk| !(is_local && matches!(risk, Risk::Public { .. }))));
    let watched = old.is_some_and(|old| reads_metrics(old.app));
    found.extend((reads_metrics(new) && !watched).then_some(Risk::Watches));
    if let Some(old) = old {
        found.extend(stopped_first(old, rollout));
        found.extend(websockets(proposal, rollout));
        found.extend(of_data(old.app, new));
        found.extend(of_services(old.app, new, rollout));
        let env = &new.environment;
        let unprotected = old.app.environment.protected && !env.protected;
        found.extend(unprotected.then(|| Risk::Unprotects { env: env.name.clone() }));
    }
    found.into_iter().collect()
}

fn not_undone(before: &Command, kept: &[ResourceName]) -> Risk {
    Risk::NotUndone { command: Shown::of("release.before", &before.0).to_string(), kept: kept.to_vec() }
}

fn stopped_first<'a>(old: Side<'a>, rollout: &'a rollout::Plan) -> impl Iterator<Item = Risk> + 'a {
    let stopped = rollout.steps.iter().filter_map(|step| match &step.until {
        Until::Stopped(services) => Some(services),
        Until::Ready | Until::Judged(_) | Until::Promoted => None,
    });
    stopped.flatten().map(move |service| Risk::StopsFirst {
        service: service.clone(),
        port: old.app.services.get(service).and_then(|service| service.fixed_port),
    })
}

/// Of the services whose instances go.
fn websockets(proposal: Proposal<'_>, rollout: &rollout::Plan) -> Vec<Risk> {
    let goes = |transition: &Transition| match transition {
        Transition::Rolls { .. } | Transition::Canary { .. } | Transition::BlueGreen { .. } => true,
        Transition::StopsFirst { .. } | Transition::Switches | Transition::Ends => true,
        Transition::Starts { .. } => false,
    };
    let services =
        rollout.transitions().into_iter().filter(|(name, how)| goes(how) && proposal.websockets.contains(name));
    services.map(|(service, _)| Risk::ClosesWebSockets { service }).collect()
}

type Places = BTreeMap<(HostName, PathPrefix), (RouteName, Route)>;

/// What is answered where, to whom: whatever the routes are called.
fn of_places(old: &Places, new: &Places) -> Vec<Risk> {
    let all: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    all.into_iter().flat_map(|place| compared(place, old.get(place), having(new, place))).collect()
}

/// The route that has a place: its own, or that of a shorter path, of its host or else of a wildcard.
fn having<'a>(places: &'a Places, (host, path): &(HostName, PathPrefix)) -> Option<&'a (RouteName, Route)> {
    let host = match places.keys().any(|(of, _)| of == host) {
        true => host.clone(),
        false => host.wildcard()?,
    };
    let having = places.iter().filter(|((of, prefix), _)| *of == host && prefix.matches(path.as_str()));
    having.max_by_key(|((_, prefix), _)| prefix.as_str().len()).map(|(_, route)| route)
}

fn compared(
    (host, path): &(HostName, PathPrefix),
    old: Option<&(RouteName, Route)>,
    new: Option<&(RouteName, Route)>,
) -> Vec<Risk> {
    let answering = |one: Option<&'_ (RouteName, Route)>| one.filter(|(_, route)| answers(route)).cloned();
    match (answering(old), answering(new)) {
        (Some((_, old)), Some((route, new))) => {
            lost(&old, &new).into_iter().map(|lost| Risk::Opens { route: route.clone(), lost }).collect()
        }
        (Some(_), None) => vec![Risk::Unserved { host: host.clone(), path: path.clone() }],
        (None, Some((_, new))) if is_for_all(&new) && new.access.auth.is_none() => {
            vec![Risk::Public { host: host.clone(), path: path.clone(), plain: new.tls == Tls::Off }]
        }
        (None, Some(_) | None) => Vec::new(),
    }
}

fn answers(route: &Route) -> bool {
    match route.to {
        RouteTo::Service(_) | RouteTo::Redirect(_) => true,
        RouteTo::Deny => false,
    }
}

/// By their address. All of one protocol's are as good as all.
fn is_for_all(route: &Route) -> bool {
    route.access.allow.is_empty() || route.access.allow.iter().any(|net| net.prefix_len() == 0)
}

fn lost(old: &Route, new: &Route) -> Vec<Lost> {
    let all = [
        (Lost::Proof, old.access.auth.is_some() && new.access.auth.is_none()),
        (Lost::Addresses, !is_for_all(old) && is_for_all(new)),
        (Lost::Tls, old.tls != Tls::Off && new.tls == Tls::Off),
        (Lost::Rate, old.limit.rate.is_some() && new.limit.rate.is_none()),
        (Lost::Upload, old.upload.is_some() && new.upload.is_none()),
    ];
    all.into_iter().filter_map(|(lost, is)| is.then_some(lost)).collect()
}

/// A server as far as its data are concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Server<'a> {
    Own { version: Option<u16>, persists: bool },
    Elsewhere(&'a str),
}

fn servers(app: &App) -> BTreeMap<ResourceId, Server<'_>> {
    let databases = app.databases.iter().map(|((kind, name), Database { source, .. })| {
        let id = ResourceId { kind: (*kind).into(), name: name.clone() };
        let server = match source {
            DatabaseSource::Managed { version } => Server::Own { version: *version, persists: true },
            DatabaseSource::External { url, .. } => Server::Elsewhere(url.as_str()),
        };
        (id, server)
    });
    let redis = app.redis.iter().map(|(name, Redis { source, .. })| {
        let id = ResourceId { kind: crate::app::ResourceKind::Redis, name: name.clone() };
        let server = match source {
            RedisSource::Managed { version, persist } => Server::Own { version: *version, persists: *persist },
            RedisSource::External { url, .. } => Server::Elsewhere(url.as_str()),
        };
        (id, server)
    });
    databases.chain(redis).collect()
}

fn of_data(old: &App, new: &App) -> Vec<Risk> {
    let now = servers(new);
    let mut found = Vec::new();
    for (id, was) in servers(old) {
        found.extend(match (was, now.get(&id)) {
            (Server::Own { .. }, None) => Some(Risk::Orphans { data: id.to_string() }),
            // What is elsewhere was never Bowline's.
            (Server::Elsewhere(_), None) => None,
            (Server::Own { version: from, persists: had }, Some(Server::Own { version: to, persists: has })) => {
                let version = from.zip(*to).filter(|(from, to)| from != to);
                match version {
                    Some((from, to)) => Some(Risk::Version { data: id, from, to }),
                    None => (had && !has).then_some(Risk::Forgets { data: id }),
                }
            }
            (was, Some(is)) => (was != *is).then_some(Risk::Leaves { data: id }),
        });
    }
    let orphaned = old.volumes.keys().filter(|name| !new.volumes.contains_key(*name));
    found.extend(orphaned.map(|name| Risk::Orphans { data: format!("volume.{name}") }));
    found
}

fn of_services(old: &App, new: &App, rollout: &rollout::Plan) -> Vec<Risk> {
    let mut found = Vec::new();
    for (name, how) in rollout.transitions() {
        let (Some(before), Some(service)) = (old.services.get(&name), new.services.get(&name)) else { continue };
        if before.cage == Cage::Required && service.cage == Cage::Best {
            found.push(Risk::LoosensCage { service: name.clone() });
        }
        if matches!(how, Transition::Rolls { .. }) {
            let both = |volume: &&ResourceName| has_volume(old, &name, volume) && has_volume(new, &name, volume);
            let shared = new.volumes.keys().filter(both);
            found.extend(shared.map(|volume| Risk::SharesVolume { service: name.clone(), volume: volume.clone() }));
        }
    }
    found
}
