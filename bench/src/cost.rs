//! What a request costs whatever else the machine does: system calls (strace), instructions in user space and allocations (callgrind). All
//! of it slows the proxy down, so its rate says nothing here.
//!
//! Instructions and allocations are the difference of a long and a short run, divided by the difference of their requests: what starting
//! and ending cost cancels out.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value, json};

use crate::edge::{pin, ready, scenario};
use crate::generator::{Generator, Load};
use crate::peer::{Kind, Peer};
use crate::say;

const TRACED: Duration = Duration::from_secs(3);
const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(12);

/// System calls rarer than this per request are not listed by name.
const RARE: f64 = 0.005;

pub(crate) fn run() -> anyhow::Result<Value> {
    pin()?;
    let mut generator = Generator::new()?;
    let mut result = Map::new();
    say("| | system calls a request | which | instructions a request (user) | allocations a request |");
    say("|---|---|---|---|---|");
    for kind in Kind::compared()? {
        let figures = match measured(&mut generator, kind) {
            Ok(figures) => figures,
            Err(error) => {
                say(&format!("| {} | {error:#} | | | |", kind.name()));
                result.insert(kind.name().to_owned(), json!({ "failed": format!("{error:#}") }));
                continue;
            }
        };
        let total: f64 = figures.calls.iter().map(|(_, count)| count).sum();
        let listed: Vec<String> =
            figures.calls.iter().filter(|(_, n)| *n >= RARE).map(|(c, n)| format!("{c} {n:.2}")).collect();
        let shown = |each: Option<f64>, digits: usize| each.map_or_else(|| "–".to_owned(), |n| format!("{n:.digits$}"));
        let (instructions, allocations) = figures.callgrind.unzip();
        say(&format!(
            "| {} | {total:.2} | {} | {} | {} |",
            kind.name(),
            listed.join(", "),
            shown(instructions, 0),
            shown(allocations, 2)
        ));
        let calls: Map<String, Value> = figures.calls.into_iter().map(|(call, count)| (call, json!(count))).collect();
        let values = json!({ "system_calls": total, "by_name": calls, "instructions": instructions, "allocations": allocations });
        result.insert(kind.name().to_owned(), values);
    }
    Ok(result.into())
}

struct Cost {
    /// A request's, by name.
    calls: Vec<(String, f64)>,
    /// A request's instructions and allocations.
    callgrind: Option<(f64, f64)>,
}

fn measured(generator: &mut Generator, kind: Kind) -> anyhow::Result<Cost> {
    let calls = system_calls(generator, kind)?;
    // Under callgrind, Envoy takes minutes to start and checks deadlines of its own, and Go's runtime is not followed: theirs would be
    // another's figures.
    let callgrind = match kind {
        Kind::Bowline | Kind::Nginx | Kind::Haproxy => Some(callgrind(generator, kind)?),
        Kind::Caddy | Kind::Envoy => None,
    };
    Ok(Cost { calls, callgrind })
}

/// What all are asked.
fn small(peer: &Peer) -> anyhow::Result<Load> {
    scenario::ALL[0].load(peer)
}

/// System calls per request, the most frequent first.
fn system_calls(generator: &mut Generator, kind: Kind) -> anyhow::Result<Vec<(String, f64)>> {
    let peer = kind.start(&[], generator.upstream()?, 0)?;
    let counted = traced(generator, &peer);
    peer.stop();
    counted
}

fn traced(generator: &mut Generator, peer: &Peer) -> anyhow::Result<Vec<(String, f64)>> {
    ready(generator, peer)?;
    let load = small(peer)?;
    generator.run(&load, Duration::from_secs(1))?;
    let file = tempfile::NamedTempFile::new()?;
    let mut tracer = trace(&peer.processes(), file.path())?;
    generator.serve_until(|| std::fs::read_to_string(tracer_status(peer)).is_ok_and(|s| is_traced(&s)), TRACED)?;
    let answered = generator.answered();
    generator.run(&load, TRACED)?;
    let requests = generator.answered() - answered;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(tracer.id())?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
    tracer.wait()?;
    let text = std::fs::read_to_string(file.path())?;
    #[expect(clippy::cast_precision_loss, reason = "counts of a run of seconds")]
    let per_request = |count: u64| count as f64 / requests as f64;
    // `% time  seconds  usecs/call  calls  errors  syscall`; the last line is the total.
    let mut calls: Vec<(String, f64)> = text.lines().filter_map(counted).map(|(n, c)| (n, per_request(c))).collect();
    ensure!(!calls.is_empty(), "strace counted nothing: {text}");
    calls.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(calls)
}

