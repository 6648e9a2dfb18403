//! `bowline deploy --to kubernetes`: from the file to objects, and those to a cluster.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use bowline_core::app::{App, Tls};
use bowline_core::fault::{Fault, FaultKind};
use bowline_kube::{Rollout, Told};

use super::objects::{Asked, Come, Ends, objects};
use super::{Place, Telling, left, owner};
use crate::args::{Deploy, ToCluster};
use crate::cmd::follow;
use crate::cmd::render::Loaded;
use crate::interrupts::{INTERRUPTED, Interrupts};
use crate::ui::{Tone, Ui};

pub(in crate::cmd) async fn run(
    args: Deploy,
    (dir, app): (&Path, &App),
    (place, state): (Place<'_>, Option<&Path>),
    ui: &Ui,
) -> Result<ExitCode, Fault> {
    fits(&args)?;
    let (key, owner) = owner(&args.env, app.name.as_str())?;
    let ToCluster { image, api, registry_ca, take_over } = args.cluster;
    let mut loaded = Loaded::read(dir, key, app.clone(), image)?;
    let mut interrupts = Interrupts::new()?;
    let began = Instant::now();
    let mut telling = Telling::new(app.name.as_str(), ui);
    let mut cluster = place.join().await?;
    // What names its namespace names the one that it comes to.
    loaded.put_into(Some(cluster.namespace().to_owned()));
    let asked = Asked {
        owner: &owner,
        dir,
        apis: &api,
        state,
        ca: registry_ca.as_deref(),
        take_over,
        approved: args.plan,
        ends: Ends::Deployed,
    };
    let deployed = async {
        telling.tell(Told::Checking);
        let Come { order, .. } = objects(&mut cluster, &asked, &mut loaded, &mut telling).await?;
        let mut tell = |told| telling.tell(told);
        Rollout { cluster: &mut cluster, owner: &owner, tell: &mut tell }.deploy(order).await
    };
    let ended = tokio::select! {
        done = deployed => Some(done),
        () = interrupts.next() => None,
    };
    let begun = cluster.let_go().await;
    let Some(done) = ended.transpose()? else {
        ui.aside(left(begun, |_| "run this again to follow it".to_owned()));
        return Ok(ExitCode::from(INTERRUPTED));
    };
    drop(telling);
    let words = match done.same {
        true => format!("{} release {}, nothing of it has changed", ui.paint(Tone::Good, "serves:"), done.release),
        false => format!("{} release {}", ui.paint(Tone::Good, "serves:"), done.release),
    };
    follow::ready(app.name.as_str(), (done.release, &urls(app)), words, began, ui);
    Ok(ExitCode::SUCCESS)
}

/// Of a flag that a daemon alone understands.
pub(super) fn unfit(flag: &str) -> Fault {
    Fault::new(FaultKind::Invalid, format!("{flag} is not for Kubernetes"))
        .hint("a cluster is given images: built of the folder, or said by --image SERVICE=REGISTRY/REPOSITORY@sha256:…")
}

/// What is said of a daemon alone.
fn fits(args: &Deploy) -> Result<(), Fault> {
    let said = [(args.artifact.is_some(), "--artifact"), (args.detach, "--detach"), (args.attach, "--attach")];
    said.into_iter().find(|(is_said, _)| *is_said).map_or(Ok(()), |(_, flag)| Err(unfit(flag)))
}

/// Where its routes are asked.
fn urls(app: &App) -> Vec<String> {
    let urls = app.routes.values().flat_map(|route| {
        let scheme = if route.tls == Tls::Off { "http" } else { "https" };
        route.hosts.iter().map(move |host| format!("{scheme}://{host}"))
    });
    let all: BTreeSet<String> = urls.collect();
    all.into_iter().collect()
}
