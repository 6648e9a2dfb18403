//! Starting one incarnation: folder, control group, port, environment, shim.

use std::error::Error;
use std::fs;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bowline_core::app::{Cage, Command as Run};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{InstanceId, Port};
use bowline_core::instance::{EnvValue, InstanceSpec, PortChoice, Reach};
use bowline_fault_points::{Point, pass_on, reach};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use zeroize::Zeroizing;

use super::container::{self, Preparing};
use super::{Context, adopt, finish, script};
use crate::cage::ports::{CLOSED_PORT, GateError, Owner};
use crate::cage::toolchain::{self, Reader};
use crate::disk::image::{self, Purpose};
use crate::disk::{DISK_LIMIT, Space};
use crate::engine::create::GIVEN;
use crate::layout;
use crate::shim::contract::{Clear, Config, FORMAT, FileOfSecret, Mount, Record, Reply};
use crate::shim::{MARK, place};

/// A shim answers within milliseconds; a machine that thrashes may take longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// It asks its engine four things first, and an engine that has much to do takes long for each.
const ENGINE_WITHIN: Duration = Duration::from_secs(120);
/// For what was killed to be gone.
const KILLED_WITHIN: Duration = Duration::from_secs(5);
/// From fork to exec of another child, on a machine under load.
const BUSY_WITHIN: Duration = Duration::from_secs(2);
/// Between two attempts.
const BUSY_PAUSE: Duration = Duration::from_millis(2);
/// Where commands are looked for when neither the build nor the file says so.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Blocks until the app runs or is refused. On an error nothing of it is left but its folder.
pub(super) fn start(context: &Context, spec: &InstanceSpec, preparing: Preparing<'_>) -> Result<Box<Record>, Fault> {
    let closed = context.gate.closed_elsewhere();
    let port = match spec.port {
        PortChoice::Any => context.ports.pick(&spec.id, &closed)?,
        PortChoice::Fixed(port) => context.ports.claim(&spec.id, port, &closed)?,
    };
    let log = context.layout.log(&spec.id.slot);
    let outcome = launch(context, spec, (port, log), (&spec.run, preparing));
    if outcome.is_err() {
        context.ports.release(&spec.id);
        context.volumes.release(&spec.id);
    }
    outcome
}

/// The same for an instance that is no part of its service, which runs `command`: on any port, its log beside its record.
pub(crate) fn start_alone(context: &Context, spec: &InstanceSpec, command: &Run) -> Result<Box<Record>, Fault> {
    let port = context.ports.pick(&spec.id, &context.gate.closed_elsewhere())?;
    let log = context.layout.instance(&spec.id).join("shim.log");
    launch(context, spec, (port, log), (command, Preparing { turn: None, tells: &|_| {}, is_wanted: &|| true }))
        .inspect_err(|_| {
            context.ports.release(&spec.id);
            context.volumes.release(&spec.id);
        })
}

