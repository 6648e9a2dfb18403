//! What `bowline status` and a scrape are told: the world as it is now, in the API's words.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bowline_api::wire;
use bowline_core::app::{HostName, RouteTo, Tls};
use bowline_core::fault::Fault;
use bowline_core::id::{AppKey, InstanceId, ReleaseNumber, ServiceName, SlotId};
use bowline_core::instance::{DiskObservation, InstanceObservation, Phase, SlotState, SlotStatus};
use bowline_core::rollout::{Role, ScaledBy, Set};
use bowline_core::route::outlier::FAILURES;
use bowline_core::route::{EdgeEngine, EdgeObservation, EdgeStatus, claims, places};
use bowline_core::time::Timestamp;
use ipnet::IpNet;

use super::acme::Acme;
use super::effects::Now;
use super::world::AppWorld;
use super::{About, Loop, maintenance, scaling};
use crate::certs::Leaf;
use crate::metrics::{AppVitals, InstanceVitals, Scraped, Vitals};
use crate::store::Wanted;

/// In seconds.
const DAY: u64 = 24 * 60 * 60;

impl Loop {
    /// Private memory of this process is filled in at the rim.
    pub(crate) fn status(&self, now: Now) -> wire::Status {
        let slots = self.slots.status(now.mono);
        wire::Status {
            daemon: wire::DaemonStatus {
                disk: self.node.disk.as_ref().map(disk),
                notes: [self.refused_certificate(now), self.collector.trouble()].into_iter().flatten().collect(),
                ..daemon_status(&self.about, None)
            },
            edge: wire::EdgeStatus {
                api: self.api_url(),
                certificate: self.place.api.as_ref().map(|api| self.certificate(&api.host, now)),
                ..edge_status((self.about.edge, &self.edge), &self.place.trusted_proxies, self.published.uncompiled())
            },
            apps: self.apps.values().map(|app| self.app_status(app, &slots, now)).collect(),
        }
    }

    /// A person has to mend the files: until then nothing renews what is served.
    fn refused_certificate(&self, now: Now) -> Option<String> {
        let given = self.place.given.as_ref()?;
        let (host, fault) = (&given.host, given.refused.as_ref()?);
        let serves = match given.end().map(|end| (end, end.since(now.wall).as_secs() / DAY)) {
            Some((end, _)) if end <= now.wall => "keeps its certificate, which has ended".to_owned(),
            Some((_, 0)) => "keeps its certificate, which ends within a day".to_owned(),
            Some((_, 1)) => "keeps its certificate, which ends in 1 day".to_owned(),
            Some((_, days)) => format!("keeps its certificate, which ends in {days} days"),
            None => "has a certificate of the local CA".to_owned(),
        };
        let why = fault.causes.join(": ");
        Some(format!("{host} {serves}: its files hold none that can be served ({why})"))
    }

    pub(crate) fn vitals(&self, now: Now) -> Vitals {
        let instance = |status: &SlotStatus| InstanceVitals {
            id: status.instance.clone(),
            state: status.state.as_str(),
            restarts: status.restarts,
        };
        Vitals {
            apps: self.apps.values().map(|app| self.app_vitals(app)).collect(),
            routed: self.published.routed(),
            instances: self.slots.status(now.mono).values().map(instance).collect(),
            certificates: self.certificate_ends(),
            failed_orders: self.acme.iter().flat_map(|acme| acme.failed(now)).collect(),
            edge_generation: self.published.edge_generation(),
            degraded: false,
            jobs: self.job_vitals(),
            scalers: self.scaler_vitals(),
        }
    }

    fn app_vitals(&self, app: &AppWorld) -> AppVitals {
        let key = &app.record.key;
        let running = self.node.instances.iter().filter(|(id, _)| id.slot.key == *key);
        let of_file = |id: &InstanceId| {
            let (release, _) = app.release(id.slot.release)?;
            release.app().services.get(&id.slot.service)
        };
        let (mut limits, mut scraped) = (Vec::new(), Vec::new());
        for (id, seen) in running {
            let (Phase::Running { port, .. }, Some(service)) = (&seen.phase, of_file(id)) else { continue };
            limits.push((id.clone(), service.limits));
            let own = service.metrics.clone().map(|path| Scraped { id: id.clone(), port: *port, path });
            scraped.extend(own);
        }
        AppVitals {
            key: key.clone(),
            live: app.live,
            sets: app.sets.clone(),
            is_changing: app.change.is_some(),
            availability: app.shown().and_then(|release| release.app().slo.as_ref()?.availability),
            limits,
            scraped,
        }
    }

