//! `bowline check`: what a folder lacks for production. Looks only; no daemon is needed. On a server, also whether its names lead there.

mod names;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use bowline_core::app::{App, HostName, Origin, Value, Variables};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{EnvName, ServiceName};
use bowline_core::readiness::{Facts, Finding, NameSeen, Place, Rule, Setting, Severity, Started, findings};
use bowline_core::route::LOCAL;
use bowline_node::survey::{Survey, secret_in, survey};
use serde::Serialize;

use crate::args::{Check, Mode};
use crate::file::{self, File};
use crate::paths::Paths;
use crate::ui::{Tone, Ui};

/// The environment that is meant where the file has it and none is said.
const PRODUCTION: &str = "production";

/// Of one rule, so many are shown on a terminal; `--json` has all.
const SHOWN: usize = 5;

#[derive(Debug, Serialize)]
struct Answer<'a> {
    app: &'a str,
    env: &'a str,
    blockers: usize,
    warnings: usize,
    advice: usize,
    /// Why only a part of the folder was looked at; absent if all of it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    partial: Option<&'a str>,
    findings: Vec<One<'a>>,
}

#[derive(Debug, Serialize)]
struct One<'a> {
    rule: &'static str,
    severity: String,
    file: &'a str,
    /// From 1; absent where it is the file as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    what: &'a str,
    why: &'static str,
    /// For `bowline.toml`; `text` is empty for a table without keys.
    lines: Vec<Line<'a>>,
    commands: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    todo: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    table: &'a str,
    text: &'a str,
}

pub(super) fn run(args: &Check, state: Option<&Path>, ui: &Ui) -> Result<ExitCode, Fault> {
    let dir = file::folder(&args.dir, "check")?;
    let file = read(&dir, args.env.as_deref(), ui)?;
    let survey = survey(&dir)?;
    let names = if args.here || is_server(state) { names::seen(&file.app) } else { BTreeMap::new() };
    let found = report(&file.app, &survey, &names);
    answer(&file, &survey, &found, ui);
    show(&file, &survey, &found, ui);
    match found.iter().any(|one| one.severity == Severity::Blocker) {
        true => Ok(ExitCode::from(FaultKind::Failed.exit_code())),
        false => Ok(ExitCode::SUCCESS),
    }
}

/// In the environment that was said; else in `production` or the only one that the file has; else in `local`.
fn read(dir: &Path, env: Option<&str>, ui: &Ui) -> Result<File, Fault> {
    let named = |env: &str| {
        EnvName::new(env).map_err(|error| {
            Fault::new(FaultKind::Invalid, format!("{env:?} is no environment"))
                .source(&error)
                .hint("environments are named in the file: [environment.production]")
        })
    };
    if let Some(env) = env {
        return file::read(dir, &named(env)?, ui);
    }
    let file = file::read(dir, &named(LOCAL)?, ui)?;
    let Some((parsed, _)) = &file.written else { return Ok(file) };
    let others: Vec<&EnvName> = parsed.environments.iter().filter(|env| env.as_str() != LOCAL).collect();
    let meant = match others.as_slice() {
        [only] => Some(*only),
        all => all.iter().copied().find(|env| env.as_str() == PRODUCTION),
    };
    match meant.cloned() {
        Some(env) => file::read(dir, &env, ui),
        None => Ok(file),
    }
}

/// This machine is meant to run `bowline serve`.
fn is_server(state: Option<&Path>) -> bool {
    let recorded = Paths::of_server(state).ok().and_then(|paths| paths.recorded());
    recorded.is_some_and(|recorded| recorded.mode == Mode::Server)
}

fn report(app: &App, survey: &Survey, names: &BTreeMap<HostName, NameSeen>) -> Vec<Finding> {
    let started = started(app, survey);
    let settings = settings(app);
    findings(&Facts { app, started: &started, sightings: &survey.sightings, settings: &settings, names })
}

fn started(app: &App, survey: &Survey) -> BTreeMap<ServiceName, Started> {
    let of = |service: &bowline_core::app::Service| match (&service.run, &service.origin) {
        (Some(run), _) => Some(Started { command: run.0.clone(), source: None }),
        (None, Origin::Folder { dir, .. }) => survey.started(dir),
        (None, Origin::BuildOf(_) | Origin::Image(_) | Origin::Dockerfile { .. } | Origin::Static { .. }) => None,
    };
    app.services.iter().filter_map(|(name, service)| Some((name.clone(), of(service)?))).collect()
}

/// Variables of the file whose text is a secret.
fn settings(app: &App) -> Vec<Setting> {
    let services = app.services.iter().map(|(name, service)| (format!("service.{name}.env"), &service.env));
    let jobs = app.jobs.iter().map(|(name, job)| (format!("job.{name}.env"), &job.env));
    let tables = std::iter::once(("env".to_owned(), &app.env)).chain(services).chain(jobs);
    tables.flat_map(|(table, variables)| secrets_of(&table, variables)).collect()
}

