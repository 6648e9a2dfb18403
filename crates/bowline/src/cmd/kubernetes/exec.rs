//! `bowline exec` in a pod.

use std::process::ExitCode;

use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::session::MAX_PIECE;
use bowline_kube::{Cluster, End, Owner, Session, look};
use rustix::termios::tcgetwinsize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::{Place, owner};
use crate::args::Exec;
use crate::cmd::attach::{self, Attachment, BROKEN_PIPE, BY_SIGNAL, Caught, Raw, Signals};
use crate::cmd::follow::app_and_service;
use crate::ui::Ui;

/// How it came to its end here.
enum Way {
    Ended(End),
    /// Left because of this signal, or as by it.
    By(u8),
}

pub(super) fn run(args: Exec, place: Place<'_>, ui: &Ui) -> Result<ExitCode, Fault> {
    let Exec { target, instance, attach: how } = args;
    let (app, service) = app_and_service(&target);
    let (env, tty, command) = (how.env, how.tty, how.command);
    let place_in = wire::SessionPlace::Inside;
    let wanted = Attachment { env, app, place: place_in, service, instance, tty, command };
    attach::check(&wanted, ui)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Fault::new(FaultKind::Failed, "the runtime cannot be started").source(&e))?;
    let ended = runtime.block_on(attached(wanted, place, ui));
    // A write that nobody takes must not keep a process that was interrupted.
    runtime.shutdown_background();
    let end = match ended? {
        Way::By(signal) => return Ok(ExitCode::from(BY_SIGNAL + signal)),
        Way::Ended(End::Exited(code)) => wire::SessionEnd::Exited { code },
        Way::Ended(End::NotExecuted(why)) => {
            let fault = Fault::new(FaultKind::Failed, "the command cannot be executed").caused_by(why);
            wire::SessionEnd::NotExecuted { code: 127, fault: fault.into() }
        }
        Way::Ended(End::Broken(why)) => wire::SessionEnd::Broken {
            fault: Fault::new(FaultKind::Failed, "the command was cut off").caused_by(why).into(),
        },
    };
    attach::finish(end, ui)
}

async fn attached(wanted: Attachment, place: Place<'_>, ui: &Ui) -> Result<Way, Fault> {
    let mut signals = Signals::catch(wanted.tty)?;
    // Whoever waits for a cluster that says nothing may leave.
    let mut session = tokio::select! {
        begun = begin(&wanted, place) => begun?,
        signal = told_to_leave(&mut signals) => return Ok(Way::By(signal)),
    };
    let raw = wanted.tty.then(Raw::enter).transpose()?;
    let way = joined(&mut session, &mut signals, wanted.tty, ui.is_json()).await;
    drop(raw);
    Ok(way)
}

async fn begin(wanted: &Attachment, place: Place<'_>) -> Result<Session, Fault> {
    let cluster = place.join().await?;
    let (_, owner) = owner(&wanted.env, &wanted.app)?;
    let (pod, container) = pod(&cluster, &owner, wanted).await?;
    let session = cluster.exec((&pod, &container), &wanted.command, wanted.tty).await;
    session.map_err(|refusal| refusal.fault(format!("nothing can be run in {pod}")))
}

/// The signal by which somebody does.
async fn told_to_leave(signals: &mut Signals) -> u8 {
    loop {
        match signals.next().await {
            Caught::Hangup => return bowline_core::session::SessionSignal::Hangup.number(),
            Caught::Ask(signal) => return signal.number(),
            Caught::Resized | Caught::PassOn(_) => {}
        }
    }
}

