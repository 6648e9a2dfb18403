//! What containers have said, and the server that an API server asks for it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use jiff::Timestamp;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use super::pod::Happens;
use super::{UNBROKEN, exec, text};

/// Namespace, pod, container.
type Key = [String; 3];

#[derive(Debug, Default)]
pub(super) struct Logs {
    known: Mutex<BTreeMap<Key, Log>>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Log {
    lines: Vec<(Timestamp, String)>,
    /// Of the container that ran before.
    before: Vec<(Timestamp, String)>,
    runs: bool,
}

impl Logs {
    pub(super) fn say(&self, key: &Key, line: &str) {
        let mut known = self.know();
        let log = known.get_mut(key).unwrap_or_else(|| panic!("{key:?} does not run"));
        log.lines.push((Timestamp::now(), line.to_owned()));
        self.changed.notify_all();
    }

    /// This happens to each container of a pod.
    pub(super) fn take(&self, pod: &Value, happens: Happens, says: &str) {
        let mut known = self.know();
        let [namespace, name] = ["namespace", "name"].map(|key| text(&pod["metadata"][key]).to_owned());
        for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
            let key = [namespace.clone(), name.clone(), text(&container["name"]).to_owned()];
            match happens {
                Happens::Nothing | Happens::Unhealthy | Happens::NoImage => {}
                Happens::Start => {
                    let log = known.entry(key).or_default();
                    log.lines = says.lines().map(|line| (Timestamp::now(), line.to_owned())).collect();
                    log.runs = true;
                }
                Happens::Crash | Happens::End => {
                    let log = known.entry(key).or_default();
                    log.runs = false;
                    log.before = if happens == Happens::End { Vec::new() } else { log.lines.clone() };
                }
            }
        }
        drop(known);
        self.changed.notify_all();
    }

    /// The pod is gone.
    pub(super) fn forget(&self, pod: &Value) {
        let [namespace, name] = ["namespace", "name"].map(|key| text(&pod["metadata"][key]));
        self.know().retain(|[of, pod, _], _| of != namespace || pod != name);
        self.changed.notify_all();
    }

    fn know(&self) -> MutexGuard<'_, BTreeMap<Key, Log>> {
        self.known.lock().expect(UNBROKEN)
    }

    /// What is asked for, piece by piece. False: nobody of this name has run.
    fn read(&self, asked: &Asked, out: &mut impl FnMut(&str) -> io::Result<()>) -> io::Result<bool> {
        let (lines, mut seen) = {
            let known = self.know();
            let Some(log) = known.get(&asked.key) else { return Ok(false) };
            let lines = if asked.previous { &log.before } else { &log.lines };
            (lines.clone(), lines.len())
        };
        // Whatever comes, the answer begins.
        out("")?;
        let first = asked.last.map_or(0, |last| seen.saturating_sub(last));
        lines[first..].iter().try_for_each(|line| out(&asked.line(line)))?;
        if asked.follow && !asked.previous {
            while let Some(lines) = self.after(&asked.key, seen) {
                seen += lines.len();
                lines.iter().try_for_each(|line| out(&asked.line(line)))?;
            }
        }
        Ok(true)
    }

    /// Waits for more than so many lines. `None`: there come no more.
    fn after(&self, key: &Key, seen: usize) -> Option<Vec<(Timestamp, String)>> {
        let goes_on =
            |known: &mut BTreeMap<Key, Log>| known.get(key).is_some_and(|log| log.runs && log.lines.len() <= seen);
        let known = self.changed.wait_while(self.know(), goes_on).expect(UNBROKEN);
        let lines = known.get(key)?.lines.get(seen..)?.to_vec();
        (!lines.is_empty()).then_some(lines)
    }
}

/// `GET /containerLogs/NAMESPACE/POD/CONTAINER?…`
#[derive(Debug)]
struct Asked {
    key: Key,
    follow: bool,
    previous: bool,
    timestamps: bool,
    last: Option<usize>,
    since: Option<Timestamp>,
}

impl Asked {
    fn parse(target: &str) -> Option<Self> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut words = path.strip_prefix("/containerLogs/")?.split('/').map(str::to_owned);
        let key = [words.next()?, words.next()?, words.next()?];
        let value = |name: &str| {
            let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            pair.map(|value| value.replace("%3A", ":"))
        };
        let is = |name: &str| value(name).as_deref() == Some("true");
        Some(Self {
            key,
            follow: is("follow"),
            previous: is("previous"),
            timestamps: is("timestamps"),
            last: value("tailLines").map(|number| number.parse().expect("a number")),
            since: value("sinceTime").map(|time| time.parse().expect("a time")),
        })
    }

    /// Nothing for one that is too old.
    fn line(&self, (at, line): &(Timestamp, String)) -> String {
        match (self.since.is_some_and(|since| *at < since), self.timestamps) {
            (true, _) => String::new(),
            (false, true) => format!("{at:.9} {line}\n"),
            (false, false) => format!("{line}\n"),
        }
    }
}

/// Accepts for as long as the test's process lives.
pub(super) fn serve(listener: &TcpListener, tls: &Arc<ServerConfig>, logs: &Arc<Logs>) {
    for stream in listener.incoming().flatten() {
        let (tls, logs) = (Arc::clone(tls), Arc::clone(logs));
        std::thread::spawn(move || {
            // Whoever goes away is no failure of the test.
            let _ = answer(stream, &tls, &logs);
        });
    }
}

fn answer(stream: TcpStream, tls: &Arc<ServerConfig>, logs: &Logs) -> io::Result<()> {
    let session = ServerConnection::new(Arc::clone(tls)).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(session, stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    if exec::is_asked(&head) {
        exec::answer(&head, &mut stream)?;
        stream.conn.send_close_notify();
        return stream.flush();
    }
    let asked = Asked::parse(head.split(' ').nth(1).unwrap_or_default());
    let asked = asked.ok_or_else(|| io::Error::other(format!("not a kubelet's path: {head}")))?;
    let mut begun = false;
    let mut out = |line: &str| {
        if !begun {
            begun = true;
            stream.write_all(BEGIN.as_bytes())?;
        }
        stream.write_all(line.as_bytes())?;
        stream.flush()
    };
    if !logs.read(&asked, &mut out)? {
        let [_, pod, container] = &asked.key;
        let why = format!("container \"{container}\" in pod \"{pod}\" is waiting to start: ContainerCreating");
        let length = why.len();
        write!(stream, "HTTP/1.1 400 Bad Request\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{why}")?;
    }
    stream.conn.send_close_notify();
    stream.flush()
}

/// The body ends with the connection.
const BEGIN: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n";
