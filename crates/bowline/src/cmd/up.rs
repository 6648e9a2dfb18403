//! `bowline up`: applies to the daemon and follows, like every other way to bring a release out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bowline_api::{Client, ClientError, wire};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{Digest, EnvName};
use bowline_core::route::{EdgeEngine, LOCAL};
use ipnet::IpNet;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::args::{Listen, RuntimeArgs, Up};
use crate::cmd::follow::{self, Done};
use crate::cmd::logs;
use crate::file;
use crate::interrupts::{INTERRUPTED, Interrupts};
use crate::paths::Paths;
use crate::progress::Progress;
use crate::session::Session;
use crate::target::Target;
use crate::ui::{Tone, Ui};

const ENV: &str = "local";

/// A daemon that dies this often within a minute is not started again.
const MAX_REJOINS: usize = 3;

/// How long an app may be busy with what is no change (the end of one, a stop) before `up` gives up, and how often it is
/// asked meanwhile.
const BUSY_LIMIT: Duration = Duration::from_secs(60);
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// How often a follower looks whether its apps are still meant to run.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// With `--json`: one object per line, told apart by `kind`.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Said<'a> {
    Ready { app: &'a str, release: u32, cached: bool, urls: &'a [String], admin: Option<&'a str>, ms: u128 },
    Log { app: &'a str, line: &'a wire::LogLine },
    Stopped { apps: &'a [String] },
}

/// An app that this command applied.
#[derive(Debug, Clone)]
struct Applied {
    app: String,
    change: u64,
    /// It did not run before: Ctrl-C stops it again.
    started: bool,
    /// Its change came to nothing.
    failed: bool,
}

/// What this command has asked of the daemon.
#[derive(Debug, Default)]
struct Asked {
    /// The apps that ran before.
    ran: BTreeSet<String>,
    applied: Vec<Applied>,
    /// Not answered yet. The daemon goes on with it, whether anybody waits or not.
    open: Option<JoinHandle<Result<wire::Accepted, ClientError>>>,
}

impl Asked {
    /// Cancel-safe: an answer that nobody waits for any more is taken up by [`Self::settle`].
    async fn apply(&mut self, client: &Client, apply: &wire::Apply) -> Result<(), ClientError> {
        let (client, apply) = (client.clone(), apply.clone());
        self.open = Some(tokio::spawn(async move { client.apply(&apply).await }));
        self.settle().await
    }

    async fn settle(&mut self) -> Result<(), ClientError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let answer = open.await.expect("asking the daemon does not panic");
        self.open = None;
        let wire::Accepted { app, change, .. } = answer?;
        let started = !self.ran.contains(&app);
        self.applied.push(Applied { app, change, started, failed: false });
        Ok(())
    }
}

pub(super) async fn run(args: Up, paths: &Paths, ui: &Ui) -> Result<ExitCode, Fault> {
    let dirs = args.dirs.iter().map(|dir| file::folder(dir, "up")).collect::<Result<Vec<_>, _>>()?;
    if args.plan.is_some() && dirs.len() > 1 {
        return Err(Fault::new(FaultKind::Invalid, "a plan is of one folder")
            .hint("say one folder with --plan, or several without it"));
    }
    let env = EnvName::new(ENV).expect("`local` is a name");
    // What is wrong with a file is said before anything is started.
    dirs.iter().try_for_each(|dir| file::read(dir, &env, ui).map(drop))?;
    let mut interrupts = Interrupts::new()?;
    let session = Session::join_or_start(paths, serve_args(&args.listen)?).await?;
    if !session.started {
        check_runtime(paths, &args.listen.runtime)?;
        check_listeners(&session.client, &args.listen, ui).await?;
    }
    let began = Instant::now();
    let mut asked = Asked::default();
    let target = Target::Here(paths.clone());
    let outcome = tokio::select! {
        outcome = bring_up((&target, &session.client), (&dirs, args.plan), &mut asked, began, ui) => outcome,
        () = interrupts.next() => Ok(Outcome::Interrupted),
    };
    match outcome {
        Ok(Outcome::Ready) if args.detach => Ok(ExitCode::SUCCESS),
        Ok(Outcome::Ready) => {
            let end = match asked.applied.iter().any(|one| one.started) {
                true => "logs follow; Ctrl-C stops what was started, data stay",
                false => "logs follow; Ctrl-C ends them, the app ran before and goes on",
            };
            ui.say(format!("\n  {}\n", ui.paint(Tone::Faint, end)));
            follow(session, paths, asked, &mut interrupts, ui).await
        }
        Ok(Outcome::Interrupted) => {
            stop(&session, paths, &mut asked, &mut interrupts, ui).await?;
            Ok(ExitCode::from(INTERRUPTED))
        }
        // Apps that were there before go on, with the release before where the new one has failed.
        Err(fault) => match stop(&session, paths, &mut asked, &mut interrupts, ui).await {
            Ok(()) => Err(fault),
            Err(also) => Err(fault.caused_by(format!("what was started goes on: {}", also.message))),
        },
    }
}

