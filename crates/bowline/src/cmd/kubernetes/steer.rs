//! `bowline rollback` and `bowline scale` in a cluster.

use std::process::ExitCode;
use std::time::Instant;

use bowline_core::fault::{Fault, FaultKind};
use bowline_kube::Rollout;

use super::{Place, Telling, left, only_app, owner};
use crate::args::{Rollback, Scale};
use crate::cmd::follow::{self, app_and_service};
use crate::interrupts::{INTERRUPTED, Interrupts};
use crate::ui::{Tone, Ui};

pub(super) async fn roll_back(args: Rollback, place: Place<'_>, ui: &Ui) -> Result<ExitCode, Fault> {
    let Rollback { app, release, env, take_over } = args;
    // An app has a letter first: a number alone is a release.
    let (app, release) = match (app.as_deref().and_then(|text| text.parse().ok()), release) {
        (Some(number), None) => (None, Some(number)),
        (_, release) => (app, release),
    };
    let mut interrupts = Interrupts::new()?;
    let (began, mut cluster) = (Instant::now(), place.join().await?);
    let app = match app {
        Some(app) => app,
        None => only_app(&cluster, &env, "rollback APP").await?,
    };
    let (_, owner) = owner(&env, &app)?;
    let mut telling = Telling::new(&app, ui);
    let mut tell = |told| telling.tell(told);
    let mut rollout = Rollout { cluster: &mut cluster, owner: &owner, tell: &mut tell };
    let ended = tokio::select! {
        done = rollout.roll_back(release, take_over) => Some(done),
        () = interrupts.next() => None,
    };
    let begun = cluster.let_go().await;
    let Some(done) = ended.transpose()? else {
        ui.aside(left(begun, |number| {
            format!("`bowline rollback {app} {number} --env {env} --to {}` follows it", cluster.target())
        }));
        return Ok(ExitCode::from(INTERRUPTED));
    };
    drop(telling);
    let words = format!("{} release {} serves again", ui.paint(Tone::Good, "is back:"), done.release);
    follow::ready(&app, (done.release, &[]), words, began, ui);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn scale(args: Scale, place: Place<'_>, ui: &Ui) -> Result<ExitCode, Fault> {
    let Scale { target, replicas, env, take_over } = args;
    if replicas == 0 {
        return Err(Fault::new(FaultKind::Invalid, "a service has at least one instance"));
    }
    let (app, service) = app_and_service(&target);
    let mut interrupts = Interrupts::new()?;
    let (began, mut cluster) = (Instant::now(), place.join().await?);
    let (_, owner) = owner(&env, &app)?;
    let mut telling = Telling::new(&app, ui);
    let mut tell = |told| telling.tell(told);
    let mut rollout = Rollout { cluster: &mut cluster, owner: &owner, tell: &mut tell };
    let ended = tokio::select! {
        done = rollout.scale(service.as_deref(), replicas, take_over) => Some(done),
        () = interrupts.next() => None,
    };
    let begun = cluster.let_go().await;
    let Some((name, done)) = ended.transpose()? else {
        ui.aside(left(begun, |_| {
            format!("`bowline scale {target} {replicas} --env {env} --to {}` follows it", cluster.target())
        }));
        return Ok(ExitCode::from(INTERRUPTED));
    };
    drop(telling);
    let instances = if replicas == 1 { "instance" } else { "instances" };
    let words = format!("{} {app}.{name} has {replicas} {instances}", ui.paint(Tone::Good, "is scaled:"));
    follow::ready(&app, (done.release, &[]), words, began, ui);
    Ok(ExitCode::SUCCESS)
}
