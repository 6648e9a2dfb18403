use std::process::ExitCode;

use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};

use super::follow::{self, Followed};
use super::logs::only_app;
use crate::args::Rollback;
use crate::interrupts::Interrupts;
use crate::target::Target;
use crate::ui::{Tone, Ui};

pub(super) async fn run(args: Rollback, target: &Target, ui: &Ui) -> Result<ExitCode, Fault> {
    let Rollback { app, release, env, take_over } = args;
    if take_over {
        return Err(Fault::new(FaultKind::Invalid, "--take-over is for Kubernetes").hint("leave it out"));
    }
    // An app has a letter first: a number alone is a release.
    let (app, release) = match (app.as_deref().and_then(|text| text.parse().ok()), release) {
        (Some(number), None) => (None, Some(number)),
        (_, release) => (app, release),
    };
    let mut interrupts = Interrupts::new()?;
    let session = target.join().await?;
    let app = match app {
        Some(app) => app,
        None => only_app(&session.client, &env, "rollback APP").await?,
    };
    let accepted = session.client.roll_back(&env, &app, wire::Rollback { release }).await?;
    let words = |release| format!("{} release {release} serves again", ui.paint(Tone::Good, "is back:"));
    let followed = Followed { env: &env, app: &app, change: accepted.change };
    follow::and_say((target, &session.client), followed, words, &mut interrupts, ui).await
}
