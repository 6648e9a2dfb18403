//! `bowline serve` under a parent that does what systemd does: waits for READY=1, kills the main process alone.

use std::os::unix::net::UnixDatagram;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Bowline, SOON, wait};

/// Ports that the kernel picks.
pub const ANY_PORTS: [&str; 6] = ["--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "0"];

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    told: UnixDatagram,
}

impl Server {
    /// Starts `bowline serve` on any free ports and waits until it says READY=1.
    pub fn start(bowline: &Bowline) -> Self {
        Self::start_with(bowline, &[], &ANY_PORTS)
    }

    /// With these arguments; started by `wrapper`, a command that executes the one behind it.
    pub fn start_with(bowline: &Bowline, wrapper: &[&str], args: &[&str]) -> Self {
        let mut server = Self::begin(bowline, wrapper, args);
        server.hears("READY=1", &format!("see {}", bowline.folder("parent").join("journal").display()));
        server
    }

    /// The same, and waits for nothing: it may end before it is ready.
    pub fn begin(bowline: &Bowline, wrapper: &[&str], args: &[&str]) -> Self {
        let path = bowline.folder("parent").join("notify");
        // The one of a server before is nobody's any more.
        let _ = std::fs::remove_file(&path);
        let told = UnixDatagram::bind(&path).expect("a socket in the test's own folder");
        told.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        let log = bowline.folder("parent").join("journal");
        let log = std::fs::File::options().create(true).append(true).open(log).expect("a file of the test");
        let mut command = bowline.command_under(wrapper, &[&["serve"], args].concat());
        command.env("NOTIFY_SOCKET", &path);
        command.stdout(log.try_clone().expect("a descriptor")).stderr(log).stdin(Stdio::null());
        let child = command.spawn().expect("the binary runs");
        Self { child, told }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the parent is told this.
    pub fn hears(&mut self, what: &str, hint: &str) {
        wait(&format!("the parent hears {what}; {hint}"), SOON, || {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                panic!("the server ended ({status}) before it said {what}; {hint}");
            }
            self.heard().lines().any(|line| line == what).then_some(())
        });
    }

    /// The next that the parent was told, or nothing.
    pub fn heard(&self) -> String {
        let mut buffer = [0; 1024];
        let length = self.told.recv(&mut buffer).unwrap_or(0);
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// To the main process alone, as `KillMode=process` does.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("the child is there");
    }

    /// Ends the main process alone.
    pub fn end(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.ended()
    }

    /// How it ended, if it has.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child can be waited for")
    }

    /// Waits until it ends by itself.
    pub fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait("the server ends", SOON, || child.try_wait().expect("the child can be waited for"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What it ran is stopped with its `Bowline`; this ends only the daemon, if a test failed before it did.
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
