//! A node that starts, probes, crashes and stops processes which do not exist.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{InstanceId, Port, SlotId};
use bowline_core::instance::{
    Exit, ExitCause, HealthState, InstanceObservation, InstanceOrder, InstanceSpec, Observations, Phase, Usage,
};
use bowline_core::time::{Mono, Timestamp};

use crate::cover::Strike;
use crate::rng::Rng;

/// What a release does when it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Good,
    NeverReady,
    ExitsAtOnce,
    Refused,
}

#[derive(Debug, Clone, PartialEq)]
enum Life {
    Starting,
    Running,
    Stopping,
    Ended(Phase),
}

#[derive(Debug)]
pub(crate) struct Proc {
    life: Life,
    /// No other process of the run has it.
    pub(crate) port: Port,
    running_at: Mono,
    ready_at: Option<Mono>,
    dies_at: Option<Mono>,
    /// Health fails in these.
    flaps: Vec<(Mono, Mono)>,
    /// `alive` fails from here on.
    hangs_at: Option<Mono>,
    ends_at: Option<(Mono, ExitCause)>,
    stop_takes: Duration,
    /// This daemon has probed it.
    probed_at: Mono,
    has_health: bool,
    /// Processor time.
    used: Duration,
}

impl Proc {
    pub(crate) fn lives(&self) -> bool {
        !matches!(self.life, Life::Ended(_))
    }

    /// It would answer a request.
    pub(crate) fn answers(&self, now: Mono) -> bool {
        matches!(self.life, Life::Running)
            && self.ready_at.is_some_and(|at| now >= at)
            && !self.flaps.iter().any(|(from, to)| now >= *from && now < *to)
            && self.hangs_at.is_none_or(|at| now < at)
    }

    /// It uses so much of its core for so long, in thousandths: no more than all of it.
    pub(crate) fn uses(&mut self, milli: u32, time: Duration) {
        self.used += time * milli.min(1000) / 1000;
    }

    /// It runs, and has not been ready yet.
    pub(crate) fn starts(&self, now: Mono) -> bool {
        matches!(self.life, Life::Running) && self.ready_at.is_none_or(|at| now < at)
    }

    pub(crate) fn is_told_to_stop(&self) -> bool {
        matches!(self.life, Life::Stopping)
    }

    fn health(&self, now: Mono) -> HealthState {
        let told = now >= self.probed_at && now >= self.running_at + PROBE;
        match self.answers(now) {
            _ if !self.has_health || !told => HealthState::Unknown,
            true => HealthState::Passing { since: Timestamp(0) },
            false => HealthState::Failing { failures: 3, reason: "connection refused".into() },
        }
    }

    fn observe(&self, now: Mono) -> InstanceObservation {
        let phase = match &self.life {
            Life::Starting => Phase::Starting,
            Life::Running => Phase::Running { pid: 1, port: self.port, since: Timestamp(0) },
            Life::Stopping => Phase::Stopping { pid: 1, port: self.port },
            Life::Ended(phase) => phase.clone(),
        };
        let hangs = matches!(self.life, Life::Running) && self.hangs_at.is_some_and(|at| now >= at);
        let alive = match hangs && now >= self.probed_at {
            true => HealthState::Failing { failures: 3, reason: "no answer within 1s".into() },
            false => HealthState::Unknown,
        };
        InstanceObservation {
            phase,
            health: self.health(now),
            alive,
            usage: Usage { cpu_us: u64::try_from(self.used.as_micros()).unwrap(), ..Usage::default() },
            unenforced: Vec::new(),
            dropped_lines: 0,
            container: None,
        }
    }

    fn events(&self) -> Vec<Mono> {
        let mut at = vec![self.running_at, self.running_at + PROBE, self.probed_at];
        at.extend(self.ready_at);
        at.extend(self.dies_at);
        at.extend(self.hangs_at);
        at.extend(self.flaps.iter().flat_map(|(from, to)| [*from, *to]));
        at.extend(self.ends_at.as_ref().map(|(at, _)| *at));
        at
    }

