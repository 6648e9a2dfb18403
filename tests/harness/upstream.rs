//! The other end of an app that passes every byte on (`tests/hostile/app/relay.py`): it keeps what reaches the app, and
//! answers as the request itself asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::wire::{field, parse_head};

/// Tells requests apart, whichever way they took.
pub const PROBE: &str = "x-probe";

/// What a request asks to be answered with: see [`Talk::respond`].
pub const SCRIPT: &str = "x-script";

/// What asks on Bowline's behalf whether the app is well.
const HEALTH: &str = "GET /health ";

/// Longer than anything here waits for.
const LONG: Duration = Duration::from_secs(60);

/// What came to the app.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET /path HTTP/1.1`
    pub line: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// It came to its end.
    pub whole: bool,
}

impl Request {
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.fields, name)
    }

    /// The values of all fields of this name, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// Method and target.
    pub fn asks(&self) -> &str {
        self.line.rsplit_once(' ').map_or(&self.line, |(asks, _)| asks)
    }
}

/// Accepts for as long as the test's process lives.
#[derive(Debug)]
pub struct Upstream {
    pub name: &'static str,
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    known: Mutex<Known>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Known {
    /// By what tells them apart; of others nobody asks.
    requests: BTreeMap<String, Vec<Request>>,
    let_go: BTreeSet<String>,
}

impl Upstream {
    pub fn start(name: &'static str) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared::default());
        let known = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&known);
                std::thread::spawn(move || {
                    // Whoever goes away is no failure of the test.
                    let _ = Talk { stream, buffer: Vec::new(), name, shared: &shared }.run();
                });
            }
        });
        Ok(Self { name, port, shared })
    }

    /// The requests that came with this probe.
    pub fn requests(&self, probe: &str) -> Vec<Request> {
        self.shared.of(probe)
    }

    /// Waits until one with this probe has come whole. `None`: it has not, for as long as anything may take.
    pub fn comes(&self, probe: &str) -> Option<Request> {
        let mut known = self.shared.know();
        loop {
            let all = known.requests.get(probe);
            if let Some(request) = all.and_then(|all| all.iter().find(|one| one.whole)) {
                return Some(request.clone());
            }
            let (next, waited) = self.shared.changed.wait_timeout(known, crate::SOON).expect(UNBROKEN);
            if waited.timed_out() {
                return None;
            }
            known = next;
        }
    }

    /// What was held under this name (`x-script: hold NAME`, `hold-once NAME`, `cut NAME`) goes on.
    pub fn let_go(&self, name: &str) {
        self.shared.know().let_go.insert(name.to_owned());
        self.shared.changed.notify_all();
    }
}

const UNBROKEN: &str = "nobody panics while it is held";

impl Shared {
    fn know(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect(UNBROKEN)
    }

    fn of(&self, probe: &str) -> Vec<Request> {
        self.know().requests.get(probe).cloned().unwrap_or_default()
    }

    fn hold(&self, name: &str) {
        let held = |known: &mut Known| !known.let_go.contains(name);
        drop(self.changed.wait_timeout_while(self.know(), LONG, held).expect(UNBROKEN));
    }

    /// Its place among those of its probe.
    fn add(&self, request: &Request) -> usize {
        let Some(probe) = request.field(PROBE) else { return 0 };
        let mut known = self.know();
        let all = known.requests.entry(probe.to_owned()).or_default();
        all.push(request.clone());
        all.len() - 1
    }

    fn end(&self, at: usize, request: &Request) {
        let Some(probe) = request.field(PROBE) else { return };
        if let Some(begun) = self.know().requests.get_mut(probe).and_then(|all| all.get_mut(at)) {
            begun.clone_from(request);
        }
        self.changed.notify_all();
    }
}

/// One connection of the app.
struct Talk<'s> {
    stream: TcpStream,
    buffer: Vec<u8>,
    name: &'static str,
    shared: &'s Shared,
}

/// Whether the connection goes on.
type GoesOn = bool;

