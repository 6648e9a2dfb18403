use std::process::ExitCode;
use std::time::Duration;

use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::route::LOCAL;

use crate::args::Status;
use crate::cmd::logs::now;
use crate::progress;
use crate::rollout;
use crate::target::Target;
use crate::ui::{self, Tone, Ui};

pub(super) async fn run(args: Status, target: &Target, ui: &Ui) -> Result<ExitCode, Fault> {
    let session = target.join().await?;
    let mut status = session.client.status().await?;
    if let Some(app) = &args.app {
        status.apps.retain(|a| a.app == *app && a.env == args.env);
        if status.apps.is_empty() {
            return Err(Fault::new(FaultKind::Invalid, format!("no app {app} is known in {}", args.env))
                .hint("`bowline status` lists all"));
        }
    }
    ui.object(&status);
    daemon(&status, ui);
    for app in &status.apps {
        ui.say("");
        show(app, ui);
    }
    if status.apps.is_empty() {
        ui.say("\n  no apps; `bowline up DIR` runs one");
    }
    Ok(ExitCode::SUCCESS)
}

fn daemon(status: &wire::Status, ui: &Ui) {
    let daemon = &status.daemon;
    let age = ui::duration(Duration::from_millis(now().saturating_sub(daemon.started)));
    ui.say(format!(
        "{} {}  pid {}, up {age}, {}  {}",
        ui.paint(Tone::Strong, "bowline"),
        daemon.version,
        daemon.pid,
        ui::measured(daemon.private_bytes),
        ui.paint(Tone::Faint, &daemon.state),
    ));
    if let Some(fault) = &daemon.degraded {
        ui.say(format!("  {} {}", ui.paint(Tone::Bad, "degraded:"), fault.error));
        for cause in &fault.caused_by {
            ui.say(format!("  {} {cause}", ui.paint(Tone::Warning, "caused by:")));
        }
        if let Some(hint) = &fault.hint {
            ui.say(format!("  {} {hint}", ui.paint(Tone::Good, "hint:")));
        }
    }
    let edge = &status.edge;
    let (tone, state) = match edge.state {
        wire::EdgeState::Serving => (Tone::Good, "serving"),
        wire::EdgeState::Starting => (Tone::Warning, "starting"),
        wire::EdgeState::Lost => (Tone::Bad, "lost"),
    };
    let listens: Vec<&str> = [&edge.http, &edge.https].into_iter().flatten().map(String::as_str).collect();
    ui.say(format!(
        "  {} {}  pid {}, {}, {} {}  {}",
        match edge.engine {
            wire::EdgeEngine::Bowline => "edge",
            wire::EdgeEngine::Envoy => "edge (Envoy)",
        },
        ui.paint(tone, state),
        edge.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        ui::measured(edge.private_bytes),
        edge.connections_open,
        if edge.connections_open == 1 { "connection" } else { "connections" },
        ui.paint(Tone::Faint, listens.join("  ")),
    ));
    if let Some(fault) = &edge.fault {
        ui.say(format!("  {} {}", ui.paint(Tone::Bad, "edge:"), fault.error));
    }
    if let Some(disk) = daemon.disk.as_ref().filter(|disk| disk.free_bytes < disk.reserve_bytes) {
        let who = disk.growing.as_ref().map(|who| format!("; growing: {who}")).unwrap_or_default();
        ui.say(format!(
            "  {} {} of {} left{who}",
            ui.paint(Tone::Bad, "disk almost full:"),
            ui::bytes(disk.free_bytes),
            ui::bytes(disk.total_bytes),
        ));
    }
    for note in &daemon.notes {
        ui.say(format!("  {} {note}", ui.paint(Tone::Warning, "note:")));
    }
    if let Some(api) = &edge.api {
        ui.say(format!("  api {}", ui.paint(Tone::Link, api)));
    }
    if let Some(certificate) = &edge.certificate {
        certified(certificate, ui);
    }
    if let Some(admin) = &daemon.admin {
        ui.say(format!("  console {}", ui.paint(Tone::Link, format!("http://{admin}/"))));
    }
}

