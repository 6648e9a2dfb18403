//! What a person asks of data on this machine: how much there is, credentials for a while, filling, removing.
//!
//! Nothing is removed in place: a folder that is to go gets a name that no app can have, at once, and is then removed.
//! What a crash leaves under such a name is removed when the node starts, unless it was whole and on its way in; and programs that it left
//! are ended.

mod discard;
mod fill;
mod measure;
mod program;
mod snapshot;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::resource::data::{DataDone, DataOrder};
use tokio::sync::mpsc;

pub use program::last_words;

use crate::DataCall;
use crate::driver::Context;
use crate::resource::lease;

/// What no name of an app, an environment or a resource holds: it sets what is on its way apart.
const APART: char = '~';

/// Beside `folder`: `files~WHAT`.
fn apart(folder: &Path, what: &str) -> PathBuf {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    folder.with_file_name(format!("{name}{APART}{what}"))
}

/// The same with a name that nothing has: what could not be removed earlier is in nobody's way.
fn fresh(folder: &Path, what: &str) -> io::Result<PathBuf> {
    let random = getrandom::u64().map_err(io::Error::from)?;
    Ok(apart(folder, &format!("{what}-{random:016x}")))
}

/// All that is apart of `folder`.
fn all_apart(folder: &Path) -> Vec<PathBuf> {
    let own = apart(folder, "").file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let beside = folder.parent().into_iter().flat_map(fs::read_dir).flatten().flatten();
    let beside = beside.filter(|entry| entry.file_name().to_string_lossy().starts_with(&own));
    beside.map(|entry| entry.path()).collect()
}

/// What is apart below ENV/APP of `root`, with what it is.
fn left_apart(root: &Path) -> Vec<(PathBuf, String)> {
    let below = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let apps = below(root).flat_map(|env| below(&env).collect::<Vec<_>>());
    let all = apps.flat_map(|app| below(&app).collect::<Vec<_>>());
    all.filter_map(|path| {
        let (_, what) = path.file_name()?.to_str()?.split_once(APART)?;
        Some((path.clone(), what.to_owned()))
    })
    .collect()
}

/// Until control's sender is dropped.
pub(crate) async fn take(context: Arc<Context>, mut calls: mpsc::Receiver<DataCall>) {
    let with = Arc::clone(&context);
    let left = tokio::task::spawn_blocking(move || {
        let layout = &with.layout;
        // What it writes is removed next.
        program::end_earlier(layout);
        fill::go_on(&with.volumes, &layout.volumes());
        ["data", "volumes", "snapshots"].iter().for_each(|root| discard::clean(&layout.state.join(root)));
    });
    if let Err(error) = left.await {
        tracing::error!(%error, "what was to be removed could not be looked at");
    }
    while let Some((order, reply)) = calls.recv().await {
        let context = Arc::clone(&context);
        tokio::spawn(async move {
            let mut reply = reply;
            let given_up = matches!(order, DataOrder::Snapshot { .. });
            let done = tokio::select! {
                done = carry_out(order, context) => done,
                // Nothing is changed by a snapshot: dropping it ends it.
                () = reply.closed(), if given_up => return,
            };
            // Whoever asked may have gone away.
            let _ = reply.send(done);
        });
    }
}

async fn carry_out(order: DataOrder, context: Arc<Context>) -> Result<DataDone, Fault> {
    let run_dir = &context.config.run_dir;
    match order {
        DataOrder::Lend { key, server, lease } => lease::lend(run_dir, &key, &server, &lease).await,
        DataOrder::Return { key, server, user } => lease::give_back(run_dir, &key, &server, &user).await,
        DataOrder::Measure { servers, volumes } => {
            blocking("looking at the disk", move || Ok(measure::all(&servers, &volumes))).await
        }
        DataOrder::MayFill { volume, replace } => {
            blocking("looking at the volume", move || fill::may(&context, &volume, replace)).await
        }
        DataOrder::Fill { volume, uid, source, replace } => {
            blocking("filling the volume", move || fill::run(&context, &volume, uid, &source, replace)).await
        }
        DataOrder::Snapshot { into, release, of, uid } => {
            snapshot::take(&context, snapshot::Snapshot { into, release, of, uid }).await
        }
        DataOrder::Discard { folder } => {
            blocking("removing the data", move || discard::run(&context.volumes, &folder)).await
        }
    }
}

/// Removes the snapshots that are not kept, and what killed daemons left of others. Blocks.
///
/// # Errors
/// The first that could not be removed.
pub(crate) fn collect_snapshots(state_dir: &Path, keep: &BTreeSet<PathBuf>) -> io::Result<()> {
    snapshot::collect(&state_dir.join("snapshots"), |folder| keep.contains(folder))
}

async fn blocking(
    what: &'static str,
    work: impl FnOnce() -> Result<DataDone, Fault> + Send + 'static,
) -> Result<DataDone, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Fault::new(FaultKind::Failed, format!("{what} broke off")).source(&error)))
}
