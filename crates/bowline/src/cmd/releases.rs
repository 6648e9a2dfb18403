use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use bowline_api::wire::{self, Release, ReleaseState};
use bowline_core::fault::Fault;

use super::logs::{now, only_app};
use crate::args::Releases;
use crate::target::Target;
use crate::ui::{self, Tone, Ui};

/// Of a digest, for people: as `docker` and `git` do.
const SHORT: usize = 12;

pub(super) async fn run(args: Releases, target: &Target, ui: &Ui) -> Result<ExitCode, Fault> {
    let session = target.join().await?;
    let app = match args.app {
        Some(app) => app,
        None => only_app(&session.client, &args.env, "releases APP").await?,
    };
    let answer = session.client.releases(&args.env, &app).await?;
    ui.object(&answer);
    if answer.releases.is_empty() {
        ui.say(format!("  {}/{} has no release yet; `bowline up DIR` makes one", answer.env, answer.app));
        return Ok(ExitCode::SUCCESS);
    }
    let serves = answer.releases.iter().any(|release| release.serves);
    let rows: Vec<Vec<String>> = answer.releases.iter().map(|release| row(release, serves, ui)).collect();
    let head = ["RELEASE", "STATE", "MADE", "ARTIFACT", "CONFIGURATION", "SECRETS", "REJECTED BECAUSE"];
    let rejected = answer.releases.iter().any(|release| release.fault.is_some());
    ui.table(&head[..head.len() - usize::from(!rejected)], &rows);
    Ok(ExitCode::SUCCESS)
}

/// `serves`: one of them does.
fn row(release: &Release, serves: bool, ui: &Ui) -> Vec<String> {
    let (tone, state) = match release.state {
        _ if release.serves => (Tone::Good, "serves"),
        // It has given everything to one that is watched, and has it back if that fails; whether it is kept warm, `status` says.
        ReleaseState::Stable if serves => (Tone::Strong, "stands by"),
        ReleaseState::Stable => (Tone::Strong, "stopped"),
        ReleaseState::Pending => (Tone::Warning, "pending"),
        ReleaseState::Superseded => (Tone::Faint, "superseded"),
        ReleaseState::Failed => (Tone::Bad, "failed"),
    };
    let age = Duration::from_millis(now().saturating_sub(release.created));
    let artifacts: BTreeSet<&str> = release.artifacts.values().map(|digest| short(digest)).collect();
    let secrets: Vec<String> = release.secrets.iter().map(|(name, version)| format!("{name}:{version}")).collect();
    let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    vec![
        release.number.to_string(),
        ui.paint(tone, state),
        format!("{} ago", ui::duration(age)),
        or_none(artifacts.into_iter().collect::<Vec<_>>().join(" ")),
        short(&release.configuration).to_owned(),
        or_none(secrets.join(" ")),
        release.fault.as_ref().map(rejected).unwrap_or_default(),
    ]
}

/// In a line: that a release is worse than it may be says nothing without the figures.
fn rejected(fault: &wire::Fault) -> String {
    let why = fault.caused_by.first().map(|why| format!(": {why}")).unwrap_or_default();
    format!("{}{why}", fault.error)
}

fn short(digest: &str) -> &str {
    digest.get(..SHORT).unwrap_or(digest)
}