    fn certificate_ends(&self) -> Vec<(String, Timestamp)> {
        let made = self.certificates().map(|(host, leaf)| (host, leaf.not_after));
        let given = self.place.given.iter().filter_map(|given| Some((&given.host, given.end()?)));
        made.chain(given).map(|(host, end)| (host.to_string(), end)).collect()
    }

    /// Those that are renewed here.
    fn certificates(&self) -> impl Iterator<Item = (&HostName, &Leaf)> {
        self.published.leaves.iter().chain(self.acme.iter().flat_map(Acme::served))
    }

    fn app_status(&self, app: &AppWorld, slots: &BTreeMap<SlotId, SlotStatus>, now: Now) -> wire::AppStatus {
        let key = &app.record.key;
        let own: Vec<_> = slots.iter().filter(|(id, _)| id.key == *key).map(|(_, status)| status).collect();
        wire::AppStatus {
            env: key.env.to_string(),
            environment_id: self.environments.get(&key.env).map(ToString::to_string),
            app: key.app.to_string(),
            folder: app.record.folder.display().to_string(),
            state: match &app.unread {
                Some(_) if self.unread_running(key).is_empty() => wire::AppState::Down,
                Some(_) => wire::AppState::Degraded,
                None => state(app, &own),
            },
            release: app.live.map(|number| number.0),
            urls: self.urls(app),
            certificates: self.certificates_of(app, now),
            services: self.services(app, &own),
            resources: self.resource_status(app),
            jobs: self.job_status(app, now),
            volumes: self.volume_status(key),
            change: app.change.as_ref().map(|change| wire::ChangeStatus {
                id: change.id.0,
                phase: change.phase(),
                release: change.release().map(|number| number.0),
                since: change.since.0,
                waits_on: change.waits(now.mono),
                rollout: change.rollout(),
            }),
            rolled: app.rolled.as_deref().filter(|_| app.record.wanted == Wanted::Running).cloned(),
            fault: app.fault.clone().map(wire::Fault::from),
            maintenance: maintenance::form(&app.maintenance),
            notes: self.notes(app, &own),
        }
    }

    fn certificates_of(&self, app: &AppWorld, now: Now) -> Vec<wire::CertificateStatus> {
        let Some(release) = app.shown().filter(|_| !app.sets.is_empty()) else { return Vec::new() };
        let places = places(&app.record.key, release.app());
        let secure = places.into_iter().filter(|(_, (_, route))| route.tls != Tls::Off);
        let hosts: BTreeSet<HostName> = secure.map(|((host, _), _)| host).collect();
        hosts.iter().map(|host| self.certificate(host, now)).collect()
    }

    fn certificate(&self, host: &HostName, now: Now) -> wire::CertificateStatus {
        let of = |issuer| wire::CertificateStatus {
            host: host.to_string(),
            issuer,
            not_after: None,
            renews: None,
            waits_on: None,
            failure: None,
        };
        if self.files_of(host).is_some_and(|given| given.certificate.is_some()) {
            return of(wire::CertificateIssuer::Given);
        }
        match self.acme.as_ref().and_then(|acme| acme.report(host, now)) {
            Some((leaf, report)) => {
                // The local CA's, until the authority's is there.
                let meanwhile = self.published.leaves.get(host).filter(|_| leaf.is_none());
                let issuer = match meanwhile {
                    Some(_) => wire::CertificateIssuer::Local,
                    None => wire::CertificateIssuer::Acme,
                };
                wire::CertificateStatus {
                    not_after: leaf.or(meanwhile).map(|leaf| leaf.not_after.0),
                    renews: report.next.map(|at| at.0),
                    waits_on: report.stage.map(|stage| stage.to_string()),
                    failure: report.failure,
                    ..of(issuer)
                }
            }
            None => {
                let leaf = self.published.leaves.get(host);
                wire::CertificateStatus {
                    not_after: leaf.map(|leaf| leaf.not_after.0),
                    renews: leaf.map(|leaf| leaf.renew_at().0),
                    ..of(wire::CertificateIssuer::Local)
                }
            }
        }
    }

