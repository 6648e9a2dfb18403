mod account;
mod archive;
mod client;
mod connect;
mod import;
mod tunnel;

use std::io::IsTerminal;
use std::process::ExitCode;

use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::env_option;
use bowline_core::resource::data::DataId;
use tokio::sync::oneshot;

use crate::args::Data;
use crate::cmd::logs;
use crate::interrupts::{INTERRUPTED, Interrupts};
use crate::session::Session;
use crate::target::Target;
use crate::ui::{self, Tone, Ui};

pub(super) async fn run(args: Data, target: &Target, ui: &Ui) -> Result<ExitCode, Fault> {
    // Data are there while nothing runs, too: a daemon is started to look at them, and stopped again.
    let session = target.visit().await?;
    let done = match args {
        Data::List { app, env } => list(app, env, &session, ui).await.map(|()| ExitCode::SUCCESS),
        Data::Connect(args) => connect::run(args, (target, &session), &mut Interrupts::new()?, ui).await,
        Data::Import(args) => import::run(args, (target, &session), &mut Interrupts::new()?, ui).await,
        Data::Rm { app, data, force, yes, env } => {
            let (of, mut interrupts) = (Of { app, env }, Interrupts::new()?);
            tokio::select! {
                removed = remove(&of, &data, (force, yes), &session, ui) => removed.map(|()| ExitCode::SUCCESS),
                () = interrupts.next() => Ok(ExitCode::from(INTERRUPTED)),
            }
        }
    };
    target.leave(&session).await?;
    done
}

/// The app that is spoken of.
struct Of {
    app: String,
    env: String,
}

impl std::fmt::Display for Of {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.env, self.app)
    }
}

impl Of {
    /// What is meant by `text`, as it is listed. `db` is enough where only one is called so.
    async fn find(&self, text: &str, session: &Session) -> Result<(DataId, wire::DataInfo), Fault> {
        let query = wire::DataQuery { env: Some(self.env.clone()), app: Some(self.app.clone()) };
        let all = session.client.data(&query).await?.data;
        let called = |one: &wire::DataInfo| format!("{}.{}", one.kind, one.name);
        let mut fits = all.iter().filter(|one| called(one) == text || one.name == text);
        let (first, second) = (fits.next(), fits.next());
        let unclear = |message: String| {
            let names: Vec<String> = all.iter().map(called).collect();
            let fault = Fault::new(FaultKind::Invalid, message);
            match names.as_slice() {
                [] => fault.hint("`bowline data list` shows what there is"),
                names => fault.hint(format!("it has: {}", names.join(", "))),
            }
        };
        match (first, second) {
            (Some(one), None) => {
                let id = DataId::parse(&called(one))
                    .map_err(|error| unclear(format!("{self} has odd data")).source(&error))?;
                Ok((id, one.clone()))
            }
            (Some(_), Some(_)) => Err(unclear(format!("{self} has more than one {text}"))),
            (None, _) => Err(unclear(format!("{self} has no {text}"))),
        }
    }
}

/// To the second.
fn time(ms: u64) -> String {
    let text = logs::time(ms);
    text.split('.').next().unwrap_or(&text).to_owned()
}

async fn list(app: Option<String>, env: Option<String>, session: &Session, ui: &Ui) -> Result<(), Fault> {
    let list = session.client.data(&wire::DataQuery { env, app }).await?;
    ui.object(&list);
    let rows: Vec<Vec<String>> = list.data.iter().map(|one| row(one, ui)).collect();
    let head = ["APP", "DATA", "STATE", "VERSION", "SIZE", "SINCE", "WAITS ON"];
    let waits = rows.iter().any(|row| row.last().is_some_and(|on| !on.is_empty()));
    match rows.is_empty() {
        true => ui.say("  no data: no app has a database, a cache or a volume"),
        false => ui.table(&head[..head.len() - usize::from(!waits)], &rows),
    }
    for one in list.data.iter().filter(|one| one.orphaned) {
        let env = env_option(&one.env);
        let (app, name) = (&one.app, format!("{}.{}", one.kind, one.name));
        ui.say(format!(
            "  {} {}/{app} does not name {name} any more; its data are kept: bowline data rm {app} {name}{env}",
            ui.paint(Tone::Faint, "note:"),
            one.env,
        ));
    }
    for one in list.data.iter().filter(|one| !one.beside.is_empty()) {
        ui.say(format!(
            "  {} part of what {}.{} of {}/{} was filled with is kept out by what the volume holds, and lies beside it: {}; \
             the daemon tries again when it starts",
            ui.paint(Tone::Faint, "note:"),
            one.kind,
            one.name,
            one.env,
            one.app,
            one.beside.join(", "),
        ));
    }
    Ok(())
}

fn row(one: &wire::DataInfo, ui: &Ui) -> Vec<String> {
    let dash = || "-".to_owned();
    let (tone, state) = match (one.state.as_str(), one.orphaned) {
        ("stopped" | "idle", true) => (Tone::Warning, "orphaned"),
        (state @ ("ready" | "in use"), _) => (Tone::Good, state),
        (state @ "failing", _) => (Tone::Bad, state),
        (state @ ("stopped" | "idle"), false) => (Tone::Faint, state),
        (state, _) => (Tone::Warning, state),
    };
    let on = one.on.as_deref().map(|on| on.split_once(": ").map_or(on, |(_, on)| on));
    vec![
        format!("{}/{}", one.env, one.app),
        format!("{}.{}", one.kind, one.name),
        ui.paint(tone, state),
        one.version.clone().unwrap_or_else(dash),
        if one.external { "elsewhere".to_owned() } else { one.bytes.map_or_else(dash, ui::bytes) },
        one.since.map_or_else(dash, time),
        on.unwrap_or_default().to_owned(),
    ]
}

async fn remove(of: &Of, data: &str, (force, yes): (bool, bool), session: &Session, ui: &Ui) -> Result<(), Fault> {
    let (id, info) = of.find(data, session).await?;
    let size = info.bytes.map_or_else(String::new, |bytes| format!(", {}", ui::bytes(bytes)));
    if !yes && !confirmed(&format!("remove {id} of {of}{size}? It cannot be undone."), ui).await? {
        return Err(Fault::new(FaultKind::Refused, format!("{id} of {of} is left as it is")));
    }
    let query = wire::RemoveQuery { force };
    let removed = session.client.remove_data(&of.env, &of.app, &id.to_string(), &query).await?;
    ui.object(&removed);
    ui.say(format!("  {id} of {of} is removed"));
    Ok(())
}

/// Asks on a terminal; elsewhere nobody could answer. Cancel-safe: who waits for an answer can be interrupted.
async fn confirmed(question: &str, ui: &Ui) -> Result<bool, Fault> {
    if ui.is_json() || !std::io::stdin().is_terminal() {
        return Err(Fault::new(FaultKind::Invalid, "nobody is here to say yes")
            .caused_by(question.to_owned())
            .hint("say --yes if that is meant"));
    }
    let unread = |error: std::io::Error| Fault::new(FaultKind::Failed, "the terminal cannot be read").source(&error);
    ui.ask(format!("{question} [y/N]")).map_err(unread)?;
    let (answer, answered) = oneshot::channel();
    // A thread of its own, and none of the runtime's, which would be waited for.
    std::thread::spawn(move || {
        let mut line = String::new();
        // Nobody waits for it any more.
        let _ = answer.send(std::io::stdin().read_line(&mut line).map(|_| line));
    });
    let line = answered.await.expect("the thread answers before it ends").map_err(unread)?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
