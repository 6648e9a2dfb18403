//! What can be said on the command line. Reading it has no effect.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::Digest;
use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::claim::Handover;

pub(crate) mod bench;
mod data;
mod engine;
mod image;
mod kubernetes;
mod monitoring;
mod render;
mod steer;
mod token;

pub(crate) use data::{Connect, Data, Import};
pub(crate) use engine::{
    Admin, Edge, Endpoint, Engine, RenderEnvoy, RuntimeArgs, SecretFile, UploadFilter, Uploads, engine_or_usual,
};
pub(crate) use image::{Image, ImageBuild, ImageLoad, ImageLogin, ImagePull, ImagePush};
pub(crate) use kubernetes::{OfCluster, PodImage, RenderCompose, RenderHelm, RenderKubernetes};
pub(crate) use monitoring::{Add, Out, RenderAlertmanager, RenderGrafana, RenderPrometheus};
pub(crate) use render::Render;
pub(crate) use steer::{Abort, Deploy, Down, Plan, Promote, Releases, Restart, Rollback, Scale, ToCluster};
pub(crate) use token::{Expires, Login, Token};

/// What was said. Help and version are answered here, and end the process.
///
/// # Errors
/// Words that are wrong, when `--json` was among them; else they are shown here in clap's words, with the exit code 2.
pub(crate) fn parse() -> Result<Cli, Fault> {
    Cli::try_parse().map_err(|error| {
        if !error.use_stderr() || std::env::args_os().all(|word| word != "--json") {
            error.exit();
        }
        wrong_words(&error.to_string())
    })
}

/// Whether `--state` was said, and not only named by the environment.
pub(crate) fn says_state() -> bool {
    let is_flag = |word: &std::ffi::OsString| *word == "--state" || word.as_encoded_bytes().starts_with(b"--state=");
    std::env::args_os().take_while(|word| *word != "--").any(|word| is_flag(&word))
}

/// Clap's words as a fault: its first line is the error, the rest is for people.
fn wrong_words(text: &str) -> Fault {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let message = first.strip_prefix("error: ").unwrap_or(first);
    Fault::new(FaultKind::Invalid, message).detail(rest.trim()).hint("`bowline --help` says what there is")
}

