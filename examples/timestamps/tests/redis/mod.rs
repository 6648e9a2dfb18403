//! A real Redis with a folder, a port and a password of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::client::until;

pub(crate) const PASSWORD: &str = "correct-horse-battery-staple";

pub(crate) struct Redis {
    folder: TempDir,
    pub(crate) port: u16,
    _held: Socket,
    child: Option<Child>,
}

impl Redis {
    /// A place for one, with nothing at the port yet.
    pub(crate) fn absent() -> Self {
        let (port, held) = reserved();
        Self { folder: tempfile::tempdir().unwrap(), port, _held: held, child: None }
    }

    pub(crate) fn start() -> Self {
        let mut redis = Self::absent();
        redis.run();
        redis
    }

    /// Starts it, on the data that are there, and waits until it answers.
    pub(crate) fn run(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let (folder, port) = (self.folder.path(), self.port);
        // Every write is on the disk before it is acknowledged: a test can kill it at any time.
        let settings = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nrequirepass {PASSWORD}\nappendonly yes\nappendfsync always\nsave \"\"\n",
            folder.display()
        );
        std::fs::write(folder.join("redis.conf"), settings).unwrap();
        self.child = Some(spawn(folder));
        until("redis-server runs", || {
            // Its predecessor is not quite gone: it ends at once.
            if self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some()) {
                self.child = Some(spawn(self.folder.path()));
            }
            self.command(&["PING"]).is_some_and(|answer| answer == "PONG")
        });
    }

    /// `redis-cli …`: the answer, or none if it cannot be reached.
    pub(crate) fn command(&self, words: &[&str]) -> Option<String> {
        let port = self.port.to_string();
        let mut command = Command::new("redis-cli");
        command.env("REDISCLI_AUTH", PASSWORD).args(["-p", &port]).args(words).stderr(Stdio::null());
        let output = command.output().expect("apt install redis-server");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// A port of 127.0.0.1 and what holds it: nobody is given it meanwhile, neither to listen on nor for a connection. Who asks for it by its number
/// and sets `SO_REUSEADDR`, as servers do, may listen there, and again.
fn reserved() -> (u16, Socket) {
    let held = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    held.set_reuse_address(true).unwrap();
    held.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let port = held.local_addr().unwrap().as_socket().unwrap().port();
    (port, held)
}

fn spawn(folder: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
    let mut command = Command::new("redis-server");
    command.arg(folder.join("redis.conf")).stdin(Stdio::null()).stdout(log);
    command.spawn().expect("apt install redis-server")
}

impl Drop for Redis {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}
