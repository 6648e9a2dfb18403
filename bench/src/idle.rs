//! What a daemon costs that has much to look after and nothing to do: a hundred apps of two instances each, with health checks as
//! they are by default.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bowline_tests::{Bowline, path};
use serde_json::{Value, json};

use crate::memory::Memory;
use crate::{say, setting};

const APPS: usize = 100;
const FILE: &str = "[service.web]\nrun = \"python3 server.py\"\nscale = 2\nhealth = { path = \"/health\" }\n";

/// Until what the start has left behind is gone: what has just become ready is asked more often for a minute.
const REST: Duration = Duration::from_secs(90);
/// How long the processor time is counted for.
const COUNTED: Duration = Duration::from_secs(30);

/// Aims: KiB of the daemon's own memory, and percent of a core.
const MEMORY: u64 = 60 << 10;
const CORE: f64 = 1.0;

pub(crate) fn run() -> anyhow::Result<Value> {
    let apps = usize::try_from(setting("BENCH_APPS", u32::try_from(APPS)?)?)?;
    let bowline = Bowline::new();
    let folders: Vec<_> = (0..apps).map(|number| bowline.app(&format!("idle-{number}"), "plain")).collect();
    for folder in &folders {
        std::fs::write(folder.join("bowline.toml"), FILE)?;
    }
    let words = ["up", "--detach", "--http", "0", "--https", "0", "--admin", "0"];
    let words: Vec<&str> = words.into_iter().chain(folders.iter().map(|folder| path(folder))).collect();
    let output = bowline.run(&words);
    ensure!(output.status.success(), "`up` ended with {}", output.status);
    std::thread::sleep(REST);
    let (daemon, edge) = (bowline.daemon(), bowline.edge());
    let before = (Instant::now(), processor_time(daemon)?, processor_time(edge)?);
    std::thread::sleep(COUNTED);
    let elapsed = before.0.elapsed();
    let percent = |was: Duration, is: Duration| (is - was).as_secs_f64() / elapsed.as_secs_f64() * 100.0;
    let of_daemon = percent(before.1, processor_time(daemon)?);
    let of_edge = percent(before.2, processor_time(edge)?);
    let shims: Vec<u32> =
        (0..apps).flat_map(|number| bowline.shims_of(&format!("idle-{number}"))).map(|shim| shim.pid).collect();
    ensure!(shims.len() == 2 * apps, "{} shims of {}", shims.len(), 2 * apps);
    let private = |pid: u32| Memory::of(pid).map(|memory| memory.clean + memory.dirty);
    let of_shims: u64 = shims.iter().map(|pid| private(*pid)).sum::<anyhow::Result<u64>>()?;
    let (memory, edge_memory) = (private(daemon)?, private(edge)?);
    say(&format!("| {apps} apps × 2 | private, KiB | of a core, % | aims |"));
    say("|---|---|---|---|");
    say(&format!("| daemon | {memory} | {of_daemon:.2} | {MEMORY} KiB, {CORE} % |"));
    say(&format!("| edge | {edge_memory} | {of_edge:.2} | |"));
    say(&format!("| {} shims | {of_shims} | | |", shims.len()));
    Ok(json!({
        "apps": apps,
        "daemon": { "private_kib": memory, "core_percent": of_daemon, "aim_kib": MEMORY, "aim_core_percent": CORE },
        "edge": { "private_kib": edge_memory, "core_percent": of_edge },
        "shims": { "count": shims.len(), "private_kib": of_shims },
    }))
}

/// User and system time of a process (proc(5), stat).
fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = text.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    let ticks: u64 = [11, 12]
        .iter()
        .map(|at| fields.get(*at).context("stat")?.parse::<u64>().context("stat"))
        .sum::<anyhow::Result<u64>>()?;
    let a_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("CLK_TCK")?;
    Ok(Duration::from_millis(ticks * 1_000 / u64::try_from(a_second)?))
}
