//! `bowline rollback` and `bowline scale` in a cluster.

use std::process::ExitCode;
use std::time::Instant;

use bowline_core::fault::{Fault, FaultKind};
use bowline_kube::{Begun, Rollout};

use super::{Place, Telling, only_app, owner};
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
            format!("bowline rollback {app} {number} --env {env} --to {}", cluster.target())
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
        ui.aside(left(begun, |_| format!("bowline scale {target} {replicas} --env {env} --to {}", cluster.target())));
        return Ok(ExitCode::from(INTERRUPTED));
    };
    drop(telling);
    let instances = if replicas == 1 { "instance" } else { "instances" };
    let words = format!("{} {app}.{name} has {replicas} {instances}", ui.paint(Tone::Good, "is scaled:"));
    follow::ready(&app, (done.release, &[]), words, began, ui);
    Ok(ExitCode::SUCCESS)
}

/// What is said to who leaves before the end. `begun`: the release, if any of it was applied. A number is said: what served before the one
/// that serves may be another one meanwhile.
fn left(begun: Option<Begun>, again: impl FnOnce(u32) -> String) -> String {
    match begun {
        Some(Begun { release, serves: true }) => {
            format!("  interrupted: release {release} serves again; whether routes lead to it was not looked at")
        }
        Some(Begun { release, serves: false }) => {
            let again = again(release);
            format!("  interrupted: what was applied goes on in the cluster; `{again}` follows it to its end")
        }
        None => "  interrupted: nothing was applied".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_leaves_is_told_the_release_that_is_gone_back_to() {
        let again = |number| format!("bowline rollback shop {number}");
        let begun = |serves: bool| Some(Begun { release: 7, serves });
        assert!(left(begun(true), again).contains("release 7 serves again"));
        assert!(left(begun(false), again).contains("`bowline rollback shop 7` follows it"));
        assert!(left(None, again).contains("nothing was applied"));
    }
}
