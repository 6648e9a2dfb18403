//! The same with a real daemon, a real edge, and clients that ask again as soon as they are answered.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, wait};
use serde_json::{Value, json};

use crate::say;

/// Each answer takes 300 ms.
const SERVER: &str = r#"import os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        if self.path != "/health":
            time.sleep(0.3)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args):
        pass

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

const FILE: &str = "[service.web]\nrun = \"python3 server.py\"\nscale = { min = 1, max = 8, in_flight = 10 }\n\
                    health = { path = \"/health\", interval = \"500ms\" }\n";

/// Before the step, in seconds: as long as Bowline's longest average.
const SMALL: u32 = 60;

/// Clients, and the instances that they need.
const FEW: u32 = 5;
const MANY: u32 = 50;
const NEEDED: u64 = 5;

pub(super) fn run(seconds: u32) -> anyhow::Result<Value> {
    let bowline = Bowline::new();
    let folder = bowline.folder("bench-scale");
    std::fs::write(folder.join("server.py"), SERVER)?;
    std::fs::write(folder.join("bowline.toml"), FILE)?;
    let up = Up::start(&bowline, &folder, SOON);
    let url = up.https();
    let small = load(&bowline, &url, FEW, SMALL).output()?;
    let before = ready(&bowline);
    let large = load(&bowline, &url, MANY, seconds).stdout(Stdio::piped()).spawn()?;
    let begun = Instant::now();
    let (mut enough, mut most) = (None, 0);
    let lasts = Duration::from_secs(seconds.into());
    wait("the large load is over", lasts + SOON, || {
        let (ready, wanted) = ready(&bowline);
        most = most.max(wanted);
        if ready >= NEEDED {
            enough = enough.or(Some(begun.elapsed().as_secs_f64()));
        }
        (begun.elapsed() >= lasts).then_some(())
    });
    let large = large.wait_with_output()?;
    let reports = [&small.stdout, &large.stdout].map(|text| serde_json::from_slice::<Value>(text));
    let [small, large] = reports;
    let (small, large) =
        (small.context("the report of the small load")?, large.context("the report of the large load")?);
    let failed = |report: &Value| report["counts"]["failed"].as_u64();
    let lost = failed(&small).zip(failed(&large)).map(|(small, large)| small + large).context("failed requests")?;
    ensure!(before.0 == 1, "{} instances were ready before the step", before.0);
    say(
        "\nA real step, from 5 clients to 50 that ask again as soon as they are answered, 300 ms each, `in_flight = 10`:\n",
    );
    say("| seconds from the step until 5 instances are ready | most instances | requests failed |");
    say("|---|---|---|");
    let shown = enough.map_or("never".to_owned(), |enough| format!("{enough:.1}"));
    say(&format!("| {shown} | {most} | {lost} |"));
    Ok(json!({ "enough_s": enough, "most": most, "failed": lost, "small": small, "large": large }))
}

fn load(bowline: &Bowline, url: &str, clients: u32, seconds: u32) -> Command {
    let (clients, lasts) = (clients.to_string(), format!("{seconds}s"));
    let mut command =
        bowline.command(&["bench", url, "--closed", "--connections", &clients, "--duration", &lasts, "--json"]);
    command.stderr(Stdio::null());
    command
}

/// Ready, and wanted.
fn ready(bowline: &Bowline) -> (u64, u64) {
    let service = bowline.status()["apps"][0]["services"][0].clone();
    (service["ready"].as_u64().unwrap_or(0), service["wanted"].as_u64().unwrap_or(0))
}