fn launch(
    context: &Context,
    spec: &InstanceSpec,
    (port, log): (Port, PathBuf),
    making: (&Run, Preparing<'_>),
) -> Result<Box<Record>, Fault> {
    let id = &spec.id;
    let failed = |what: &str, path: &Path, error: &io::Error| {
        Fault::new(FaultKind::Failed, format!("cannot {what} {} for {id}", path.display())).source(error)
    };
    refuse_volumes(context, spec)?;
    let exe = context.exe().map_err(|error| failed("keep a copy of", &context.config.exe, &error))?;
    let folder = context.layout.instance(id);
    let lock = context.layout.lock(&id.slot);
    for (path, mode) in [(Some(folder.as_path()), 0o711), (lock.parent(), 0o711), (log.parent(), 0o711)] {
        let path = path.unwrap_or(&context.layout.state);
        layout::make_folder(path, mode).map_err(|error| failed("make the folder", path, &error))?;
    }
    let uid = spec.uid.filter(|_| nix::unistd::geteuid().is_root());
    let mut unbounded = Vec::new();
    for volume in &spec.volumes {
        unbounded.extend(context.volumes.attach(id, volume, uid).map_err(|error| error.fault(id, volume))?);
    }
    let config = match container::engine(context, spec) {
        Some(engines) => {
            container::refuse_unwanted(spec, &making.1)?;
            unbounded.extend(container::unenforced(engines, spec)?);
            // Temporary files are memory there; copies of what it may write to lie on the disk.
            unbounded.extend((!spec.writable.is_empty()).then(|| DISK_LIMIT.to_owned()));
            let container = container::prepare(context, engines, spec, (port, uid), making)?;
            Config {
                container: Some(container),
                env: Vec::new(),
                namespaces: false,
                ..config(context, spec, port, log)
            }
        }
        None => {
            let scratch = make_scratch(context, &folder);
            unbounded.extend(scratch.is_none().then(|| DISK_LIMIT.to_owned()));
            let (cgroup, unenforced) = context.cgroups.create(id, &spec.limits);
            unbounded.extend(unenforced);
            Config { scratch, cgroup, ..config(context, spec, port, log) }
        }
    };
    let open_port = close_port(context, id, Owner { port, uid, reach: spec.reach });
    let unenforced = unbounded.into_iter().chain(missing_uid(spec)).chain(open_port).collect();
    run_shim(context, id, &exe, &Config { unenforced, ..config })
}

/// What its shim is told, but for where it runs.
fn config(context: &Context, spec: &InstanceSpec, port: Port, log: PathBuf) -> Config {
    let id = &spec.id;
    let folder = context.layout.instance(id);
    Config {
        format: FORMAT,
        id: id.to_string(),
        incarnation: id.incarnation.0,
        lock: context.layout.lock(&id.slot),
        log,
        log_bytes: context.config.log_bytes,
        log_files: context.config.log_files,
        root: spec.root.clone(),
        script: script::with_exec(&spec.run.0),
        env: environment(context, spec, port, &folder),
        secret_files: spec.secret_files.iter().map(secret_file).collect(),
        secret_folder: context.layout.secrets(id),
        port: port.get(),
        open_to_machine: spec.reach == Reach::App,
        uid: spec.uid.filter(|_| nix::unistd::geteuid().is_root()),
        volumes: spec.volumes.iter().filter_map(mount).collect(),
        cage_required: spec.cage == Cage::Required,
        stop: spec.stop.into(),
        grace_ms: u64::try_from(spec.grace.as_millis()).unwrap_or(u64::MAX),
        cgroup: None,
        namespaces: context.config.namespaces,
        mark: context.layout.mark(id),
        unenforced: Vec::new(),
        hidden: hidden(context),
        readable: readable(context, spec),
        volume_folders: spec.volumes.iter().map(|volume| volume.source.clone()).collect(),
        writable: spec.writable.clone(),
        memory: spec.limits.memory.map(|bytes| bytes.0),
        scratch: None,
        all_volumes: Some(context.layout.volumes()),
        folder,
        container: None,
    }
}

fn run_shim(context: &Context, id: &InstanceId, exe: &Path, config: &Config) -> Result<Box<Record>, Fault> {
    reach(Point::InstanceStarting);
    let patience = if config.container.is_some() { ENGINE_WITHIN } else { ANSWER_WITHIN };
    let reply = spawn_shim(exe, config).and_then(|mut shim| read_reply(&mut shim, id, patience));
    reach(Point::InstanceStarted);
    match reply {
        Ok(Reply::Started(record)) => Ok(record),
        Ok(Reply::Refused(refusal)) if config.container.is_none() => {
            abandon(context, id, config.cgroup.as_ref());
            Err(refusal.into())
        }
        Ok(Reply::Refused(refusal)) => {
            give_up_container(context, id);
            abandon(context, id, None);
            Err(refusal.into())
        }
        Err(fault) => {
            match config.container {
                Some(_) => give_up_container(context, id),
                None => finish::kill_leftovers(&context.layout.mark(id), config.cgroup.as_ref()),
            }
            abandon(context, id, config.cgroup.as_ref());
            Err(fault)
        }
    }
}

/// Whoever might still ask the engine for a container ends first. One that was started, and could neither be held nor removed since the
/// engine went away, is nobody's: what runs in it is killed here.
fn give_up_container(context: &Context, id: &InstanceId) {
    let record = Record::read(&context.layout.instance(id)).ok().flatten();
    if let Some(shim) = record.as_ref().and_then(adopt::alive) {
        // It has ended meanwhile.
        let _ = shim.kill();
        shim.wait(KILLED_WITHIN);
        shim.reap();
    }
    if !container::remove(context, id, record.as_ref()) {
        container::leave(context, id);
    }
    finish::kill_leftovers(&context.layout.mark(id), None);
}

/// A file system for what it writes outside of volumes. `None`: only root mounts one, in a namespace, with mkfs.
fn make_scratch(context: &Context, folder: &Path) -> Option<PathBuf> {
    if !nix::unistd::geteuid().is_root() || !context.config.namespaces {
        return None;
    }
    let image = folder.join(layout::SCRATCH);
    let make = || -> Result<(), Box<dyn Error>> {
        let size = Space::of(folder)?.scratch();
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&image)?.set_len(size)?;
        Ok(image::format(&image, Purpose::Scratch, None)?)
    };
    match make() {
        Ok(()) => Some(image),
        Err(error) => {
            tracing::debug!(error, image = %image.display(), "temporary files are not bounded");
            let _ = fs::remove_file(&image);
            None
        }
    }
}

