//! What a request costs whatever else the machine does: system calls (strace) and instructions in user space
//! (callgrind). Both slow the proxy down, so its rate says nothing here.
//!
//! Instructions are the difference of a long and a short run, divided by the difference of their requests: what starting
//! and ending cost cancels out.

use std::ffi::OsString;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value, json};

use crate::generator::Generator;
use crate::peer::{self, Peer};
use crate::rate::{HEADERS, foreign, pin, ready};
use crate::{bowline, say};

const TRACED: Duration = Duration::from_secs(3);
const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(12);

/// System calls rarer than this per request are not listed by name.
const RARE: f64 = 0.005;

pub(crate) fn run() -> anyhow::Result<Value> {
    let mut generator = Generator::new()?;
    pin()?;
    let mut result = Map::new();
    say("| | system calls a request | which | instructions a request (user) |");
    say("|---|---|---|---|");
    for name in ["bowline", "nginx", "envoy"] {
        let start = |under: &[OsString], upstream| start(name, under, upstream);
        let Some(peer) = foreign(start(&[], generator.upstream()?), name) else { continue };
        let calls = system_calls(&mut generator, peer)?;
        // Under callgrind, Envoy takes minutes to start and checks deadlines of its own: its figure would be another's.
        let instructions = (name != "envoy").then(|| instructions(&mut generator, &start)).transpose()?;
        let total: f64 = calls.iter().map(|(_, count)| count).sum();
        let listed: Vec<String> =
            calls.iter().filter(|(_, n)| *n >= RARE).map(|(c, n)| format!("{c} {n:.2}")).collect();
        let shown = instructions.map_or_else(|| "–".to_owned(), |n| format!("{n:.0}"));
        say(&format!("| {name} | {total:.2} | {} | {shown} |", listed.join(", ")));
        let calls: Map<String, Value> = calls.into_iter().map(|(call, count)| (call, json!(count))).collect();
        result
            .insert(name.to_owned(), json!({ "system_calls": total, "by_name": calls, "instructions": instructions }));
    }
    Ok(result.into())
}

fn start(name: &str, under: &[OsString], upstream: SocketAddr) -> anyhow::Result<Peer> {
    match name {
        "bowline" => peer::bowline(&bowline()?, under, upstream),
        "nginx" => peer::nginx(under, upstream),
        _ => peer::envoy(std::env::var_os("ENVOY_BIN").context("ENVOY_BIN is not set")?.as_ref(), upstream),
    }
}

/// System calls per request, the most frequent first.
fn system_calls(generator: &mut Generator, peer: Peer) -> anyhow::Result<Vec<(String, f64)>> {
    ready(generator, &peer)?;
    generator.run(peer.address, peer::HOST, HEADERS, Duration::from_secs(1))?;
    let file = tempfile::NamedTempFile::new()?;
    let mut tracer = trace(&peer.processes(), file.path())?;
    generator.serve_until(|| std::fs::read_to_string(tracer_status(&peer)).is_ok_and(|s| is_traced(&s)), TRACED)?;
    let round = generator.run(peer.address, peer::HOST, HEADERS, TRACED)?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(tracer.id())?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
    tracer.wait()?;
    peer.stop();
    let text = std::fs::read_to_string(file.path())?;
    #[expect(clippy::cast_precision_loss, reason = "counts of a run of seconds")]
    let per_request = |count: u64| count as f64 / round.requests as f64;
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

fn instructions(
    generator: &mut Generator,
    start: &dyn Fn(&[OsString], SocketAddr) -> anyhow::Result<Peer>,
) -> anyhow::Result<f64> {
    let (short, long) = (counted_run(generator, start, SHORT)?, counted_run(generator, start, LONG)?);
    ensure!(long.1 > short.1 && long.0 > short.0, "the long run did no more than the short one");
    #[expect(clippy::cast_precision_loss, reason = "counts of a run of seconds")]
    Ok((long.0 - short.0) as f64 / (long.1 - short.1) as f64)
}

/// Instructions and requests of a whole life under callgrind.
fn counted_run(
    generator: &mut Generator,
    start: &dyn Fn(&[OsString], SocketAddr) -> anyhow::Result<Peer>,
    time: Duration,
) -> anyhow::Result<(u64, u64)> {
    // nginx's worker drops its user and writes its own file.
    let dir = tempfile::Builder::new().permissions(Permissions::from_mode(0o777)).tempdir()?;
    let mut out = OsString::from("--callgrind-out-file=");
    out.push(dir.path().join("out.%p"));
    let under: Vec<OsString> = vec!["valgrind".into(), "-q".into(), "--tool=callgrind".into(), out];
    let peer = start(&under, generator.upstream()?)?;
    ready(generator, &peer)?;
    let requests = generator.run(peer.address, peer::HOST, HEADERS, time)?.requests;
    peer.stop();
    let mut total = 0;
    for entry in std::fs::read_dir(dir.path())? {
        total += summary(&std::fs::read_to_string(entry?.path())?)?;
    }
    Ok((total, requests))
}

/// `totals: N` of a callgrind file.
fn summary(text: &str) -> anyhow::Result<u64> {
    match text.lines().find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: "))) {
        Some(number) => Ok(number.trim().parse()?),
        None => bail!("callgrind wrote no totals"),
    }
}