    fn volume_status(&self, key: &AppKey) -> Vec<wire::VolumeStatus> {
        let own = self.node.volumes.iter().filter(|((app, _), _)| app == key);
        own.map(|((_, name), seen)| wire::VolumeStatus {
            name: name.to_string(),
            size_bytes: seen.size.map(|size| size.0),
            used_bytes: seen.used.map(|used| used.0),
        })
        .collect()
    }

    fn services(&self, app: &AppWorld, own: &[&SlotStatus]) -> Vec<wire::ServiceStatus> {
        let Some(shown) = app.shown() else { return Vec::new() };
        let others = own.iter().map(|status| &status.instance.slot.service);
        let names: BTreeSet<&ServiceName> = shown.app().services.keys().chain(others).collect();
        let service = |name: &ServiceName| {
            let of_service = |status: &&&SlotStatus| status.instance.slot.service == *name;
            let shows = |status: &&&SlotStatus| status.state != SlotState::Stopped;
            let (wanted, ready) = capacity(app, own, name);
            wire::ServiceStatus {
                name: name.to_string(),
                instances: own
                    .iter()
                    .filter(of_service)
                    .filter(shows)
                    .map(|status| self.instance(app, status))
                    .collect(),
                wanted,
                ready,
                scale: scaling::status(app, name),
            }
        };
        names.into_iter().map(service).collect()
    }

    fn instance(&self, app: &AppWorld, status: &SlotStatus) -> wire::InstanceStatus {
        let id = &status.instance;
        let seen = self.node.instances.get(id);
        let (pid, port, since) = match seen.map(|seen| &seen.phase) {
            Some(Phase::Running { pid, port, since }) => (Some(*pid), Some(port.get()), Some(since.0)),
            Some(Phase::Stopping { pid, port }) => (Some(*pid), Some(port.get()), None),
            Some(Phase::Preparing(_) | Phase::Starting | Phase::Exited(_) | Phase::Refused(_)) | None => {
                (None, None, None)
            }
        };
        let usage = seen.map(|seen| seen.usage).unwrap_or_default();
        wire::InstanceStatus {
            id: id.to_string(),
            release: id.slot.release.0,
            slot: id.slot.slot.0,
            role: role(app, &id.slot),
            state: status.state.as_str().to_owned(),
            waits_on: status.waits_on.as_ref().map(ToString::to_string).or_else(|| {
                let is_out = self.edge.left_out.contains(id);
                is_out.then(|| format!("gets no requests for a while: {FAILURES} in a row have failed"))
            }),
            pid,
            container: seen.and_then(|seen| seen.container.clone()),
            port,
            since,
            restarts: status.restarts,
            memory_bytes: usage.memory.0,
            cpu_us: usage.cpu_us,
            dropped_lines: seen.map_or(0, |seen| seen.dropped_lines),
            cage: pid.and(seen).map(|seen| if seen.unenforced.is_empty() { "full" } else { "partial" }.to_owned()),
            unenforced: seen.map(|seen| seen.unenforced.clone()).unwrap_or_default(),
        }
    }