fn counted(line: &str) -> Option<(String, u64)> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let (name, count) = (*columns.last()?, columns.get(3)?.parse().ok()?);
    (name != "total").then(|| (name.to_owned(), count))
}

fn trace(processes: &[u32], out: &Path) -> anyhow::Result<Child> {
    let mut command = Command::new("strace");
    command.args(["-c", "-f", "-q", "-o"]).arg(out);
    for pid in processes {
        command.args(["-p", &pid.to_string()]);
    }
    command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().context("strace")
}

/// The process that is traced last.
fn tracer_status(peer: &Peer) -> String {
    format!("/proc/{}/status", peer.processes().last().copied().unwrap_or_default())
}

fn is_traced(status: &str) -> bool {
    status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
}

/// What was counted of a whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counted {
    requests: u64,
    instructions: u64,
    allocations: u64,
}

/// A request's instructions and allocations.
fn callgrind(generator: &mut Generator, kind: Kind) -> anyhow::Result<(f64, f64)> {
    let (short, long) = (counted_run(generator, kind, SHORT)?, counted_run(generator, kind, LONG)?);
    ensure!(
        long.requests > short.requests && long.instructions > short.instructions,
        "the long run did no more than the short one"
    );
    #[expect(clippy::cast_precision_loss, reason = "counts of a run of seconds")]
    let each = |long: u64, short: u64| long.saturating_sub(short) as f64;
    let requests = each(long.requests, short.requests);
    Ok((each(long.instructions, short.instructions) / requests, each(long.allocations, short.allocations) / requests))
}

fn counted_run(generator: &mut Generator, kind: Kind, time: Duration) -> anyhow::Result<Counted> {
    // nginx's worker drops its user and writes its own file.
    let dir = tempfile::Builder::new().permissions(Permissions::from_mode(0o777)).tempdir()?;
    let mut out = OsString::from("--callgrind-out-file=");
    out.push(dir.path().join("out.%p"));
    let under: Vec<OsString> = vec!["valgrind".into(), "-q".into(), "--tool=callgrind".into(), out];
    let peer = kind.start(&under, generator.upstream()?, 0)?;
    let loaded = ready(generator, &peer).and_then(|()| {
        let answered = generator.answered();
        generator.run(&small(&peer)?, time)?;
        Ok(generator.answered() - answered)
    });
    peer.stop();
    let mut counted = Counted { requests: loaded?, instructions: 0, allocations: 0 };
    for entry in std::fs::read_dir(dir.path())? {
        let text = std::fs::read_to_string(entry?.path())?;
        counted.instructions += summary(&text)?;
        counted.allocations += allocations(&text);
    }
    Ok(counted)
}

/// `totals: N` of a callgrind file.
fn summary(text: &str) -> anyhow::Result<u64> {
    match text.lines().find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: "))) {
        Some(number) => Ok(number.trim().parse()?),
        None => bail!("callgrind wrote no totals"),
    }
}

/// Calls of what gives memory. A function is named where it is first met, as `cfn=(7) malloc`; from then on it is `cfn=(7)`.
fn allocations(text: &str) -> u64 {
    const GIVE: [&str; 6] = ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "memalign"];
    let (mut giving, mut called, mut sum) = (BTreeSet::new(), "", 0);
    for line in text.lines() {
        if let Some(named) = line.strip_prefix("cfn=").or_else(|| line.strip_prefix("fn=")) {
            let (id, name) = named.split_once(' ').unwrap_or((named, ""));
            if GIVE.contains(&name) {
                giving.insert(id);
            }
            called = id;
        } else if let Some(calls) = line.strip_prefix("calls=").filter(|_| giving.contains(called)) {
            sum += calls.split(' ').next().and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_are_the_calls_of_what_gives_memory() {
        let text = "fn=(1) main\n12 5\ncfn=(2) malloc\ncalls=3 0\n12 90\ncfn=(3) free\ncalls=9 0\n13 8\n\n\
                    fn=(4) other\ncfn=(2)\ncalls=4 0\n1 1\ncfn=(5) realloc\ncalls=1 0\n2 2\n\nfn=(2)\n1 7\ntotals: 120\n";
        assert_eq!(allocations(text), 8);
        assert_eq!(summary(text).unwrap(), 120);
    }
}
