use std::process::ExitCode;

use bowline_core::fault::Fault;

use super::follow::{self, Followed};
use super::logs::only_app;
use crate::args::Promote;
use crate::interrupts::Interrupts;
use crate::target::Target;
use crate::ui::{Tone, Ui};

pub(super) async fn run(args: Promote, target: &Target, ui: &Ui) -> Result<ExitCode, Fault> {
    let mut interrupts = Interrupts::new()?;
    let session = target.join().await?;
    let app = match args.app {
        Some(app) => app,
        None => only_app(&session.client, &args.env, "promote APP").await?,
    };
    let accepted = session.client.promote(&args.env, &app).await?;
    let words = |release| format!("{} release {release}", ui.paint(Tone::Good, "serves:"));
    let followed = Followed { env: &args.env, app: &app, change: accepted.change };
    follow::and_say((target, &session.client), followed, words, &mut interrupts, ui).await
}