enum Outcome {
    Ready,
    Interrupted,
}

fn serve_args(listen: &Listen) -> Result<Vec<String>, Fault> {
    let said = [("--http", listen.http), ("--https", listen.https), ("--admin", listen.admin)];
    let addresses = said.into_iter().filter_map(|(flag, address)| address.map(|a| format!("{flag}={a}")));
    let proxies = listen.trusted_proxy.iter().map(|network| format!("--trusted-proxy={network}"));
    let engine = listen.edge.map(|engine| format!("--edge={}", EdgeEngine::from(engine).as_str()));
    Ok(addresses.chain(proxies).chain(engine).chain(listen.runtime.words()?).collect())
}

/// What its instances are, a daemon has been told when it was started.
fn check_runtime(paths: &Paths, wanted: &RuntimeArgs) -> Result<(), Fault> {
    if wanted.runtime.is_none() {
        return Ok(());
    }
    let wanted = wanted.engine(None)?;
    let has = paths.recorded().map(|recorded| recorded.args).unwrap_or_default();
    let has = has.iter().find_map(|word| word.strip_prefix("--engine=")).map(PathBuf::from);
    if has == wanted {
        return Ok(());
    }
    let said = |engine: Option<&PathBuf>| {
        engine.map_or_else(|| "processes".to_owned(), |socket| format!("containers of {}", socket.display()))
    };
    Err(Fault::new(FaultKind::Refused, "the instances of the running daemon are something else")
        .caused_by(format!("they are {}, and not {}", said(has.as_ref()), said(wanted.as_ref())))
        .hint("leave the flag out, stop the daemon with `bowline down`, or use another --state"))
}

/// A daemon that runs already keeps its addresses; asking for others is an error rather than ignored.
async fn check_listeners(client: &Client, listen: &Listen, ui: &Ui) -> Result<(), Fault> {
    let status = client.status().await?;
    let has = [
        ("--http", listen.http, &status.edge.http),
        ("--https", listen.https, &status.edge.https),
        ("--admin", listen.admin, &status.daemon.admin),
    ];
    for (flag, wanted, has) in has {
        let Some(wanted) = wanted.filter(|a| a.port() != 0) else { continue };
        if has.as_deref().is_some_and(|has| has != wanted.to_string()) {
            return Err(Fault::new(FaultKind::Refused, format!("the running daemon does not listen on {wanted}"))
                .caused_by(format!(
                    "{flag} of the daemon of {} is {}",
                    status.daemon.state,
                    has.as_deref().unwrap_or("-")
                ))
                .hint("leave the flag out, stop the daemon with `bowline down`, or use another --state"));
        }
    }
    let unknown = |network: &&IpNet| !status.edge.trusted_proxies.contains(&network.to_string());
    if let Some(network) = listen.trusted_proxy.iter().find(unknown) {
        return Err(Fault::new(
            FaultKind::Refused,
            format!("the running daemon does not trust the proxies of {network}"),
        )
        .hint("leave the flag out, stop the daemon with `bowline down`, or use another --state"));
    }
    let has = match status.edge.engine {
        wire::EdgeEngine::Bowline => EdgeEngine::Bowline,
        wire::EdgeEngine::Envoy => EdgeEngine::Envoy,
    };
    if let Some(wanted) = listen.edge.map(EdgeEngine::from).filter(|wanted| *wanted != has) {
        let (wanted, has) = (wanted.as_str(), has.as_str());
        return Err(Fault::new(FaultKind::Refused, format!("the edge of the running daemon is not {wanted}"))
            .caused_by(format!("--edge of the daemon of {} is {has}", status.daemon.state))
            .hint("leave the flag out, stop the daemon with `bowline down`, or use another --state"));
    }
    ui.say(format!("  joined the daemon of {}", status.daemon.state));
    Ok(())
}

