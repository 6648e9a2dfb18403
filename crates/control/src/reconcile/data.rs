//! `bowline data`: what there is, who is let in for a while, what is filled and what is removed.
//!
//! The loop says whether it may be and keeps an app's data from being applied to meanwhile; the node does it; the event is
//! durable before whoever asked is told.
//!
//! Architecture invariant: nothing is removed that something runs on, or that a file names, unless it was said twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, ResourceName};
use bowline_core::instance::Publish;
use bowline_core::resource::data::{DataDone, DataId, DataOrder, FillSource, Lease, Measured, Rights, lease_name};
use bowline_core::resource::{Endpoint, ResourceId, ResourceKey, ResourcePhase, ResourceSpec};
use bowline_core::secret::Secret;
use bowline_core::time::Timestamp;

use super::Loop;
use super::effects::{Effect, Job, Now, Outcome, Ticket, Write};
use super::events;
use super::pending::Pending;
use super::release::Release;
use super::request::{Answer, DataVerb, Lent};
use super::resources::{Declared, bad_url, declared};
use super::world::{AppWorld, runs};
use crate::http::answer::Refusal;
use crate::store::Wanted;

/// How long a lease may hold.
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3_600);

/// What the node was asked, and for whom.
#[derive(Debug)]
pub(crate) enum DataWork {
    List(wire::DataQuery),
    Lend { key: ResourceKey, lease: Lease, port: u16, by_uid: Option<u32> },
    Return { key: ResourceKey, user: String, by_uid: Option<u32> },
    MayFill,
    Fill { key: AppKey, volume: ResourceName, source: FillSource, by_uid: Option<u32> },
    Remove { key: AppKey, id: DataId, by_uid: Option<u32> },
}

impl DataWork {
    /// The app that nothing may be applied to as long as it lasts.
    fn holds(&self) -> Option<&AppKey> {
        match self {
            Self::Fill { key, .. } | Self::Remove { key, .. } => Some(key),
            Self::List(_) | Self::Lend { .. } | Self::Return { .. } | Self::MayFill => None,
        }
    }
}

impl Loop {
    /// Whether data of an app are being filled or removed.
    pub(crate) fn changes_data(&self, key: &AppKey) -> bool {
        let forgets = |pending: &Pending| matches!(pending, Pending::Data { forget: Some((of, _)), .. } if of == key);
        self.data.values().any(|work| work.holds() == Some(key)) || self.pending.values().any(forgets)
    }

    /// Whether it is known what runs: a daemon that has just started has to look first.
    pub(crate) fn is_settled(&self) -> bool {
        let looked = self.node.adopted && matches!(self.slots.publish(), Publish::Now);
        looked && self.published.is_taken_up(&self.node)
    }

    pub(crate) fn take_up_early(&mut self, now: Now) {
        if !self.early.is_empty() && self.is_settled() {
            for (ticket, request) in std::mem::take(&mut self.early) {
                self.asked(ticket, request, now);
            }
        }
    }

    /// What the node is doing, and what is not durable yet, when the daemon ends: what may be asked for again, since nobody knows the account
    /// that was made, and all else.
    pub(crate) fn unfinished_data(&mut self) -> (Vec<Ticket>, Vec<Ticket>) {
        let work = std::mem::take(&mut self.data).into_iter().map(|(ticket, work)| {
            let again = match work {
                DataWork::List(_) | DataWork::Lend { .. } | DataWork::Return { .. } | DataWork::MayFill => true,
                DataWork::Fill { .. } | DataWork::Remove { .. } => false,
            };
            (ticket, again)
        });
        let stored = self.pending.values().filter_map(|pending| {
            let Pending::Data { ticket, answer, .. } = pending else { return None };
            Some((*ticket, matches!(**answer, Answer::Lent(_) | Answer::Returned)))
        });
        let (again, others): (Vec<_>, Vec<_>) = work.chain(stored).partition(|(_, again)| *again);
        let tickets = |of: Vec<(Ticket, bool)>| of.into_iter().map(|(ticket, _)| ticket).collect();
        (tickets(again), tickets(others))
    }

