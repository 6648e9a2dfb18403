//! The proxies of others, as `bench/peers` configures them.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::bowline::certificate;
use super::{Kind, Peer, Running, Sink, TOKEN, folder, free_port, on_proxy_core, route, spawn, write};
use crate::generator::HOST;

/// How long HAProxy's runtime API may take for an answer.
const ANSWER: Duration = Duration::from_secs(10);

/// How one is configured.
struct Files {
    name: &'static str,
    text: &'static str,
    /// What names its routes, in a file of its own beside it.
    routes: &'static str,
    /// One route in that file.
    one: fn(&str) -> String,
    /// Before all routes, and behind them.
    around: (&'static str, &'static str),
}

fn files(kind: Kind) -> Option<Files> {
    let (name, text, routes, one, around): (_, _, _, fn(&str) -> String, _) = match kind {
        Kind::Bowline => return None,
        Kind::Nginx => (
            "nginx.conf",
            include_str!("../../peers/nginx.conf"),
            "routes.conf",
            |host| format!("{host} app;\n"),
            ("", ""),
        ),
        Kind::Haproxy => (
            "haproxy.cfg",
            include_str!("../../peers/haproxy.cfg"),
            "routes.map",
            |host| format!("{host} app\n"),
            ("bench.localhost app\n", ""),
        ),
        Kind::Caddy => (
            "Caddyfile",
            include_str!("../../peers/Caddyfile"),
            "routes.caddy",
            |host| format!(", http://{host}:@HTTP@"),
            ("http://@HOST@:@HTTP@", " {\n\tbind 127.0.0.1\n\timport app\n}\n"),
        ),
        Kind::Envoy => (
            "envoy.yaml",
            include_str!("../../peers/envoy.yaml"),
            "routes.yaml",
            |host| format!("  - {{ name: {host}, domains: [\"{host}\", \"{host}:*\"], routes: {ENVOY_TO_APP} }}\n"),
            (
                "resources:\n- \"@type\": type.googleapis.com/envoy.config.route.v3.RouteConfiguration\n  name: routes\n  \
                 virtual_hosts:\n  - { name: bench.localhost, domains: [\"bench.localhost\", \"bench.localhost:*\"], \
                 routes: [{ match: { prefix: \"/\" }, route: { cluster: app, timeout: 0s } }] }\n",
                "",
            ),
        ),
    };
    Some(Files { name, text, routes, one, around })
}

const ENVOY_TO_APP: &str = "[{ match: { prefix: \"/\" }, route: { cluster: app, timeout: 0s } }]";

pub(super) fn start(kind: Kind, under: &[OsString], upstream: SocketAddr, routes: usize) -> anyhow::Result<Peer> {
    let dir = folder()?;
    let it = files(kind).context("configured by the link")?;
    let (chain, key) = certificate()?;
    for (name, text) in [("chain.pem", &chain), ("key.pem", &key), ("both.pem", &format!("{chain}{key}"))] {
        std::fs::write(dir.path().join(name), text)?;
    }
    let sink = match kind {
        Kind::Haproxy => Some(Sink::start(&dir.path().join("access.log"))?),
        Kind::Bowline | Kind::Nginx | Kind::Caddy | Kind::Envoy => None,
    };
    let (http, https) = (free_port()?, free_port()?);
    let settings = vec![
        ("HTTPS", https.port().to_string()),
        ("HTTP", http.port().to_string()),
        ("ADMIN", free_port()?.port().to_string()),
        ("UPSTREAM", upstream.port().to_string()),
        ("LOG", sink.as_ref().map(|sink| sink.address.port()).unwrap_or_default().to_string()),
        ("TOKEN", TOKEN.to_owned()),
        ("HOST", HOST.to_owned()),
        ("DIR", dir.path().display().to_string()),
    ];
    write_routes(&it, dir.path(), &settings, routes)?;
    let config = write(dir.path(), it.name, it.text, &settings)?;
    let child = spawn(command(kind, under, dir.path(), &config)?, dir.path())?;
    Ok(Peer { kind, http, https, running: Running::Child { child, settings }, files: dir, sink })
}

