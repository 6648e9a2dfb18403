//! What an app's data were before something that a rollback does not undo: one file each, which `bowline data import` takes.
//!
//! They are written beside their place and appear there at once, when all of them are on the disk. Programs that read a
//! server's words run as the app's own user, and write into files that are held open for them.

use std::fs::{self, File};
use std::future::{Future, pending};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bowline_core::app::ResourceKind;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{Incarnation, InstanceId, ReleaseNumber, Slot, SlotId};
use bowline_core::instance::VolumeMount;
use bowline_core::job::Task;
use bowline_core::resource::data::{DataDone, SnapshotOf};
use bowline_core::resource::{Managed, ResourceKey, ResourceSpec};
use bowline_core::time::Humane;
use bowline_fault_points::{Point, reach};
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;

use super::program::{self, Starter, last_words};
use super::{APART, apart};
use crate::disk;
use crate::driver::Context;
use crate::layout::make_folder;
use crate::resource;
use crate::volume::{VolumeError, Volumes};
use crate::walk::remove_tree;

const NEW: &str = "new";
/// As long as what is to follow may take.
const LIMIT: Duration = Duration::from_secs(3_600);
/// How long a tool that an earlier daemon has started may go on working on a volume.
const BUSY_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
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

/// What the parts of one snapshot share.
struct Work {
    context: Arc<Context>,
    starter: Starter,
    /// Where the files are written.
    folder: PathBuf,
    /// Whom programs run as, if it is another than the daemon's own user.
    uid: Option<u32>,
}

async fn write(context: &Arc<Context>, Snapshot { into, release, of, uid }: Snapshot) -> Result<DataDone, Fault> {
    let new = apart(&into, NEW);
    let uid = uid.filter(|_| nix::unistd::geteuid().is_root());
    let _left = Left(&new);
    if of.is_empty() {
        return Err(Fault::new(FaultKind::Failed, "there is nothing to keep").hint("name databases, caches or volumes"));
    }
    remove_tree(&new).and_then(|()| make_folder(&new, 0o700)).map_err(|error| unwritable(&new, &error))?;
    let starter = Starter::new(&context.layout).map_err(|error| {
        Fault::new(FaultKind::Failed, "the data could not be kept as they are")
            .source(&error)
            .hint("is the machine out of processes or memory?")
    })?;
    let work = Arc::new(Work { context: Arc::clone(context), starter, folder: new.clone(), uid });
    for (number, one) in (0..).zip(of) {
        match one {
            SnapshotOf::Server { key, server } => of_server(&work, &key, &server).await?,
            SnapshotOf::Volume { app, volume } => {
                // Incarnations of what runs are counted from one.
                let slot = SlotId { key: app, service: Task::Before.service(), release, slot: Slot(number) };
                of_volume(&work, InstanceId { slot, incarnation: Incarnation(0) }, volume).await?;
            }
        }
    }
    let synced = File::open(&new).and_then(|folder| folder.sync_all());
    reach(Point::DataSnapshotWritten);
    // One that an earlier daemon took and that nothing followed is not of this moment.
    let put = synced.and_then(|()| remove_tree(&into));
    let put = put
        .and_then(|()| fs::rename(&new, &into))
        .and_then(|()| File::open(into.parent().unwrap_or(&into))?.sync_all());
    reach(Point::DataSnapshotPlaced);
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

/// A file of the snapshot, and where it is.
struct Output {
    file: File,
    path: PathBuf,
}

impl Output {
    fn create(path: PathBuf) -> Result<Self, Fault> {
        match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => Ok(Self { file, path }),
            Err(error) => Err(unwritable(&path, &error)),
        }
    }
}