/// Applies all folders and follows them. Where one fails, what this command started is for the caller to stop, and what
/// ran before is followed to its end all the same.
async fn bring_up(
    daemon @ (_, client): (&Target, &Client),
    (dirs, plan): (&[PathBuf], Option<Digest>),
    asked: &mut Asked,
    began: Instant,
    ui: &Ui,
) -> Result<Outcome, Fault> {
    asked.ran = running(&client.status().await?);
    let mut failed = None;
    for dir in dirs {
        let (dir, plan) = (dir.display().to_string(), plan.map(|plan| plan.to_string()));
        let apply = wire::Apply { dir, env: ENV.to_owned(), plan, built: false };
        if let Err(fault) = accepted(client, &apply, asked, ui).await {
            failed = Some(fault);
            break;
        }
    }
    let many = dirs.len() > 1;
    for one in &mut asked.applied {
        if failed.is_some() && one.started {
            continue;
        }
        if let Err(mut fault) = bring_one(daemon, one, many, began, ui).await {
            one.failed = true;
            if many {
                fault.message = format!("{}: {}", one.app, fault.message);
            }
            if let Some(before) = failed.replace(fault) {
                ui.fault(&before);
            }
        }
    }
    failed.map_or(Ok(Outcome::Ready), Err)
}

async fn bring_one(
    daemon @ (_, client): (&Target, &Client),
    one: &Applied,
    many: bool,
    began: Instant,
    ui: &Ui,
) -> Result<(), Fault> {
    let followed = follow::Followed { env: LOCAL, app: &one.app, change: one.change };
    let done = follow::to_its_end(daemon, followed, many, ui).await?;
    let status = client.status().await?;
    ready(&one.app, &done, &status, began.elapsed(), ui);
    Ok(())
}

/// Applies a folder. A change of it that another command began is followed to its end first: the folder may have
/// changed since, so this one is applied all the same, and changes nothing where nothing has.
async fn accepted(client: &Client, apply: &wire::Apply, asked: &mut Asked, ui: &Ui) -> Result<(), Fault> {
    let mut since = Instant::now();
    loop {
        let busy = match asked.apply(client, apply).await {
            Err(ClientError::Busy(fault)) => fault,
            answer => return Ok(answer?),
        };
        let status = client.status().await?;
        let under_way = status.apps.iter().find(|app| app.folder == apply.dir && app.env == apply.env);
        match under_way.and_then(|app| Some((app, app.change.as_ref()?.id))) {
            Some((app, change)) => {
                ui.say(format!("  {}: change {change} is under way, and followed to its end first", app.app));
                follow_change(client, &app.app, change, ui).await?;
                since = Instant::now();
            }
            None if since.elapsed() > BUSY_LIMIT => return Err(busy),
            None => tokio::time::sleep(BUSY_PAUSE).await,
        }
    }
}

