//! Commands whose target is a cluster: there is no daemon, and what the cluster keeps is asked for itself.

mod apis;
mod approval;
mod deploy;
mod exec;
mod images;
mod logs;
mod objects;
mod plan;
mod releases;
mod secret;
mod status;
mod steer;

use std::process::ExitCode;

use bowline_api::wire::{ChangeEvent, ChangePhase, ChangeStep, Waiting};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, AppName, EnvName};
use bowline_kube::{Begun, Cluster, Owner, Told, now_ms};
use bowline_render::label;

pub(super) use self::deploy::run as deploy;
pub(super) use self::plan::run as plan;
use super::follow;
use crate::args::{ToCluster, Verb};
use crate::progress::Progress;
use crate::ui::Ui;

/// Where to go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) context: Option<&'a str>,
    pub(super) namespace: Option<&'a str>,
}

impl Place<'_> {
    async fn join(self) -> Result<Cluster, Fault> {
        Cluster::connect(self.context, self.namespace).await
    }
}

/// What goes to a cluster beside `deploy` and `plan`, which read a file first.
#[expect(clippy::wildcard_enum_match_arm, reason = "whatever else there is speaks to a daemon")]
pub(super) fn run(verb: Verb, place: Place<'_>, ui: &Ui) -> Result<ExitCode, Fault> {
    match verb {
        Verb::Status(args) => super::client(status::run(args, place, ui)),
        Verb::Releases(args) => super::client(releases::run(args, place, ui)),
        Verb::Rollback(args) => super::client(steer::roll_back(args, place, ui)),
        Verb::Scale(args) => super::client(steer::scale(args, place, ui)),
        Verb::Logs(args) => super::client(logs::run(args, place, ui)),
        Verb::Secret(args) => super::client(secret::run(args, place, ui)),
        Verb::Exec(args) => exec::run(args, place, ui),
        _ => Err(Fault::new(FaultKind::Invalid, "this command is not for Kubernetes").hint(
            "there, plan, deploy, status, releases, rollback, scale, logs, exec and secret are; kubectl does the rest",
        )),
    }
}

/// Of a command that goes to a server.
pub(super) fn is_not_meant(said: &ToCluster) -> Result<(), Fault> {
    match said.is_said() {
        true => Err(Fault::new(FaultKind::Invalid, "--image, --api, --registry-ca and --take-over are for Kubernetes")
            .hint("a server builds what it is sent: leave them out")),
        false => Ok(()),
    }
}

/// Whose they are, of names that a command was given: as labels spell them.
fn owner(env: &str, app: &str) -> Result<(AppKey, Owner), Fault> {
    let wrong = |what: &str, text: &str, error: &dyn std::error::Error| {
        Fault::new(FaultKind::Invalid, format!("{text:?} is not the name of {what}")).source(error)
    };
    let env = EnvName::new(env).map_err(|error| wrong("an environment", env, &error))?;
    let app = AppName::new(app).map_err(|error| wrong("an app", app, &error))?;
    let owner = Owner { env: label(env.as_str()), app: label(app.as_str()) };
    Ok((AppKey { env, app }, owner))
}

/// What is said to who leaves before the end. `begun`: the release, if any of it was applied. `again`: what follows it, of its number: what served
/// before the one that serves may be another one meanwhile.
fn left(begun: Option<Begun>, again: impl FnOnce(u32) -> String) -> String {
    match begun {
        Some(Begun { release, serves: true }) => {
            format!("  interrupted: release {release} serves; whether routes lead to it was not looked at")
        }
        Some(Begun { release, serves: false }) => {
            format!("  interrupted: what was applied goes on in the cluster; {} to its end", again(release))
        }
        None => "  interrupted: nothing was applied".to_owned(),
    }
}

