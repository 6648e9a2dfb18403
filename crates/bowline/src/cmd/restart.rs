use std::process::ExitCode;

use bowline_api::wire;
use bowline_core::fault::Fault;

use super::follow::{self, Followed, app_and_service};
use crate::args::Restart;
use crate::interrupts::Interrupts;
use crate::target::Target;
use crate::ui::{Tone, Ui};

pub(super) async fn run(args: Restart, target: &Target, ui: &Ui) -> Result<ExitCode, Fault> {
    let (app, service) = app_and_service(&args.target);
    let mut interrupts = Interrupts::new()?;
    let session = target.join().await?;
    let accepted = session.client.restart(&args.env, &app, &wire::Restart { service }).await?;
    let words = |release| format!("{}, release {release}", ui.paint(Tone::Good, "is restarted"));
    let followed = Followed { env: &args.env, app: &app, change: accepted.change };
    follow::and_say((target, &session.client), followed, words, &mut interrupts, ui).await
}