/// Those of the local CA are renewed without anybody, and those that were given are looked after elsewhere.
fn certified(certificate: &wire::CertificateStatus, ui: &Ui) {
    let is_ordered = certificate.waits_on.is_some() || certificate.failure.is_some();
    let meanwhile = match certificate.issuer {
        wire::CertificateIssuer::Acme => false,
        wire::CertificateIssuer::Local if is_ordered => true,
        wire::CertificateIssuer::Local | wire::CertificateIssuer::Given => return,
    };
    let now = now();
    let until = |at: u64| ui::duration(Duration::from_millis(at.saturating_sub(now)));
    let (tone, held) = match certificate.not_after {
        Some(end) if end <= now => (Tone::Bad, "has ended".to_owned()),
        Some(_) if meanwhile => (Tone::Warning, "of the local CA until an authority has signed one".to_owned()),
        Some(end) => (Tone::Good, format!("ends in {}", until(end))),
        None => (Tone::Warning, "none yet, HTTPS is refused".to_owned()),
    };
    let tone = if certificate.failure.is_some() && tone == Tone::Good { Tone::Warning } else { tone };
    let next = match (&certificate.waits_on, certificate.renews) {
        (Some(on), _) => format!(", ordered: {on}"),
        (None, Some(at)) if at <= now => ", ordered soon".to_owned(),
        (None, Some(at)) => format!(", next order in {}", until(at)),
        (None, None) if certificate.not_after.is_some() => ", not renewed: no authority is asked any more".to_owned(),
        (None, None) => String::new(),
    };
    ui.say(format!("  certificate of {} {}{next}", certificate.host, ui.paint(tone, held)));
    if let Some(failure) = &certificate.failure {
        ui.say(format!("    {} {failure}", ui.paint(Tone::Warning, "last order failed:")));
    }
}

fn instances(app: &wire::AppStatus, ui: &Ui) {
    let strategy = app.change.as_ref().and_then(|change| Some(change.rollout.as_ref()?.now.strategy));
    let each = |s: &wire::ServiceStatus| s.instances.iter().map(|i| row(s, i, strategy, ui)).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = app.services.iter().flat_map(each).collect();
    let in_engine = app.services.iter().flat_map(|service| &service.instances).any(|one| one.container.is_some());
    let process = if in_engine { "CONTAINER" } else { "PID" };
    let head = ["INSTANCE", "RELEASE", "STATE", process, "PORT", "UP", "RESTARTS", "MEMORY", "WAITS ON"];
    let waits = rows.iter().any(|row| row.last().is_some_and(|on| !on.is_empty()));
    if !rows.is_empty() {
        ui.table(&head[..head.len() - usize::from(!waits)], &rows);
    }
}

