use std::process::ExitCode;

use bowline_api::wire::SessionPlace;
use bowline_core::fault::Fault;

use super::attach::{self, Attachment};
use crate::args::Run;
use crate::paths::Paths;
use crate::ui::Ui;

pub(super) fn run(args: Run, paths: &Paths, ui: &Ui) -> Result<ExitCode, Fault> {
    let Run { app, service, attach: how } = args;
    let (env, tty, command) = (how.env, how.tty, how.command);
    let place = SessionPlace::OneOff;
    attach::run(Attachment { env, app, place, service, instance: None, tty, command }, paths, ui)
}
