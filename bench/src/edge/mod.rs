//! nginx, HAProxy, Caddy, Envoy and Bowline in one run, in turns, each on the same core; load and upstream on the other.
//!
//! A proxy or a scenario that fails has a row that says why, and the others go on.

mod aims;
mod chart;
mod connections;
mod proof;
mod report;
mod routes;
pub(crate) mod scenario;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Map, Value};

pub(crate) use aims::TOO_BUSY;
pub(crate) use proof::ready;
pub(crate) use report::{failed, spread};
use scenario::Scenario;

use crate::generator::{Generator, Load, OWN_CORE, Round};
use crate::peer::{self, Kind, Peer};
use crate::{say, setting};

/// How long a proxy is loaded to see what it can do, for a pace that all can keep.
const PEAK: Duration = Duration::from_secs(1);

/// Until what a proxy says of its log has come.
pub(crate) const SETTLED: Duration = Duration::from_millis(1_500);

/// A proxy's rounds of one scenario, or why there are none.
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) rounds: Result<Vec<Round>, String>,
    /// Lines of its access log that it has dropped meanwhile: work that it has not done.
    pub(crate) lost_lines: u64,
}

/// What was measured of all proxies, one scenario after the other.
#[derive(Default)]
pub(crate) struct Results {
    pub(crate) timed: Vec<(Scenario, Vec<Row>)>,
    pub(crate) connections: Vec<connections::Row>,
    pub(crate) routes: Vec<routes::Row>,
}

/// `only`: the names of scenarios; none: all. `out`: where the chart goes.
pub(crate) fn run(only: &[String], out: Option<&Path>) -> anyhow::Result<Value> {
    let chosen = chosen(only)?;
    let time = Duration::from_secs(setting("BENCH_SECONDS", 3)?.into());
    let rounds = setting("BENCH_ROUNDS", 7)?;
    // All threads of this process: those that are started later stay with it.
    pin()?;
    let mut generator = Generator::new()?;
    let mut results = Results::default();
    if !chosen.timed.is_empty() {
        results.timed = timed(&mut generator, &chosen.timed, rounds, time)?;
    }
    if chosen.connections {
        results.connections = connections::measure(&mut generator);
        report::connections(&results.connections);
    }
    if chosen.routes {
        results.routes = routes::measure(&mut generator, time);
        report::routes(&results.routes);
    }
    report::aims(&aims::of(&results));
    if let Some(dir) = out {
        let path = dir.join("edge.svg");
        std::fs::create_dir_all(dir)?;
        std::fs::write(&path, chart::of(&results)).with_context(|| path.display().to_string())?;
    }
    Ok(report::json(&results))
}

struct Chosen {
    timed: Vec<Scenario>,
    connections: bool,
    routes: bool,
}

fn chosen(only: &[String]) -> anyhow::Result<Chosen> {
    let named = |name: &str| only.is_empty() || only.iter().any(|one| one == name);
    let timed: Vec<Scenario> = scenario::ALL.into_iter().filter(|scenario| named(scenario.name)).collect();
    let names = scenario::ALL.map(|scenario| scenario.name);
    if let Some(other) =
        only.iter().find(|one| !names.contains(&one.as_str()) && !["connections", "routes"].contains(&one.as_str()))
    {
        bail!("`{other}` is no scenario of edge; say {}, connections or routes", names.join(", "));
    }
    Ok(Chosen { timed, connections: named("connections"), routes: named("routes") })
}

/// Keeps this process off the proxy's core.
pub(crate) fn pin() -> anyhow::Result<()> {
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &peer::core(OWN_CORE)?).context("two cores are needed")
}

/// Proxies that are to be compared, or why one is not.
type Peers = Vec<(Kind, Result<Peer, String>)>;

