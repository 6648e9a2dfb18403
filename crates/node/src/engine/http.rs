//! One question to an engine and its answer: HTTP over the engine's socket, one connection for each.
//!
//! It blocks, since a shim has one thread and no runtime. It speaks HTTP/1.0 (RFC 1945): an answer ends with its connection, and is never
//! cut into chunks; one that was cut off is no whole JSON.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// An answer of an engine, in bytes: what is known of one container or of the machine has some 10,000.
const MOST: u64 = 8 << 20;
/// Where its head ends.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// What is sent along.
#[derive(Debug)]
pub(super) enum Body<'b> {
    Empty,
    Json(&'b [u8]),
    Archive(&'b File),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// `patience`: until it listens, and for each piece of the answer.
pub(super) fn ask(at: &Path, question: (&str, &str), body: Body<'_>, patience: Duration) -> io::Result<Answer> {
    let outcome = asked(at, question, body, patience);
    // What a socket says whose time is over (socket(7)).
    let is_late = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("it did not answer within {patience:?}"));
    outcome.map_err(|error| if is_late(&error) { late() } else { error })
}

fn asked(at: &Path, (method, path): (&str, &str), body: Body<'_>, patience: Duration) -> io::Result<Answer> {
    let mut stream = connected(at, patience)?;
    let sent = send(&stream, (method, path), body);
    let mut answer = Vec::new();
    let read = Read::by_ref(&mut stream).take(MOST + 1).read_to_end(&mut answer);
    // One that refuses may answer before it has read all, and close.
    match (sent, read) {
        (Err(error), _) if answer.is_empty() => return Err(error),
        (_, Err(error)) if answer.is_empty() => return Err(error),
        (Ok(()) | Err(_), Ok(_) | Err(_)) => {}
    }
    if answer.len() as u64 > MOST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it answered more than {MOST} bytes")));
    }
    parse(answer)
}

/// One that takes no connections is not waited for without an end: its queue is full, and connecting counts as sending.
fn connected(at: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let stream = UnixStream::from(socket);
    stream.set_write_timeout(Some(patience))?;
    connect(stream.as_raw_fd(), &UnixAddr::new(at)?)?;
    stream.set_read_timeout(Some(patience))?;
    Ok(stream)
}

fn send(stream: &UnixStream, (method, path): (&str, &str), body: Body<'_>) -> io::Result<()> {
    let mut out = BufWriter::new(stream);
    // Podman asks for a host whatever the version.
    write!(out, "{method} {path} HTTP/1.0\r\nHost: localhost\r\n")?;
    match body {
        Body::Empty if method == "POST" => out.write_all(b"Content-Length: 0\r\n\r\n")?,
        Body::Empty => out.write_all(b"\r\n")?,
        Body::Json(json) => {
            write!(out, "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", json.len())?;
            out.write_all(json)?;
        }
        Body::Archive(mut file) => {
            let length = file.metadata()?.len();
            write!(out, "Content-Type: application/x-tar\r\nContent-Length: {length}\r\n\r\n")?;
            io::copy(&mut file, &mut out)?;
        }
    }
    out.flush()
}

fn parse(mut answer: Vec<u8>) -> io::Result<Answer> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it does not speak HTTP");
    let end = answer.windows(HEAD_END.len()).position(|window| window == HEAD_END).ok_or_else(wrong)?;
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| wrong())?;
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    let status = match (words.next(), words.next().map(str::parse)) {
        (Some(version), Some(Ok(status))) if version.starts_with("HTTP/1.") => status,
        (_, _) => return Err(wrong()),
    };
    answer.drain(..end + HEAD_END.len());
    Ok(Answer { status, body: answer })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_status_and_what_comes_behind_its_head() {
        let check = |text: &str, expected: Option<(u16, &str)>| {
            let got = parse(text.as_bytes().to_vec()).ok();
            let expected = expected.map(|(status, body)| Answer { status, body: body.as_bytes().to_vec() });
            assert_eq!(got, expected, "{text:?}");
        };
        check("HTTP/1.0 200 OK\r\nServer: Docker\r\n\r\n{}", Some((200, "{}")));
        check("HTTP/1.1 204 No Content\r\n\r\n", Some((204, "")));
        check("HTTP/1.0 409\r\nA: b\r\n\r\nx\r\n\r\ny", Some((409, "x\r\n\r\ny")));
        for wrong in ["", "HTTP/1.0 200 OK\r\n", "SSH-2.0-x\r\n\r\n", "HTTP/1.0 yes\r\n\r\n", "HTTP/2 200\r\n\r\n"] {
            check(wrong, None);
        }
    }

    #[test]
    fn one_that_hangs_is_waited_for_with_patience_and_no_longer() {
        use nix::sys::socket::{Backlog, bind, listen};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hangs.sock");
        let hangs = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(hangs.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&hangs, Backlog::new(0).unwrap()).unwrap();
        // The first one waits for an answer, and fills the queue; those after it, for their connection.
        for number in 0..3 {
            let error = ask(&path, ("GET", "/info"), Body::Empty, Duration::from_millis(20)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{number}: {error}");
            assert_eq!(error.to_string(), "it did not answer within 20ms");
        }
        let gone = ask(&folder.path().join("gone.sock"), ("GET", "/info"), Body::Empty, Duration::from_millis(20));
        assert_eq!(gone.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
