//! What a request costs at least, and on which of tokio's runtimes less: forwarders that look at nothing beside proxies that do all of their work,
//! under the load of `small`. First as `edge` has it, a core for each and one for the load; then on both cores with two threads, where the load is on both too.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::edge::{SETTLED, TOO_BUSY, failed, heading, pin, scenario, spread, started};
use crate::figure::Runs;
use crate::forward::{Form, Forwarder};
use crate::generator::{Generator, HOST, Load, OWN_CORE, PROXY_CORE, Round};
use crate::peer::{self, Kind, Peer};
use crate::{say, setting};

/// One of the two tables.
struct Table {
    name: &'static str,
    about: &'static str,
    forwarders: &'static [(&'static str, Form)],
    /// What the others are compared to.
    base: &'static str,
    /// Whose busy time is divided by the requests.
    whose: &'static str,
    cost: fn(&Round) -> Duration,
    /// What may have been too busy to do more, and for which share of the time it was busy.
    limit: (&'static str, fn(&Round) -> f64),
}

const ONE: Table = Table {
    name: "one core",
    about: "12-byte answers, 64 kept connections; load and upstream on the other core",
    forwarders: &[
        ("epoll loop", Form::Epoll),
        ("tokio, current-thread", Form::Current),
        ("tokio, multi-thread, one worker", Form::Multi),
    ],
    base: "tokio, current-thread",
    whose: "core",
    cost: |round| round.proxy,
    limit: ("load busy", |round| round.busy),
};

const BOTH: Table = Table {
    name: "both cores",
    about: "The same with two threads, which run, as load and upstream do, on whichever of both cores the kernel has them run",
    forwarders: &[
        ("tokio, current-thread, two threads", Form::Current),
        ("tokio, multi-thread, two workers", Form::Multi),
    ],
    base: "tokio, current-thread, two threads",
    whose: "machine",
    cost: Round::both,
    limit: ("both cores busy", |round| round.both().as_secs_f64() / (2.0 * round.seconds)),
};

pub(crate) fn run() -> anyhow::Result<Value> {
    let time = Duration::from_secs(setting("BENCH_SECONDS", 3)?.into());
    let rounds = setting("BENCH_ROUNDS", 7)?;
    pin()?;
    let mut generator = Generator::new()?;
    let mut contenders = forwarders(&generator, ONE.forwarders, 1, &[PROXY_CORE])?;
    contenders.extend(proxies(&mut generator)?);
    let one = ONE.told(&measured(&mut generator, contenders, rounds, time));

    let both = [PROXY_CORE, OWN_CORE];
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &peer::cores(&both)?)?;
    let contenders = forwarders(&generator, BOTH.forwarders, 2, &both)?;
    let two = BOTH.told(&measured(&mut generator, contenders, rounds, time));
    Ok(json!({ "one_core": one, "both_cores": two }))
}

enum Running {
    Forwarder(Forwarder),
    Proxy(Peer),
}

impl Running {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Forwarder(forwarder) => forwarder.address,
            Self::Proxy(peer) => peer.http,
        }
    }

    fn lost_lines(&self) -> u64 {
        match self {
            Self::Forwarder(_) => 0,
            Self::Proxy(peer) => peer.lost_lines(),
        }
    }
}

/// What stands between in one row, or why it does not.
struct Contender {
    name: &'static str,
    running: Result<Running, String>,
}