    /// What a person should know of an app that runs.
    fn notes(&self, app: &AppWorld, own: &[&SlotStatus]) -> Vec<String> {
        let seen = own.iter().filter_map(|status| self.node.instances.get(&status.instance));
        let unenforced: BTreeSet<&str> =
            seen.clone().flat_map(|seen: &InstanceObservation| &seen.unenforced).map(String::as_str).collect();
        let dropped: u64 = seen.map(|seen| seen.dropped_lines).sum();
        let mut notes: Vec<String> = self.unread_note(app).into_iter().collect();
        if !unenforced.is_empty() {
            let all: Vec<&str> = unenforced.into_iter().collect();
            notes.push(format!("the cage is partial, this machine cannot enforce: {}", all.join(", ")));
        }
        if dropped > 0 {
            notes.push(format!("{dropped} log lines were lost because the disk could not take them"));
        }
        if let Some(release) = app.shown().filter(|release| release.has_dotenv()) {
            let file = app.record.folder.join(".env");
            notes.push(format!("release {} has variables from {}", release.number(), file.display()));
        }
        for (name, scaled) in app.scales.iter().filter(|(_, scaled)| scaled.by == ScaledBy::Hand) {
            let (to, over) = (scaled.to, scaled.over);
            notes.push(format!("{name} has {to} instances by hand, as long as its file says scale = {over}"));
        }
        let shown = app.shown().map(|release| claims(&app.record.key, release.app())).unwrap_or_default();
        if let Some(api) = self.place.api.as_ref().filter(|api| shown.iter().any(|claim| claim.host == api.host)) {
            notes.push(format!("{} is the host of this server's API, and not served to the app any more", api.host));
        }
        if let Some(stable) = &app.stable
            && let Err(fault) = &stable.parts
        {
            notes.push(format!("release {} cannot be started again: {fault}", stable.release.number()));
        }
        notes.extend(self.edge.fault_of(&app.record.key).map(Fault::in_one_line));
        notes
    }

    fn api_url(&self) -> Option<String> {
        let host = &self.place.api.as_ref()?.host;
        Some(match self.edge.https?.port() {
            443 => format!("https://{host}"),
            port => format!("https://{host}:{port}"),
        })
    }

    /// Where an app is reached, HTTP first.
    pub(crate) fn urls(&self, app: &AppWorld) -> Vec<String> {
        let Some(release) = app.shown().filter(|_| !app.sets.is_empty()) else { return Vec::new() };
        let routes = &release.app().routes;
        let served = claims(&app.record.key, release.app());
        let served = served.iter().filter(|claim| !claim.host.is_wildcard());
        let served: Vec<_> = served
            .filter_map(|claim| Some((claim, routes.get(&claim.route)?)))
            .filter(|(_, route)| !matches!(route.to, RouteTo::Deny))
            .collect();
        let http = self.edge.http.into_iter().flat_map(|address| {
            served.iter().map(move |(claim, _)| url("http", claim.host.as_str(), address.port(), claim.path.as_str()))
        });
        let https = self.edge.https.into_iter().flat_map(|address| {
            let with_tls = served.iter().filter(|(_, route)| route.tls != Tls::Off);
            with_tls.map(move |(claim, _)| url("https", claim.host.as_str(), address.port(), claim.path.as_str()))
        });
        http.chain(https).collect()
    }
}

fn url(scheme: &str, host: &str, port: u16, path: &str) -> String {
    match (scheme, port) {
        ("http", 80) | ("https", 443) => format!("{scheme}://{host}{path}"),
        _ => format!("{scheme}://{host}:{port}{path}"),
    }
}

/// Instances wanted and ready of a service, over the releases that carry its traffic.
fn capacity(app: &AppWorld, own: &[&SlotStatus], service: &ServiceName) -> (u32, u32) {
    let carries = |set: &&Set| set.service == *service && set.replicas > 0 && set.weight.get() > 0;
    // Stable and baseline are one release, and with a share of more than half only the baseline carries what is left.
    let places: Vec<(ReleaseNumber, Range<u16>)> =
        app.sets.iter().filter(carries).map(|set| (set.release, slots_of(app, set))).collect();
    let wanted = places.iter().map(|(_, slots)| u32::from(slots.end - slots.start)).sum();
    let ready = |status: &&&SlotStatus| {
        let slot = &status.instance.slot;
        status.state == SlotState::Ready
            && slot.service == *service
            && places.iter().any(|(release, slots)| *release == slot.release && slots.contains(&slot.slot.0))
    };
    (wanted, u32::try_from(own.iter().filter(ready).count()).unwrap_or(u32::MAX))
}

