//! Where a server's things lie, and as whom it runs.
//!
//! | path | whose | what |
//! |---|---|---|
//! | `STATE/data/ENV/APP/KIND.NAME/` | the node's | |
//! | `…/config/` | the node's, readable by the server | its configuration, written anew before every start |
//! | `…/data/` | the server's, 0700 | its data; appears whole or not at all |
//! | `…/new/` | | data that are being made |
//! | `…/lock` | | held while they are |
//! | `RUN/db/DIGEST/` | the server's, 0700 | its Unix socket |
//!
//! The node, which may be root, writes nothing below a folder that the server could replace by a link, and reads there
//! only by [`crate::others`].

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bowline_core::app::{Cage, Command as Script, Limits, Probe, Protocol};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{Incarnation, InstanceId, ResourceName};
use bowline_core::instance::{InstanceSpec, PortChoice, Reach, Readiness, StopSignal, VolumeMount};
use bowline_core::resource::{Prepared, ResourceKey, Server, Trouble};
use bowline_core::time::Humane;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use sha2::{Digest as _, Sha256};

use super::failure;
use crate::{layout, others};

/// A server that was killed replays its log before it listens.
const RECOVERY: Duration = Duration::from_secs(15 * 60);
/// From the stop signal to KILL: what a server may need to write its memory to the disk.
const GRACE: Duration = Duration::from_secs(60);
/// A new data folder is made in seconds, on a slow disk in a minute; on one that does not answer, never.
const MADE_WITHIN: Duration = Duration::from_secs(10 * 60);
/// How long the end of what a program said may take to come after its own.
const HEARD_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// One server's place.
#[derive(Debug)]
pub(super) struct Site<'s> {
    pub key: &'s ResourceKey,
    pub server: &'s Server,
    /// Holds the socket: its path is short.
    pub socket: PathBuf,
}

impl<'s> Site<'s> {
    pub(super) fn new(key: &'s ResourceKey, server: &'s Server, run_dir: &Path) -> Self {
        let digest = bowline_core::id::Digest(Sha256::digest(key.to_string().as_bytes()).into()).short();
        Self { key, server, socket: run_dir.join("db").join(digest) }
    }

    pub(super) fn config(&self, file: &str) -> PathBuf {
        self.server.folder.join("config").join(file)
    }

    pub(super) fn data(&self) -> PathBuf {
        self.server.folder.join("data")
    }

    /// The server's user, where this process may give it one.
    pub(super) fn uid(&self) -> Option<u32> {
        self.server.uid.filter(|_| nix::unistd::geteuid().is_root())
    }

    /// Makes the folders around the data.
    pub(super) fn make_folders(&self) -> Result<(), Trouble> {
        let failed = |path: &Path, error: io::Error| failure::file(self.key, "make the folder", path, &error);
        let config = self.server.folder.join("config");
        layout::make_folder(&self.server.folder, 0o711).map_err(|error| failed(&self.server.folder, error))?;
        layout::make_folder(&config, 0o750).map_err(|error| failed(&config, error))?;
        let own_group = self.uid().map_or(Ok(()), |uid| chown(&config, None, Some(uid)));
        own_group.map_err(|error| failed(&config, error))?;
        if let Some(parent) = self.socket.parent() {
            layout::make_folder(parent, 0o711).map_err(|error| failed(parent, error))?;
        }
        layout::make_folder(&self.socket, 0o700)
            .and_then(|()| self.uid().map_or(Ok(()), |uid| lchown(&self.socket, Some(uid), Some(uid))))
            .map_err(|error| failed(&self.socket, error))
    }

    /// Replaces a file of the configuration; the server may read it, and no one else.
    pub(super) fn write_config(&self, file: &str, content: &str) -> Result<(), Trouble> {
        let path = self.config(file);
        let write = || -> io::Result<()> {
            let fresh = path.with_extension("new");
            let _ = fs::remove_file(&fresh);
            let mut open = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
            open.write_all(content.as_bytes())?;
            open.set_permissions(fs::Permissions::from_mode(0o640))?;
            if let Some(uid) = self.uid() {
                chown(&fresh, None, Some(uid))?;
            }
            fs::rename(&fresh, &path)
        };
        write().map_err(|error| failure::file(self.key, "write", &path, &error))
    }

