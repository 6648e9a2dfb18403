//! `bowline releases` of a cluster.

use std::process::ExitCode;
use std::time::Duration;

use bowline_core::fault::Fault;
use bowline_kube::history::State;
use bowline_kube::now_ms;
use serde::Serialize;

use super::{Place, only_app, owner};
use crate::args::Releases;
use crate::ui::{self, Tone, Ui};

#[derive(Debug, Serialize)]
struct Answer {
    app: String,
    env: String,
    releases: Vec<Listed>,
}

#[derive(Debug, Serialize)]
struct Listed {
    number: u32,
    state: State,
    /// In milliseconds since 1970.
    created: u64,
    images: std::collections::BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected_because: Option<String>,
}

pub(super) async fn run(args: Releases, place: Place<'_>, ui: &Ui) -> Result<ExitCode, Fault> {
    let cluster = place.join().await?;
    let app = match args.app {
        Some(app) => app,
        None => only_app(&cluster, &args.env, "releases APP").await?,
    };
    let (_, owner) = owner(&args.env, &app)?;
    let releases = cluster.releases(&owner).await;
    let releases = releases.map_err(|refusal| refusal.fault(format!("the releases of {owner} cannot be read")))?;
    let listed = releases.into_iter().map(|one| Listed {
        number: one.number,
        state: one.state,
        created: one.at,
        images: one.images,
        rejected_because: one.why,
    });
    let answer = Answer { app: owner.app, env: owner.env, releases: listed.collect() };
    ui.object(&answer);
    if answer.releases.is_empty() {
        ui.say(format!(
            "  {}/{} has no release yet; `bowline deploy DIR --to {}` makes one",
            answer.env,
            answer.app,
            cluster.target()
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let rejected = answer.releases.iter().any(|release| release.rejected_because.is_some());
    let head = ["RELEASE", "STATE", "MADE", "IMAGES", "REJECTED BECAUSE"];
    let rows: Vec<Vec<String>> = answer.releases.iter().map(|release| row(release, ui)).collect();
    ui.table(&head[..head.len() - usize::from(!rejected)], &rows);
    Ok(ExitCode::SUCCESS)
}

fn row(release: &Listed, ui: &Ui) -> Vec<String> {
    let tone = match release.state {
        State::Serves => Tone::Good,
        State::Pending => Tone::Warning,
        State::Served => Tone::Faint,
        State::Rejected => Tone::Bad,
    };
    let age = Duration::from_millis(now_ms().saturating_sub(release.created));
    // As `docker` and `git` show digests.
    let short = |image: &String| {
        image.rsplit_once("sha256:").map_or_else(|| image.clone(), |(_, digest)| digest.chars().take(12).collect())
    };
    let images: Vec<String> =
        release.images.iter().map(|(service, image)| format!("{service}:{}", short(image))).collect();
    let images = if images.is_empty() { "-".to_owned() } else { images.join(" ") };
    vec![
        release.number.to_string(),
        ui.paint(tone, release.state.as_str()),
        format!("{} ago", ui::duration(age)),
        images,
        release.rejected_because.clone().unwrap_or_default(),
    ]
}