/// Takes an app from a folder to production, with one file and one binary.
#[derive(Debug, Parser)]
#[command(
    name = "bowline",
    version,
    propagate_version = true,
    after_help = "Exit codes: 0 done; 1 it failed; 2 the command or file is wrong; 3 refused; 4 unreachable; 130 interrupted."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Where Bowline keeps its state [default: /var/lib/bowline-local as root, else $XDG_STATE_HOME/bowline; of `serve`:
    /// /var/lib/bowline]
    #[arg(long, global = true, value_name = "DIR", env = "BOWLINE_STATE")]
    pub(crate) state: Option<PathBuf>,
    /// Where to: local, ssh://USER@HOST[:PORT] by your own ssh, https://HOST[:PORT] with a token, or kubernetes[:CONTEXT[/NAMESPACE]]
    #[arg(long, global = true, value_name = "TARGET")]
    pub(crate) to: Option<String>,
    /// Answer in JSON, of a stable shape
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Write a bowline.toml that runs what is in a folder, and say why it is so
    ///
    /// Looks at the code, at compose.yaml, Procfile, Dockerfile and .env. Secrets become references; their values are set by
    /// the commands that it prints. What has no word in bowline.toml is named, with what to do.
    Init(Init),
    /// What a folder lacks for production, each with the line to add
    ///
    /// Looks at the code, at its bowline.toml and at the lists of its dependencies; runs and changes nothing. Exit code 1
    /// if a finding is a blocker. A line of code with `bowline:allow` in it is left alone.
    Check(Check),
    /// Run the apps of these folders here and follow their logs; Ctrl-C stops them, their data stay
    ///
    /// What a folder is, is found by itself, or said in its bowline.toml. Apps are built, started, and served at
    /// APP.localhost once they are healthy; an unchanged folder starts without being built again.
    Up(Up),
    /// Stop one app, or the daemon of a state and all it runs; data stay
    ///
    /// An app that was stopped stays so until it is brought out again, whatever is restarted meanwhile.
    Down(Down),
    /// What bringing a folder out would change, what it risks, and the command that does just that
    ///
    /// Nothing is built and nothing changes. The folder is sent as `deploy` sends it, so that the daemon that it is for decides, by what
    /// serves there; what was sent is not sent again. In `local`, it is read where it lies, as `up` does. The plan has a hash of all
    /// that decides what happens: `deploy --plan HASH` does what was shown, or nothing, and says what has moved.
    ///
    /// To Kubernetes, the server says by a dry run what a deploy of the same words would create, change and remove. What is to be built is built, since its
    /// digest is what is applied; nothing is pushed, nor written to the cluster.
    Plan(Plan),
    /// Send an app's folder to a daemon, build it there, and bring the release out; shows each step
    ///
    /// Only what the daemon does not have yet is sent, and what was cut off goes on, file by file: those that have arrived are not
    /// sent again for an hour. .gitignore and .bowlineignore say what stays here; .env always does. Without --to it goes to the
    /// `server` of the environment, else to the daemon of this machine. Ctrl-C leaves the release going on; --attach follows it
    /// again. To a cluster (kubernetes:CONTEXT/NAMESPACE) no folder is sent: what --image does not say is
    /// built here and pushed to `image.push`. There the same deploy again follows it; --attach, --detach and --artifact are refused.
    Deploy(Deploy),
    /// What runs, and what each pending step waits on
    Status(Status),
    /// Where the console is: a page that shows what runs, as it moves
    ///
    /// Prints its address, which answers on this machine only.
    Console,
    /// The releases that are kept: what each was made of, and how it ended
    Releases(Releases),
    /// Go back to a release that has served, with its configuration and its secrets
    ///
    /// It takes over instance by instance and drops nothing; nothing is built, and the network is not asked. A secret that was
    /// removed since never returns: its newest version is taken, and said. Data, and what ran before a release, are not undone.
    /// Ctrl-C leaves it going on.
    Rollback(Rollback),
    /// Restart the instances of an app or of one service, one after the other; drops nothing
    ///
    /// One more is started first, and goes again at the end. What has a fixed `port` is stopped first. The release stays the
    /// same, with its secrets. Ctrl-C leaves it going on.
    Restart(Restart),
    /// Run another number of instances of a service
    ///
    /// It holds over restarts and releases, as long as the file says the same `scale` as when it was said: another number in
    /// the file is a later word and takes its place. Saying the file's own number ends it. Refused where the file says two
    /// bounds and the load says how many.
    Scale(Scale),
    /// Take a release as it is: go on without waiting for a verdict, a look, or the end of its watch
    ///
    /// For a canary that gets too few requests to be judged, a blue-green release that was looked at, and one that is watched
    /// after its promotion. Refused where nothing waits for it. Ctrl-C leaves it going on.
    Promote(Promote),
    /// Undo what is under way: a release that is coming out, a rollback, a restart, another scale
    ///
    /// What served before is brought back to full capacity first, then gets the traffic, then the rest goes. Exit code 0 when
    /// all is as before, and when nothing was under way.
    Abort(Abort),
    /// App and access logs
    Logs(Logs),
    /// What happened
    Events(Events),
    /// Write-only values for apps
    #[command(subcommand)]
    Secret(Secret),
    /// Databases, caches and volumes: what there is, who is let in for a while, what is filled and removed
    #[command(subcommand)]
    Data(Data),
    /// Answer 503 for an app while it is worked on
    #[command(subcommand)]
    Maintenance(Maintenance),
    /// Keep a token for a daemon behind https://, read from standard input (typed unseen on a terminal)
    ///
    /// The daemon is asked whether the token holds. It is kept in $XDG_CONFIG_HOME/bowline/tokens.json, readable by you alone;
    /// BOWLINE_TOKEN goes before it.
    Login(Login),
    /// Tokens: who is let in from elsewhere, for what, and for how long
    #[command(subcommand)]
    Token(Token),
    /// Run a command in an instance that runs, and be attached to it
    ///
    /// It is what the app is: the same user, files, environment, limits and cage, in the release's folder. Its exit code becomes
    /// that of this command; 128 and the number of the signal that ended it, 127 if there is no such program, 126 if it
    /// cannot be executed. Ctrl-C interrupts the command, and a second one leaves it; whoever leaves, or is killed, leaves
    /// nothing of it behind. The event log keeps who ran which program where, not its arguments.
    Exec(Exec),
    /// Run a job of an app now and follow it to its end, or a command in a one-off instance
    ///
    /// A job runs in the stable release, as it does on its schedule: same cage, same user, same variables. It does not overlap
    /// itself. Exit code 0 if it succeeded, else 1. Ctrl-C leaves it running; --stop ends it.
    ///
    /// With `-- CMD` the command runs in an instance made like those of the service, of the stable release, with its volumes and
    /// limits; it serves nothing, and ends with the command. The rest is as with `exec`.
    #[command(override_usage = "bowline run [OPTIONS] <APP> [JOB]\n       bowline run [OPTIONS] <APP> -- <CMD>...")]
    Run(Run),
    /// Load a URL, and say honestly how it bore that
    ///
    /// Requests are sent when they are due, whether or not those before have been answered (an open loop), and latencies count from
    /// when they were due: a server that stalls is seen to. Only the host of the URL is asked; redirects are not followed, nothing
    /// is sent twice. A request without its expected answer has failed. Exit code 0 if the figures are valid and all that was
    /// expected holds, else 1; 130 if it was interrupted, with a report of what was measured until then.
    Bench(bench::Bench),
    /// What other engines are started with, from the same file, and files for servers that a team already has, which watch the apps of a machine
    #[command(subcommand)]
    Render(Render),
    /// Images of an app, for engines and registries: made without a daemon or a Dockerfile
    #[command(subcommand)]
    Image(Image),
    /// Add a real server that watches the apps of this machine, as a service behind a route of the edge
    ///
    /// Writes tables at the end of bowline.toml, and a folder of the server's name with its configuration; changes nothing that is
    /// there. Says which secrets are to be set, and what to install where the server is missing.
    Add(Add),
    /// Judge uploads for an Envoy that no daemon keeps, started with what `render envoy` prints
    ///
    /// Envoy asks about each body of a route with `upload`, over a Unix socket, while the body streams. What a route takes comes with the
    /// question: there is no state, no daemon and no file to be read. The socket is made where nothing is, or where nobody listens any more.
    /// TERM and Ctrl-C end it, with the bodies that it has, after 10 s at most; a second one at once. What goes wrong is on standard error, and
    /// systemd is told when it is ready.
    Uploads(Uploads),
    /// The local certificate authority: let this machine's browsers and tools trust it
    #[command(subcommand)]
    Trust(Trust),
    /// The JSON Schema of bowline.toml, for editors
    Schema(Schema),
    /// Completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// The version of this binary
    Version,
    /// Be the daemon of this server: what its settings say, until it is told to end
    ///
    /// Settings are in /etc/bowline/server.toml; flags go before them. State lies in /var/lib/bowline, unless --state says
    /// another place. It tells systemd when it is ready. TERM and Ctrl-C end the daemon alone: apps and edge go on, and the next
    /// daemon takes them up; `bowline down` stops all. HUP is only a hang-up: a restart reads the settings anew.
    Serve(Serve),
    /// Connect standard input and output to the daemon, for a command elsewhere
    #[command(hide = true)]
    Dial,
    #[command(hide = true)]
    Edge(Edge),
    #[command(hide = true)]
    UploadFilter(UploadFilter),
}