    /// What goes wrong with it now.
    fn strikes(&self, now: Mono) -> impl Iterator<Item = Strike> {
        let runs = matches!(self.life, Life::Running);
        let good = self.ready_at.is_some();
        let exits = runs && good && self.dies_at.is_some_and(|at| now >= at);
        let hangs = runs && self.hangs_at.is_some_and(|at| now >= at);
        let flaps = runs && self.flaps.iter().any(|(from, to)| now >= *from && now < *to);
        let all = [(exits, Strike::Exits), (hangs, Strike::Hangs), (flaps, Strike::Flaps)];
        all.into_iter().filter_map(|(strikes, which)| strikes.then_some(which))
    }

    fn advance(&mut self, now: Mono) {
        if matches!(self.life, Life::Starting) && now >= self.running_at {
            self.life = Life::Running;
        }
        if matches!(self.life, Life::Running) && self.dies_at.is_some_and(|at| now >= at) {
            self.end(ExitCause::Code(1));
        }
        if let Some((at, cause)) = self.ends_at.clone()
            && self.lives()
            && now >= at
        {
            self.end(cause);
        }
    }

    fn end(&mut self, cause: ExitCause) {
        let exit = Exit { cause, at: Timestamp(0), last_lines: vec!["the last line".into()] };
        self.life = Life::Ended(Phase::Exited(exit));
    }

    fn stop(&mut self, now: Mono) {
        if matches!(self.life, Life::Starting | Life::Running) {
            self.life = Life::Stopping;
            let killed = self.stop_takes > KILL_AFTER;
            let cause = if killed { ExitCause::Killed } else { ExitCause::Stopped };
            self.ends_at = Some((now + self.stop_takes.min(KILL_AFTER), cause));
        }
    }
}

const PROBE: Duration = Duration::from_millis(200);
const KILL_AFTER: Duration = Duration::from_secs(10);

/// When instances may misbehave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) wild: bool,
    pub(crate) end: Mono,
}

pub(crate) struct Node {
    pub(crate) procs: BTreeMap<InstanceId, Proc>,
    /// In this daemon's life.
    ended: BTreeSet<InstanceId>,
    pending: Option<(Mono, BTreeMap<InstanceId, InstanceOrder>)>,
    adopts_at: Mono,
    pub(crate) rng: Rng,
    pub(crate) faults: Faults,
    next_port: u16,
    /// All that was started, for the checks.
    pub(crate) started: Vec<(InstanceId, InstanceSpec)>,
    /// What has gone wrong since it was last asked.
    pub(crate) struck: BTreeSet<Strike>,
}

impl Node {
    pub(crate) fn new(rng: Rng, faults: Faults) -> Self {
        Self {
            procs: BTreeMap::new(),
            ended: BTreeSet::new(),
            pending: None,
            adopts_at: Mono::default(),
            rng,
            faults,
            next_port: 20_000,
            started: Vec::new(),
            struck: BTreeSet::new(),
        }
    }

    pub(crate) fn order(&mut self, orders: BTreeMap<InstanceId, InstanceOrder>, now: Mono) {
        let at = match &self.pending {
            Some((at, _)) => *at,
            None => now + Duration::from_millis(1 + self.rng.below(400)),
        };
        self.pending = Some((at, orders));
    }

    /// The daemon died; the node is a part of it. Processes go on.
    pub(crate) fn crash(&mut self, back: Mono) {
        self.pending = None;
        // Nothing is kept of what has ended: a number is new within one daemon's life.
        self.ended.clear();
        self.adopts_at = back + Duration::from_millis(self.rng.below(500));
        for proc in self.procs.values_mut() {
            proc.probed_at = self.adopts_at + Duration::from_millis(self.rng.below(2500));
        }
    }

    pub(crate) fn advance(&mut self, now: Mono, profile: &dyn Fn(&InstanceId) -> Profile) {
        let struck = &mut self.struck;
        self.procs.values_mut().for_each(|proc| {
            struck.extend(proc.strikes(now));
            proc.advance(now);
        });
        if let Some((_, orders)) = self.pending.take_if(|(at, _)| now >= *at) {
            self.apply(&orders, now, profile);
        }
    }