/// Shows the steps of another command's change. How it ended is that command's to report.
async fn follow_change(client: &Client, app: &str, change: u64, ui: &Ui) -> Result<(), Fault> {
    let mut steps = client.change(change).await?;
    let mut progress = Progress::new(ui, Some(app));
    while let Some(event) = steps.next().await? {
        follow::say(app, change, &event, ui);
        progress.step(&event);
    }
    Ok(())
}

/// The apps of this environment that are meant to run.
fn running(status: &wire::Status) -> BTreeSet<String> {
    let runs = |app: &&wire::AppStatus| {
        app.env == ENV && !matches!(app.state, wire::AppState::Stopped | wire::AppState::Failed)
    };
    status.apps.iter().filter(runs).map(|app| app.app.clone()).collect()
}

fn ready(app: &str, done: &Done, status: &wire::Status, took: Duration, ui: &Ui) {
    let admin = status.daemon.admin.as_deref();
    ui.object(&Said::Ready {
        app,
        release: done.release,
        cached: done.cached,
        urls: &done.urls,
        admin,
        ms: took.as_millis(),
    });
    let built = if done.cached { ", built before" } else { "" };
    let console = admin.map(|admin| format!("http://{admin}/"));
    let widest = done.urls.iter().chain(&console).map(String::len).max().unwrap_or(0);
    let address = |url: &str, note: &str| {
        let gap = " ".repeat(widest.saturating_sub(url.len()) + 3);
        let note = if note.is_empty() { String::new() } else { format!("{gap}{}", ui.paint(Tone::Faint, note)) };
        ui.say(format!("    {}{note}", ui.paint(Tone::Link, url)));
    };
    let took = took.as_secs_f64();
    ui.say(format!(
        "  {} {} release {} in {took:.1} s{built}\n",
        ui.paint(Tone::Strong, app),
        ui.paint(Tone::Good, "is ready:"),
        done.release
    ));
    for url in &done.urls {
        let local = "certificate of the local CA: `bowline trust install` lets browsers trust it";
        address(url, if url.starts_with("https:") { local } else { "" });
    }
    if let Some(console) = &console {
        address(console, "console");
    }
    if let Some(fault) = &status.daemon.degraded {
        ui.say(format!("  {} {}", ui.paint(Tone::Bad, "degraded:"), fault.error));
    }
}

/// Follows the logs until Ctrl-C, or until somebody else stops the apps. Starts the daemon again if it dies.
async fn follow(
    mut session: Session,
    paths: &Paths,
    mut asked: Asked,
    interrupts: &mut Interrupts,
    ui: &Ui,
) -> Result<ExitCode, Fault> {
    let mut rejoins: Vec<Instant> = Vec::new();
    let mut since: BTreeMap<String, u64> = asked.applied.iter().map(|one| (one.app.clone(), logs::now())).collect();
    loop {
        let ended = tokio::select! {
            ended = follow_logs(&session.client, &mut since, ui) => ended,
            () = stopped(&session.client, &asked.applied) => Ok(()),
            () = interrupts.next() => {
                stop(&session, paths, &mut asked, interrupts, ui).await?;
                return Ok(ExitCode::SUCCESS);
            }
        };
        if paths.recorded().is_none() || are_stopped(&session.client, &asked.applied).await {
            ui.say(format!("  {}", ui.paint(Tone::Faint, "stopped from elsewhere")));
            return Ok(ExitCode::SUCCESS);
        }
        rejoins.retain(|at| at.elapsed() < Duration::from_secs(60));
        if rejoins.len() >= MAX_REJOINS {
            let fault = Fault::new(FaultKind::Failed, "the daemon died again and again");
            return Err(match ended {
                Ok(()) => fault,
                Err(error) => fault.caused_by(error.message),
            }
            .hint(format!("apps and edge go on; its log is {}", paths.daemon_log().display())));
        }
        rejoins.push(Instant::now());
        session = Session::join(paths).await?;
        ui.say(format!("  {}", ui.paint(Tone::Warning, "the daemon had died; it is back, the apps went on")));
    }
}