fn show(app: &wire::AppStatus, ui: &Ui) {
    let (tone, state) = state(app.state);
    let release = app.release.map_or_else(|| "no release".to_owned(), |n| format!("release {n}"));
    ui.say(format!(
        "{} {}  {release}  {}",
        ui.paint(Tone::Strong, format!("{}/{}", app.env, app.app)),
        ui.paint(tone, state),
        ui.paint(Tone::Faint, &app.folder),
    ));
    for url in &app.urls {
        ui.say(format!("  {}", ui.paint(Tone::Link, url)));
    }
    app.certificates.iter().for_each(|certificate| certified(certificate, ui));
    if let Some(id) = app.environment_id.as_ref().filter(|_| app.env != LOCAL) {
        ui.say(format!("  {}", ui.paint(Tone::Faint, format!("environment {id}"))));
    }
    if let Some(change) = &app.change {
        let age = ui::duration(Duration::from_millis(now().saturating_sub(change.since)));
        let drawn = change.rollout.as_ref().filter(|rollout| rollout.now.stable.is_some());
        let does = drawn.map_or_else(|| progress::words(change.phase).to_owned(), |rollout| follows(&rollout.now));
        ui.say(format!("  {} {does} for {age}", ui.paint(Tone::Warning, "changing:")));
        if let Some(rollout) = drawn {
            rolls(rollout, ui);
        }
        let said = |step: &wire::Waiting| drawn.is_some_and(|rollout| rollout::says(&rollout.now, step, now()));
        for step in change.waits_on.iter().filter(|step| !said(step)) {
            ui.say(format!("    {} waits on {}", step.what, step.on));
        }
    }
    instances(app, ui);
    for service in &app.services {
        if let Some(scale) = &service.scale {
            ui.say(format!("  {}", scaled(service, scale, ui)));
        }
    }
    resources(&app.resources, ui);
    jobs(app, ui);
    for volume in &app.volumes {
        ui.say(format!("  {}", ui.paint(Tone::Faint, holds(volume))));
    }
    let cages: Vec<&str> =
        app.services.iter().flat_map(|s| &s.instances).filter_map(|instance| instance.cage.as_deref()).collect();
    if !cages.is_empty() && cages.iter().all(|cage| *cage == "full") {
        ui.say(format!("  {}", ui.paint(Tone::Faint, "cage: full")));
    }
    if let Some(maintenance) = &app.maintenance {
        let but = match maintenance.allow.as_slice() {
            [] => String::new(),
            some => format!(" but {}", some.join(", ")),
        };
        ui.say(format!("  {} 503 to all{but}", ui.paint(Tone::Warning, "maintenance:")));
    }
    for note in &app.notes {
        ui.say(format!("  {} {note}", ui.paint(Tone::Faint, "note:")));
    }
    if let Some(fault) = &app.fault {
        ui.say(format!("  {} {}", ui.paint(Tone::Bad, "last change failed:"), fault.error));
        for cause in &fault.caused_by {
            ui.say(format!("    {} {cause}", ui.paint(Tone::Warning, "caused by:")));
        }
        if let Some(hint) = &fault.hint {
            ui.say(format!("    {} {hint}", ui.paint(Tone::Good, "hint:")));
        }
    }
}

/// `release 1 → 2`, as a plan says it.
fn follows(now: &wire::RolloutNow) -> String {
    let stable = now.stable.map(|stable| format!("{stable} → ")).unwrap_or_default();
    format!("release {stable}{}", now.candidate)
}

/// The steps that were taken, the bar, and what the last look said.
fn rolls(rollout: &wire::Rollout, ui: &Ui) {
    let now_there = now();
    for (at, step) in (1..).zip(&rollout.steps) {
        let is_told = rollout.now.strategy != wire::RolloutStrategy::Rolling;
        let Some((began, ended)) = step.began.zip(step.ended).filter(|_| is_told) else { continue };
        let took = ui::duration(Duration::from_millis(ended.saturating_sub(began)));
        let head = format!("step {at} of {}: {}% for {took}", rollout.now.of, step.weight);
        ui.say(format!("    {}", ui.paint(Tone::Faint, head)));
        for one in &step.verdicts {
            ui.say(format!("      {}", ui.paint(Tone::Faint, rollout::verdict(one))));
        }
    }
    ui.say(format!("    {}", ui.paint(Tone::Strong, rollout::headline(&rollout.now, now_there, ui.columns()))));
    for (tone, line) in rollout::verdicts(&rollout.now) {
        ui.say(format!("      {}", ui.paint(tone, line)));
    }
}