async fn of_server(work: &Work, key: &ResourceKey, spec: &Arc<ResourceSpec>) -> Result<(), Fault> {
    let path = |extension: &str| work.folder.join(format!("{}.{extension}", key.id));
    match key.id.kind {
        ResourceKind::Redis => {
            let Output { file, path } = Output::create(path("redis"))?;
            let mut to = tokio::io::BufWriter::new(tokio::fs::File::from_std(file));
            resource::dump_redis(&work.context.config.run_dir, key, spec, &mut to).await?;
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
            run(work, command, Output::create(path)?, |code| code == 0, pending()).await
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

/// Reads a volume, which is mounted for that. Where nobody waits any more it goes on by itself, until the volume is let go:
/// what mounts it cannot be cut short. So its file is made here: by then the folder is gone, or another attempt's.
async fn of_volume(work: &Arc<Work>, id: InstanceId, volume: VolumeMount) -> Result<(), Fault> {
    let to = Output::create(work.folder.join(format!("volume.{}.tar", volume.name)))?;
    let (waits, given_up) = oneshot::channel::<()>();
    let reading = tokio::spawn(read_volume(Arc::clone(work), id, volume, to, given_up));
    let done = reading.await.unwrap_or_else(|error| Err(broke_off(&error)));
    drop(waits);
    done
}

async fn read_volume(
    work: Arc<Work>,
    id: InstanceId,
    volume: VolumeMount,
    to: Output,
    given_up: oneshot::Receiver<()>,
) -> Result<(), Fault> {
    let (with, of) = (Arc::clone(&work), id.clone());
    let mounted = tokio::task::spawn_blocking(move || mount(&with, &of, &volume)).await;
    let done = match mounted.unwrap_or_else(|error| Err(broke_off(&error))) {
        Err(fault) => Err(fault),
        Ok(top) => {
            let mut tar = bare("tar");
            // e2fsck makes one that is root's.
            tar.args(["--create", "--file=-", "--sparse", "--anchored", "--exclude=./lost+found", "."]);
            program::within(&mut tar, top.into());
            // 1: a file changed while it was read, as files do whose app runs.
            run(&work, tar, to, |code| code <= 1, async { drop(given_up.await) }).await
        }
    };
    // It may wait for the disk.
    let let_go = tokio::task::spawn_blocking(move || work.context.volumes.release(&id)).await;
    done.and(let_go.map_err(|error| broke_off(&error)))
}

/// The volume's folder, held open: what is read is what was found to be mounted, whatever becomes of the mount. Blocks.
fn mount(work: &Work, id: &InstanceId, volume: &VolumeMount) -> Result<File, Fault> {
    attach_patiently(&work.context, id, volume, work.uid).map_err(|error| {
        match matches!(error, VolumeError::Busy) {
            true => error.fault(id, volume).hint("bring the release out again when that is done (fsck, cp, mkfs)"),
            false => error.fault(id, volume),
        }
    })?;
    let opened = File::open(&volume.source).and_then(|top| {
        let around = volume.source.parent().map_or_else(|| top.metadata(), fs::metadata)?;
        let mounted = top.metadata()?.dev() != around.dev();
        Ok((top, mounted))
    });
    let failed = || Fault::new(FaultKind::Failed, format!("volume {} cannot be read", volume.name));
    match opened {
        Err(error) => Err(failed().source(&error).hint("look at the disk of the state folder (dmesg, df)")),
        Ok((_, false)) if Volumes::is_sized(&volume.source) => Err(failed()
            .caused_by(format!("its file system is not mounted at {}", volume.source.display()))
            .hint("what has unmounted it? bring the release out again")),
        Ok((top, _)) => Ok(top),
    }
}

/// Not where a tool is still at work on it that an earlier daemon has started.
fn attach_patiently(
    context: &Context,
    id: &InstanceId,
    volume: &VolumeMount,
    uid: Option<u32>,
) -> Result<Option<String>, VolumeError> {
    let deadline = Instant::now() + BUSY_WITHIN;
    loop {
        match context.volumes.attach(id, volume, uid) {
            Err(VolumeError::Busy) if Instant::now() < deadline => std::thread::sleep(LOOK_AGAIN),
            other => return other,
        }
    }
}

fn broke_off(error: &tokio::task::JoinError) -> Fault {
    Fault::new(FaultKind::Failed, "the data could not be kept as they are")
        .caused_by("the work on it broke off")
        .source(error)
        .hint("this is a defect of Bowline: please report it")
}

/// Runs a program to its end that writes into a file. Killed when it is dropped, and when it is `given_up`: then it is gone
/// by the time that this returns.
async fn run(
    work: &Work,
    mut command: Command,
    Output { file: to, path }: Output,
    is_good: impl Fn(i32) -> bool,
    given_up: impl Future<Output = ()>,
) -> Result<(), Fault> {
    let name = command.get_program().to_string_lossy().into_owned();
    let synced = to.try_clone().map_err(|error| unwritable(&path, &error))?;
    command.current_dir("/").stdin(Stdio::null()).stdout(to).stderr(Stdio::piped());
    if let Some(uid) = work.uid {
        command.uid(uid).gid(uid);
    }
    let failed = || Fault::new(FaultKind::Failed, "the data could not be kept as they are");
    let broken = |error: &io::Error| {
        failed().caused_by(format!("cannot run {name}")).source(error).hint("is its client installed on this machine?")
    };
    let mut child = work.starter.start(command).await.map_err(|error| broken(&error))?;
    let stderr = child.stderr.take().expect("it was asked to be a pipe");
    let ended = tokio::select! {
        (said, status) = async { tokio::join!(last_words(stderr), child.wait()) } => Some((said, status)),
        () = given_up => None,
    };
    let Some((said, status)) = ended else {
        // It can only have ended by itself.
        let _ = child.kill().await;
        return Err(failed().caused_by("nobody waits for it any more"));
    };
    let status = status.map_err(|error| broken(&error))?;
    if !status.code().is_some_and(&is_good) {
        let fault = failed().caused_by(format!("{name} ended with {status}")).said(&said);
        return Err(fault.hint("mend what it says; nothing was begun"));
    }
    let sync = tokio::task::spawn_blocking(move || synced.sync_all()).await.map_err(io::Error::other);
    sync.flatten().map_err(|error| unwritable(&path, &error))
}

#[cfg(test)]
mod tests;
