//! Opening a session: the instance it is in, its streams, and the process that keeps it. Blocks.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bowline_core::app::Command as Run;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{Incarnation, InstanceId, Port, Slot, SlotId};
use bowline_core::instance::{InstanceSpec, PortChoice};
use bowline_core::session::{SessionPlace, SessionSpec, Terminal, WindowSize};
use nix::unistd::{Gid, Uid, fchown, pipe2};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use zeroize::Zeroizing;

use super::OneOffs;
use crate::cage::Lack;
use crate::driver::pidfd::Pidfd;
use crate::driver::{Context, adopt, finish, start};
use crate::procfs;
use crate::shim::contract::{Clear, Contained, Record};
use crate::shim::session::contract::{self, Order};
use crate::shim::{SESSION, SESSION_MARK};

/// What keeps a one-off instance: it does nothing, as long as there is a use for it. 68 years, since not every `sleep` knows
/// `infinity`.
const WAIT: &str = "exec sleep 2147483647";

/// A session that has been started.
pub(super) struct Opened {
    pub id: InstanceId,
    /// Told signals, tells how it ended. Closing it kills everything.
    pub link: UnixStream,
    pub keeper: Child,
    pub streams: Streams,
    pub one_off: Option<OneOff>,
}

pub(super) enum Streams {
    Pipes { stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd },
    Terminal(OwnedFd),
}

/// The command's ends of them, and its own user where it has one.
struct Ends {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// An instance that is there for one session.
pub(super) struct OneOff {
    id: InstanceId,
    record: Record,
    shim: Pidfd,
    slot: u16,
}

/// A running instance, held so that none of its numbers can pass to another process.
struct Place {
    record: Record,
    app: Pidfd,
    shim: Pidfd,
}

pub(super) fn open(context: &Context, one_offs: &OneOffs, spec: &SessionSpec) -> Result<Opened, Fault> {
    refuse_containers(context, spec)?;
    match spec.place {
        SessionPlace::Inside => {
            let place = enter(context, &spec.instance.id)?;
            attach(context, spec, &spec.instance, &place, None)
        }
        SessionPlace::OneOff => {
            let (instance, one_off) = start_one_off(context, one_offs, &spec.instance)?;
            let place = enter(context, &instance.id);
            match place.and_then(|place| attach(context, spec, &instance, &place, Some(&one_off))) {
                Ok(opened) => Ok(Opened { one_off: Some(one_off), ..opened }),
                Err(fault) => {
                    one_off.end(context, one_offs);
                    Err(fault)
                }
            }
        }
    }
}

/// A user who did not make the namespaces of a container does not join them.
fn refuse_containers(context: &Context, spec: &SessionSpec) -> Result<(), Fault> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let id = &spec.instance.id;
    let fault =
        Fault::new(FaultKind::Refused, format!("no command can be run in {id} by `bowline exec` or `bowline run`"))
            .caused_by("it is a container (--runtime docker), which a daemon joins that runs as root");
    let record = || Record::read(&context.layout.instance(id)).ok().flatten();
    match spec.place {
        SessionPlace::Inside => match record().and_then(|record| record.container) {
            Some(container) => Err(fault.hint(ask_engine(&container))),
            None => Ok(()),
        },
        SessionPlace::OneOff if context.engines.is_none() => Ok(()),
        SessionPlace::OneOff => Err(fault.hint("make it a job of the file, or a command of `release.before`")),
    }
}

/// The machine may have several.
fn ask_engine(Contained { socket, name, .. }: &Contained) -> String {
    let socket = socket.display();
    format!(
        "ask its engine: docker -H unix://{socket} exec -it {name} sh, or podman --url unix://{socket} exec -it {name} sh"
    )
}

fn enter(context: &Context, id: &InstanceId) -> Result<Place, Fault> {
    let gone = || Fault::new(FaultKind::Failed, format!("{id} does not run any more")).hint("run the command again");
    let record = Record::read(&context.layout.instance(id)).ok().flatten().ok_or_else(gone)?;
    let shim = adopt::alive(&record).ok_or_else(gone)?;
    let pid = record.child.ok_or_else(gone)?;
    let app = Pidfd::open(pid).map_err(|_| gone())?;
    // The number was the app's when the shim wrote it down. A child of the shim that lives has it still, and so has what carries the
    // instance's mark.
    let is_its_own = match &record.container {
        Some(_) => procfs::carries(pid, crate::shim::MARK, &context.layout.mark(id)),
        None => procfs::stat(pid).is_some_and(|stat| stat.parent == record.pid),
    };
    if !is_its_own || shim.has_ended() || app.has_ended() {
        return Err(gone());
    }
    Ok(Place { record, app, shim })
}