    /// The data folder, made by `fill` in another one that takes its place when it is whole. One at a time, also across
    /// daemons: the program that fills it holds the lock, too.
    ///
    /// `fill` is given the new folder and the lock, for the standard input of what it runs.
    pub(super) fn make_data(
        &self,
        maker: Option<u32>,
        fill: impl FnOnce(&Path, File) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let (data, new) = (self.data(), self.server.folder.join("new"));
        let failed = |what: &str, path: &Path, error: &io::Error| failure::file(self.key, what, path, error);
        if !data.exists() {
            let lock_path = self.server.folder.join("lock");
            let lock = File::options().create(true).truncate(false).write(true).read(true).open(&lock_path);
            let lock = lock.map_err(|error| failed("open", &lock_path, &error))?;
            if lock.try_lock().is_err() {
                return Err(failure::soon("an earlier attempt at its data folder to end"));
            }
            crate::walk::remove_tree(&new).map_err(|error| failed("remove", &new, &error))?;
            layout::make_folder(&new, 0o700).map_err(|error| failed("make", &new, &error))?;
            let owned = maker.map_or(Ok(()), |uid| lchown(&new, Some(uid), Some(uid)));
            owned.map_err(|error| failed("give away", &new, &error))?;
            fill(&new, lock.try_clone().map_err(|error| failed("hold", &lock_path, &error))?)?;
            self.own(&new, maker)?;
            fs::rename(&new, &data)
                .and_then(|()| File::open(&self.server.folder)?.sync_all())
                .map_err(|error| failed("put in place", &data, &error))?;
        }
        let owner = data.symlink_metadata().map_err(|error| failed("look at", &data, &error))?.uid();
        match self.uid() {
            // A power cut may have kept the folder's name and lost its owner.
            Some(uid) if owner != uid => self.own(&data, maker),
            Some(_) | None => Ok(()),
        }
    }

    /// Gives a tree to the server, the top last: what carries its name is its own in full. Its maker, whose user other
    /// processes have, too, may still change it meanwhile.
    fn own(&self, tree: &Path, maker: Option<u32>) -> Result<(), Trouble> {
        let Some(uid) = self.uid() else { return Ok(()) };
        let from: Vec<u32> = maker.into_iter().chain([nix::unistd::geteuid().as_raw()]).collect();
        others::give(tree, uid, &from).map_err(|error| failure::file(self.key, "give away", tree, &error))
    }

    /// Runs a program to its end; what it said when it failed. Blocks.
    pub(super) fn run(&self, command: Command, uid: Option<u32>, lock: File) -> Result<(), Trouble> {
        self.run_within(MADE_WITHIN, command, uid, lock)
    }

    fn run_within(&self, limit: Duration, mut command: Command, uid: Option<u32>, lock: File) -> Result<(), Trouble> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin").env("LC_ALL", "C.UTF-8");
        command.current_dir("/").stdin(Stdio::from(lock));
        if let Some(uid) = uid {
            // Without a call to setgroups by us: std drops supplementary groups when a uid is set as root.
            command.uid(uid).gid(uid_group(uid));
        }
        let failed =
            || Fault::new(FaultKind::Failed, format!("{} of {} cannot be prepared", self.key.id, self.key.app));
        let (status, said) = ended_within(limit, command).map_err(|error| {
            let fault = failed().caused_by(format!("cannot run {name}")).source(&error);
            failure::passing(fault.hint("is the machine out of processes or memory?"))
        })?;
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => {
                let fault = failed().caused_by(format!("{name} ended with {status}")).said(&said);
                Err(failure::passing(fault.hint("mend what it says; it is tried again by itself")))
            }
            None => {
                let late = format!("{name} did not end within {}, and was killed", Humane(limit));
                let fault = failed().caused_by(late).said(&said);
                Err(failure::passing(fault.hint(
                    "does the disk of the state folder answer (dmesg, iostat)? it is tried again by itself when that process is gone",
                )))
            }
        }
    }

    /// The server as an instance: it is started in the folder of its configuration.
    pub(super) fn prepared(&self, command: &[&str], stop: StopSignal, version: String) -> Prepared {
        let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
        let mount = |name: &str, source: PathBuf| VolumeMount {
            name: ResourceName::new(name).expect("the names here follow the rule of names"),
            source,
            path: None,
            size: None,
        };
        let spec = InstanceSpec {
            id: InstanceId { slot: self.key.slot(), incarnation: Incarnation(0) },
            root: self.server.folder.join("config"),
            run: Script(words.join(" ")),
            env: [("LC_ALL".to_owned(), bowline_core::instance::EnvValue::Clear("C.UTF-8".to_owned()))].into(),
            secret_files: Vec::new(),
            tools: None,
            packages: Vec::new(),
            port: PortChoice::Fixed(self.server.port),
            reach: Reach::App,
            protocol: Protocol::default(),
            health: Some(Readiness::Tcp(Probe { grace: RECOVERY, ..Probe::default() })),
            alive: None,
            limits: Limits::default(),
            uid: self.server.uid,
            volumes: vec![mount("data", self.data()), mount("socket", self.socket.clone())],
            writable: Vec::new(),
            cage: Cage::Best,
            stop,
            grace: GRACE,
        };
        Prepared { spec: Arc::new(spec), version }
    }
}