impl Talk<'_> {
    fn run(mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        while let Some(head) = self.head()? {
            let (line, fields) = parse_head(&head);
            if line.starts_with(HEALTH) {
                self.stream.write_all(&answer("200 OK", "", "well"))?;
                continue;
            }
            let mut request = Request { line, fields, body: Vec::new(), whole: false };
            let script = request.field(SCRIPT).unwrap_or_default().to_owned();
            let at = self.shared.add(&request);
            request.body = self.body(&request)?;
            request.whole = true;
            self.shared.end(at, &request);
            if !self.respond(&script, &request)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// `None`: the other side has ended the connection.
    fn head(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
            }
            if !self.more()? {
                return Ok(None);
            }
        }
    }

    fn more(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 16 << 10];
        let read = self.stream.read(&mut bytes)?;
        self.buffer.extend_from_slice(&bytes[..read]);
        Ok(read > 0)
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.more()? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n") {
                let line = self.take(end + 2)?;
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.more()? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn body(&mut self, request: &Request) -> io::Result<Vec<u8>> {
        if request.field("transfer-encoding").is_none() {
            let length = request.field("content-length").map_or(Ok(0), str::parse);
            return self.take(length.map_err(io::Error::other)?);
        }
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(self.line()?.trim(), 16).map_err(io::Error::other)?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(body);
            }
            body.append(&mut self.take(size)?);
            self.line()?;
        }
    }

    /// Reads until the other side ends the connection.
    fn drain(&mut self) {
        while self.more().is_ok_and(|more| more) {
            self.buffer.clear();
        }
    }

    /// Plain text, unless the request asks for something else.
    fn respond(&mut self, script: &str, request: &Request) -> io::Result<GoesOn> {
        if request.field("upgrade").is_some_and(|to| to.eq_ignore_ascii_case("websocket")) && script.is_empty() {
            self.echo()?;
            return Ok(false);
        }
        let is_first = |shared: &Shared| shared.of(request.field(PROBE).unwrap_or_default()).len() == 1;
        match script.split_once(' ').unwrap_or((script, "")) {
            ("hang", _) => self.drain(),
            ("close", _) => {}
            // Another try is answered.
            ("close-once", _) if is_first(self.shared) => {}
            // Who breaks off before a part of the answer is through may be taken for one who has not answered.
            ("cut", name) => {
                self.stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")?;
                self.shared.hold(name);
            }
            ("hold", name) => {
                self.shared.hold(name);
                return self.say(&answer("200 OK", "", self.name), request);
            }
            ("hold-once", name) if is_first(self.shared) => {
                self.shared.hold(name);
                return self.say(&answer("200 OK", "", self.name), request);
            }
            (other, _) => return self.say(&scripted(other, self.name, request), request),
        }
        Ok(false)
    }

    fn say(&mut self, answer: &[u8], request: &Request) -> io::Result<GoesOn> {
        let is_head = request.line.starts_with("HEAD ");
        let end = memchr::memmem::find(answer, b"\r\n\r\n").map_or(answer.len(), |end| end + 4);
        self.stream.write_all(if is_head { &answer[..end] } else { answer })?;
        Ok(true)
    }

    /// A WebSocket whose short frames come back as they were said.
    fn echo(&mut self) -> io::Result<()> {
        self.stream.write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        )?;
        loop {
            let head = self.take(6)?;
            let masked = self.take(usize::from(head[1] & 0x7f))?;
            let said: Vec<u8> = masked.iter().zip(head[2..].iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            self.stream.write_all(&[&[head[0], head[1] & 0x7f][..], &said].concat())?;
        }
    }
}

/// `Content-Length` and these fields, each with its end of line.
fn answer(status: &str, fields: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\n{fields}Content-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn scripted(script: &str, name: &str, request: &Request) -> Vec<u8> {
    match script {
        "chunked" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n".to_vec(),
        // Which no client may see: two lengths.
        "both" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n".to_vec(),
        "text" => answer("200 OK", "ETag: \"one\"\r\n", &"all work and no play\n".repeat(200)),
        "packed" => answer("200 OK", "Content-Encoding: br\r\n", &"all work and no play\n".repeat(200)),
        "refuse" => answer("403 Forbidden", "", "not you"),
        "fail" => answer("500 Internal Server Error", "", "broken"),
        "fields" => answer(
            "200 OK",
            "Connection: x-private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\nX-Bowline-Release: 99\r\nServer: app\r\n\
             X-App: kept\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n",
            name,
        ),
        _ => answer("200 OK", "", &format!("{name} {}", request.asks())),
    }
}
