//! A real nginx as the reader: what it understood is what it asks its own upstream for, framed anew and by lengths alone.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::message::{Body, Fields, Request};
use crate::relay::Relayed;

/// Longest that it may take for one connection.
const PATIENCE: Duration = Duration::from_secs(20);

const CONFIGURATION: &str = "
daemon on; master_process off; error_log {dir}/error.log crit; pid {dir}/pid;
events { worker_connections 64; }
http {
  access_log off;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  ignore_invalid_headers off; underscores_in_headers on; large_client_header_buffers 4 64k;
  client_max_body_size 0; client_body_buffer_size 128k; client_body_timeout 2s; client_header_timeout 2s;
  upstream app { server unix:{dir}/app.sock; keepalive 4; }
  server {
    listen unix:{dir}/front.sock;
    location / {
      proxy_pass http://app;
      proxy_http_version 1.1; proxy_ignore_client_abort on;
      proxy_set_header Host $http_host; proxy_set_header Connection ''; proxy_set_header Upgrade $http_upgrade;
    }
  }
}
";

/// The last request of a connection that is whole, so that nginx closes it.
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nHost: last.test\r\nConnection: close\r\n\r\n";

/// Stopped with it.
pub(crate) struct Nginx {
    dir: tempfile::TempDir,
    found: Arc<Mutex<Vec<Request>>>,
}

impl Nginx {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let found = Arc::<Mutex<Vec<Request>>>::default();
        listen_behind(UnixListener::bind(dir.path().join("app.sock")).unwrap(), &found);
        let configuration = CONFIGURATION.replace("{dir}", dir.path().to_str().unwrap());
        std::fs::write(dir.path().join("nginx.conf"), configuration).unwrap();
        let nginx = Self { dir, found };
        // As a daemon it leaves the command when its socket listens.
        let started = nginx.command().status().expect("nginx, which scripts/setup installs");
        assert!(started.success(), "{started}");
        nginx
    }

    fn command(&self) -> Command {
        let mut command = Command::new("nginx");
        command.arg("-p").arg(self.dir.path()).arg("-c").arg(self.dir.path().join("nginx.conf")).args(["-e", "stderr"]);
        command
    }

    /// The requests that nginx finds, in order. `ends`: they are whole, and nothing is missing behind them.
    pub(crate) fn requests(&self, said: &[u8], ends: bool) -> Vec<Request> {
        let mut stream = UnixStream::connect(self.dir.path().join("front.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // It may have refused already what stands at the beginning.
        let _ = stream.write_all(&[said, if ends { LAST } else { b"" }].concat());
        if !ends {
            let _ = stream.shutdown(Shutdown::Write);
        }
        let mut answers = Vec::new();
        match stream.read_to_end(&mut answers) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("{error}: it waits for more behind {}", said.escape_ascii()),
        }
        let mut found = std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner));
        let refused = answers.windows(13).any(|part| part.starts_with(b"HTTP/1.1 400 "));
        assert_eq!(found.pop_if(|request| request.target == "/last").is_some(), ends && !refused);
        found
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.command().args(["-s", "stop"]).stderr(Stdio::null()).status();
    }
}

/// What goes upstream is read alike by nginx, which says so in requests of its own.
pub(crate) fn agrees(relayed: &Relayed<Vec<Request>>, found: &[Request]) {
    let read = relayed.read.iter().take_while(|request| request.body.whole && !is_refused(request));
    let (read, found): (Vec<_>, Vec<_>) = (read.map(end_to_end).collect(), found.iter().map(end_to_end).collect());
    assert_eq!(found, read, "\nsent on: {}", relayed.out.escape_ascii());
}

/// nginx answers these with 400 and closes, so that nothing behind them is taken for another request: methods that are not of capital
/// letters, `-` and `_`; and fields that it wants once and are there twice.
fn is_refused(request: &Request) -> bool {
    const ONCE: [&str; 2] = ["authorization", "if-match"];
    let is_odd = |b: u8| !matches!(b, b'A'..=b'Z' | b'-' | b'_');
    request.method.bytes().any(is_odd) || ONCE.iter().any(|name| request.fields.all(name).count() > 1)
}

/// Without what nginx writes anew for its upstream.
fn end_to_end(request: &Request) -> Request {
    let mut request = request.clone();
    request
        .fields
        .0
        .retain(|(name, _)| !["connection", "content-length", "transfer-encoding"].contains(&name.as_str()));
    request
}

/// The upstream of nginx: keeps what it is asked for, and answers with nothing.
fn listen_behind(listener: UnixListener, found: &Arc<Mutex<Vec<Request>>>) {
    let found = Arc::clone(found);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let found = Arc::clone(&found);
            std::thread::spawn(move || answer(&stream.unwrap(), &found));
        }
    });
}

fn answer(mut stream: &UnixStream, found: &Mutex<Vec<Request>>) {
    let mut read = Vec::new();
    loop {
        while let Some((request, length)) = first(&read) {
            read.drain(..length);
            found.lock().unwrap_or_else(PoisonError::into_inner).push(request);
            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err() {
                return;
            }
        }
        let mut more = [0; 4096];
        match stream.read(&mut more) {
            Ok(length @ 1..) => read.extend_from_slice(&more[..length]),
            Ok(_) | Err(_) => return,
        }
    }
}

/// What nginx writes is plain: lines that end with CRLF, a name and a value in each, and a length where there is a body.
fn first(read: &[u8]) -> Option<(Request, usize)> {
    let end = read.windows(4).position(|four| four == b"\r\n\r\n")?;
    let split = |line: &[u8], by: u8| {
        let at = line.iter().position(|b| *b == by)?;
        Some((line[..at].to_vec(), line[at + 1..].to_vec()))
    };
    let mut lines = read[..end].split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let (method, target) = split(lines.next()?, b' ').expect("a method");
    let target = target.strip_suffix(b" HTTP/1.1").expect("a version");
    let fields = Fields::new(lines.map(|line| {
        let (name, value) = split(line, b':').expect("a name");
        (name, value.strip_prefix(b" ").expect("a blank").to_vec())
    }));
    let length =
        fields.all("content-length").next().map_or(0, |length| str::from_utf8(length).unwrap().parse().unwrap());
    let payload = read.get(end + 4..end + 4 + length)?.to_vec();
    let (method, target) = (String::from_utf8(method).unwrap(), String::from_utf8(target.to_vec()).unwrap());
    Some((Request { method, target, fields, body: Body { payload, whole: true } }, end + 4 + length))
}