/// Root without a user of the app's own: the app would run as root.
fn missing_uid(spec: &InstanceSpec) -> Option<String> {
    let own = spec.uid.is_some_and(|_| nix::unistd::geteuid().is_root());
    (!own).then(|| "own uid".to_owned())
}

/// What is not enforced, if the port stays open.
fn close_port(context: &Context, id: &InstanceId, owner: Owner) -> Option<String> {
    let error = context.gate.close(id, owner).err()?;
    match error {
        // Said in the status, and no news.
        GateError::NotRoot => {}
        GateError::NoTool(_) | GateError::Refused(_) => {
            tracing::warn!(instance = %id, %error, source = ?error.source(), "its port is open to the network");
        }
    }
    Some(CLOSED_PORT.to_owned())
}

/// Store, key, sockets, artifacts and volumes of every app.
fn hidden(context: &Context) -> Vec<PathBuf> {
    vec![context.layout.state.clone(), context.layout.run.clone()]
}

/// Where the interpreters and tools of its build lie.
fn readable(context: &Context, spec: &InstanceSpec) -> Vec<PathBuf> {
    let never = hidden(context);
    // `artifacts/DIGEST`: the virtual environment lies beside the release folder.
    let artifacts = context.layout.state.join("artifacts");
    let own = spec.root.strip_prefix(&artifacts).ok().and_then(|path| path.components().next());
    let own = own.map(|digest| artifacts.join(digest));
    let other_user = spec.uid.is_some() && nix::unistd::geteuid().is_root();
    let reader = Reader { never: &never, own: own.as_deref(), other_user };
    toolchain::prefixes(spec.tools.as_deref().unwrap_or(DEFAULT_PATH), &reader).into_iter().collect()
}

/// A volume over what is hidden, or around it, would be what Bowline itself writes to.
fn refuse_volumes(context: &Context, spec: &InstanceSpec) -> Result<(), Fault> {
    let mut taken = hidden(context);
    // There, the folder of what its shim has left for it.
    taken.extend(container::engine(context, spec).map(|_| PathBuf::from(GIVEN)));
    for path in spec.volumes.iter().filter_map(|volume| volume.path.as_deref()) {
        let real = crate::volume::real(Path::new(path));
        if let Some(own) = taken.iter().find(|own| own.starts_with(&real) || real.starts_with(own)) {
            let fault = Fault::new(FaultKind::Refused, format!("a volume of {} cannot be mounted at {path}", spec.id));
            return Err(fault.caused_by(format!("{} is a folder of Bowline's own", own.display())).hint(
                "write another `path`, for example \"/data\", or none: the app finds it in $BOWLINE_VOLUME_NAME",
            ));
        }
    }
    Ok(())
}

fn abandon(context: &Context, id: &InstanceId, cgroup: Option<&crate::cgroup::Membership>) {
    if let Some(Err(error)) = cgroup.map(crate::cgroup::Membership::remove) {
        tracing::debug!(instance = %id, %error, "its control group stays until it is cleaned up");
    }
    finish::remove_secrets(context, id);
    finish::give_up_port(context, id);
}

fn secret_file(file: &bowline_core::instance::SecretFile) -> FileOfSecret {
    FileOfSecret { variable: file.variable.clone(), name: file.name.clone(), value: clear(file.value.expose()) }
}

pub(crate) fn clear(bytes: &[u8]) -> Clear {
    Clear(Zeroizing::new(bytes.to_vec()))
}

fn mount(volume: &bowline_core::instance::VolumeMount) -> Option<Mount> {
    let path = volume.path.as_ref()?.into();
    Some(Mount { name: volume.name.to_string(), source: volume.source.clone(), path })
}

/// Where its commands are looked for.
pub(super) fn search(spec: &InstanceSpec) -> String {
    match spec.env.get("PATH") {
        Some(EnvValue::Clear(text)) => text.clone(),
        Some(EnvValue::Secret(secret)) => String::from_utf8_lossy(secret.expose()).into_owned(),
        None => DEFAULT_PATH.to_owned(),
    }
}

pub(crate) fn environment(context: &Context, spec: &InstanceSpec, port: Port, folder: &Path) -> Vec<(String, Clear)> {
    let id = &spec.id;
    let temporary = folder.join("tmp");
    let text = |name: &str, value: String| (name.to_owned(), clear(value.as_bytes()));
    let path = |name: &str, path: &Path| (name.to_owned(), clear(path.as_os_str().as_encoded_bytes()));
    let mut all = vec![path("HOME", &temporary), path("TMPDIR", &temporary), text("PATH", DEFAULT_PATH.to_owned())];
    // What the file says wins over a default, and never over what names the instance.
    all.retain(|(name, _)| !spec.env.contains_key(name));
    all.extend(spec.env.iter().map(|(name, value)| match value {
        EnvValue::Clear(text) => (name.clone(), clear(text.as_bytes())),
        EnvValue::Secret(secret) => (name.clone(), clear(secret.expose())),
    }));
    let mut given = vec![
        text("PORT", port.to_string()),
        text("BOWLINE_APP", id.slot.key.app.to_string()),
        text("BOWLINE_ENV", id.slot.key.env.to_string()),
        text("BOWLINE_SERVICE", id.slot.service.spelled()),
        text("BOWLINE_RELEASE", id.slot.release.to_string()),
        text("BOWLINE_INSTANCE", id.to_string()),
        text(MARK, context.layout.mark(id)),
    ];
    given.extend(spec.volumes.iter().map(|v| path(&place::volume_variable(v.name.as_str()), &v.source)));
    all.retain(|(name, _)| !given.iter().any(|(other, _)| other == name));
    all.extend(given);
    all
}

