use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use bowline_api::wire::{Release, ReleaseState};
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
    let rows: Vec<Vec<String>> = answer.releases.iter().map(|release| row(release, ui)).collect();
    let head = ["RELEASE", "STATE", "MADE", "ARTIFACT", "CONFIGURATION", "SECRETS", "REJECTED BECAUSE"];
    let rejected = answer.releases.iter().any(|release| release.fault.is_some());
    ui.table(&head[..head.len() - usize::from(!rejected)], &rows);
    Ok(ExitCode::SUCCESS)
}

fn row(release: &Release, ui: &Ui) -> Vec<String> {
    let (tone, state) = match release.state {
        _ if release.serves => (Tone::Good, "serves"),
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
        release.fault.as_ref().map(|fault| fault.error.clone()).unwrap_or_default(),
    ]
}

fn short(digest: &str) -> &str {
    digest.get(..SHORT).unwrap_or(digest)
}
