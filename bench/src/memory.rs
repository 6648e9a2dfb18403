//! Memory that only one process uses: daemon, edge and shim, after requests over TLS with HTTP/1.1 and HTTP/2.

use std::time::Duration;

use anyhow::{Context, ensure};
use bowline_tests::client::{Connection, curl, tls};
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON};
use serde_json::{Map, Value, json};

use crate::say;

/// Connections kept open over TLS, and requests on each.
const CONNECTIONS: usize = 8;
const REQUESTS: usize = 100;

/// Requests over one HTTP/2 connection.
const STREAMS: &str = "1-200";

/// Let buffers that are kept for a moment go.
const REST: Duration = Duration::from_secs(3);

/// Aims in KiB.
const AIMS: [(&str, u64); 3] = [("daemon", 12 << 10), ("edge", 8 << 10), ("shim", 1536)];

pub(crate) fn run() -> anyhow::Result<Value> {
    let bowline = Bowline::new();
    let up = Up::start(&bowline, &bowline.app("memory", "plain"), SOON);
    let config = tls(&bowline.ca());
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = Connection::open(&up.https(), &config)?;
        for _ in 0..REQUESTS {
            let (status, _) = connection.get("/")?;
            ensure!(status == 200, "status {status}");
        }
        open.push(connection);
    }
    let answer = curl(&bowline.ca(), &format!("{}/[{STREAMS}]", up.https()), &["--http2", "--output", "/dev/null"]);
    ensure!(answer.version.ends_with('2'), "not HTTP/2");
    std::thread::sleep(REST);
    let shim = bowline.shims_of("memory").first().context("no shim")?.pid;
    let processes = [("daemon", bowline.daemon()), ("edge", bowline.edge()), ("shim", shim)];
    say("| | private, KiB | of it dirty | anonymous (PSS) | aim | threads |");
    say("|---|---|---|---|---|---|");
    let mut result = Map::new();
    for ((name, pid), (_, aim)) in processes.into_iter().zip(AIMS) {
        let memory = Memory::of(pid)?;
        let Memory { clean, dirty, anonymous, threads } = memory;
        let private = clean + dirty;
        say(&format!("| {name} | {private} | {dirty} | {anonymous} | {aim} | {threads} |"));
        let figures = json!({ "private_kib": private, "dirty_kib": dirty, "pss_anon_kib": anonymous, "aim_kib": aim, "threads": threads });
        result.insert(name.to_owned(), figures);
    }
    drop(open);
    up.interrupt();
    Ok(result.into())
}

/// In KiB, as `smaps_rollup` says it.
pub(crate) struct Memory {
    pub(crate) clean: u64,
    pub(crate) dirty: u64,
    anonymous: u64,
    threads: usize,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let kib = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)).context("smaps_rollup")?;
            anyhow::Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()?)
        };
        Ok(Self {
            clean: kib("Private_Clean:")?,
            dirty: kib("Private_Dirty:")?,
            anonymous: kib("Pss_Anon:")?,
            threads: std::fs::read_dir(format!("/proc/{pid}/task"))?.count(),
        })
    }
}