/// Waits until none of the apps is meant to run any more. A log is followed whether anything writes to it or not.
async fn stopped(client: &Client, applied: &[Applied]) {
    while !are_stopped(client, applied).await {
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

async fn are_stopped(client: &Client, applied: &[Applied]) -> bool {
    let Ok(status) = client.status().await else { return false };
    let runs = |one: &Applied| {
        status.apps.iter().any(|a| a.env == ENV && a.app == one.app && !matches!(a.state, wire::AppState::Stopped))
    };
    !applied.iter().any(runs)
}

/// Ends when the stream of any app has ended. `since`: per app, from when on its lines have not been shown yet.
async fn follow_logs(client: &Client, since: &mut BTreeMap<String, u64>, ui: &Ui) -> Result<(), Fault> {
    const QUEUE: usize = 256;
    let (sender, mut receiver) = mpsc::channel(QUEUE);
    for (app, since) in since.iter() {
        let query = wire::LogsQuery {
            env: ENV.to_owned(),
            app: app.clone(),
            service: None,
            release: None,
            since: Some(*since),
            tail: None,
            follow: true,
            grep: None,
            access: false,
        };
        let mut lines = client.logs(&query).await?;
        let (sender, app) = (sender.clone(), app.clone());
        tokio::spawn(async move {
            loop {
                let line = lines.next().await;
                let last = !matches!(line, Ok(Some(_)));
                if sender.send((app.clone(), line)).await.is_err() || last {
                    return;
                }
            }
        });
    }
    drop(sender);
    let many = since.len() > 1;
    while let Some((app, line)) = receiver.recv().await {
        let Some(line) = line? else { return Ok(()) };
        match ui.is_json() {
            true => ui.object(&Said::Log { app: &app, line: &line }),
            false => logs::print(&line, many.then_some(app.as_str()), ui),
        }
        since.insert(app, line.at + 1);
    }
    Ok(())
}

/// Stops the apps that this command started; the last one takes the daemon with it.
async fn stop(
    session: &Session,
    paths: &Paths,
    asked: &mut Asked,
    interrupts: &mut Interrupts,
    ui: &Ui,
) -> Result<(), Fault> {
    let client = &session.client;
    let mut progress = Progress::new(ui, None);
    let stops = async {
        // What was refused meanwhile runs nothing.
        let _ = asked.settle().await;
        let (mut apps, mut ends) = (Vec::new(), false);
        // One that has failed runs nothing either, and its fault stays to be seen; with it the daemon may end.
        let started: Vec<&Applied> =
            asked.applied.iter().filter(|one| one.started && (session.started || !one.failed)).collect();
        for one in &started {
            progress.moving(&format!("stopping {}", one.app));
            let stopped = client.stop(ENV, &one.app, wire::Stop { shutdown_when_idle: true }).await?;
            apps.extend(stopped.apps);
            ends |= stopped.daemon;
        }
        let idle = |status: wire::Status| status.apps.iter().all(|a| matches!(a.state, wire::AppState::Stopped));
        if session.started && asked.applied.is_empty() && idle(client.status().await?) {
            ends = client.shutdown().await?.daemon;
        }
        if ends {
            session.ended(paths).await?;
        }
        ui.object(&Said::Stopped { apps: &apps });
        drop(progress);
        let names: Vec<&str> = started.iter().map(|one| one.app.as_str()).collect();
        if !names.is_empty() {
            ui.say(ui.paint(Tone::Faint, format!("  stopped {}; data stay", names.join(", "))));
        }
        Ok(())
    };
    tokio::select! {
        stopped = stops => stopped,
        () = interrupts.next() => Err(Fault::new(FaultKind::Failed, "interrupted while the apps were being stopped")
            .hint("they are stopped all the same; `bowline status` shows it, `bowline down` stops all")),
    }
}
