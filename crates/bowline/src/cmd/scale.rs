use std::process::ExitCode;

use bowline_api::wire;
use bowline_core::fault::Fault;

use super::follow::{self, app_and_service};
use crate::args::Scale;
use crate::interrupts::Interrupts;
use crate::paths::Paths;
use crate::session::Session;
use crate::ui::{Tone, Ui};

pub(super) async fn run(args: Scale, paths: &Paths, ui: &Ui) -> Result<ExitCode, Fault> {
    let Scale { target, replicas, env } = args;
    let (app, service) = app_and_service(&target);
    let mut interrupts = Interrupts::new()?;
    let session = Session::join(paths).await?;
    let accepted = session.client.scale(&env, &app, &wire::Scale { service, replicas }).await?;
    let instances = if replicas == 1 { "instance" } else { "instances" };
    let words = |_| format!("{} {target} has {replicas} {instances}", ui.paint(Tone::Good, "is scaled:"));
    follow::and_say(&session.client, (&app, accepted.change), words, &mut interrupts, ui).await
}