fn attach(
    context: &Context,
    spec: &SessionSpec,
    instance: &InstanceSpec,
    place: &Place,
    one_off: Option<&OneOff>,
) -> Result<Opened, Fault> {
    let id = &instance.id;
    let failed = |error: &dyn std::error::Error| {
        Fault::new(FaultKind::Failed, format!("cannot start a session in {id}"))
            .source(error)
            .hint("is the machine out of processes, memory, terminals or open files?")
    };
    let order = order(context, spec, instance, &place.record, one_off.is_some())?;
    let json = serde_json::to_vec(&order).map_err(|error| failed(&error))?;
    let order = start::memory_file(&Zeroizing::new(json)).map_err(|error| failed(&error))?;
    let (streams, ends) = streams(spec.terminal.as_ref(), place).map_err(|error| failed(&error))?;
    let (link, far) = UnixStream::pair().map_err(|error| failed(&error))?;
    contract::send(
        &link,
        &order,
        [&place.app, &place.shim],
        [ends.stdin.as_fd(), ends.stdout.as_fd(), ends.stderr.as_fd()],
    )
    .map_err(|error| failed(&error))?;
    let exe = context.exe().map_err(|error| failed(&error))?;
    let mut command = Command::new(exe);
    // What it says when it breaks is the daemon's to log.
    command.args([SESSION, &id.to_string()]).env_clear().current_dir("/");
    command.stdin(OwnedFd::from(far)).stdout(Stdio::null()).stderr(Stdio::inherit());
    let keeper = start::spawn_patiently(&mut command).map_err(|error| failed(&error))?;
    Ok(Opened { id: id.clone(), link, keeper, streams, one_off: None })
}

fn order(
    context: &Context,
    spec: &SessionSpec,
    instance: &InstanceSpec,
    record: &Record,
    alone: bool,
) -> Result<Order, Fault> {
    let id = &instance.id;
    let entry = record.entry.clone().ok_or_else(|| {
        Fault::new(FaultKind::Failed, format!("{id} was started by a version of Bowline that knew no sessions"))
            .hint("apply the app again, and it is started anew")
    })?;
    let port = Port::new(record.port).ok_or_else(|| Fault::new(FaultKind::Failed, format!("{id} has no port")))?;
    let mark = random_mark()
        .map_err(|error| Fault::new(FaultKind::Failed, format!("cannot mark a session in {id}")).source(&error))?;
    let container = record.container.as_ref();
    let folder = container.map_or_else(|| context.layout.instance(id), |_| PathBuf::from("/"));
    let mut env = start::environment(context, instance, port, &folder);
    let text = |name: &str, value: &[u8]| (name.to_owned(), start::clear(value));
    env.extend(entry.variables.iter().map(|(name, path)| text(name, path.as_os_str().as_encoded_bytes())));
    if let Some(Terminal { name: Some(name), .. }) = &spec.terminal
        && env.iter().all(|(known, _): &(String, Clear)| known != "TERM")
    {
        env.push(text("TERM", name.as_bytes()));
    }
    env.push(text(SESSION_MARK, mark.as_bytes()));
    Ok(Order {
        id: id.to_string(),
        arguments: spec.command.clone(),
        env,
        root: instance.root.clone(),
        uid: record.uid,
        grants: entry.grants,
        unenforced: record
            .unenforced
            .iter()
            .cloned()
            .chain(container.into_iter().flat_map(|_| not_of_engines()))
            .collect(),
        cgroup: container.map_or_else(|| record.cgroup.clone(), |container| Some(container.groups.clone())),
        contained: record.contained || container.is_some(),
        terminal: spec.terminal.is_some(),
        alone,
        mark,
    })
}

/// What an engine does not ask of a machine, and so need not be there for who joins its container: mounts decide there.
fn not_of_engines() -> impl Iterator<Item = String> {
    [Lack::Files, Lack::FilesWhole, Lack::Devices, Lack::Signals].into_iter().map(|lack| lack.name().to_owned())
}

fn random_mark() -> Result<String, getrandom::Error> {
    let (high, low) = (getrandom::u64()?, getrandom::u64()?);
    Ok(format!("{high:016x}{low:016x}"))
}

