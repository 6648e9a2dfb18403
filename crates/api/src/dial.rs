//! The way to a daemon: its Unix socket here, a program whose standard streams are a connection to it elsewhere, as
//! `ssh HOST bowline dial` is, or HTTPS.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

use crate::client::ClientError;
use crate::https::Https;

/// How long a program whose connection broke may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long what it has said when it ended may take to be read.
const UNREAD: Duration = Duration::from_millis(100);
/// Bytes of what it says that are kept.
const MOST_SAID: u64 = 4 << 10;

/// A program that connects its standard input and output to a daemon's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialer {
    /// What people call it: `ssh://deploy@example.com`
    pub name: String,
    pub program: OsString,
    pub args: Vec<OsString>,
}

#[derive(Debug, Clone)]
pub(crate) enum Way {
    Socket(PathBuf),
    Dialer(Arc<Dialer>),
    Https(Arc<Https>),
}

/// A connection, and who made it.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) stream: Stream,
    pub(crate) dialed: Option<Dialed>,
}

#[derive(Debug)]
pub(crate) enum Stream {
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A program that dialed. It ends with its connection.
#[derive(Debug)]
pub(crate) struct Dialed {
    name: String,
    /// What it said until it ended.
    said: JoinHandle<String>,
}

impl Way {
    /// `deaf`: Ctrl-C on the terminal is not for the program, but for what is spoken to through it.
    pub(crate) async fn connect(&self, deaf: bool) -> Result<Line, ClientError> {
        match self {
            Self::Socket(path) => {
                let unreachable = |source| ClientError::Unreachable { path: path.clone(), source };
                let stream = UnixStream::connect(path).await.map_err(unreachable)?;
                Ok(Line { stream: Stream::Unix(stream), dialed: None })
            }
            Self::Https(https) => {
                let stream = https.connect().await?;
                Ok(Line { stream: Stream::Tls(Box::new(stream)), dialed: None })
            }
            Self::Dialer(dialer) => dialer.dial(deaf).map_err(|source| ClientError::Dial {
                name: dialer.name.clone(),
                said: format!("cannot run {}: {source}", dialer.program.display()),
            }),
        }
    }
}

impl Dialer {
    fn dial(&self, deaf: bool) -> io::Result<Line> {
        let (near, far) = std::os::unix::net::UnixStream::pair()?;
        near.set_nonblocking(true)?;
        let far = OwnedFd::from(far);
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(far.try_clone()?).stdout(far).stderr(Stdio::piped()).kill_on_drop(true);
        // A mask is inherited, and kept by a program that sets its handlers anew.
        let interrupt = SigSet::from_iter(deaf.then_some(Signal::SIGINT));
        let mask = interrupt.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let spawned = command.spawn();
        mask.thread_set_mask()?;
        let mut child = spawned?;
        // What it was given is closed here, or its end would not be seen.
        drop(command);
        let mut stderr = child.stderr.take().expect("it was asked to be a pipe");
        let said = tokio::spawn(async move {
            let mut said = Vec::new();
            {
                let read = async {
                    let _ = (&mut stderr).take(MOST_SAID).read_to_end(&mut said).await;
                    // One that says more is not to wait until somebody reads.
                    let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
                };
                tokio::pin!(read);
                tokio::select! {
                    () = &mut read => drop(child.wait().await),
                    // A connection that is shared outlives its first user, and holds the pipe.
                    _ = child.wait() => drop(tokio::time::timeout(UNREAD, &mut read).await),
                }
            }
            String::from_utf8_lossy(&said).trim().to_owned()
        });
        Ok(Line {
            stream: Stream::Unix(UnixStream::from_std(near)?),
            dialed: Some(Dialed { name: self.name.clone(), said }),
        })
    }
}

impl Dialed {
    /// Why the connection broke, where the program knows it; else `error`.
    pub(crate) async fn explain(dialed: Option<Self>, error: ClientError) -> ClientError {
        let Some(Self { name, said }) = dialed else { return error };
        let is_other = matches!(&error, ClientError::Broken(source)
            if source.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse));
        if is_other {
            let said =
                "what it answers is no daemon's answer: does a file that its shell reads (.bashrc) print something?";
            return ClientError::Dial { name, said: said.to_owned() };
        }
        match tokio::time::timeout(LAST_WORDS, said).await {
            Ok(Ok(said)) if !said.is_empty() => ClientError::Dial { name, said },
            Ok(_) | Err(_) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Client;

    fn shell(script: &str) -> Client {
        let args = ["-c", script].map(OsString::from).to_vec();
        Client::dialing(Dialer { name: "ssh://there".into(), program: "/bin/sh".into(), args })
    }

    #[tokio::test]
    async fn a_program_is_a_connection() {
        let answer = r#"{"version":"1","api":[1]}"#;
        let script = format!(
            "while read -r line; do [ \"$line\" = \"$(printf '\\r')\" ] && break; done; \
             printf 'HTTP/1.1 200 OK\\r\\ncontent-length: {}\\r\\n\\r\\n%s' '{answer}'",
            answer.len()
        );
        assert_eq!(shell(&script).version().await.unwrap().version, "1");
    }

    #[tokio::test]
    async fn one_that_says_much_does_not_wait_for_a_reader() {
        let answer = r#"{"version":"1","api":[1]}"#;
        let script = format!(
            "head -c 300000 /dev/zero >&2; printf 'HTTP/1.1 200 OK\\r\\ncontent-length: {}\\r\\n\\r\\n%s' '{answer}'",
            answer.len()
        );
        assert_eq!(shell(&script).version().await.unwrap().version, "1");
    }

    #[tokio::test]
    async fn a_shell_that_prints_something_first_is_named() {
        let error = shell("echo Welcome; sleep 1000").version().await.unwrap_err();
        assert!(matches!(&error, ClientError::Dial { said, .. } if said.contains(".bashrc")), "{error:?}");
    }

    #[tokio::test]
    async fn what_a_program_says_as_it_gives_up_is_why() {
        let error = shell("echo 'Permission denied (publickey).' >&2; exit 255").version().await.unwrap_err();
        let ClientError::Dial { name, said } = error else { panic!("{error:?}") };
        assert_eq!((name.as_str(), said.as_str()), ("ssh://there", "Permission denied (publickey)."));
        let missing = Dialer { name: "x".into(), program: "/no/such/program".into(), args: Vec::new() };
        let error = Client::dialing(missing).version().await.unwrap_err();
        assert!(matches!(&error, ClientError::Dial { said, .. } if said.contains("/no/such/program")), "{error:?}");
    }
}