fn timed(
    generator: &mut Generator,
    scenarios: &[Scenario],
    rounds: u32,
    time: Duration,
) -> anyhow::Result<Vec<(Scenario, Vec<Row>)>> {
    let upstream = generator.upstream()?;
    let mut peers: Peers = Vec::new();
    for kind in Kind::compared()? {
        let peer = started(generator, kind, kind.start(&[], upstream, 0));
        peers.push((kind, peer.map_err(|error| format!("{error:#}"))));
    }
    let mut all = Vec::new();
    for scenario in scenarios {
        let rows = measure(generator, &peers, scenario, rounds, time);
        report::timed(scenario, &rows);
        all.push((*scenario, rows));
    }
    peers.into_iter().filter_map(|(_, peer)| peer.ok()).for_each(Peer::stop);
    Ok(all)
}

/// One that serves, or none that is left behind.
pub(crate) fn started(generator: &mut Generator, kind: Kind, peer: anyhow::Result<Peer>) -> anyhow::Result<Peer> {
    let peer = peer?;
    match ready(generator, &peer) {
        Ok(()) => Ok(peer),
        Err(error) => {
            peer.stop();
            Err(error.context(kind.name()))
        }
    }
}

/// One proxy in one scenario.
struct Contender<'a> {
    kind: Kind,
    load: Result<Load, String>,
    rounds: Vec<Round>,
    peer: Option<&'a Peer>,
    /// Lines of its log that were lost before.
    lost_before: u64,
}

fn measure(generator: &mut Generator, peers: &Peers, scenario: &Scenario, rounds: u32, time: Duration) -> Vec<Row> {
    let mut contenders: Vec<Contender<'_>> =
        peers.iter().map(|(kind, peer)| Contender::new(*kind, peer, scenario)).collect();
    if scenario.is_paced {
        pace(generator, &mut contenders);
    }
    for _ in 0..rounds {
        for contender in &mut contenders {
            contender.round(generator, scenario, time);
        }
    }
    std::thread::sleep(SETTLED);
    contenders.into_iter().map(Contender::into_row).collect()
}

/// Half of what the slowest can do, for all.
fn pace(generator: &mut Generator, contenders: &mut [Contender<'_>]) {
    let mut slowest = f64::INFINITY;
    for contender in contenders.iter_mut() {
        let Ok(load) = &contender.load else { continue };
        match generator.run(load, PEAK) {
            #[expect(clippy::cast_precision_loss, reason = "counts of a second")]
            Ok(round) => slowest = slowest.min(round.requests as f64 / round.seconds),
            Err(error) => contender.load = Err(format!("{error:#}")),
        }
    }
    for load in contenders.iter_mut().filter_map(|contender| contender.load.as_mut().ok()) {
        load.rate = Some(slowest / 2.0);
    }
}

impl<'a> Contender<'a> {
    fn new(kind: Kind, peer: &'a Result<Peer, String>, scenario: &Scenario) -> Self {
        let load = peer.as_ref().map_err(Clone::clone);
        let load = load.and_then(|peer| scenario.load(peer).map_err(|error| format!("{error:#}")));
        let peer = peer.as_ref().ok();
        Self { kind, load, rounds: Vec::new(), peer, lost_before: peer.map_or(0, Peer::lost_lines) }
    }

    fn round(&mut self, generator: &mut Generator, scenario: &Scenario, time: Duration) {
        let Ok(load) = &self.load else { return };
        let round = generator.run(load, time).and_then(|round| scenario.check(&round).map(|()| round));
        match round {
            Ok(round) => self.rounds.push(round),
            Err(error) => {
                let words = self.peer.map(Peer::last_words).filter(|words| !words.is_empty());
                self.load =
                    Err(format!("{error:#}{}", words.map(|words| format!("; it says: {words}")).unwrap_or_default()));
            }
        }
    }

    fn into_row(self) -> Row {
        let Self { kind, load, rounds, peer, lost_before } = self;
        let lost_lines = peer.map_or(0, Peer::lost_lines).saturating_sub(lost_before);
        Row { kind, rounds: load.map(|_| rounds), lost_lines }
    }
}

/// By name of the scenario, then of the proxy.
pub(crate) type Figures = Map<String, Value>;

/// Says once what a bench is about.
pub(crate) fn heading(name: &str, about: &str) {
    say(&format!("### {name}\n\n{about}\n"));
}
