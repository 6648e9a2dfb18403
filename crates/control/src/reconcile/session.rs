//! Sessions: where a command is run that somebody wants to be attached to, and the record of it.
//!
//! Architecture invariant: of the command only the program's name is recorded; its arguments may hold secrets.

use std::sync::Arc;

use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, InstanceId, ReleaseNumber, ServiceName, env_option};
use bowline_core::instance::{HealthState, InstanceSpec, Phase};
use bowline_core::session::{SessionEnd, SessionPlace, SessionSpec, Terminal, WindowSize};

use super::Loop;
use super::effects::{Job, Now, Outcome, Ticket, Write};
use super::events;
use super::pending::Pending;
use super::release::Parts;
use super::request::Answer;
use super::world::AppWorld;
use crate::http::answer::Refusal;
use crate::store::Wanted;

/// Longest program name that is recorded.
const MAX_PROGRAM: usize = 80;
/// Longest name of a terminal.
const MAX_TERMINAL: usize = 64;

/// A session as its events tell of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionRecord {
    pub(crate) key: AppKey,
    /// Tells its events from those of others: eight hexadecimal digits.
    pub(crate) id: String,
    pub(crate) place: SessionPlace,
    /// `local/uploads.web.r3.0.1`; of a one-off what it is made of, `web of release 3`.
    pub(crate) target: String,
    pub(crate) program: String,
    pub(crate) by_uid: Option<u32>,
}

impl Loop {
    pub(crate) fn open_session(
        &mut self,
        ticket: Ticket,
        key: AppKey,
        wanted: &wire::Session,
        by_uid: Option<u32>,
        now: Now,
    ) {
        let spec = match self.session(&key, wanted) {
            Ok(spec) => spec,
            Err(refusal) => return self.refuse(ticket, refusal),
        };
        let slot = &spec.instance.id.slot;
        let record = SessionRecord {
            key,
            id: format!("{:08x}", now.random & 0xffff_ffff),
            place: spec.place,
            target: match spec.place {
                SessionPlace::Inside => spec.instance.id.to_string(),
                SessionPlace::OneOff => format!("{} of release {}", slot.service, slot.release),
            },
            program: wanted.command.first().into_iter().flat_map(|name| name.chars()).take(MAX_PROGRAM).collect(),
            by_uid,
        };
        if spec.place == SessionPlace::OneOff {
            self.one_offs.insert(record.id.clone(), (record.key.clone(), spec.instance.id.slot.release));
        }
        let event = Write::Event(events::session_began(&record, now.wall));
        self.store(Job::Write(vec![event]), Pending::Session { ticket, granted: Box::new((record, spec)) });
    }

    /// Nobody gets in of whom no record is kept.
    pub(crate) fn session_recorded(
        &mut self,
        ticket: Ticket,
        granted: Box<(SessionRecord, SessionSpec)>,
        result: Result<Outcome, Fault>,
    ) {
        match result {
            Ok(_) => self.answer(ticket, Answer::Session(granted)),
            Err(fault) => {
                self.one_offs.remove(&granted.0.id);
                self.refuse(ticket, fault);
            }
        }
    }

    pub(crate) fn one_offs_of(&self, key: &AppKey) -> impl Iterator<Item = ReleaseNumber> {
        self.one_offs.values().filter(move |(of, _)| of == key).map(|(_, release)| *release)
    }

    pub(crate) fn session_ended(&mut self, ticket: Ticket, record: &SessionRecord, end: &SessionEnd, now: Now) {
        self.one_offs.remove(&record.id);
        self.record(vec![events::session_ended(record, end, now.wall)]);
        self.answer(ticket, Answer::Recorded);
    }

    fn session(&self, key: &AppKey, wanted: &wire::Session) -> Result<SessionSpec, Refusal> {
        let app = self.apps.get(key).ok_or_else(|| self.unknown_app(key))?;
        check_command(&wanted.command)?;
        let terminal = wanted.terminal.as_ref().map(terminal).transpose()?;
        let service = service(app, wanted.service.as_deref())?;
        let (place, instance) = match wanted.place {
            wire::SessionPlace::Inside => {
                (SessionPlace::Inside, self.running_instance(app, &service, wanted.instance)?)
            }
            wire::SessionPlace::OneOff if wanted.instance.is_some() => {
                let fault = Fault::new(FaultKind::Invalid, "a one-off is no instance of those that run");
                return Err(fault.hint("leave the number out, or enter the instance: bowline exec").into());
            }
            wire::SessionPlace::OneOff => (SessionPlace::OneOff, stable(app, &service)?),
        };
        Ok(SessionSpec { place, instance, command: wanted.command.clone(), terminal })
    }

    fn unknown_app(&self, key: &AppKey) -> Refusal {
        let here = self.apps.keys().filter(|other| other.env == key.env).map(|other| other.app.as_str());
        let fault = Fault::new(FaultKind::Invalid, format!("there is no app {key}"));
        Refusal::not_found(match bowline_spec::suggestion(key.app.as_str(), here.collect::<Vec<_>>()) {
            Some(hint) => fault.hint(hint),
            None => fault.hint("`bowline status` lists the apps"),
        })
    }