async fn joined(session: &mut Session, signals: &mut Signals, tty: bool, json: bool) -> Way {
    let (asks, asked) = std::sync::mpsc::channel();
    let (pieces, mut input) = mpsc::channel::<Vec<u8>>(1);
    // Reading standard input cannot be cancelled: its thread ends with the process.
    std::thread::spawn(move || attach::read_input(&asked, &pieces));
    let (into, output, errors) = (session.input(), session.output(), session.errors());
    let mut sizes = session.sizes();
    let Some(end) = session.end() else { return Way::Ended(End::Broken("it has no end".to_owned())) };
    let feeds = async move {
        let Some(mut into) = into else { return };
        while asks.send(()).is_ok() {
            let Some(piece) = input.recv().await else { break };
            if into.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = into.shutdown().await;
    };
    tokio::spawn(feeds);
    let mut resize = || {
        if let (Some(sizes), Ok(size)) = (&mut sizes, tcgetwinsize(std::io::stdin())) {
            sizes(size.ws_col, size.ws_row);
        }
    };
    if tty {
        resize();
    }
    let shows = async {
        tokio::try_join!(
            show(output, ("stdout", json), std::io::stdout()),
            show(errors, ("stderr", json), std::io::stderr())
        )
    };
    let ends = async {
        match shows.await {
            Ok(_) => Way::Ended(end.await),
            // `bowline exec … | head` has seen enough.
            Err(_) => Way::By(BROKEN_PIPE),
        }
    };
    tokio::pin!(ends);
    loop {
        tokio::select! {
            way = &mut ends => return way,
            caught = signals.next() => match caught {
                Caught::Hangup => return Way::By(bowline_core::session::SessionSignal::Hangup.number()),
                Caught::Resized => resize(),
                // A cluster passes no signals on: whoever is told to end leaves.
                Caught::Ask(signal) => return Way::By(signal.number()),
                Caught::PassOn(_) => {}
            },
        }
    }
}

async fn show(
    from: Option<impl AsyncRead + Unpin>,
    (kind, json): (&'static str, bool),
    to: impl std::os::fd::AsFd,
) -> std::io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    // For programs all goes to standard output, told apart by its kind.
    let mut to = if json { attach::beside(std::io::stdout())? } else { attach::beside(to)? };
    let mut piece = vec![0; MAX_PIECE];
    loop {
        match from.read(&mut piece).await? {
            0 => return Ok(()),
            length if json => attach::write(&mut to, &attach::object(kind, &piece[..length])).await?,
            length => attach::write(&mut to, &piece[..length]).await?,
        }
    }
}

/// A pod that runs, and its container.
async fn pod(cluster: &Cluster, owner: &Owner, wanted: &Attachment) -> Result<(String, String), Fault> {
    let query = format!("&labelSelector={}", owner.selector());
    let pods = cluster.list(&cluster.core("pods"), &query).await;
    let pods = pods.map_err(|refusal| refusal.fault(format!("the pods of {owner} cannot be listed")))?;
    let runs = |pod: &&Value| pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null();
    let is_meant = |pod: &&Value| wanted.service.as_ref().is_none_or(|service| look::component(pod) == *service);
    let mut all: Vec<&Value> = pods.iter().filter(runs).filter(is_meant).collect();
    let services: std::collections::BTreeSet<String> = all.iter().map(|pod| look::component(pod)).collect();
    if services.len() > 1 {
        return Err(Fault::new(FaultKind::Invalid, format!("say which service of {owner}")).hint(format!(
            "{} run: bowline exec {}.SERVICE",
            services.into_iter().collect::<Vec<_>>().join(", "),
            owner.app
        )));
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.sort_by_key(|pod| text(&pod["metadata"]["name"]));
    let found = match wanted.instance {
        Some(number) => all.get(usize::from(number)),
        None => all.iter().find(|pod| look::is_ready(pod)).or(all.first()),
    };
    let found = found.ok_or_else(|| {
        Fault::new(FaultKind::Invalid, format!("no such pod of {owner} runs in {}", cluster.target()))
            .hint(format!("`bowline status {} --env {}` with the same --to shows what runs", owner.app, owner.env))
    })?;
    Ok((text(&found["metadata"]["name"]), text(&found["spec"]["containers"][0]["name"])))
}