impl Verb {
    /// Whether it is told by a folder where it goes, unless `--to` says so.
    pub(crate) fn reads_a_folder(&self) -> bool {
        matches!(self, Self::Deploy(_) | Self::Plan(_))
    }

    /// Whether it speaks to a daemon that may be on another machine.
    pub(crate) fn goes_elsewhere(&self) -> bool {
        match self {
            Self::Deploy(_)
            | Self::Plan(_)
            | Self::Status(_)
            | Self::Releases(_)
            | Self::Rollback(_)
            | Self::Restart(_)
            | Self::Scale(_)
            | Self::Abort(_)
            | Self::Promote(_)
            | Self::Logs(_)
            | Self::Events(_)
            | Self::Secret(_)
            | Self::Maintenance(_)
            | Self::Token(_)
            | Self::Data(_)
            | Self::Exec(_)
            | Self::Run(_) => true,
            Self::Down(down) => down.app.is_some(),
            Self::Init(_)
            | Self::Check(_)
            | Self::Up(_)
            | Self::Console
            | Self::Login(_)
            | Self::Bench(_)
            | Self::Render(_)
            | Self::Image(_)
            | Self::Add(_)
            | Self::Uploads(_)
            | Self::Trust(_)
            | Self::Schema(_)
            | Self::Completions { .. }
            | Self::Version
            | Self::Serve(_)
            | Self::Dial
            | Self::Edge(_)
            | Self::UploadFilter(_) => false,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The folder of the app
    #[arg(default_value = ".", value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Take the place of a bowline.toml that is there
    #[arg(long)]
    pub(crate) force: bool,
    /// Print it, and write nothing
    #[arg(long, conflicts_with = "force")]
    pub(crate) print: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The folder of the app
    #[arg(default_value = ".", value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The environment [default: production or the only one that the file has, else local]
    #[arg(long)]
    pub(crate) env: Option<String>,
    /// This machine is to serve it: also look whether its public names lead here and their ports are open, as is done where
    /// `bowline serve` runs
    #[arg(long)]
    pub(crate) here: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Folders of apps
    #[arg(default_value = ".", value_name = "DIR")]
    pub(crate) dirs: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) listen: Listen,
    /// Return when the apps are ready, and leave them running
    #[arg(long)]
    pub(crate) detach: bool,
    /// Only if it does what `bowline plan` showed, of one folder; else nothing is done
    #[arg(long, value_name = "HASH", value_parser = steer::plan_hash)]
    pub(crate) plan: Option<Digest>,
}

/// Addresses to listen on: `PORT` (on loopback) or `ADDRESS:PORT`; port 0 takes any free one.
#[derive(Debug, Clone, Args)]
pub(crate) struct Listen {
    /// Plain HTTP [default: 8080]
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = address)]
    pub(crate) http: Option<SocketAddr>,
    /// HTTPS [default: 8443]
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = address)]
    pub(crate) https: Option<SocketAddr>,
    /// Console and metrics [default: 7070]
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = address)]
    pub(crate) admin: Option<SocketAddr>,
    /// A proxy in front, address or network, whose X-Forwarded-For is believed; may be said again
    #[arg(long, value_name = "CIDR", value_parser = network)]
    pub(crate) trusted_proxy: Vec<IpNet>,
    /// What proxies: Bowline itself, or an Envoy that is on PATH [default: bowline]
    #[arg(long, value_enum, value_name = "PROXY")]
    pub(crate) edge: Option<Engine>,
    #[command(flatten)]
    pub(crate) runtime: RuntimeArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Maintenance {
    /// Answer 503 with a page that says so; outlives releases and restarts
    On {
        /// The app
        app: String,
        /// Who still gets in, address or network; may be said again
        #[arg(long, value_name = "CIDR", value_parser = network)]
        allow: Vec<IpNet>,
        /// The environment
        #[arg(long, default_value = "local")]
        env: String,
    },
    /// Answer everyone again
    Off {
        /// The app
        app: String,
        /// The environment
        #[arg(long, default_value = "local")]
        env: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Only this app
    pub(crate) app: Option<String>,
    /// The environment
    #[arg(long, default_value = "local")]
    pub(crate) env: String,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The app; may be left out when one runs
    pub(crate) app: Option<String>,
    /// The environment
    #[arg(long, default_value = "local")]
    pub(crate) env: String,
    /// Go on as lines are written
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "LINES")]
    pub(crate) tail: Option<u32>,
    /// Only lines of this age: 30s, 5m, 1h, 1d
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub(crate) since: Option<std::time::Duration>,
    /// Only lines that match a regular expression
    #[arg(long, value_name = "RE")]
    pub(crate) grep: Option<String>,
    /// Only this service, database (postgres.db) or job (job.cleanup)
    #[arg(long)]
    pub(crate) service: Option<String>,
    /// Only this release
    #[arg(long)]
    pub(crate) release: Option<u32>,
    /// The access log, too
    #[arg(long)]
    pub(crate) access: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Only this app
    pub(crate) app: Option<String>,
    /// The environment
    #[arg(long, default_value = "local")]
    pub(crate) env: String,
    /// The newest so many
    #[arg(short = 'n', long, default_value_t = 100)]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The app
    pub(crate) app: String,
    /// The job, as bowline.toml names it
    #[arg(conflicts_with = "command")]
    pub(crate) job: Option<String>,
    /// Return when the job is recorded and about to start
    #[arg(long, conflicts_with = "command")]
    pub(crate) detach: bool,
    /// End the run of the job that is under way instead
    #[arg(long, conflicts_with_all = ["detach", "command"])]
    pub(crate) stop: bool,
    /// The service whose instance a command runs in one like; may be left out when there is one
    #[arg(long, requires = "command")]
    pub(crate) service: Option<String>,
    /// Give the command a terminal: this one
    #[arg(short, long, requires = "command")]
    pub(crate) tty: bool,
    /// The environment
    #[arg(long, default_value = "local")]
    pub(crate) env: String,
    /// The program and its arguments
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Secret {
    /// Set a value, read from standard input (typed unseen on a terminal)
    Set {
        /// The app
        app: String,
        /// The secret's name, as bowline.toml says it
        name: String,
        /// Read it from this file instead
        #[arg(long, value_name = "PATH")]
        file: Option<PathBuf>,
        /// The environment
        #[arg(long, default_value = "local")]
        env: String,
    },
    /// Names, versions, when and by whom; never values
    List {
        /// The app
        app: String,
        /// The environment
        #[arg(long, default_value = "local")]
        env: String,
    },
    /// Remove a secret with all its versions
    Rm {
        /// The app
        app: String,
        /// The secret's name, as bowline.toml says it
        name: String,
        /// The environment
        #[arg(long, default_value = "local")]
        env: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// The app, if it has one service, or the service
    #[arg(value_name = "APP[.SERVICE]")]
    pub(crate) target: String,
    /// The number of the instance [default: the first that is ready]
    #[arg(long, value_name = "N")]
    pub(crate) instance: Option<u16>,
    #[command(flatten)]
    pub(crate) attach: Attach,
}

#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// Give it a terminal: this one
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// The environment
    #[arg(long, default_value = "local")]
    pub(crate) env: String,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Trust {
    /// Add the local CA to this machine's trust stores
    Install,
    /// Take it out again
    Remove,
    /// Where the CA lies and who trusts it
    Status,
}

#[derive(Debug, Args)]
pub(crate) struct Schema {
    /// The schema of server.toml instead
    #[arg(long)]
    pub(crate) server: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Serve {
    /// The settings of this server [default: /etc/bowline/server.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Plain HTTP; a port alone is one of loopback [default: [::]:80]
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = address)]
    pub(crate) http: Option<SocketAddr>,
    /// HTTPS [default: [::]:443]
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = address)]
    pub(crate) https: Option<SocketAddr>,
    /// Metrics [default: 127.0.0.1:7070]
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = address)]
    pub(crate) admin: Option<SocketAddr>,
    /// A proxy in front, address or network, whose X-Forwarded-For is believed; may be said again
    #[arg(long, value_name = "CIDR", value_parser = network)]
    pub(crate) trusted_proxy: Vec<IpNet>,
    /// What proxies: Bowline itself, or an Envoy that is on PATH [default: bowline]
    #[arg(long, value_enum, value_name = "PROXY")]
    pub(crate) edge: Option<Engine>,
    #[command(flatten)]
    pub(crate) runtime: RuntimeArgs,
    /// Write the systemd unit of this server, with the words that are said besides, and start nothing
    #[arg(long)]
    pub(crate) install: bool,
    /// Where the unit is written [default: /etc/systemd/system/bowline.service]
    #[arg(long, value_name = "FILE", requires = "install")]
    pub(crate) unit: Option<PathBuf>,
    /// Take the place of a unit that Bowline did not write
    #[arg(long, requires = "install")]
    pub(crate) force: bool,
    /// Swap the running daemon and its edge for this binary, dropping nothing; where it cannot start, the one before goes on
    #[arg(long, conflicts_with_all = ["install", "config", "http", "https", "admin", "trusted_proxy", "edge", "runtime"])]
    pub(crate) upgrade: bool,
    /// `local`: of `up`
    #[arg(long, hide = true, value_enum, default_value = "server")]
    pub(crate) mode: Mode,
    /// Started by a command, which reads the first line of standard output
    #[arg(long, hide = true)]
    pub(crate) for_command: bool,
    /// What the binary before has left open
    #[arg(long, hide = true, value_parser = handover)]
    pub(crate) handover: Option<Handover>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    #[default]
    Local,
    Server,
}