    /// Of the release that is served rather than of another, one that is healthy rather than not, the lowest slot.
    fn running_instance(
        &self,
        app: &AppWorld,
        service: &ServiceName,
        slot: Option<u16>,
    ) -> Result<Arc<InstanceSpec>, Refusal> {
        let key = &app.record.key;
        let of_service = |id: &&InstanceId| id.slot.key == *key && id.slot.service == *service;
        let runs = |id: &&InstanceId| {
            matches!(self.node.instances.get(*id).map(|seen| &seen.phase), Some(Phase::Running { .. }))
        };
        let all: Vec<&InstanceId> = self.node.instances.keys().filter(of_service).filter(runs).collect();
        let rank = |id: &&&InstanceId| {
            let healthy = self.node.instances.get(**id).map(|seen| matches!(seen.health, HealthState::Passing { .. }));
            (app.live != Some(id.slot.release), healthy != Some(true), id.slot.slot)
        };
        let found = all.iter().filter(|id| slot.is_none_or(|slot| id.slot.slot.0 == slot)).min_by_key(rank);
        let Some(id) = found else { return Err(not_running(key, service, slot, &all)) };
        let parts = app.release(id.slot.release).and_then(|(_, parts)| parts);
        let spec = parts.and_then(|parts| parts.spec(service)).ok_or_else(|| {
            Fault::new(FaultKind::Failed, format!("{id} is of a release that is on its way out"))
                .hint("`bowline status` shows when the next one is ready")
        })?;
        Ok(Arc::new(InstanceSpec { id: (*id).clone(), ..(**spec).clone() }))
    }
}

fn check_command(command: &[String]) -> Result<(), Refusal> {
    let invalid =
        |what: &str| Fault::new(FaultKind::Invalid, what).hint("bowline exec APP.SERVICE -- PROGRAM [ARGUMENT]…");
    match command.first() {
        None => Err(invalid("no command is given").into()),
        Some(program) if program.is_empty() => Err(invalid("the program has no name").into()),
        Some(_) if command.iter().any(|word| word.contains('\0')) => {
            Err(invalid("an argument holds a NUL byte").into())
        }
        Some(_) => Ok(()),
    }
}

fn terminal(wanted: &wire::Terminal) -> Result<Terminal, Refusal> {
    let is_name = |name: &String| {
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_');
        !name.is_empty() && name.len() <= MAX_TERMINAL && name.chars().all(known)
    };
    if let Some(name) = wanted.name.as_ref().filter(|name| !is_name(name)) {
        return Err(Fault::new(FaultKind::Invalid, format!("{name:?} names no terminal"))
            .hint("set TERM=xterm")
            .into());
    }
    let size = WindowSize { columns: wanted.columns, rows: wanted.rows };
    Ok(Terminal { size, name: wanted.name.clone() })
}

/// The one that is named, or the only one that runs processes.
fn service(app: &AppWorld, wanted: Option<&str>) -> Result<ServiceName, Refusal> {
    let key = &app.record.key;
    let release = app.shown().ok_or_else(|| {
        Fault::new(FaultKind::Failed, format!("no release of {key} has been started yet"))
            .hint(format!("`{}` does", key.command_to_start(&app.record.folder)))
    })?;
    let parts = app.release(release.number()).and_then(|(_, parts)| parts);
    let names: Vec<&ServiceName> = parts.into_iter().flat_map(Parts::services).collect();
    let all = || names.iter().map(|name| name.as_str()).collect::<Vec<_>>();
    match (wanted, names.as_slice()) {
        (Some(wanted), names) => match names.iter().find(|name| name.as_str() == wanted) {
            Some(name) => Ok((*name).clone()),
            None if release.app().services.keys().any(|name| name.as_str() == wanted) => {
                Err(Fault::new(FaultKind::Invalid, format!("service {wanted} of {key} runs no process")).into())
            }
            None => {
                let fault = Fault::new(FaultKind::Invalid, format!("{key} has no service {wanted}"));
                let hint = bowline_spec::suggestion(wanted, all());
                Err(Refusal::not_found(hint.into_iter().fold(fault, Fault::hint)))
            }
        },
        (None, [only]) => Ok((*only).clone()),
        (None, []) => Err(Fault::new(FaultKind::Invalid, format!("{key} runs no process")).into()),
        (None, [first, ..]) => Err(Fault::new(FaultKind::Invalid, format!("{key} has several services"))
            .caused_by(all().join(", "))
            .hint(format!(
                "say which one: bowline exec {}.{first}{} -- …, or {} -- …",
                key.app,
                env_option(key.env.as_str()),
                key.command("run", &format!("--service {first}")),
            ))
            .into()),
    }
}

/// A stopped app's databases are stopped, too.
fn stable(app: &AppWorld, service: &ServiceName) -> Result<Arc<InstanceSpec>, Refusal> {
    let key = &app.record.key;
    let up = || format!("`{}` starts it", key.command_to_start(&app.record.folder));
    let stable = app.stable.as_ref().ok_or_else(|| {
        Fault::new(FaultKind::Failed, format!("{key} has no release that got ready")).hint("`bowline status` says why")
    })?;
    if app.record.wanted == Wanted::Stopped || app.sets.is_empty() {
        return Err(Fault::new(FaultKind::Failed, format!("{key} is stopped")).hint(up()).into());
    }
    let parts = stable.parts.as_ref().map_err(Clone::clone)?;
    parts.spec(service).cloned().ok_or_else(|| {
        Fault::new(FaultKind::Failed, format!("release {} of {key} has no service {service}", stable.release.number()))
            .into()
    })
}

fn not_running(key: &AppKey, service: &ServiceName, slot: Option<u16>, running: &[&InstanceId]) -> Refusal {
    let numbers: Vec<String> = running.iter().map(|id| id.slot.slot.to_string()).collect();
    match slot {
        Some(slot) if !running.is_empty() => {
            let fault = Fault::new(FaultKind::Invalid, format!("no instance {slot} of {service} of {key} runs"));
            Refusal::not_found(fault.hint(format!("there is {}", numbers.join(", "))))
        }
        Some(_) | None => Fault::new(FaultKind::Failed, format!("no instance of {service} of {key} runs"))
            .hint(format!("`bowline status {}` says what it waits on", key.command_words()))
            .into(),
    }
}
