//! What an app's data were before something that a rollback does not undo: one file each, which `bowline data import` takes.
//!
//! They are written beside their place and appear there at once, when all of them are on the disk. Programs that read a server's words run as the app's own user, and write into files that are held open for
//! them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bowline_core::app::ResourceKind;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{Incarnation, InstanceId, ReleaseNumber, Slot, SlotId};
use bowline_core::instance::VolumeMount;
use bowline_core::job::Task;
use bowline_core::resource::data::{DataDone, SnapshotOf};
use bowline_core::resource::{Managed, ResourceKey, ResourceSpec};
use bowline_core::time::Humane;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::{APART, apart, blocking};
use crate::disk;
use crate::driver::Context;
use crate::layout::{make_folder, remove_tree};
use crate::resource;

const NEW: &str = "new";
/// As long as what is to follow may take.
const LIMIT: Duration = Duration::from_secs(3_600);
/// Bytes of what a program says that are kept.
const WORDS: usize = 16 << 10;
/// Where the clients of servers are, whatever the daemon was started with.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// One release's snapshot.
pub(super) struct Snapshot {
    /// The folder that is to hold it.
    pub into: PathBuf,
    pub release: ReleaseNumber,
    pub of: Vec<SnapshotOf>,
    /// The app's own user.
    pub uid: Option<u32>,
}

/// Whoever drops this ends it, with the programs that it runs.
pub(super) async fn take(context: &Arc<Context>, snapshot: Snapshot) -> Result<DataDone, Fault> {
    let state = context.config.state_dir.clone();
    let failed = || Fault::new(FaultKind::Failed, "the data could not be kept as they are");
    tokio::select! {
        taken = tokio::time::timeout(LIMIT, write(context, snapshot)) => taken.unwrap_or_else(|_| {
            Err(failed().caused_by(format!("it took longer than {}", Humane(LIMIT))).hint("does something hold a lock on the data?"))
        }),
        fault = disk::filled_up(state, "the snapshot was ended") => Err(failed().caused_by(fault.message).hint(fault.hint.unwrap_or_default())),
    }
}

async fn write(context: &Arc<Context>, Snapshot { into, release, of, uid }: Snapshot) -> Result<DataDone, Fault> {
    let new = apart(&into, NEW);
    let uid = uid.filter(|_| nix::unistd::geteuid().is_root());
    let _left = Left(&new);
    if of.is_empty() {
        return Err(Fault::new(FaultKind::Failed, "there is nothing to keep").hint("name databases, caches or volumes"));
    }
    remove_tree(&new).and_then(|()| make_folder(&new, 0o700)).map_err(|error| unwritable(&new, &error))?;
    for one in of {
        match one {
            SnapshotOf::Server { key, server } => of_server(context, &new, &key, &server, uid).await?,
            SnapshotOf::Volume { app, volume } => {
                let slot = SlotId { key: app, service: Task::Before.service(), release, slot: Slot(0) };
                of_volume(context, &new, InstanceId { slot, incarnation: Incarnation(0) }, volume, uid).await?;
            }
        }
    }
    // One that an earlier daemon took and that nothing followed is not of this moment.
    let put = File::open(&new).and_then(|folder| folder.sync_all()).and_then(|()| remove_tree(&into));
    let put = put
        .and_then(|()| fs::rename(&new, &into))
        .and_then(|()| File::open(into.parent().unwrap_or(&into))?.sync_all());
    put.and_then(|()| size(&into))
        .map(|bytes| DataDone::Snapshotted { bytes })
        .map_err(|error| unwritable(&into, &error))
}

/// Nothing stays of one that was not finished.
struct Left<'p>(&'p Path);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next attempt, or the next start.
        let _ = remove_tree(self.0);
    }
}

/// Removes those of which none is kept. Blocks.
pub(crate) fn collect(root: &Path, keep: impl Fn(&Path) -> bool) -> io::Result<()> {
    let folders = |path: &Path| -> Vec<PathBuf> {
        fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let is_apart = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(APART));
    let mut failed = Ok(());
    for app in folders(root).iter().flat_map(|env| folders(env)) {
        for release in folders(&app).iter().filter(|release| !is_apart(release) && !keep(release)) {
            match remove_tree(release) {
                Ok(()) => tracing::info!(snapshot = %release.display(), "old snapshot removed"),
                Err(error) => failed = Err(error),
            }
        }
    }
    failed
}

fn size(folder: &Path) -> io::Result<u64> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
}

fn unwritable(path: &Path, error: &io::Error) -> Fault {
    Fault::new(FaultKind::Failed, "the data could not be kept as they are")
        .caused_by(format!("{} cannot be written", path.display()))
        .source(error)
        .hint("look at the disk's space; nothing has been changed")
}

fn file(path: &Path) -> Result<File, Fault> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|error| unwritable(path, &error))
}

