//! What the daemon tells whoever supervises it: datagrams of `NAME=value` lines to `NOTIFY_SOCKET` (sd_notify(3)).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long a supervisor that does not listen is waited for: the daemon does not hang with it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way to a supervisor. Telling one that is not there is nothing.
#[derive(Debug)]
pub(crate) struct Notify(Option<(UnixDatagram, SocketAddr)>);

impl Notify {
    /// As the environment says.
    pub(crate) fn from_env() -> Self {
        Self::to(std::env::var_os("NOTIFY_SOCKET").as_deref())
    }

    fn to(name: Option<&OsStr>) -> Self {
        let open = |name: &OsStr| {
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(PATIENCE))?;
            Ok::<_, io::Error>((socket, address(name)?))
        };
        match name.map(open).transpose() {
            Ok(way) => Self(way),
            Err(error) => {
                tracing::warn!(%error, "NOTIFY_SOCKET cannot be used");
                Self(None)
            }
        }
    }

    /// How long whoever supervises this process waits for [`Self::alive`] before it ends it (sd_watchdog_enabled(3)).
    pub(crate) fn patience() -> Option<Duration> {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let ours =
            std::env::var_os("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(std::process::id().into());
        number("WATCHDOG_USEC").filter(|us| ours && *us > 0).map(Duration::from_micros)
    }

    /// Does not wait: a supervisor that does not listen knows why.
    pub(crate) fn alive(&self) {
        let Some((socket, _)) = &self.0 else { return };
        // Said again soon, whatever happens now.
        drop(socket.set_nonblocking(true));
        self.say("WATCHDOG=1");
        drop(socket.set_nonblocking(false));
    }

    pub(crate) fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}"));
    }

    /// Another binary takes over in the same process; it says again that it is ready.
    pub(crate) fn reloading(&self) {
        self.say("RELOADING=1\nSTATUS=another binary takes over");
    }

    pub(crate) fn stopping(&self) {
        self.say("STOPPING=1");
    }

    fn say(&self, text: &str) {
        if let Some((socket, address)) = &self.0
            && let Err(error) = socket.send_to_addr(text.as_bytes(), address)
        {
            tracing::warn!(%error, "the supervisor cannot be told");
        }
    }
}

/// `@name` is one of the kernel's own, in no file system.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
        _ => SocketAddr::from_pathname(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn a_supervisor_is_told_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        Notify::to(Some(path.as_os_str())).ready("serving");
        assert_eq!(heard(&by_path), "READY=1\nSTATUS=serving");

        let name = format!("bowline-test-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Notify::to(Some(OsStr::new(&format!("@{name}")))).stopping();
        assert_eq!(heard(&by_name), "STOPPING=1");
    }

    #[test]
    fn a_supervisor_that_does_not_listen_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _deaf = UnixDatagram::bind(&path).unwrap();
        let notify = Notify::to(Some(path.as_os_str()));
        let began = std::time::Instant::now();
        // More than the kernel keeps for a socket (net.unix.max_dgram_qlen).
        (0..2_000).for_each(|_| notify.alive());
        notify.stopping();
        assert!(began.elapsed() < 10 * PATIENCE);
    }

    #[test]
    fn none_is_nothing() {
        Notify::to(None).stopping();
        Notify::to(Some(OsStr::new("/nowhere/notify"))).stopping();
    }
}
