//! `bowline plan`: what bringing a folder out would change, as the daemon that it is for says it.

use std::path::Path;
use std::process::ExitCode;

use bowline_api::{Client, wire};
use bowline_core::app::{App, Target as Named};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{Digest, EnvName};
use bowline_core::route::LOCAL;

use super::{deploy, kubernetes};
use crate::args::Plan;
use crate::file;
use crate::interrupts::{INTERRUPTED, Interrupts};
use crate::paths::Paths;
use crate::target::{Target, word};
use crate::ui::{Tone, Ui};

/// Of a digest, for people.
const SHORT: usize = 12;

/// The widest that a value is shown; the JSON answer has all of it.
const WIDEST: usize = 100;

/// `said`: the words besides its own that the command was given, for the one that applies the plan.
pub(super) async fn run(
    args: Plan,
    (to, state): (Option<&Named>, Option<&Path>),
    said: &[String],
    ui: &Ui,
) -> Result<ExitCode, Fault> {
    let dir = file::folder(&args.dir, "plan")?;
    let artifact = args.artifact.as_deref().map(|built| file::folder(built, "plan --artifact")).transpose()?;
    let env = EnvName::new(&args.env)
        .map_err(|error| Fault::new(FaultKind::Invalid, format!("{:?} is no environment", args.env)).source(&error))?;
    let app = file::read(&dir, &env, ui)?.app;
    let (to, by) = super::of_environment(to, &app.environment);
    if env.as_str() == LOCAL && *to != Named::Local {
        return Err(Fault::new(
            FaultKind::Invalid,
            format!("{LOCAL} is the environment of `bowline up`, on this machine"),
        )
        .hint("name another one: --env production"));
    }
    if env.as_str() == LOCAL && artifact.is_some() {
        return Err(Fault::new(FaultKind::Invalid, format!("{LOCAL} builds what it runs"))
            .hint("an artifact is for another environment: --env production"));
    }
    if let Named::Kubernetes { context, namespace } = to {
        let place = kubernetes::Place { context: context.as_deref(), namespace: namespace.as_deref() };
        return kubernetes::plan(args, (&dir, &app), (place, state), said, ui).await;
    }
    kubernetes::is_not_meant(&args.cluster)?;
    let mut interrupts = Interrupts::new()?;
    let target = match env.as_str() {
        // The daemon that `up` would join, or start: of a server's it would be another one.
        LOCAL => Target::Here(Paths::new(state)?),
        _ => Target::new(to, super::elsewhere(to, state), by, ui)?,
    };
    let joining = async { if env.as_str() == LOCAL { target.visit().await } else { target.join().await } };
    let session = tokio::select! {
        session = joining => session?,
        () = interrupts.next() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let answer = tokio::select! {
        answer = ask(&session.client, (&dir, artifact.as_deref()), &app, ui) => answer,
        () = interrupts.next() => {
            target.leave(&session).await?;
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    target.leave(&session).await?;
    let plan = answer?;
    let hash = hash(&plan)?;
    ui.object(&plan);
    show(&plan, artifact.is_some(), &command(&args, said, &hash), ui);
    Ok(ExitCode::SUCCESS)
}

/// An app of this machine alone is read where it lies.
async fn ask(
    client: &Client,
    (dir, artifact): (&Path, Option<&Path>),
    app: &App,
    ui: &Ui,
) -> Result<wire::Plan, Fault> {
    let env = app.environment.name.as_str();
    let dir = match env {
        LOCAL => dir.display().to_string(),
        _ => {
            let sent = deploy::send(client, (dir, artifact), app, ui).await?;
            sent.say(ui);
            sent.dir
        }
    };
    Ok(client.plan(&wire::Apply { dir, env: env.to_owned(), plan: None, built: artifact.is_some() }).await?)
}

/// It stands in a command that people copy: what else a daemon may have sent in its place is not shown.
fn hash(plan: &wire::Plan) -> Result<Digest, Fault> {
    plan.hash.parse().map_err(|error| {
        Fault::new(FaultKind::Failed, "the daemon's plan has no hash that it could be applied by").source(&error)
    })
}

/// What applies it, to be said in the same place.
fn command(args: &Plan, said: &[String], hash: &Digest) -> String {
    let dir = word(&args.dir.display().to_string());
    let said: String = said.iter().map(|said| format!(" {}", word(said))).collect();
    let artifact = args.artifact.as_ref().map(|built| format!(" --artifact {}", word(&built.display().to_string())));
    let artifact = artifact.unwrap_or_default();
    match args.env.as_str() {
        LOCAL => format!("bowline up {dir}{said} --plan {hash}"),
        env => format!("bowline deploy {dir} --env {env}{artifact}{said} --plan {hash}"),
    }
}

/// `built`: it is of an artifact.
fn show(plan: &wire::Plan, built: bool, command: &str, ui: &Ui) {
    let head = ui.paint(Tone::Strong, format!("{} in {}", plan.app, plan.env));
    let release = plan.release;
    ui.say(match (plan.outcome, plan.stable) {
        (wire::PlanOutcome::Unchanged, _) => {
            format!("  {head}  {}: release {release} goes on", ui.paint(Tone::Good, "nothing changes"))
        }
        (wire::PlanOutcome::Again, _) => {
            format!("  {head}  {}: release {release} starts again", ui.paint(Tone::Good, "nothing changes"))
        }
        (wire::PlanOutcome::Release, None) => format!("  {head}  release {release}, the first that serves"),
        (wire::PlanOutcome::Release, Some(stable)) if plan.runs => format!("  {head}  release {stable} → {release}"),
        (wire::PlanOutcome::Release, Some(stable)) => {
            format!("  {head}  release {stable}, which is stopped → {release}, which starts")
        }
    });
    section(None, &differences(plan, built), ui);
    let services = plan.services.iter().map(|one| (None, one.service.clone(), one.text.clone())).collect::<Vec<_>>();
    section(Some("rollout"), &services, ui);
    plan.notes.iter().for_each(|note| ui.say(format!("    {}", note)));
    if !plan.risks.is_empty() {
        ui.say(format!("\n  {}", ui.paint(Tone::Bad, "risks")));
        for risk in &plan.risks {
            ui.say(format!("  {} {}", ui.paint(Tone::Bad, "!"), ui.paint(Tone::Warning, &risk.text)));
        }
    }
    if plan.outcome != wire::PlanOutcome::Unchanged {
        ui.say(format!("\n  plan {}", ui.paint(Tone::Strong, &plan.hash)));
        ui.say(format!("  {}", ui.paint(Tone::Faint, "apply just this, or nothing:")));
        ui.say(format!("  {command}"));
    }
}

/// What becomes of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Added,
    Removed,
    Changed,
}

impl Mark {
    fn of(from: bool, to: bool) -> Self {
        match (from, to) {
            (false, _) => Self::Added,
            (true, false) => Self::Removed,
            (true, true) => Self::Changed,
        }
    }

    fn painted(self, ui: &Ui) -> String {
        match self {
            Self::Added => ui.paint(Tone::Good, "+"),
            Self::Removed => ui.paint(Tone::Bad, "-"),
            Self::Changed => ui.paint(Tone::Warning, "~"),
        }
    }
}

/// A line: what becomes of it, its name, and what is said of it.
pub(super) type Line = (Option<Mark>, String, String);

fn differences(plan: &wire::Plan, built: bool) -> Vec<Line> {
    let of_file = plan.differences.iter().map(|one| {
        let mark = Mark::of(one.from.is_some(), one.to.is_some());
        let words = match (&one.from, &one.to) {
            // Neither is shown.
            (Some(from), Some(to)) if from == to => from.clone(),
            (Some(from), Some(to)) => format!("{} → {}", cut(from), cut(to)),
            (Some(one), None) | (None, Some(one)) => cut(one),
            (None, None) => String::new(),
        };
        (Some(mark), one.path.clone(), words)
    });
    let of_secrets = plan.secrets.iter().map(|one| {
        let becomes = one.to.is_some() || one.made || one.read;
        let to = match (one.to, one.made) {
            (Some(version), _) => format!("version {version}"),
            (None, true) => "made by Bowline".to_owned(),
            (None, false) => "what is in its file now".to_owned(),
        };
        let words = match (one.from, becomes) {
            (Some(from), true) => format!("version {from} → {to}"),
            (Some(from), false) => format!("version {from}, not used any more"),
            (None, _) => to,
        };
        (Some(Mark::of(one.from.is_some(), becomes)), format!("secret {}", one.name), words)
    });
    let of_builds = plan.builds.iter().map(|one| {
        let to = short(&one.to);
        let changed = one.from.as_ref().map(|from| format!("{} → ", short(from))).unwrap_or_default();
        let runtime = one.runtime.as_ref().map(|runtime| format!(", for {runtime}")).unwrap_or_default();
        let made = match (built, one.cached) {
            (true, true) => "was there before",
            (true, false) => "taken as it is",
            (false, true) => "built before",
            (false, false) => "to be built",
        };
        (
            Some(Mark::of(one.from.is_some(), true)),
            format!("build of {}", one.service),
            format!("{changed}{to}, {made}{runtime}"),
        )
    });
    of_file.chain(of_secrets).chain(of_builds).collect()
}

/// Aligned lines below a heading; nothing where there are none.
pub(super) fn section(heading: Option<&str>, lines: &[Line], ui: &Ui) {
    if lines.is_empty() {
        return;
    }
    ui.say(heading.map(|heading| format!("\n  {heading}")).unwrap_or_default());
    let widest = lines.iter().map(|(_, name, _)| name.chars().count()).max().unwrap_or(0);
    for (mark, name, words) in lines {
        let mark = mark.map_or_else(|| " ".to_owned(), |mark| mark.painted(ui));
        ui.say(format!("  {mark} {name:widest$}  {}", words).trim_end());
    }
}

/// A value that would fill the screen is cut.
pub(super) fn cut(text: &str) -> String {
    match text.char_indices().nth(WIDEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn short(digest: &str) -> &str {
    digest.get(..SHORT).unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::ToCluster;

    #[test]
    fn the_command_means_the_same_place() {
        let cluster = || ToCluster { image: Vec::new(), api: Vec::new(), registry_ca: None, take_over: false };
        let args = |dir: &str, env: &str| Plan { dir: dir.into(), env: env.into(), artifact: None, cluster: cluster() };
        let said = ["--to".to_owned(), "ssh://a@b:22".to_owned()];
        let hash = Digest([0xab; 32]);
        let check = |args: Plan, said: &[String], expected: &str| {
            assert_eq!(command(&args, said, &hash), format!("{expected} --plan {hash}"));
        };
        check(args("/srv/shop", "beta"), &said, "bowline deploy /srv/shop --env beta --to ssh://a@b:22");
        check(args("it's", "local"), &[], "bowline up 'it'\\''s'");
    }

    #[test]
    fn an_artifact_is_not_said_to_be_built() {
        let build = |cached| wire::PlannedBuild {
            service: "web".into(),
            from: None,
            to: "ab".repeat(32),
            runtime: None,
            cached,
        };
        let said = |cached, built| {
            let plan = wire::Plan {
                env: "production".into(),
                app: "shop".into(),
                hash: String::new(),
                stable: None,
                runs: false,
                outcome: wire::PlanOutcome::Release,
                release: 1,
                differences: Vec::new(),
                builds: vec![build(cached)],
                secrets: Vec::new(),
                services: Vec::new(),
                notes: Vec::new(),
                risks: Vec::new(),
            };
            differences(&plan, built).remove(0).2
        };
        assert_eq!(said(false, false), "abababababab, to be built");
        assert_eq!(said(true, false), "abababababab, built before");
        assert_eq!(said(false, true), "abababababab, taken as it is");
        assert_eq!(said(true, true), "abababababab, was there before");
    }

    #[test]
    fn a_long_value_is_cut_between_letters() {
        assert_eq!(cut("short"), "short");
        let long = "é".repeat(WIDEST + 1);
        assert_eq!(cut(&long).chars().count(), WIDEST + 1);
    }
}