    pub(crate) fn list_data(&mut self, ticket: Ticket, query: wire::DataQuery) {
        let order = DataOrder::Measure {
            servers: self.place.state_dir.join("data"),
            volumes: self.place.state_dir.join("volumes"),
        };
        self.order(ticket, DataWork::List(query), order);
    }

    pub(crate) fn data_asked(
        &mut self,
        ticket: Ticket,
        key: AppKey,
        id: DataId,
        verb: DataVerb,
        by_uid: Option<u32>,
        now: Now,
    ) {
        let asked = match (verb, id) {
            (DataVerb::Lend { rights, time, password }, DataId::Server(id)) => {
                self.lend(&key, id, (rights, time, password), by_uid, now)
            }
            (DataVerb::Return { user }, DataId::Server(id)) => self.give_back(&key, id, user, by_uid),
            (DataVerb::MayFill { replace }, DataId::Volume(name)) => {
                self.fillable(&key, &name, replace, now).map(|_| {
                    let order = DataOrder::MayFill { volume: self.place.volume(&key, &name), replace };
                    Asked::Node(DataWork::MayFill, Box::new(order))
                })
            }
            (DataVerb::Fill { source, replace }, DataId::Volume(name)) => {
                self.fill(&key, name, source, replace, by_uid, now)
            }
            (DataVerb::Remove { force }, id) => self.remove(&key, id, force, by_uid, now),
            (DataVerb::Reach, DataId::Server(id)) => self.reach(&key, id),
            (DataVerb::Lend { .. } | DataVerb::Return { .. } | DataVerb::Reach, DataId::Volume(name)) => {
                let fault = Fault::new(FaultKind::Invalid, format!("volume.{name} is a folder: nobody logs in to it"));
                Err(fault.hint(format!("it lies in {}", self.place.volume(&key, &name).display())).into())
            }
            (DataVerb::Fill { .. } | DataVerb::MayFill { .. }, id @ DataId::Server(_)) => {
                Err(Fault::new(FaultKind::Invalid, format!("{id} is no volume")).into())
            }
        };
        match asked {
            Ok(Asked::Node(work, order)) => self.order(ticket, work, *order),
            Ok(Asked::Here(port)) => self.answer(ticket, Answer::Reached(port)),
            Ok(Asked::Known(lent, event)) => {
                let answer = Box::new(Answer::Lent(lent));
                self.store(Job::Write(vec![Write::Event(*event)]), Pending::Data { ticket, answer, forget: None });
            }
            Err(refusal) => self.refuse(ticket, refusal),
        }
    }

    fn order(&mut self, ticket: Ticket, work: DataWork, order: DataOrder) {
        self.data.insert(ticket, work);
        self.effects.push(Effect::Data(ticket, order));
    }

    fn app(&self, key: &AppKey) -> Result<&AppWorld, Refusal> {
        self.apps.get(key).ok_or_else(|| Refusal::unknown_app(key))
    }

    /// Nothing else may be under way where data are changed.
    fn at_rest(&self, key: &AppKey) -> Result<&AppWorld, Refusal> {
        let app = self.app(key)?;
        let beginning =
            self.pending.values().any(|p| matches!(p, Pending::Begin { reading, .. } if reading.key == *key));
        let changing = beginning || app.change.is_some() || app.promoted.is_some() || !app.stops.is_empty();
        if changing || self.changes_data(key) {
            let fault = Fault::new(FaultKind::Refused, format!("{key} is being changed"));
            return Err(Refusal::conflict(fault.hint("run the command again when that is done: `bowline status`")));
        }
        Ok(app)
    }

    fn is_stopped(&self, key: &AppKey, app: &AppWorld, now: Now) -> bool {
        app.record.wanted == Wanted::Stopped && !self.lives(key, now)
    }

