use std::process::ExitCode;

use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};

use super::follow::{self, Followed, app_and_service};
use crate::args::Scale;
use crate::interrupts::Interrupts;
use crate::target::Target;
use crate::ui::{Tone, Ui};

pub(super) async fn run(args: Scale, target: &Target, ui: &Ui) -> Result<ExitCode, Fault> {
    let Scale { target: of, replicas, env, take_over } = args;
    if take_over {
        return Err(Fault::new(FaultKind::Invalid, "--take-over is for Kubernetes").hint("leave it out"));
    }
    let (app, service) = app_and_service(&of);
    let mut interrupts = Interrupts::new()?;
    let session = target.join().await?;
    let accepted = session.client.scale(&env, &app, &wire::Scale { service, replicas }).await?;
    let instances = if replicas == 1 { "instance" } else { "instances" };
    let words = |_| format!("{} {of} has {replicas} {instances}", ui.paint(Tone::Good, "is scaled:"));
    let followed = Followed { env: &env, app: &app, change: accepted.change };
    follow::and_say((target, &session.client), followed, words, &mut interrupts, ui).await
}