fn forwarders(
    generator: &Generator,
    forms: &[(&'static str, Form)],
    threads: usize,
    cores: &[usize],
) -> anyhow::Result<Vec<Contender>> {
    let upstream = generator.upstream()?;
    let each = forms.iter().map(|(name, form)| {
        let running = form.start(upstream, threads, cores).map(Running::Forwarder);
        Contender { name, running: running.map_err(|error| format!("{error:#}")) }
    });
    Ok(each.collect())
}

fn proxies(generator: &mut Generator) -> anyhow::Result<Vec<Contender>> {
    let upstream = generator.upstream()?;
    let compared = Kind::compared()?;
    let each = [Kind::Bowline, Kind::Nginx].into_iter().filter(|kind| compared.contains(kind)).map(|kind| {
        let running = started(generator, kind, kind.start(&[], upstream, 0)).map(Running::Proxy);
        Contender { name: kind.name(), running: running.map_err(|error| format!("{error:#}")) }
    });
    Ok(each.collect())
}

struct Row {
    name: &'static str,
    rounds: Result<Vec<Round>, String>,
    /// Of its access log.
    lost_lines: u64,
}

/// Loads all in turns, and ends them.
fn measured(generator: &mut Generator, contenders: Vec<Contender>, rounds: u32, time: Duration) -> Vec<Row> {
    let mut rows: Vec<Row> =
        contenders.iter().map(|it| Row { name: it.name, rounds: Ok(Vec::new()), lost_lines: 0 }).collect();
    for _ in 0..rounds {
        for (row, contender) in rows.iter_mut().zip(&contenders) {
            row.round(generator, contender, time);
        }
    }
    std::thread::sleep(SETTLED);
    for (row, contender) in rows.iter_mut().zip(contenders) {
        let Ok(running) = contender.running else { continue };
        row.lost_lines = running.lost_lines();
        match running {
            Running::Forwarder(forwarder) => drop(forwarder),
            Running::Proxy(peer) => peer.stop(),
        }
    }
    rows
}

impl Row {
    fn round(&mut self, generator: &mut Generator, contender: &Contender, time: Duration) {
        let Ok(rounds) = &mut self.rounds else { return };
        let round = match &contender.running {
            Ok(running) => small(running.address()).and_then(|load| generator.run(&load, time)),
            Err(why) => Err(anyhow::anyhow!("{why}")),
        };
        match round {
            Ok(round) => rounds.push(round),
            Err(error) => self.rounds = Err(format!("{error:#}")),
        }
    }
}

/// What all are asked.
fn small(address: SocketAddr) -> anyhow::Result<Load> {
    scenario::ALL[0].load_at(address, address, HOST)
}

impl Table {
    /// Says it, and gives the same as values.
    fn told(&self, rows: &[Row]) -> Value {
        heading(self.name, self.about);
        say(&format!(
            "| | requests/s, median (min–max) | {} µs a request | to current-thread's | p50 µs | p99 µs | {} |",
            self.whose, self.limit.0
        ));
        say("|---|---|---|---|---|---|---|");
        let base = rows.iter().find(|row| row.name == self.base).and_then(|row| self.figures(row));
        let mut values = Map::new();
        for row in rows {
            let name = match row.lost_lines {
                0 => row.name.to_owned(),
                lost => format!("{}, **{lost} lines of its log lost**", row.name),
            };
            let Some(it) = self.figures(row) else {
                say(&failed(&name, row.rounds.as_ref().err(), 6));
                values.insert(row.name.to_owned(), json!({ "failed": row.rounds.as_ref().err() }));
                continue;
            };
            let to_base = base.as_ref().map(|base| by_round(&it.cost, &base.cost));
            say(&it.line(&name, to_base.as_ref()));
            values.insert(row.name.to_owned(), it.json(to_base.as_ref(), row.lost_lines));
        }
        say("");
        values.into()
    }

    /// `None`: it failed, or had no round.
    fn figures(&self, row: &Row) -> Option<Figures> {
        let rounds = row.rounds.as_ref().ok().filter(|rounds| !rounds.is_empty())?;
        let each = |f: &dyn Fn(&Round) -> f64| Runs::new(rounds.iter().map(f));
        #[expect(clippy::cast_precision_loss, reason = "counts of a run of seconds")]
        let requests = |round: &Round| round.requests.max(1) as f64;
        Some(Figures {
            rate: each(&|round| requests(round) / round.seconds),
            cost: rounds.iter().map(|round| (self.cost)(round).as_secs_f64() * 1e6 / requests(round)).collect(),
            p50: each(&|round| f64::from(round.quantile(500))),
            p99: each(&|round| f64::from(round.quantile(990))),
            limit: each(&|round| (self.limit.1)(round)),
        })
    }
}

/// What a row came to.
struct Figures {
    rate: Runs,
    /// Busy time for a request, in microseconds, in the order of the rounds.
    cost: Vec<f64>,
    p50: Runs,
    p99: Runs,
    limit: Runs,
}

impl Figures {
    fn line(&self, name: &str, to_base: Option<&Runs>) -> String {
        let limit = format!("{:.0} %", 100.0 * self.limit.median());
        format!(
            "| {name} | {} | {} | {} | {:.0} | {:.0} | {} |",
            spread(&self.rate, 0),
            spread(&Runs::new(self.cost.iter().copied()), 1),
            to_base.map_or_else(|| "–".to_owned(), |runs| spread(runs, 2)),
            self.p50.median(),
            self.p99.median(),
            if self.limit.median() > TOO_BUSY { format!("**{limit}**") } else { limit },
        )
    }

    fn json(&self, to_base: Option<&Runs>, lost_lines: u64) -> Value {
        json!({
            "rate": self.rate.json(),
            "busy_us": Runs::new(self.cost.iter().copied()).json(),
            "to_current_thread": to_base.map(Runs::json),
            "p50_us": self.p50.json(),
            "p99_us": self.p99.json(),
            "limit_busy": self.limit.json(),
            "log_lines_lost": lost_lines,
        })
    }
}

/// Round by round, since what else the machine did then fell on both alike.
fn by_round(own: &[f64], base: &[f64]) -> Runs {
    Runs::new(own.iter().zip(base).map(|(own, base)| own / base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_compared_to_the_one_beside_it() {
        let compared = by_round(&[20.0, 9.0, 12.0], &[40.0, 18.0, 24.0]);
        assert_eq!((compared.min(), compared.median(), compared.max()), (0.5, 0.5, 0.5));
    }

    #[test]
    fn who_does_not_start_has_a_row_that_says_why() {
        let mut generator = Generator::new().unwrap();
        let contenders = vec![Contender { name: "nobody", running: Err("no such core".to_owned()) }];
        let rows = measured(&mut generator, contenders, 2, Duration::from_millis(10));
        assert_eq!(rows[0].rounds.as_ref().unwrap_err(), "no such core");
        assert!(ONE.figures(&rows[0]).is_none());
        assert_eq!(ONE.told(&rows)["nobody"]["failed"], "no such core");
    }

    #[test]
    fn what_others_are_compared_to_is_in_the_table() {
        for table in [ONE, BOTH] {
            assert!(table.forwarders.iter().any(|(name, form)| *name == table.base && *form == Form::Current));
        }
    }
}