impl Mode {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Server => "server",
        }
    }
}

fn handover(text: &str) -> Result<Handover, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<u16>() {
        Ok(port) => Ok(SocketAddr::from(([127, 0, 0, 1], port))),
        Err(_) => text.parse().map_err(|_| "a port, or ADDRESS:PORT, is wanted".to_owned()),
    }
}

/// A network, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    let one = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>()
        .or_else(|_| one())
        .map_err(|_| "an address, or a network like 10.0.0.0/8, is wanted".to_owned())
}

fn age(text: &str) -> Result<std::time::Duration, String> {
    const WANTED: &str = "a number with ms, s, m, h or d is wanted: 30s, 5m, 1h";
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or(WANTED)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| WANTED)?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(WANTED.to_owned()),
    };
    number.checked_mul(ms).map(std::time::Duration::from_millis).ok_or_else(|| WANTED.to_owned())
}

#[cfg(test)]
mod reference;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Clap does not see that one stands for two things, and ends with a panic when it is said.
    #[test]
    fn no_verb_has_an_option_of_all_verbs_for_itself() {
        fn look(command: &clap::Command, global: &[(String, Option<String>)], path: &str) {
            for argument in command.get_arguments() {
                let long = argument.get_long().map(str::to_owned);
                let taken = global
                    .iter()
                    .any(|(id, other)| argument.get_id() == id.as_str() || long == *other && long.is_some());
                assert!(!taken, "{path}: {argument}");
            }
            command.get_subcommands().for_each(|one| look(one, global, &format!("{path} {}", one.get_name())));
        }
        let cli = Cli::command();
        let global: Vec<(String, Option<String>)> = cli
            .get_arguments()
            .filter(|argument| argument.is_global_set())
            .map(|argument| (argument.get_id().to_string(), argument.get_long().map(str::to_owned)))
            .collect();
        assert_eq!(global.len(), 3, "{global:?}");
        cli.get_subcommands().for_each(|verb| look(verb, &global, verb.get_name()));
    }

    #[test]
    fn wrong_words_are_a_fault() {
        let error = Cli::try_parse_from(["bowline", "--json", "upp"]).expect_err("there is no such verb");
        let fault = wrong_words(&error.to_string());
        assert_eq!(fault.message, "unrecognized subcommand 'upp'");
        assert!(fault.detail.is_some_and(|detail| detail.contains("up")));
    }

    #[test]
    fn addresses_default_to_loopback() {
        assert_eq!(address("8080"), Ok(SocketAddr::from(([127, 0, 0, 1], 8080))));
        assert_eq!(address("0.0.0.0:80"), Ok(SocketAddr::from(([0, 0, 0, 0], 80))));
        assert!(address("localhost").is_err());
    }

    #[test]
    fn an_address_is_a_network_of_one() {
        assert_eq!(network("10.0.0.0/8"), Ok("10.0.0.0/8".parse().unwrap()));
        assert_eq!(network("::1"), Ok("::1/128".parse().unwrap()));
        assert!(network("10.0.0.0/33").is_err() && network("proxy").is_err());
    }

    #[test]
    fn ages_are_read() {
        assert_eq!(age("5m"), Ok(std::time::Duration::from_secs(300)));
        for bad in ["", "5", "m", "5w", "99999999999999999d"] {
            assert!(age(bad).is_err(), "{bad}");
        }
    }
}