    fn lend(
        &self,
        key: &AppKey,
        id: ResourceId,
        (rights, time, password): (Rights, Duration, Secret),
        by_uid: Option<u32>,
        now: Now,
    ) -> Result<Asked, Refusal> {
        let app = self.app(key)?;
        let release = app.shown();
        let resource = ResourceKey { app: key.clone(), id };
        let known = self.resources.contains_key(&resource);
        let external = release.and_then(|release| match declared(release.app()).remove(&resource.id)? {
            Declared::External { url, .. } => Some((Arc::clone(release), url.clone())),
            Declared::Managed { .. } => None,
        });
        if let Some((release, url)) = external {
            return elsewhere(&resource, &release, &url, rights, by_uid, now.wall);
        }
        if !known {
            return Err(unknown(key, &DataId::Server(resource.id)));
        }
        if !(SHORTEST..=LONGEST).contains(&time) {
            let fault = Fault::new(FaultKind::Invalid, format!("nobody is let in for {} s", time.as_secs()));
            return Err(fault.hint("from 1m to 7d are possible").into());
        }
        let server = self.running(&resource)?;
        let until = Timestamp(now.wall.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)));
        let lease = Lease { user: lease_name(until, now.random), password, until, rights };
        let port = self.resources.get(&resource).map_or(0, |kept| kept.record.port.get());
        let order = DataOrder::Lend { key: resource.clone(), server, lease: lease.clone() };
        Ok(Asked::Node(DataWork::Lend { key: resource, lease, port, by_uid }, Box::new(order)))
    }

    /// A server that is up, as it was ordered.
    fn running(&self, resource: &ResourceKey) -> Result<Arc<ResourceSpec>, Refusal> {
        let seen = self.node.resources.get(resource).map(|seen| &seen.phase);
        match (self.published.resources().get(resource), seen) {
            (Some(spec), Some(ResourcePhase::Ready)) => Ok(Arc::clone(spec)),
            (_, seen) => {
                let (id, app) = (&resource.id, &resource.app);
                let state = seen.map_or_else(|| "stopped".to_owned(), ResourcePhase::describe);
                let fault = Fault::new(FaultKind::Refused, format!("{id} of {app} does not run")).caused_by(state);
                let start = self.apps.get(app).map(|known| app.command_to_start(&known.record.folder));
                let start = start.map_or_else(String::new, |start| format!(", which `{start}` starts"));
                Err(fault.hint(format!("its servers run as long as {} does{start}", app.app)).into())
            }
        }
    }

    fn reach(&self, key: &AppKey, id: ResourceId) -> Result<Asked, Refusal> {
        self.app(key)?;
        let resource = ResourceKey { app: key.clone(), id };
        match self.resources.get(&resource).map(|kept| kept.record.port.get()) {
            Some(port) => self.running(&resource).map(|_| Asked::Here(port)),
            None => Err(unknown(key, &DataId::Server(resource.id))),
        }
    }

    fn give_back(&self, key: &AppKey, id: ResourceId, user: String, by_uid: Option<u32>) -> Result<Asked, Refusal> {
        let resource = ResourceKey { app: key.clone(), id };
        let server = self.running(&resource)?;
        let order = DataOrder::Return { key: resource.clone(), server, user: user.clone() };
        Ok(Asked::Node(DataWork::Return { key: resource, user, by_uid }, Box::new(order)))
    }

    /// An app whose volume may be filled as far as this loop knows.
    fn fillable(&self, key: &AppKey, volume: &ResourceName, replace: bool, now: Now) -> Result<&AppWorld, Refusal> {
        let app = self.at_rest(key)?;
        if app.unread.is_some() {
            let fault = Fault::new(FaultKind::Refused, format!("it is not known whether {key} has volume.{volume}"));
            return Err(unread(fault).into());
        }
        if !app.shown().is_some_and(|release| release.app().volumes.contains_key(volume)) {
            return Err(unknown(key, &DataId::Volume(volume.clone())));
        }
        if replace && !self.is_stopped(key, app, now) {
            let fault = Fault::new(FaultKind::Refused, format!("{key} runs on volume.{volume}"))
                .caused_by("a volume is replaced only while nothing has it open");
            return Err(fault.hint(stop_first(key)).into());
        }
        Ok(app)
    }

    fn fill(
        &self,
        key: &AppKey,
        volume: ResourceName,
        source: FillSource,
        replace: bool,
        by_uid: Option<u32>,
        now: Now,
    ) -> Result<Asked, Refusal> {
        let app = self.fillable(key, &volume, replace, now)?;
        if let FillSource::Here(path) = &source
            && !path.is_absolute()
        {
            return Err(Fault::new(FaultKind::Invalid, format!("{} is not an absolute path", path.display())).into());
        }
        let order = DataOrder::Fill {
            volume: self.place.volume(key, &volume),
            uid: self.place.uid(app.record.uid),
            source: source.clone(),
            replace,
        };
        Ok(Asked::Node(DataWork::Fill { key: key.clone(), volume, source, by_uid }, Box::new(order)))
    }

    fn remove(&self, key: &AppKey, id: DataId, force: bool, by_uid: Option<u32>, now: Now) -> Result<Asked, Refusal> {
        let app = self.at_rest(key)?;
        if app.unread.is_some() {
            let fault = Fault::new(FaultKind::Refused, format!("it is not known whether {key} needs {id}"));
            return Err(unread(fault).into());
        }
        let named = app.shown().and_then(|release| how_named(release, &id));
        match named {
            Some(Named::Elsewhere) => {
                let fault = Fault::new(FaultKind::Invalid, format!("{id} of {key} runs elsewhere"));
                return Err(fault.caused_by("nothing of it lies here").into());
            }
            Some(Named::Here) if !force => {
                let fault = Fault::new(FaultKind::Refused, format!("{id} of {key} is named by its bowline.toml"))
                    .caused_by("only data that no file names any more are removed");
                return Err(fault.hint("take it out and apply; or stop the app and say --force").into());
            }
            Some(Named::Here) if !self.is_stopped(key, app, now) => {
                let fault = Fault::new(FaultKind::Refused, format!("{key} runs on {id}"));
                return Err(fault.hint(stop_first(key)).into());
            }
            Some(Named::Here) | None => {}
        }
        let folder = match &id {
            DataId::Volume(name) => self.place.volume(key, name),
            DataId::Server(server) => {
                let resource = ResourceKey { app: key.clone(), id: server.clone() };
                let ordered = self.published.resources().contains_key(&resource);
                if ordered || self.node.resources.contains_key(&resource) || !self.published.is_taken_up(&self.node) {
                    let fault = Fault::new(FaultKind::Refused, format!("the server of {id} of {key} is being stopped"));
                    return Err(Refusal::conflict(fault.hint("run the command again in a moment")));
                }
                self.place.resource(&resource)
            }
        };
        Ok(Asked::Node(DataWork::Remove { key: key.clone(), id, by_uid }, Box::new(DataOrder::Discard { folder })))
    }

    /// The node has done it, or could not.
    pub(crate) fn data_done(&mut self, ticket: Ticket, result: Result<DataDone, Fault>, now: Now) {
        let Some(work) = self.data.remove(&ticket) else { return };
        let done = match result {
            Ok(done) => done,
            Err(fault) => return self.refuse(ticket, fault),
        };
        let (event, answer, forget) = match (work, done) {
            (DataWork::List(query), DataDone::Measured(measured)) => {
                let list = Answer::DataList(self.data_list(&query, measured, now));
                return self.answer(ticket, list);
            }
            (DataWork::Lend { key, lease, port, by_uid }, DataDone::Lent { user, empty }) => {
                let endpoint = Endpoint::lent(key.id.kind, &key.id.name, port, &user, &lease.password);
                let event = events::data_lent(&key, &user, lease.rights, Some(lease.until), by_uid, now.wall);
                let lent = Lent { endpoint, until: Some(lease.until), empty: Some(empty) };
                (event, Answer::Lent(Box::new(lent)), None)
            }
            (DataWork::Return { key, user, by_uid }, DataDone::Returned) => {
                (events::data_returned(&key, &user, by_uid, now.wall), Answer::Returned, None)
            }
            (DataWork::MayFill, DataDone::Fillable) => return self.answer(ticket, Answer::Returned),
            (DataWork::Fill { key, volume, source, by_uid }, DataDone::Filled { files }) => {
                let event = events::data_filled(&key, &volume, &source, files, by_uid, now.wall);
                (event, Answer::Filled(wire::Filled { files }), None)
            }
            (DataWork::Remove { key, id, by_uid }, DataDone::Discarded(existed)) => {
                if !existed && !self.is_kept(&key, &id) {
                    return self.refuse(ticket, unknown(&key, &id));
                }
                let removed = wire::Removed { removed: format!("{key}.{id}") };
                (events::data_removed(&key, &id, by_uid, now.wall), Answer::Removed(removed), Some((key, id)))
            }
            (
                DataWork::List(_)
                | DataWork::Lend { .. }
                | DataWork::Return { .. }
                | DataWork::MayFill
                | DataWork::Fill { .. }
                | DataWork::Remove { .. },
                _,
            ) => {
                let fault = Fault::new(FaultKind::Failed, "the node has done something else than it was asked");
                return self.refuse(ticket, fault.hint("this is a defect of Bowline: please report it"));
            }
        };
        let mut writes = vec![Write::Event(event)];
        if let Some((app, DataId::Server(id))) = &forget {
            let resource = ResourceKey { app: app.clone(), id: id.clone() };
            writes.push(Write::ForgetResource(resource, now.wall));
        }
        self.store(Job::Write(writes), Pending::Data { ticket, answer: Box::new(answer), forget });
    }

    fn is_kept(&self, key: &AppKey, id: &DataId) -> bool {
        match id {
            DataId::Volume(_) => false,
            DataId::Server(id) => self.resources.contains_key(&ResourceKey { app: key.clone(), id: id.clone() }),
        }
    }

    pub(crate) fn data_stored(
        &mut self,
        ticket: Ticket,
        answer: Answer,
        forget: Option<(AppKey, DataId)>,
        result: Result<Outcome, Fault>,
    ) {
        if let Err(fault) = result {
            return self.refuse(ticket, fault);
        }
        if let Some((key, DataId::Server(id))) = forget {
            // A stable release in memory has the password that is gone: it is not started again as it is.
            if let Some(stable) = self.apps.get_mut(&key).and_then(|app| app.stable.as_mut())
                && declared(stable.release.app()).contains_key(&id)
            {
                let fault = Fault::new(FaultKind::Refused, format!("the data of {id} were removed"));
                stable.parts = Err(fault.hint("apply the folder again"));
            }
            self.resources.remove(&ResourceKey { app: key, id });
        }
        self.answer(ticket, answer);
    }

    fn data_list(&self, query: &wire::DataQuery, measured: Vec<Measured>, now: Now) -> wire::DataList {
        let mut found: BTreeMap<(AppKey, DataId), wire::DataInfo> = BTreeMap::new();
        for (key, app) in &self.apps {
            for server in self.resource_status(app) {
                let Ok(id) = DataId::parse(&format!("{}.{}", server.kind, server.name)) else { continue };
                let since = self.created(key, &id);
                let info = wire::DataInfo { since, ..of_server(key, &id, server) };
                found.insert((key.clone(), id), info);
            }
            let named = app.shown().map(|release| release.app().volumes.keys().cloned().collect());
            let named: BTreeSet<ResourceName> = named.unwrap_or_default();
            for name in named {
                let id = DataId::Volume(name);
                found.insert((key.clone(), id.clone()), info(key, &id, false));
            }
        }
        for one in measured {
            let entry = found.entry((one.app.clone(), one.id.clone()));
            // Of an app that has no release here yet, nobody can say what it names.
            let known = self.apps.get(&one.app).is_none_or(|app| app.shown().is_some());
            let entry = entry.or_insert_with(|| info(&one.app, &one.id, known));
            if entry.external {
                continue;
            }
            entry.bytes = Some(one.bytes);
            entry.beside = one.beside;
            entry.since = entry.since.or(one.since.map(|since| since.0));
            entry.version = entry.version.take().or(one.version);
        }
        for ((key, _), entry) in found.iter_mut().filter(|((_, id), _)| matches!(id, DataId::Volume(_))) {
            let used = !entry.orphaned && runs(&self.slots, now.mono, key);
            entry.state = if used { "in use" } else { "idle" }.to_owned();
        }
        let is = |want: &Option<String>, have: &str| want.as_deref().is_none_or(|want| want == have);
        let wanted = |one: &wire::DataInfo| is(&query.env, &one.env) && is(&query.app, &one.app);
        wire::DataList { data: found.into_values().filter(wanted).collect() }
    }

    fn created(&self, key: &AppKey, id: &DataId) -> Option<u64> {
        let DataId::Server(id) = id else { return None };
        let kept = self.resources.get(&ResourceKey { app: key.clone(), id: id.clone() })?;
        Some(kept.record.created.0)
    }
}