/// What an instance is there for, where a rollout goes by shares and is not over.
fn role(app: &AppWorld, slot: &SlotId) -> Option<wire::InstanceRole> {
    let rolling = app.rolling().filter(|rolling| rolling.machine.plan().shared.contains(&slot.service))?;
    let mut own = app.sets.iter().filter(|set| set.service == slot.service && set.release == slot.release);
    let is_baseline = |set: &Set| set.role == Role::Baseline && slots_of(app, set).contains(&slot.slot.0);
    if own.clone().any(is_baseline) {
        return Some(wire::InstanceRole::Baseline);
    }
    let is_live = rolling.machine.live() == Some(slot.release);
    own.any(|set| set.role == Role::Candidate && !is_live).then_some(wire::InstanceRole::Candidate)
}

/// The slots of a set: those of a baseline come after the stable ones.
fn slots_of(app: &AppWorld, set: &Set) -> Range<u16> {
    let before = match set.role {
        Role::Stable | Role::Candidate => 0,
        Role::Baseline => {
            let is_stable =
                |one: &&Set| one.role == Role::Stable && one.service == set.service && one.release == set.release;
            app.sets.iter().find(is_stable).map_or(0, |stable| stable.replicas)
        }
    };
    before..before.saturating_add(set.replicas)
}

fn state(app: &AppWorld, own: &[&SlotStatus]) -> wire::AppState {
    let services: BTreeSet<&ServiceName> = app.sets.iter().map(|set| &set.service).collect();
    let capacities: Vec<_> = services.into_iter().map(|name| capacity(app, own, name)).collect();
    match (app.record.wanted, app.sets.is_empty()) {
        (Wanted::Stopped, true) if app.change.is_none() && app.fault.is_some() => wire::AppState::Failed,
        (Wanted::Stopped, true) if app.change.is_none() => wire::AppState::Stopped,
        (Wanted::Stopped | Wanted::Running, true) => wire::AppState::Down,
        _ if app.live.is_none() => wire::AppState::Down,
        _ if capacities.iter().all(|(wanted, ready)| ready >= wanted) => wire::AppState::Ready,
        _ if capacities.iter().all(|(wanted, ready)| *ready == 0 && *wanted > 0) => wire::AppState::Down,
        _ => wire::AppState::Degraded,
    }
}

fn disk(seen: &DiskObservation) -> wire::DiskStatus {
    wire::DiskStatus {
        total_bytes: seen.total.0,
        free_bytes: seen.free.0,
        reserve_bytes: seen.reserve.0,
        growing: seen.growing.clone(),
    }
}

pub(crate) fn daemon_status(about: &About, degraded: Option<&Fault>) -> wire::DaemonStatus {
    wire::DaemonStatus {
        version: about.version.clone(),
        pid: about.pid,
        state: about.state_dir.display().to_string(),
        mode: about.mode.into(),
        started: about.started.0,
        admin: about.admin.clone(),
        private_bytes: 0,
        degraded: degraded.cloned().map(wire::Fault::from),
        disk: None,
        notes: Vec::new(),
    }
}

/// `uncompiled`: why it goes on with an older table than is wanted.
pub(crate) fn edge_status(
    (engine, edge): (EdgeEngine, &EdgeObservation),
    trusted_proxies: &[IpNet],
    uncompiled: Option<&Fault>,
) -> wire::EdgeStatus {
    let older = uncompiled.or(edge.refusal.as_ref());
    let (state, fault) = match &edge.status {
        EdgeStatus::Starting => (wire::EdgeState::Starting, older),
        EdgeStatus::Connected => (wire::EdgeState::Serving, older),
        EdgeStatus::Lost(fault) => (wire::EdgeState::Lost, Some(fault)),
    };
    wire::EdgeStatus {
        engine: match engine {
            EdgeEngine::Bowline => wire::EdgeEngine::Bowline,
            EdgeEngine::Envoy => wire::EdgeEngine::Envoy,
        },
        state,
        pid: (edge.pid != 0).then_some(edge.pid),
        http: edge.http.map(|address| address.to_string()),
        https: edge.https.map(|address| address.to_string()),
        api: None,
        certificate: None,
        serving: edge.serving.map(|generation| generation.0),
        connections_open: edge.connections_open,
        private_bytes: edge.private_bytes,
        trusted_proxies: trusted_proxies.iter().map(ToString::to_string).collect(),
        fault: fault.cloned().map(wire::Fault::from),
    }
}