fn secrets_of(table: &str, variables: &Variables) -> Vec<Setting> {
    let of = |(name, value): (&bowline_core::app::VarName, &Value)| {
        let Value::Text(text) = value else { return None };
        let (kind, value) = secret_in(name.as_str(), text)?;
        Some(Setting { table: table.to_owned(), name: name.clone(), kind, value })
    };
    variables.iter().filter_map(of).collect()
}

/// File and line of a finding.
fn place<'f>(file: &File, finding: &'f Finding) -> (&'f str, Option<usize>) {
    match &finding.at {
        Place::Source { file, line } => (file, usize::try_from(*line).ok()),
        Place::File(file) => (file, None),
        Place::Key(key) => (file::NAME, file.line(key)),
    }
}

fn count(found: &[Finding], severity: Severity) -> usize {
    found.iter().filter(|one| one.severity == severity).count()
}

fn answer(file: &File, survey: &Survey, found: &[Finding], ui: &Ui) {
    let one = |finding| {
        let finding: &Finding = finding;
        let (name, line) = place(file, finding);
        One {
            rule: finding.rule.id(),
            severity: finding.severity.to_string(),
            file: name,
            line,
            what: &finding.what,
            why: finding.rule.why(),
            lines: finding.fix.lines.iter().map(|line| Line { table: &line.table, text: &line.text }).collect(),
            commands: &finding.fix.commands,
            todo: finding.fix.todo.as_deref(),
        }
    };
    ui.object(&Answer {
        app: file.app.name.as_str(),
        env: file.app.environment.name.as_str(),
        blockers: count(found, Severity::Blocker),
        warnings: count(found, Severity::Warning),
        advice: count(found, Severity::Advice),
        partial: survey.partial.as_deref(),
        findings: found.iter().map(one).collect(),
    });
}

fn show(file: &File, survey: &Survey, found: &[Finding], ui: &Ui) {
    let mut shown: BTreeMap<(Severity, Rule), usize> = BTreeMap::new();
    for finding in found {
        let seen = shown.entry((finding.severity, finding.rule)).or_default();
        *seen += 1;
        if *seen <= SHOWN {
            show_one(file, finding, ui);
        }
    }
    for ((_, rule), seen) in shown.iter().filter(|(_, seen)| **seen > SHOWN) {
        ui.say(format!("  and {} more of {}: --json has all\n", seen - SHOWN, rule.id()));
    }
    if let Some(partial) = &survey.partial {
        ui.say(ui.paint(Tone::Warning, format!("  the folder is large: {partial}")));
    }
    ui.say(format!("  {}", verdict(file, found, ui)));
}

fn show_one(file: &File, finding: &Finding, ui: &Ui) {
    let (name, line) = place(file, finding);
    let place = line.map_or(name.to_owned(), |line| format!("{name}:{line}"));
    let severity = format!("{:<7}", finding.severity.to_string());
    let severity = ui.paint(tone(finding.severity), severity);
    ui.say(format!("  {severity}  {}  {}", ui.paint(Tone::Strong, &finding.what), ui.paint(Tone::Faint, place)));
    ui.say(format!("           {}", ui.paint(Tone::Faint, finding.rule.why())));
    let mut table = "";
    for line in &finding.fix.lines {
        if line.table != table {
            ui.say(format!("         {} [{}]", ui.paint(Tone::Good, "+"), line.table));
            table = &line.table;
        }
        if !line.text.is_empty() {
            ui.say(format!("         {} {}", ui.paint(Tone::Good, "+"), line.text));
        }
    }
    for command in &finding.fix.commands {
        ui.say(format!("         {} {command}", ui.paint(Tone::Link, "$")));
    }
    if let Some(todo) = &finding.fix.todo {
        ui.say(format!("         {} {todo}", ui.paint(Tone::Warning, "→")));
    }
    ui.say("");
}

fn tone(severity: Severity) -> Tone {
    match severity {
        Severity::Blocker => Tone::Bad,
        Severity::Warning => Tone::Warning,
        Severity::Advice => Tone::Link,
    }
}

fn verdict(file: &File, found: &[Finding], ui: &Ui) -> String {
    let of = |severity, one: &str, many: &str| match count(found, severity) {
        0 => None,
        1 => Some(format!("1 {one}")),
        n => Some(format!("{n} {many}")),
    };
    let counts: Vec<String> = [
        of(Severity::Blocker, "blocker", "blockers"),
        of(Severity::Warning, "warning", "warnings"),
        of(Severity::Advice, "piece of advice", "pieces of advice"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let subject = format!("{} in {}", file.app.name, file.app.environment.name);
    match (counts.is_empty(), count(found, Severity::Blocker)) {
        (true, _) => ui.paint(Tone::Good, format!("{subject}: nothing is missing")),
        (false, 0) => format!("{}: {}", ui.paint(Tone::Good, format!("{subject}: nothing blocks")), counts.join(", ")),
        (false, _) => format!("{}: {}", ui.paint(Tone::Bad, format!("{subject} is not ready")), counts.join(", ")),
    }
}

#[cfg(test)]
mod tests;