fn jobs(app: &wire::AppStatus, ui: &Ui) {
    if app.jobs.is_empty() {
        return;
    }
    let ago = |at: u64| format!("{} ago", ui::duration(Duration::from_millis(now().saturating_sub(at))));
    let row = |job: &wire::JobStatus| {
        let next = job.next.map(|at| format!("in {}", ui::duration(Duration::from_millis(at.saturating_sub(now())))));
        let state = match (&job.run, &job.last) {
            (Some(run), _) => ui.paint(Tone::Warning, run_now(run)),
            (None, Some(last)) => {
                let tone = if last.fault.is_none() { Tone::Good } else { Tone::Bad };
                format!("{}, {}", ui.paint(tone, ended(last)), ago(last.ended.unwrap_or(last.recorded)))
            }
            (None, None) => "never run".to_owned(),
        };
        let schedule = job.schedule.clone().unwrap_or_else(|| "on demand".to_owned());
        vec![job.name.clone(), schedule, next.unwrap_or_else(|| "-".to_owned()), state]
    };
    let rows: Vec<Vec<String>> = app.jobs.iter().map(row).collect();
    ui.table(&["JOB", "SCHEDULE (UTC)", "NEXT", "LAST RUN"], &rows);
}

/// `running for 12s`, `waiting on postgres.db: starting`
fn run_now(run: &wire::Run) -> String {
    match (&run.waits_on, run.began) {
        (Some(on), _) => format!("waits on {on}"),
        (None, Some(began)) => {
            format!("{} for {}", run.state, ui::duration(Duration::from_millis(now().saturating_sub(began))))
        }
        (None, None) => run.state.clone(),
    }
}

/// `succeeded`, `failed with code 3`, `timed out`
pub(super) fn ended(run: &wire::Run) -> String {
    let state = run.state.replace('_', " ");
    match (run.exit_code.filter(|code| *code != 0), run.signal) {
        (Some(code), _) => format!("{state} with code {code}"),
        (None, Some(signal)) => format!("{state} with signal {signal}"),
        (None, None) => state,
    }
}

/// `web scales 1 to 6: 3 of 4 ready; 93.1 in flight, 20 each; 6 wanted, 4 allowed by memory`
fn scaled(service: &wire::ServiceStatus, scale: &wire::ScaleStatus, ui: &Ui) -> String {
    let wire::ServiceStatus { name, ready, wanted, .. } = service;
    let mut parts = vec![format!("{ready} of {wanted} ready"), scale.reason.clone()];
    if let Some(bounded) = &scale.bounded {
        let tone = if scale.bound.as_deref() == Some("min") { Tone::Faint } else { Tone::Warning };
        parts.push(ui.paint(tone, bounded));
    }
    if let (Some(to), Some(seconds)) = (scale.down_to, scale.down_in_s) {
        parts.push(format!("down to {to} in {}", ui::duration(Duration::from_secs(seconds))));
    }
    format!("{} {}", ui.paint(Tone::Strong, format!("{name} scales {} to {}:", scale.min, scale.max)), parts.join("; "))
}

/// `volume files: 12.3 MiB of 1.0 GiB`
fn holds(volume: &wire::VolumeStatus) -> String {
    let holds = match (volume.used_bytes, volume.size_bytes) {
        (Some(used), Some(size)) => format!("{} of {}", ui::bytes(used), ui::bytes(size)),
        (None, Some(size)) => ui::bytes(size),
        (_, None) => "no size, it may fill the disk".to_owned(),
    };
    format!("volume {}: {holds}", volume.name)
}

/// Databases and caches; what one waits on is said like that of an instance.
fn resources(all: &[wire::ResourceStatus], ui: &Ui) {
    let head = ["RESOURCE", "VERSION", "STATE", "PID", "PORT", "UP", "RESTARTS", "MEMORY", "WAITS ON"];
    let rows: Vec<Vec<String>> = all.iter().map(|resource| resource_row(resource, ui)).collect();
    let waits = rows.iter().any(|row| row.last().is_some_and(|on| !on.is_empty()));
    if !rows.is_empty() {
        ui.table(&head[..head.len() - usize::from(!waits)], &rows);
    }
    for (resource, fault) in all.iter().filter_map(|resource| Some((resource, resource.fault.as_ref()?))) {
        ui.say(format!("  {} {}", ui.paint(Tone::Bad, format!("{}.{}:", resource.kind, resource.name)), fault.error));
        for cause in &fault.caused_by {
            ui.say(format!("    {} {cause}", ui.paint(Tone::Warning, "caused by:")));
        }
        if let Some(hint) = &fault.hint {
            ui.say(format!("    {} {hint}", ui.paint(Tone::Good, "hint:")));
        }
    }
}