    fn apply(
        &mut self,
        orders: &BTreeMap<InstanceId, InstanceOrder>,
        now: Mono,
        profile: &dyn Fn(&InstanceId) -> Profile,
    ) {
        for (id, proc) in &mut self.procs {
            match orders.get(id) {
                Some(InstanceOrder::Run(_) | InstanceOrder::Keep) => {}
                Some(InstanceOrder::Stop) | None => {
                    let ignores = proc.lives() && !proc.is_told_to_stop() && proc.stop_takes > KILL_AFTER;
                    self.struck.extend(ignores.then_some(Strike::IgnoresTerm));
                    proc.stop(now);
                }
            }
        }
        let over: Vec<InstanceId> = self.procs.iter().filter(|(_, p)| !p.lives()).map(|(id, _)| id.clone()).collect();
        for id in over.into_iter().filter(|id| !orders.contains_key(id)) {
            self.procs.remove(&id);
            self.ended.insert(id);
        }
        for (id, order) in orders {
            let InstanceOrder::Run(spec) = order else { continue };
            if !self.procs.contains_key(id) && !self.ended.contains(id) {
                self.started.push((id.clone(), (**spec).clone()));
                let proc = self.start(spec, now, profile(id));
                self.procs.insert(id.clone(), proc);
            }
        }
    }

    fn start(&mut self, spec: &InstanceSpec, now: Mono, profile: Profile) -> Proc {
        self.next_port += 1;
        let running_at = now + self.ms(50, 800);
        let faulty = self.faults.wild && now < self.faults.end;
        let upto_end = |at: Mono, end: Mono| (at < end).then_some(at);
        let mut proc = Proc {
            life: Life::Starting,
            port: Port::new(self.next_port).unwrap(),
            running_at,
            ready_at: (profile == Profile::Good).then(|| running_at + self.ms(50, 3000)),
            dies_at: (profile == Profile::ExitsAtOnce).then(|| running_at + self.ms(1, 300)),
            flaps: Vec::new(),
            hangs_at: None,
            ends_at: None,
            stop_takes: if self.rng.below(8) == 0 { Duration::from_secs(3600) } else { self.ms(10, 3000) },
            probed_at: now,
            has_health: spec.health.is_some(),
            used: Duration::ZERO,
        };
        self.struck.extend(match profile {
            Profile::Good => None,
            Profile::NeverReady => Some(Strike::NeverReady),
            Profile::ExitsAtOnce => Some(Strike::ExitsAtOnce),
            Profile::Refused => Some(Strike::Refused),
        });
        if profile == Profile::Refused {
            proc.life = Life::Ended(Phase::Refused(Fault::new(FaultKind::Failed, "port 3000 is taken by pid 7")));
        }
        if faulty && profile == Profile::Good {
            let end = self.faults.end;
            match self.rng.below(6) {
                0 | 1 => proc.dies_at = upto_end(running_at + self.ms(1, 60_000), end),
                2 => {
                    let from = running_at + self.ms(1, 40_000);
                    let to = (from + self.ms(100, 15_000)).min(end);
                    proc.flaps.extend((from < to).then_some((from, to)));
                }
                3 if spec.alive.is_some() => proc.hangs_at = upto_end(running_at + self.ms(1, 40_000), end),
                4 => {
                    proc.ready_at = Some(running_at + self.ms(20_000, 50_000));
                    self.struck.insert(Strike::Slow);
                }
                _ => {}
            }
        }
        proc
    }

    fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.rng.below(to - from))
    }

    pub(crate) fn observe(&self, now: Mono) -> Observations {
        match now >= self.adopts_at {
            false => Observations::default(),
            true => Observations {
                adopted: true,
                instances: self.procs.iter().map(|(id, proc)| (id.clone(), proc.observe(now))).collect(),
                ..Observations::default()
            },
        }
    }

    pub(crate) fn next_event(&self, now: Mono) -> Option<Mono> {
        let procs = self.procs.values().filter(|proc| proc.lives()).flat_map(Proc::events);
        let others = self.pending.iter().map(|(at, _)| *at).chain([self.adopts_at]);
        procs.chain(others).filter(|at| *at > now).min()
    }

    /// Slots in which more than one process lives.
    pub(crate) fn doubled(&self) -> Option<SlotId> {
        let live: Vec<&SlotId> = self.procs.iter().filter(|(_, p)| p.lives()).map(|(id, _)| &id.slot).collect();
        live.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone())
    }
}