/// What a verb comes to.
enum Asked {
    Node(DataWork, Box<DataOrder>),
    /// It is known without asking anyone.
    Known(Box<Lent>, Box<crate::store::NewEvent>),
    /// The server listens on this port.
    Here(u16),
}

/// How a release's file speaks of data.
enum Named {
    Here,
    Elsewhere,
}

fn how_named(release: &Release, id: &DataId) -> Option<Named> {
    match id {
        DataId::Volume(name) => release.app().volumes.contains_key(name).then_some(Named::Here),
        DataId::Server(id) => Some(match declared(release.app()).get(id)? {
            Declared::Managed { .. } => Named::Here,
            Declared::External { .. } => Named::Elsewhere,
        }),
    }
}

/// The app's own URL: another server's accounts are not ours to make.
fn elsewhere(
    resource: &ResourceKey,
    release: &Release,
    url: &bowline_core::id::SecretName,
    rights: Rights,
    by_uid: Option<u32>,
    at: Timestamp,
) -> Result<Asked, Refusal> {
    let ResourceKey { app, id } = resource;
    let here = || Fault::new(FaultKind::Refused, format!("{id} of {app} runs elsewhere"));
    match rights {
        Rights::Write => {}
        Rights::Read => {
            let fault = here().caused_by("accounts that can only read are made by its own administrator");
            return Err(fault.hint("leave --read-only out: the app's own URL is used").into());
        }
        Rights::Import => {
            let fault = here().caused_by("Bowline changes nothing on servers that it does not run");
            return Err(fault.hint("`bowline data connect` starts its client with the app's own URL").into());
        }
    }
    let value = release.secrets.get(url).ok_or_else(|| {
        Fault::new(FaultKind::Invalid, format!("secret {url} of {app} has no value"))
            .hint(app.command("secret set", url.as_str()))
    })?;
    let endpoint = Endpoint::parse(id.kind, value).map_err(|error| bad_url(app, id, url, &error))?;
    let user = endpoint.user.clone().unwrap_or_else(|| "default".to_owned());
    let event = events::data_lent(resource, &user, rights, None, by_uid, at);
    Ok(Asked::Known(Box::new(Lent { endpoint, until: None, empty: None }), Box::new(event)))
}

