use std::process::ExitCode;

use bowline_api::wire;
use bowline_core::app::ResourceKind;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::resource::data::DataId;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::account::Account;
use super::{Of, client, time as moment, tunnel};
use crate::args::Connect;
use crate::interrupts::{INTERRUPTED, Interruption, Interrupts};
use crate::session::Session;
use crate::target::Target;
use crate::ui::{Tone, Ui};

pub(super) async fn run(
    args: Connect,
    (target, session): (&Target, &Session),
    interrupts: &mut Interrupts,
    ui: &Ui,
) -> Result<ExitCode, Fault> {
    let Connect { app, data, client, read_only, time, env, args } = args;
    let of = Of { app, env };
    let (id, _) = tokio::select! {
        found = of.find(&data, session) => found?,
        () = interrupts.next() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let rights = if read_only { wire::Rights::Read } else { wire::Rights::Write };
    let lend = wire::Lend { rights, seconds: time.as_secs() };
    let DataId::Server(server) = &id else {
        // The daemon says where it lies.
        session.client.lend(&of.env, &of.app, &id.to_string(), &lend).await?;
        return Err(Fault::new(FaultKind::Invalid, format!("{id} is a folder: nobody logs in to it")));
    };
    let account = Account { of: &of, id: server, session };
    let Some(lent) = account.lend(&lend, interrupts, ui).await? else { return Ok(ExitCode::from(INTERRUPTED)) };
    let (there, tunnel) = match tunnel::lead(lent.clone(), (&of, server), (target, session), ui).await {
        Ok(led) => led,
        Err(fault) => {
            account.give_back(&lent, interrupts, ui).await;
            return Err(fault);
        }
    };
    let ended = match (client || !args.is_empty(), tunnel) {
        (true, _tunnel) => start(server.kind, &there, &args, interrupts).await,
        (false, None) => {
            show(&there, read_only, ui);
            return Ok(ExitCode::SUCCESS);
        }
        (false, Some(_tunnel)) => {
            show(&there, read_only, ui);
            ui.aside(ui.paint(Tone::Faint, "it leads to the daemon's machine for as long as this command goes on"));
            tokio::select! {
                () = interrupts.next() => Ok(ExitCode::from(INTERRUPTED)),
                // As long as it was asked for: until when it holds is said by another clock.
                () = tokio::time::sleep(time) => Ok(ExitCode::SUCCESS),
            }
        }
    };
    account.give_back(&lent, interrupts, ui).await;
    ended
}

fn show(lent: &wire::Lent, read_only: bool, ui: &Ui) {
    ui.object(lent);
    ui.say(&lent.url);
    let note = match lent.until {
        Some(until) => {
            let what = if read_only { ", to read only" } else { "" };
            format!("holds until {} UTC{what}; then its sessions end", moment(until))
        }
        None => "a server elsewhere: this is the app's own URL, and does not end".to_owned(),
    };
    ui.aside(ui.paint(Tone::Faint, note));
}

/// Until the client ends; Ctrl-C is the client's, and TERM is passed on.
async fn start(
    kind: ResourceKind,
    lent: &wire::Lent,
    args: &[std::ffi::OsString],
    interrupts: &mut Interrupts,
) -> Result<ExitCode, Fault> {
    let mut command = client::command(kind, lent)?;
    command.args(args);
    let failed = |error: &std::io::Error| Fault::new(FaultKind::Failed, "the client cannot be started").source(error);
    let mut child = tokio::process::Command::from(command).spawn().map_err(|error| failed(&error))?;
    let mut is_told_to_end = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.map_err(|error| failed(&error))?,
            which = interrupts.which() => if which == Interruption::Terminate {
                is_told_to_end = true;
                if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
                    // It has ended by itself.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
                }
            },
        }
    };
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(match code {
        None if is_told_to_end => ExitCode::from(INTERRUPTED),
        code => code.map_or(ExitCode::FAILURE, ExitCode::from),
    })
}