fn resource_row(resource: &wire::ResourceStatus, ui: &Ui) -> Vec<String> {
    let number = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let (tone, state) = match (resource.state.as_str(), resource.orphaned) {
        ("ready", _) => (Tone::Good, "ready"),
        ("failing", _) => (Tone::Bad, "failing"),
        ("stopped", true) => (Tone::Faint, "orphaned"),
        ("stopped", false) => (Tone::Faint, "stopped"),
        (other, _) => (Tone::Warning, other),
    };
    let up = resource.since.map(|since| ui::duration(Duration::from_millis(now().saturating_sub(since))));
    // A failure is told in full below the table.
    let waits = resource.on.clone().filter(|_| resource.fault.is_none());
    let waits = waits.map(|on| on.split_once(": ").map_or(on.clone(), |(_, on)| on.to_owned()));
    vec![
        format!("{}.{}", resource.kind, resource.name),
        resource.version.clone().unwrap_or_else(|| "-".to_owned()),
        ui.paint(tone, state),
        if resource.external { "elsewhere".to_owned() } else { number(resource.pid.map(u64::from)) },
        number(resource.port.map(u64::from)),
        up.unwrap_or_else(|| "-".to_owned()),
        if resource.external { "-".to_owned() } else { resource.restarts.to_string() },
        ui::measured(resource.memory_bytes),
        waits.unwrap_or_default(),
    ]
}

/// `2 canary`, `1 baseline`, `1`
fn release_of(i: &wire::InstanceStatus, strategy: Option<wire::RolloutStrategy>, ui: &Ui) -> String {
    let role = match (i.role, strategy) {
        (None, _) => return i.release.to_string(),
        (Some(wire::InstanceRole::Baseline), _) => "baseline",
        (Some(wire::InstanceRole::Candidate), Some(wire::RolloutStrategy::Canary)) => "canary",
        (Some(wire::InstanceRole::Candidate), _) => "candidate",
    };
    let tone = if role == "baseline" { Tone::Faint } else { Tone::Warning };
    format!("{} {}", i.release, ui.paint(tone, role))
}

fn row(
    service: &wire::ServiceStatus,
    i: &wire::InstanceStatus,
    strategy: Option<wire::RolloutStrategy>,
    ui: &Ui,
) -> Vec<String> {
    let number = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let tone = match i.state.as_str() {
        "ready" => Tone::Good,
        "crashed" => Tone::Bad,
        _ => Tone::Warning,
    };
    let up = i
        .since
        .map_or_else(|| "-".to_owned(), |since| ui::duration(Duration::from_millis(now().saturating_sub(since))));
    vec![
        format!("{}.{}", service.name, i.slot),
        release_of(i, strategy, ui),
        ui.paint(tone, &i.state),
        i.container.clone().unwrap_or_else(|| number(i.pid.map(u64::from))),
        number(i.port.map(u64::from)),
        up,
        i.restarts.to_string(),
        ui::measured(i.memory_bytes),
        i.waits_on.clone().unwrap_or_default(),
    ]
}

fn state(state: wire::AppState) -> (Tone, &'static str) {
    match state {
        wire::AppState::Ready => (Tone::Good, "ready"),
        wire::AppState::Degraded => (Tone::Warning, "degraded"),
        wire::AppState::Down => (Tone::Bad, "down"),
        wire::AppState::Failed => (Tone::Bad, "failed"),
        wire::AppState::Stopped => (Tone::Faint, "stopped"),
    }
}