fn stop_first(key: &AppKey) -> String {
    format!("stop the app first: `bowline down {}`", key.command_words())
}

fn unread(fault: Fault) -> Fault {
    let fault = fault.caused_by("what it consists of cannot be read");
    fault.hint("apply its folder again; `bowline status` says what is wrong")
}

fn unknown(key: &AppKey, id: &DataId) -> Refusal {
    Refusal::not_found(
        Fault::new(FaultKind::Invalid, format!("{key} has no {id}")).hint("`bowline data list` shows what there is"),
    )
}

fn info(key: &AppKey, id: &DataId, orphaned: bool) -> wire::DataInfo {
    wire::DataInfo {
        env: key.env.to_string(),
        app: key.app.to_string(),
        kind: id.kind().to_owned(),
        name: id.name().to_string(),
        state: "stopped".to_owned(),
        on: None,
        external: false,
        orphaned,
        version: None,
        port: None,
        bytes: None,
        since: None,
        beside: Vec::new(),
    }
}

fn of_server(key: &AppKey, id: &DataId, server: wire::ResourceStatus) -> wire::DataInfo {
    wire::DataInfo {
        state: server.state,
        on: server.on,
        external: server.external,
        version: server.version,
        port: server.port,
        ..info(key, id, server.orphaned)
    }
}
