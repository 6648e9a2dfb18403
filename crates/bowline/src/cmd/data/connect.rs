use std::process::ExitCode;
use std::time::Duration;

use bowline_api::wire;
use bowline_core::app::ResourceKind;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::resource::data::DataId;
use tokio::signal::unix::{SignalKind, signal};

use super::{Of, client, time as moment, tunnel};
use crate::args::Connect;
use crate::cmd::logs::now;
use crate::interrupts::{INTERRUPTED, Interrupts};
use crate::session::Session;
use crate::target::Target;
use crate::ui::{Tone, Ui};

pub(super) async fn run(args: Connect, (target, session): (&Target, &Session), ui: &Ui) -> Result<ExitCode, Fault> {
    let Connect { app, data, client, read_only, time, env, args } = args;
    let of = Of { app, env };
    let (id, _) = of.find(&data, session).await?;
    let rights = if read_only { wire::Rights::Read } else { wire::Rights::Write };
    let lend = wire::Lend { rights, seconds: time.as_secs() };
    let lent = session.client.lend(&of.env, &of.app, &id.to_string(), &lend).await?;
    let DataId::Server(server) = &id else {
        return Err(Fault::new(FaultKind::Invalid, format!("{id} is a folder: nobody logs in to it")));
    };
    let (lent, tunnel) = tunnel::lead(lent, (&of, server), (target, session)).await?;
    let ended = match (client || !args.is_empty(), tunnel) {
        (true, _tunnel) => start(server.kind, &lent, &args).await,
        (false, None) => {
            show(&lent, read_only, ui);
            return Ok(ExitCode::SUCCESS);
        }
        (false, Some(_tunnel)) => {
            show(&lent, read_only, ui);
            ui.aside(ui.paint(Tone::Faint, "it leads to the daemon's machine for as long as this command goes on"));
            rest(&lent).await
        }
    };
    if let (false, Some(user)) = (lent.external, &lent.user) {
        session.client.give_back(&of.env, &of.app, &id.to_string(), user).await?;
    }
    ended
}

/// Until it is told to end, or the account has ended by itself.
async fn rest(lent: &wire::Lent) -> Result<ExitCode, Fault> {
    let mut interrupts = Interrupts::new()?;
    let left = lent.until.map_or(u64::MAX, |until| until.saturating_sub(now()));
    tokio::select! {
        () = interrupts.next() => Ok(ExitCode::from(INTERRUPTED)),
        () = tokio::time::sleep(Duration::from_millis(left)) => Ok(ExitCode::SUCCESS),
    }
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

/// Until the client ends; Ctrl-C is the client's.
async fn start(kind: ResourceKind, lent: &wire::Lent, args: &[std::ffi::OsString]) -> Result<ExitCode, Fault> {
    let mut command = client::command(kind, lent)?;
    command.args(args);
    let failed = |error: &std::io::Error| Fault::new(FaultKind::Failed, "the client cannot be started").source(error);
    let mut interrupts = signal(SignalKind::interrupt()).map_err(|error| failed(&error))?;
    let mut child = tokio::process::Command::from(command).spawn().map_err(|error| failed(&error))?;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.map_err(|error| failed(&error))?,
            _ = interrupts.recv() => {}
            // A lease that is over has ended its session: the client says so at its next statement.
            () = tokio::time::sleep(Duration::from_secs(3_600)) => {}
        }
    };
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
