use std::process::ExitCode;

use bowline_api::wire::SessionPlace;
use bowline_core::fault::Fault;

use super::attach::{self, Attachment};
use crate::args::Exec;
use crate::target::Target;
use crate::ui::Ui;

pub(super) fn run(args: Exec, target: &Target, ui: &Ui) -> Result<ExitCode, Fault> {
    let Exec { target: of, instance, attach: how } = args;
    let (app, service) = match of.split_once('.') {
        Some((app, service)) => (app.to_owned(), Some(service.to_owned())),
        None => (of, None),
    };
    let (env, tty, command) = (how.env, how.tty, how.command);
    attach::run(Attachment { env, app, place: SessionPlace::Inside, service, instance, tty, command }, target, ui)
}