fn command(kind: Kind, under: &[OsString], dir: &Path, config: &Path) -> anyhow::Result<Command> {
    let mut command = on_proxy_core();
    command.args(under);
    match kind {
        Kind::Bowline => {}
        Kind::Nginx => {
            command.arg("nginx").arg("-p").arg(dir).arg("-c").arg(config).args(["-e", "stderr"]);
            if !under.is_empty() {
                // One process: nothing is left behind by a worker that is ended at once.
                command.args(["-g", "master_process off;"]);
            }
        }
        Kind::Haproxy => {
            command.arg("haproxy").arg("-f").arg(config);
            // A master, as packages start it; under a tool there is one process.
            if under.is_empty() {
                command.args(["-W", "-db"])
            } else {
                command.arg("-db")
            };
        }
        Kind::Caddy => {
            command.args(["caddy", "run", "--adapter", "caddyfile", "--config"]).arg(config);
            command.env("GOMAXPROCS", "1").env("HOME", dir).env("XDG_DATA_HOME", dir).env("XDG_CONFIG_HOME", dir);
        }
        Kind::Envoy => {
            command.arg(envoy()?).arg("-c").arg(config);
            command.args(["--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]);
        }
    }
    Ok(command)
}

fn envoy() -> anyhow::Result<OsString> {
    std::env::var_os("ENVOY_BIN").context("ENVOY_BIN is not set")
}

fn write_routes(it: &Files, dir: &Path, settings: &[(&'static str, String)], routes: usize) -> anyhow::Result<()> {
    let mut text = it.around.0.to_owned();
    for number in 0..routes {
        write!(text, "{}", (it.one)(&route(number)))?;
    }
    text.push_str(it.around.1);
    // Put in its place whole: some look at it as soon as it moves.
    let aside = write(dir, "routes.new", &text, settings)?;
    Ok(std::fs::rename(aside, dir.join(it.routes))?)
}

/// Writes the routes anew and does what its documentation says must be done for them to count.
pub(super) fn swap(
    kind: Kind,
    pid: u32,
    dir: &Path,
    settings: &[(&'static str, String)],
    routes: usize,
) -> anyhow::Result<()> {
    let it = files(kind).context("configured by the link")?;
    write_routes(&it, dir, settings, routes)?;
    let signal = |signal| kill(Pid::from_raw(i32::try_from(pid)?), signal).context("the signal to read it again");
    match kind {
        Kind::Nginx => signal(Signal::SIGHUP),
        Kind::Haproxy => add_to_map(dir, &route(routes - 1)),
        Kind::Caddy => {
            let admin = settings.iter().find(|(mark, _)| *mark == "ADMIN").map(|(_, port)| port.as_str());
            let mut command = on_proxy_core();
            command.args(["caddy", "reload", "--adapter", "caddyfile", "--config"]).arg(dir.join(it.name));
            command.args(["--address", &format!("127.0.0.1:{}", admin.context("no admin port")?)]);
            command.env("HOME", dir).stdin(Stdio::null()).stdout(Stdio::null());
            let done = command.output().context("caddy reload")?;
            ensure!(done.status.success(), "caddy reload: {}", String::from_utf8_lossy(&done.stderr));
            Ok(())
        }
        // It watches the file.
        Kind::Envoy | Kind::Bowline => Ok(()),
    }
}

/// The worker's map by its runtime API; the file, which says the same, is for the next start. A master that is told to reload while it still
/// does so for the time before forgets it: SIGUSR2 counts only once it waits again, and nothing says when.
fn add_to_map(dir: &Path, host: &str) -> anyhow::Result<()> {
    let mut socket = UnixStream::connect(dir.join("admin.sock")).context("HAProxy's runtime API")?;
    socket.set_read_timeout(Some(ANSWER))?;
    writeln!(socket, "add map {} {host} app", dir.join("routes.map").display())?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    ensure!(answer.trim().is_empty(), "add map: {}", answer.trim());
    Ok(())
}