fn spawn_shim(exe: &Path, config: &Config) -> Result<Child, Fault> {
    let failed = |error: &io::Error| {
        Fault::new(FaultKind::Failed, format!("cannot start the shim of {}", config.id))
            .source(error)
            .hint("is the machine out of processes, memory or open files?")
    };
    let json = serde_json::to_vec(config).map_err(|error| failed(&error.into()))?;
    let memory = memory_file(&Zeroizing::new(json)).map_err(|error| failed(&error))?;
    let errors = fs::File::create(config.folder.join("shim.stderr")).map_err(|error| failed(&error))?;
    let mut command = Command::new(exe);
    command.args(["shim", &config.id]).env_clear().current_dir("/").stdin(memory).stdout(Stdio::piped()).stderr(errors);
    pass_on(&mut command);
    spawn_patiently(&mut command).map_err(|error| failed(&error))
}

/// The binary was copied a moment ago: a process that another thread forked meanwhile may hold it open for writing until
/// it executes its own program (ETXTBSY).
pub(crate) fn spawn_patiently(command: &mut Command) -> io::Result<Child> {
    let deadline = Instant::now() + BUSY_WITHIN;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                std::thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}

/// Secrets pass through memory that no file system holds.
pub(crate) fn memory_file(content: &[u8]) -> io::Result<fs::File> {
    let mut file = fs::File::from(memfd_create(c"bowline-shim", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

fn read_reply(shim: &mut Child, id: &InstanceId, patience: Duration) -> Result<Reply, Fault> {
    let died = || Fault::new(FaultKind::Failed, format!("the shim of {id} died while it started"));
    let text = read_all(shim, patience).map_err(|error| {
        // It is our own child and not yet waited for: its number cannot belong to another process.
        let _ = shim.kill();
        died().source(&error)
    });
    let status = shim.wait();
    let text = text?;
    serde_json::from_slice(&text).map_err(|error| match status {
        Ok(status) => died().caused_by(format!("it ended with {status}")),
        Err(_) => died().source(&error),
    })
}

fn read_all(shim: &mut Child, patience: Duration) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + patience;
    let Some(mut stdout) = shim.stdout.take() else { return Ok(Vec::new()) };
    let mut text = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let ready = {
            let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))
        };
        match ready {
            Ok(0) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {patience:?}")));
            }
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let mut chunk = [0; 4096];
        match stdout.read(&mut chunk)? {
            0 => return Ok(text),
            length => text.extend_from_slice(&chunk[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Engine;
    use crate::driver::fake;

    #[test]
    fn what_a_shim_started_and_could_not_hold_is_killed_though_its_engine_is_away() {
        let root = tempfile::tempdir().unwrap();
        let context = fake::context(root.path(), Engine::at(root.path().join("nowhere.sock")));
        let id: InstanceId = "local/shop.web.r3.0.1".parse().unwrap();
        let mut left = Command::new("sleep").arg("60").env(MARK, context.layout.mark(&id)).spawn().unwrap();
        give_up_container(&context, &id);
        let ended = std::os::unix::process::ExitStatusExt::signal(&left.wait().unwrap());
        assert_eq!(ended, Some(libc::SIGKILL));
    }

    #[test]
    fn a_volume_is_not_where_a_container_finds_what_it_is_given() {
        let root = tempfile::tempdir().unwrap();
        let context = fake::context(root.path(), Engine::at(root.path().join("nowhere.sock")));
        let refused = |path: &str| {
            let volume = bowline_core::instance::VolumeMount {
                name: bowline_core::id::ResourceName::new("files").unwrap(),
                source: root.path().join("volumes/files"),
                path: Some(path.to_owned()),
                size: None,
            };
            let spec = InstanceSpec { volumes: vec![volume], ..fake::spec("local/shop.web.r3.0.1") };
            refuse_volumes(&context, &spec).is_err()
        };
        assert!(["/run/bowline", "/run/bowline/secrets", "/run"].into_iter().all(refused));
        assert!(!["/data", "/run/bowlines"].into_iter().any(refused));
    }
}