/// How a program ended, with all that it said; `None`: it did not in time, and was killed with whatever it had started. One that hangs in
/// the kernel even then is not waited for.
fn ended_within(limit: Duration, mut command: Command) -> io::Result<(Option<ExitStatus>, Vec<u8>)> {
    let (mut said, words) = io::pipe()?;
    command.stdout(words.try_clone()?).stderr(words).process_group(0);
    let deadline = Instant::now() + limit;
    let mut child = command.spawn()?;
    // With the ends of the pipe that are here.
    drop(command);
    let (sender, heard) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        // What was heard until then; nobody waits for it any more after a while.
        let _ = said.read_to_end(&mut text);
        let _ = sender.send(text);
    });
    let status = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if Instant::now() < deadline => std::thread::sleep(LOOK_AGAIN),
            None => {
                let group = i32::try_from(child.id()).map(Pid::from_raw).map_err(io::Error::other)?;
                // It has not been waited for: the number is still its own.
                let _ = killpg(group, Signal::SIGKILL);
                std::thread::spawn(move || child.wait());
                break None;
            }
        }
    };
    // What it has left running may hold the pipe open.
    Ok((status, heard.recv_timeout(HEARD_WITHIN).unwrap_or_default()))
}

/// The primary group of a user of this machine, else one with the user's own number.
fn uid_group(uid: u32) -> u32 {
    let known = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten();
    known.map_or(uid, |user| user.gid.as_raw())
}

/// One word of a shell command (XCU 2.2.2).
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-=:".contains(&b);
    match !word.is_empty() && word.bytes().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// Memory of this machine in bytes.
pub(super) fn memory() -> u64 {
    /// Where it cannot be read: small enough for anything that runs a database.
    const ASSUMED: u64 = 1 << 30;
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kilobytes.map_or(ASSUMED, |kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use bowline_core::app::ResourceKind;
    use bowline_core::id::{AppKey, Port};
    use bowline_core::resource::ResourceId;

    use super::*;

    #[test]
    fn a_program_that_hangs_is_ended_with_what_it_has_started() {
        let app = AppKey { env: "local".parse().unwrap(), app: "shop".parse().unwrap() };
        let key = ResourceKey {
            app,
            id: ResourceId { kind: ResourceKind::Postgres, name: ResourceName::new("db").unwrap() },
        };
        let dir = tempfile::tempdir().unwrap();
        let server = Server {
            folder: dir.path().to_owned(),
            version: None,
            persist: false,
            port: Port::new(1).unwrap(),
            uid: None,
            admin: None,
        };
        let site = Site::new(&key, &server, dir.path());
        let lock = || tempfile::tempfile().unwrap();
        let shell = |script: &str| {
            let mut shell = Command::new("sh");
            shell.args(["-c", script]);
            shell
        };
        assert_eq!(site.run(shell("exit 0"), None, lock()), Ok(()));
        let refused = site.run(shell("echo no; exit 3"), None, lock()).unwrap_err().fault;
        assert_eq!(
            (refused.causes[0].as_str(), refused.detail.as_deref()),
            ("sh ended with exit status: 3", Some("no"))
        );
        let began = Instant::now();
        let hangs = shell("echo making; sleep 1000 & wait");
        let late = site.run_within(Duration::from_secs(2), hangs, None, lock()).unwrap_err();
        assert_eq!(late.nature, bowline_core::resource::Nature::Passing);
        assert_eq!(late.fault.causes, ["sh did not end within 2s, and was killed"]);
        // It is whole only once nobody holds the pipe any more.
        assert_eq!(late.fault.detail.as_deref(), Some("making"));
        assert!(began.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn words_survive_the_shell() {
        let check = |word: &str, expected: &str| assert_eq!(quoted(word), expected);
        check("/usr/bin/x", "/usr/bin/x");
        check("a=b", "a=b");
        check("", "''");
        check("it's $HOME", "'it'\\''s $HOME'");
    }
}
