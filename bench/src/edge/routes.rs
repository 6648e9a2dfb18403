//! What ten thousand routes cost: time and memory beside one route, and how long it takes until one more is served.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::proof::{ANSWER, ask, status};
use super::scenario::{self, get};
use super::started;
use crate::figure::Runs;
use crate::generator::{Generator, HOST, Round};
use crate::peer::{Kind, Peer, route};

/// Hosts beside the one of the load.
const ROUTES: usize = 10_000;

/// Turns of the comparison with one route, and changes of the table.
const ROUNDS: usize = 3;

/// How long a change may take.
const SWAP: Duration = Duration::from_secs(60);

const CLOSE: &str = "Connection: close\r\n";

pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) figures: Result<Figures, String>,
}

pub(crate) struct Figures {
    /// The core's time for a request, in microseconds: with one route, and for the last of all.
    pub(crate) alone: Runs,
    pub(crate) last: Runs,
    /// Bytes for each route.
    pub(crate) memory: f64,
    pub(crate) changes: Result<Changes, String>,
}

pub(crate) struct Changes {
    /// Milliseconds from the order until the new route is served.
    pub(crate) swap: Runs,
    /// The slowest answer meanwhile, in milliseconds.
    pub(crate) stall: Runs,
    /// Requests that had none, in all changes together.
    pub(crate) lost: u64,
}

/// One change of the table.
struct Swap {
    took: Duration,
    /// The slowest answer meanwhile.
    stall: Duration,
    /// Requests that had none.
    lost: u64,
}

pub(super) fn measure(generator: &mut Generator, time: Duration) -> Vec<Row> {
    Kind::ALL.map(|kind| Row { kind, figures: one(generator, kind, ROUTES, time).map_err(|e| format!("{e:#}")) }).into()
}

fn one(generator: &mut Generator, kind: Kind, routes: usize, time: Duration) -> anyhow::Result<Figures> {
    let upstream = generator.upstream()?;
    let few = started(generator, kind, kind.start(&[], upstream, 0))?;
    let many = started(generator, kind, kind.start(&[], upstream, routes));
    let figures = many.and_then(|mut many| {
        let figures = compare(generator, &few, &mut many, routes, time);
        many.stop();
        figures
    });
    few.stop();
    figures
}

/// `many` serves so many routes more than `few`.
pub(super) fn compare(
    generator: &mut Generator,
    few: &Peer,
    many: &mut Peer,
    routes: usize,
    time: Duration,
) -> anyhow::Result<Figures> {
    let small = scenario::ALL[0];
    let loads = [small.load(few)?, small.load_at(many.http, many.https, &route(routes - 1))?];
    let mut cost = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (load, cost) in loads.iter().zip(&mut cost) {
            cost.push(microseconds(&generator.run(load, time)?));
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "megabytes")]
    let memory = many.memory()?.saturating_sub(few.memory()?) as f64 / routes as f64;
    let [alone, last] = cost.map(Runs::new);
    let changes = changes(generator, many, routes).map_err(|e| format!("{e:#}"));
    Ok(Figures { alone, last, memory, changes })
}

fn changes(generator: &mut Generator, many: &mut Peer, routes: usize) -> anyhow::Result<Changes> {
    let mut swaps = Vec::new();
    for more in 1..=ROUNDS {
        swaps.push(generator.beside(SWAP + ANSWER, || swap(many, routes + more))??);
    }
    let milliseconds = |of: fn(&Swap) -> Duration| Runs::new(swaps.iter().map(|swap| of(swap).as_secs_f64() * 1e3));
    let (swap, stall) = (milliseconds(|swap| swap.took), milliseconds(|swap| swap.stall));
    Ok(Changes { swap, stall, lost: swaps.iter().map(|swap| swap.lost).sum() })
}

fn microseconds(round: &Round) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of a run of seconds")]
    let requests = round.requests as f64;
    round.proxy.as_secs_f64() * 1e6 / requests
}

/// How long until the last of so many routes is served, which was not served before; and the slowest answer meanwhile.
fn swap(peer: &mut Peer, routes: usize) -> anyhow::Result<Swap> {
    let request = get(&route(routes - 1), "/small", CLOSE);
    ensure!(status(&ask(peer.http, &request)?) != Some(200), "a route was served before it was there");
    let (began, mut stall, mut lost) = (Instant::now(), Duration::ZERO, 0);
    let address = peer.http;
    // Whoever waits for the command to end asks meanwhile, too.
    std::thread::scope(|scope| {
        let ordered = scope.spawn(|| peer.swap(routes));
        loop {
            let asked = Instant::now();
            let answer = ask(address, &request);
            stall = stall.max(asked.elapsed());
            match answer.as_deref().map(status) {
                Ok(Some(200)) => break,
                Ok(_) => {}
                // Some reset who is connected while they change.
                Err(_) => lost += 1,
            }
            ensure!(began.elapsed() < SWAP, "not served within {} s: {answer:?}", SWAP.as_secs());
        }
        let took = began.elapsed();
        ordered.join().map_err(|_| anyhow::anyhow!("the order panicked"))??;
        let known = ask(address, &get(HOST, "/small", CLOSE)).context("a route of before")?;
        ensure!(status(&known) == Some(200), "a route of before is gone: {:?}", known.lines().next());
        Ok(Swap { took, stall, lost })
    })
}
