//! What an app's data were before something that a rollback does not undo: one file each, which `bowline data import` takes.
//!
//! They are written beside their place and appear there at once, when all of them are on the disk: the folder is the record that
//! they were taken. Programs that read a server's words run as the app's own user, and write into files that are held open for
//! them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bowline_core::app::ResourceKind;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{Incarnation, InstanceId, ReleaseNumber, Slot, SlotId};
use bowline_core::instance::VolumeMount;
use bowline_core::job::Task;
use bowline_core::resource::data::{DataDone, SnapshotOf};
use bowline_core::resource::{Managed, ResourceKey, ResourceSpec};
use tokio::io::AsyncWriteExt;

use super::{apart, blocking};
use crate::driver::Context;
use crate::layout::{make_folder, remove_tree};
use crate::resource;

const NEW: &str = "new";
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

pub(super) async fn take(context: &Arc<Context>, snapshot: Snapshot) -> Result<DataDone, Fault> {
    let Snapshot { into, release, of, uid } = snapshot;
    // A daemon that was killed after this had done it, and had not heard.
    if let Ok(bytes) = size(&into) {
        return Ok(DataDone::Snapshotted { bytes });
    }
    let new = apart(&into, NEW);
    let uid = uid.filter(|_| nix::unistd::geteuid().is_root());
    let taken = async {
        remove_tree(&new).and_then(|()| make_folder(&new, 0o700)).map_err(|error| unwritable(&new, &error))?;
        for one in of {
            match one {
                SnapshotOf::Server { key, server } => of_server(context, &new, &key, &server, uid).await?,
                SnapshotOf::Volume { app, volume } => {
                    let slot = SlotId { key: app, service: Task::Before.service(), release, slot: Slot(0) };
                    let id = InstanceId { slot, incarnation: Incarnation(0) };
                    let (context, new) = (Arc::clone(context), new.clone());
                    blocking("copying a volume", move || of_volume(&context, &new, &id, &volume, uid)).await?;
                }
            }
        }
        let put = fs::rename(&new, &into).and_then(|()| File::open(into.parent().unwrap_or(&into))?.sync_all());
        put.and_then(|()| size(&into)).map_err(|error| unwritable(&into, &error))
    };
    let taken = taken.await.map(|bytes| DataDone::Snapshotted { bytes });
    if taken.is_err() {
        // What cannot be removed now is removed by the next attempt.
        let _ = remove_tree(&new);
    }
    taken
}

/// Removes those of which none is kept, and what killed daemons left. Blocks.
pub(crate) fn collect(root: &Path, keep: impl Fn(&Path) -> bool) -> io::Result<()> {
    let folders = |path: &Path| -> Vec<PathBuf> {
        fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    for app in folders(root).iter().flat_map(|env| folders(env)) {
        let all = folders(&app);
        let gone: Vec<&PathBuf> = all.iter().filter(|release| !keep(release)).collect();
        gone.iter().try_for_each(|release| remove_tree(release))?;
    }
    Ok(())
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
            blocking("writing a dump", move || run(command, &path, uid, |code| code == 0)).await.map(drop)
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

fn of_volume(
    context: &Context,
    folder: &Path,
    id: &InstanceId,
    volume: &VolumeMount,
    uid: Option<u32>,
) -> Result<DataDone, Fault> {
    // Mounted for as long as it is read.
    context.volumes.attach(id, volume, uid).map_err(|error| error.fault(id, volume))?;
    let mut tar = bare("tar");
    tar.args(["--create", "--file=-", "--sparse", "--directory"]).arg(&volume.source).arg(".");
    // 1: a file changed while it was read, as files do whose app runs.
    let done = run(tar, &folder.join(format!("volume.{}.tar", volume.name)), uid, |code| code <= 1);
    context.volumes.release(id);
    done
}

/// Runs a program to its end that writes into a file.
fn run(mut command: Command, path: &Path, uid: Option<u32>, is_good: impl Fn(i32) -> bool) -> Result<DataDone, Fault> {
    let name = command.get_program().to_string_lossy().into_owned();
    let to = file(path)?;
    let synced = to.try_clone().map_err(|error| unwritable(path, &error))?;
    command.current_dir("/").stdin(Stdio::null()).stdout(to).stderr(Stdio::piped());
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    let failed = || Fault::new(FaultKind::Failed, "the data could not be kept as they are");
    let output = command.output().map_err(|error| {
        failed().caused_by(format!("cannot run {name}")).source(&error).hint("is its client installed on this machine?")
    })?;
    if !output.status.code().is_some_and(&is_good) {
        let fault = failed().caused_by(format!("{name} ended with {}", output.status)).said(&output.stderr);
        return Err(fault.hint("mend what it says; nothing has been changed"));
    }
    synced.sync_all().map_err(|error| unwritable(path, &error))?;
    Ok(DataDone::Snapshotted { bytes: 0 })
}