fn streams(terminal: Option<&Terminal>, place: &Place) -> io::Result<(Streams, Ends)> {
    // Programs open /dev/stdout and their terminal anew, by name: then its owner matters.
    let own = |fd: &OwnedFd| match place.record.uid {
        Some(uid) => fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid))),
        None => Ok(()),
    };
    let Some(terminal) = terminal else {
        let pipe = || pipe2(nix::fcntl::OFlag::O_CLOEXEC);
        let ((in_end, stdin), (stdout, out_end), (stderr, err_end)) = (pipe()?, pipe()?, pipe()?);
        [&in_end, &out_end, &err_end].into_iter().try_for_each(own)?;
        [&stdin, &stdout, &stderr].into_iter().try_for_each(never_block)?;
        return Ok((
            Streams::Pipes { stdin, stdout, stderr },
            Ends { stdin: in_end, stdout: out_end, stderr: err_end },
        ));
    };
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = match terminal_of(place) {
        Some(master) => master,
        None => openpt(flags)?,
    };
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    own(&slave)?;
    resize(&master, terminal.size)?;
    never_block(&master)?;
    let ends = Ends { stdin: slave.try_clone()?, stdout: slave.try_clone()?, stderr: slave };
    Ok((Streams::Terminal(master), ends))
}

/// A terminal among the instance's own, by whose name its programs find it. `None`: it has none of its own.
fn terminal_of(place: &Place) -> Option<OwnedFd> {
    /// Documentation/admin-guide/devices.txt: /dev/ptmx.
    const MAKER: (u32, u32) = (5, 2);
    let path = format!("/proc/{}/root/dev/pts/ptmx", place.record.child?);
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let master = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let device = rustix::fs::fstat(&master).ok()?.st_rdev;
    let is_maker = (rustix::fs::major(device), rustix::fs::minor(device)) == MAKER;
    // The number was the app's all the while.
    (is_maker && !place.app.has_ended()).then_some(master)
}

fn never_block(fd: &OwnedFd) -> nix::Result<()> {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).map(drop)
}

/// The kernel tells whoever runs in the foreground.
pub(super) fn resize(master: &OwnedFd, WindowSize { columns, rows }: WindowSize) -> io::Result<()> {
    Ok(tcsetwinsize(master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?)
}

/// Its slots count down from the highest: a service has none there.
fn start_one_off(
    context: &Context,
    one_offs: &OneOffs,
    spec: &InstanceSpec,
) -> Result<(Arc<InstanceSpec>, OneOff), Fault> {
    let slot = one_offs.take();
    // An incarnation that an earlier daemon left behind may still be cleaned up: this one is another.
    let now = crate::shim::outer::now_ms();
    let incarnation = Incarnation(u32::try_from(now & u64::from(u32::MAX)).unwrap_or(1));
    let id = InstanceId { slot: SlotId { slot: Slot(slot), ..spec.id.slot.clone() }, incarnation };
    let instance = InstanceSpec { id: id.clone(), run: Run(WAIT.to_owned()), port: PortChoice::Any, ..spec.clone() };
    let started = start::start_alone(context, &instance, &spec.run).and_then(|record| {
        let shim = adopt::alive(&record).ok_or_else(|| {
            finish::conclude(context, &id, Some(&record));
            Fault::new(FaultKind::Failed, format!("{id} ended as soon as it was started"))
        });
        Ok((record, shim?))
    });
    match started {
        Ok((record, shim)) => Ok((Arc::new(instance), OneOff { id, record: *record, shim, slot })),
        Err(fault) => {
            finish::clean_up(context, &id, None, true);
            one_offs.give_back(slot);
            Err(fault)
        }
    }
}

impl OneOff {
    /// Nothing of it is left afterwards.
    pub(super) fn end(self, context: &Context, one_offs: &OneOffs) {
        // It has ended already where the keeper told it to.
        let _ = self.shim.terminate();
        self.shim.wait(std::time::Duration::from_millis(self.record.grace_ms));
        if !self.shim.has_ended() {
            tracing::warn!(instance = %self.id, "its shim does not end it and is killed");
            let _ = self.shim.kill();
            self.shim.wait(crate::driver::SHIM_OVERTIME);
        }
        self.shim.reap();
        finish::conclude(context, &self.id, Some(&self.record));
        finish::clean_up(context, &self.id, Some(&self.record), true);
        one_offs.give_back(self.slot);
    }

    pub(super) fn key(&self) -> &bowline_core::id::AppKey {
        &self.id.slot.key
    }
}