/// The app that is meant where none is named.
async fn only_app(cluster: &Cluster, env: &str, usage: &str) -> Result<String, Fault> {
    let owners = cluster.owners().await.map_err(|refusal| refusal.fault("the apps there cannot be listed"))?;
    let env_label = label(env);
    let mut apps: Vec<String> =
        owners.into_iter().filter(|owner| owner.env == env_label).map(|owner| owner.app).collect();
    match (apps.pop(), apps.is_empty()) {
        (Some(app), true) => Ok(app),
        (None, _) => Err(Fault::new(FaultKind::Invalid, format!("no app of {env} is known in {}", cluster.target()))
            .hint("say the environment, too: --env production")),
        (Some(app), false) => Err(Fault::new(FaultKind::Invalid, "several apps are known there")
            .caused_by(format!("{}, {app}", apps.join(", ")))
            .hint(format!("say which one: bowline {usage}"))),
    }
}

/// Shows a rollout as that of a daemon is shown, and for programs by the same objects.
struct Telling<'u> {
    progress: Progress<'u>,
    ui: &'u Ui,
    app: String,
    change: u64,
    /// What was waited on when it was told the last time.
    waits: Vec<(String, String)>,
    /// Notes that are for the end; of all else nothing is told to programs.
    kept: Option<Vec<String>>,
}

impl<'u> Telling<'u> {
    fn new(app: &str, ui: &'u Ui) -> Self {
        Self {
            progress: Progress::new(ui, None),
            ui,
            app: app.to_owned(),
            change: now_ms(),
            waits: Vec::new(),
            kept: None,
        }
    }

    /// For an answer that is one object, with what was noted on the way.
    fn to_be_kept(app: &str, ui: &'u Ui) -> Self {
        Self { kept: Some(Vec::new()), ..Self::new(app, ui) }
    }

    fn into_notes(mut self) -> Vec<String> {
        self.kept.take().unwrap_or_default()
    }

    /// From now on nothing is told; what was kept until then, for [`Self::told`].
    fn quiet(&mut self) -> Option<Vec<String>> {
        self.kept.replace(Vec::new())
    }

    /// What is told is told again.
    fn told(&mut self, kept: Option<Vec<String>>) {
        self.kept = kept;
    }

    fn tell(&mut self, told: Told) {
        let waits = match &told {
            // It is looked at twice a second, and told when it is another.
            Told::Waits(waits) if *waits == self.waits => return,
            Told::Waits(waits) => waits.clone(),
            Told::Checking | Told::Recording | Told::Starting | Told::Note { .. } => Vec::new(),
        };
        self.waits = waits;
        let what = match told {
            Told::Checking => ChangeStep::Phase { phase: ChangePhase::Guard },
            Told::Recording => ChangeStep::Phase { phase: ChangePhase::Release },
            Told::Starting => ChangeStep::Phase { phase: ChangePhase::Rollout },
            Told::Note { service, text } => ChangeStep::Note { service, text },
            Told::Waits(all) => ChangeStep::Waiting {
                steps: all.into_iter().map(|(what, on)| Waiting { what, on }).collect(),
                rollout: None,
            },
        };
        self.step(what);
    }

    fn note(&mut self, text: String) {
        self.tell(Told::Note { service: None, text });
    }

    fn step(&mut self, what: ChangeStep) {
        let event = ChangeEvent { at: now_ms(), what };
        match (&mut self.kept, &event.what) {
            (Some(kept), ChangeStep::Note { service, text }) => {
                let service = service.as_ref().map(|service| format!("{service}: ")).unwrap_or_default();
                kept.push(format!("{service}{text}"));
                return;
            }
            (Some(_), _) => {}
            (None, _) => follow::say(&self.app, self.change, &event, self.ui),
        }
        self.progress.step(&event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_leaves_is_told_the_release_that_is_gone_back_to() {
        let again = |number| format!("`bowline rollback shop {number}` follows it");
        let begun = |serves: bool| Some(Begun { release: 7, serves });
        assert!(left(begun(true), again).contains("release 7 serves"));
        assert!(left(begun(false), again).contains("`bowline rollback shop 7` follows it to its end"));
        assert!(left(None, again).contains("nothing was applied"));
    }
}
