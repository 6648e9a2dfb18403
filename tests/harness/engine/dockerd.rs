//! A real Docker: Debian's `docker.io`, its daemon with a folder of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// It cold-starts a containerd of its own.
const SOON: Duration = Duration::from_secs(60);

/// It has no network of its own: containers have the machine's, or none. Root.
#[derive(Debug)]
pub struct Dockerd {
    child: Child,
    folder: tempfile::TempDir,
}

impl Dockerd {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let mut command = Command::new("dockerd");
        command.args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")]);
        command.args(["--host", &format!("unix://{}", at("docker.sock"))]);
        // Nothing of the machine is changed: neither its bridges nor its rules.
        command.args(["--bridge", "none", "--iptables=false", "--ip6tables=false", "--storage-driver", "vfs"]);
        let log = std::fs::File::create(folder.path().join("log")).expect("a file of the test");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log);
        let child = command.spawn().expect("docker.io is there: scripts/setup");
        let mut dockerd = Self { child, folder };
        crate::wait("Docker answers", SOON, || {
            let ended = dockerd.child.try_wait().expect("it is a child");
            assert!(ended.is_none(), "dockerd has ended: {}", dockerd.log());
            let asked = dockerd.command(&["version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
            asked.is_ok_and(|status| status.success()).then_some(())
        });
        dockerd
    }

    /// For `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// `docker ARGS…` of it.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(args).env("DOCKER_HOST", self.host()).env("DOCKER_CONFIG", self.folder.path().join("config"));
        command.stdin(Stdio::null());
        command
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // It ends its containers and its containerd by itself when it is told to.
        let pid = i32::try_from(self.child.id()).expect("a pid is positive");
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
        // What containers of the machine's network were in stays mounted, and the folder could not go.
        let netns = self.folder.path().join("exec/netns/default");
        let _ = Command::new("umount").arg(netns).stderr(Stdio::null()).status();
    }
}