async fn of_server(
    context: &Arc<Context>,
    folder: &Path,
    key: &ResourceKey,
    spec: &Arc<ResourceSpec>,
    uid: Option<u32>,
) -> Result<(), Fault> {
    let path = |extension: &str| folder.join(format!("{}.{extension}", key.id));
    match key.id.kind {
        ResourceKind::Redis => {
            let path = path("redis");
            let mut to = tokio::io::BufWriter::new(tokio::fs::File::from_std(file(&path)?));
            resource::dump_redis(&context.config.run_dir, key, spec, &mut to).await?;
            let synced = async {
                to.flush().await?;
                to.into_inner().sync_all().await
            };
            synced.await.map_err(|error| unwritable(&path, &error))
        }
        kind @ (ResourceKind::Postgres | ResourceKind::MariaDb) => {
            let managed = spec.managed().ok_or_else(|| {
                Fault::new(FaultKind::Refused, format!("{key} runs elsewhere"))
                    .hint("its own administrator backs it up")
            })?;
            let command = dump(kind, managed);
            let path = path(if kind == ResourceKind::Postgres { "dump" } else { "sql" });
            run(command, &path, uid, |code| code == 0).await
        }
    }
}

/// Nothing of the daemon's own environment reaches it.
fn bare(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C.UTF-8");
    command
}

/// The client that writes a dump to its standard output, as the app's own role.
fn dump(kind: ResourceKind, Managed { server, access, .. }: &Managed) -> Command {
    let password = String::from_utf8_lossy(access.password.expose()).into_owned();
    let port = server.port.to_string();
    match kind {
        ResourceKind::MariaDb => {
            let mut dump = bare("mariadb-dump");
            dump.args(["--no-defaults", "--protocol=TCP", "--host=127.0.0.1", "--single-transaction", "--routines"]);
            dump.args(["--triggers", "--events", "--no-tablespaces", "--hex-blob"]).arg(format!("--port={port}"));
            dump.arg(format!("--user={}", access.user)).arg(&access.database).env("MYSQL_PWD", password);
            dump
        }
        ResourceKind::Postgres | ResourceKind::Redis => {
            let mut dump = bare("pg_dump");
            // What marks the database as this environment's is made anew, not copied.
            dump.args([
                "--format=custom",
                "--no-owner",
                "--no-privileges",
                "--exclude-schema=bowline",
                "--no-password",
            ]);
            dump.env("PGHOST", "127.0.0.1").env("PGPORT", port).env("PGPASSWORD", password);
            dump.env("PGUSER", &access.user).env("PGDATABASE", &access.database);
            dump
        }
    }
}

/// A volume that is mounted for as long as it is read.
struct Attached {
    context: Arc<Context>,
    id: InstanceId,
}

impl Drop for Attached {
    fn drop(&mut self) {
        let (context, id) = (Arc::clone(&self.context), self.id.clone());
        // It may wait for the disk.
        tokio::task::spawn_blocking(move || context.volumes.release(&id));
    }
}

async fn of_volume(
    context: &Arc<Context>,
    folder: &Path,
    id: InstanceId,
    volume: VolumeMount,
    uid: Option<u32>,
) -> Result<(), Fault> {
    let path = folder.join(format!("volume.{}.tar", volume.name));
    let mut tar = bare("tar");
    tar.args(["--create", "--file=-", "--sparse", "--directory"]).arg(&volume.source).arg(".");
    let attached = Attached { context: Arc::clone(context), id };
    let (to, id) = (Arc::clone(context), attached.id.clone());
    blocking("mounting a volume", move || match to.volumes.attach(&id, &volume, uid) {
        Ok(_) => Ok(DataDone::Snapshotted { bytes: 0 }),
        Err(error) => Err(error.fault(&id, &volume)),
    })
    .await?;
    // 1: a file changed while it was read, as files do whose app runs.
    let done = run(tar, &path, uid, |code| code <= 1).await;
    drop(attached);
    done
}

/// Runs a program to its end that writes into a file. Killed when it is dropped.
async fn run(mut command: Command, path: &Path, uid: Option<u32>, is_good: impl Fn(i32) -> bool) -> Result<(), Fault> {
    let name = command.get_program().to_string_lossy().into_owned();
    let to = file(path)?;
    let synced = to.try_clone().map_err(|error| unwritable(path, &error))?;
    command.current_dir("/").stdin(Stdio::null()).stdout(to).stderr(Stdio::piped());
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    let failed = || Fault::new(FaultKind::Failed, "the data could not be kept as they are");
    let broken = |error: &io::Error| {
        failed().caused_by(format!("cannot run {name}")).source(error).hint("is its client installed on this machine?")
    };
    let mut child =
        tokio::process::Command::from(command).kill_on_drop(true).spawn().map_err(|error| broken(&error))?;
    let stderr = child.stderr.take().expect("it was asked to be a pipe");
    let (said, status) = tokio::join!(last_words(stderr), child.wait());
    let status = status.map_err(|error| broken(&error))?;
    if !status.code().is_some_and(&is_good) {
        let fault = failed().caused_by(format!("{name} ended with {status}")).said(&said);
        return Err(fault.hint("mend what it says; nothing was begun"));
    }
    let sync = tokio::task::spawn_blocking(move || synced.sync_all()).await.map_err(io::Error::other);
    sync.flatten().map_err(|error| unwritable(path, &error))
}

/// The end of what a program says: an app decides how much that is.
async fn last_words(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let (mut kept, mut piece) = (Vec::new(), vec![0; WORDS]);
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        kept.extend_from_slice(&piece[..length]);
        kept.drain(..kept.len().saturating_sub(WORDS));
    }
    kept
}
