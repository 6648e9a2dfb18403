//! Checks: HTTP and TCP probes of one instance, on their interval, with readable reasons.

mod http2;

use std::io::{self, ErrorKind};
use std::time::Duration;

use bowline_core::app::{HttpCheck, Probe, Protocol};
use bowline_core::id::{InstanceId, Port};
use bowline_core::instance::{HealthState, InstanceSpec, Readiness};
use bowline_core::time::{Humane, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::driver::Event;
use crate::procfs;
use crate::shim::outer::now_ms;

/// The first look at a new instance, doubled up to the interval: a fast app gets traffic fast.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// An instance that has been ready for so long is asked less often while nobody needs it.
const SETTLED: Duration = Duration::from_secs(60);
/// Apps that nobody needs are looked at together, at full seconds: waking is most of what such a look costs, and one wake
/// serves all that are due.
const TOGETHER: Duration = Duration::from_secs(1);
/// Informational responses (1xx) before the final one; more are not an answer.
const MAX_INTERIM: usize = 8;
/// Of the head of a response; the status stands in its first bytes.
const MAX_HEAD: usize = 16 << 10;
/// What is still read of an answer once it is judged, and for how long: an app whose last bytes nobody took sees a reset,
/// and logs it.
const REST: u64 = 1 << 20;
const REST_LIMIT: Duration = Duration::from_secs(5);
/// By which an app's own log tells checks from requests.
const USER_AGENT: &str = "bowline-health";

/// The running checks of an instance; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Checks(Vec<AbortHandle>);

impl Drop for Checks {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl Checks {
    /// `busy`: whether its app has requests. `mark`: what the instance's processes carry. `uid`: whose socket its port must
    /// be; `None`: anybody's.
    pub(crate) fn begin(
        (id, spec, port): (&InstanceId, &InstanceSpec, Port),
        busy: &watch::Receiver<bool>,
        mark: String,
        uid: Option<u32>,
        events: &mpsc::Sender<Event>,
    ) -> Self {
        // Liveness is asked only of what has once been ready: a slow start is not a death.
        let (ready, is_ready) = watch::channel(spec.health.is_none());
        let mut tasks = Vec::new();
        if let Some(health) = spec.health.clone() {
            let report = Report { id: id.clone(), events: events.clone(), event: Event::Health };
            let first = FirstTime { ready, mark, uid };
            let health = (health, spec.protocol);
            tasks.push(tokio::spawn(check(health, port, report, busy.clone(), Some(first))).abort_handle());
        }
        if let Some(alive) = spec.alive.clone() {
            let report = Report { id: id.clone(), events: events.clone(), event: Event::Alive };
            let alive = (alive, spec.protocol);
            tasks.push(tokio::spawn(check_alive(alive, port, report, busy.clone(), is_ready)).abort_handle());
        }
        Self(tasks)
    }
}

/// Of an instance that has not been ready yet.
struct FirstTime {
    ready: watch::Sender<bool>,
    mark: String,
    uid: Option<u32>,
}

impl FirstTime {
    /// Another user's process that took the port while the instance was on its way, which would be believed for good.
    async fn taken(&self, port: Port) -> Option<String> {
        let uid = self.uid?;
        let other = tokio::task::spawn_blocking(move || procfs::foreign_listener(port.get(), uid)).await.ok()??;
        Some(format!("port {port} is held by a process of user {other}"))
    }

    /// What says more than that nobody answered.
    async fn hint(&self, port: Port, reason: &str) -> Option<String> {
        match self.taken(port).await {
            Some(taken) => Some(format!(": {taken}")),
            None if reason == REFUSED => listens_elsewhere(&self.mark).await,
            None => None,
        }
    }
}

struct Report {
    id: InstanceId,
    events: mpsc::Sender<Event>,
    event: fn(InstanceId, HealthState) -> Event,
}

impl Report {
    async fn send(&self, state: HealthState) {
        // The loop is gone, and this task with it soon.
        let _ = self.events.send((self.event)(self.id.clone(), state)).await;
    }
}

async fn check_alive(
    (check_for, protocol): (HttpCheck, Protocol),
    port: Port,
    report: Report,
    busy: watch::Receiver<bool>,
    mut ready: watch::Receiver<bool>,
) {
    if ready.wait_for(|ready| *ready).await.is_ok() {
        check((Readiness::Http(check_for), protocol), port, report, busy, None).await;
    }
}

/// The full span nearest to what is `after` from now (in milliseconds since the epoch), from now.
fn together(now_ms: u64, after: Duration) -> Duration {
    let (span, due) = (TOGETHER.as_millis() as u64, now_ms.saturating_add(after.as_millis() as u64));
    let full = due.saturating_add(span / 2) / span * span;
    Duration::from_millis(full.saturating_sub(now_ms))
}

/// When to look again: after `pause`, or after about `idle` for as long as nobody needs the app.
async fn rest(began: Instant, pause: Duration, idle: Option<Duration>, busy: &mut watch::Receiver<bool>) {
    if let Some(idle) = idle.filter(|idle| *idle > pause) {
        let now = Instant::now();
        let together = now + together(now_ms(), (began + idle).duration_since(now));
        tokio::select! {
            () = sleep_until(together.max(began + pause)) => return,
            // Busy, or nobody says any more.
            _ = busy.wait_for(|busy| *busy) => {}
        }
    }
    sleep_until(began + pause).await;
}

/// Until aborted. Failures before the first success are counted per interval, however often is looked.
async fn check(
    (health, protocol): (Readiness, Protocol),
    port: Port,
    report: Report,
    mut busy: watch::Receiver<bool>,
    first: Option<FirstTime>,
) {
    let Probe { interval, idle_interval, timeout: within, .. } = health.probe();
    let mut pause = FIRST_LOOK.min(interval);
    let mut told: Option<HealthState> = None;
    let mut failures = 0;
    let mut passing: Option<Instant> = None;
    let mut counted: Option<Instant> = None;
    let mut hint: Option<(String, String)> = None;
    loop {
        let began = Instant::now();
        let unready = first.as_ref().filter(|first| !*first.ready.borrow());
        let outcome = match (ask(&health, protocol, port, within).await, unready) {
            (Ok(()), Some(first)) => first.taken(port).await.map_or(Ok(()), Err),
            (outcome, _) => outcome,
        };
        let state = match outcome {
            Ok(()) => {
                failures = 0;
                passing.get_or_insert(began);
                counted = None;
                pause = interval;
                if let Some(first) = &first {
                    first.ready.send_replace(true);
                }
                match &told {
                    Some(passing @ HealthState::Passing { .. }) => passing.clone(),
                    Some(HealthState::Unknown | HealthState::Failing { .. }) | None => {
                        HealthState::Passing { since: Timestamp(now_ms()) }
                    }
                }
            }
            Err(mut reason) => {
                passing = None;
                if counted.is_none_or(|at| began.duration_since(at) >= interval.saturating_sub(FIRST_LOOK)) {
                    failures += 1;
                    counted = Some(began);
                    hint = match unready {
                        Some(first) => first.hint(port, &reason).await.map(|hint| (reason.clone(), hint)),
                        None => None,
                    };
                }
                if let Some((_, hint)) = hint.as_ref().filter(|(of, _)| *of == reason) {
                    reason.push_str(hint);
                }
                HealthState::Failing { failures, reason }
            }
        };
        if told.as_ref() != Some(&state) {
            report.send(state.clone()).await;
            told = Some(state);
        }
        let settled = passing.is_some_and(|since| began.duration_since(since) >= SETTLED);
        rest(began, pause, settled.then_some(idle_interval), &mut busy).await;
        pause = (pause * 2).min(interval);
    }
}

const REFUSED: &str = "connection refused";

/// An app that ignores `$PORT` says so by where it listens. `None`: nowhere yet, or nobody may look.
async fn listens_elsewhere(mark: &str) -> Option<String> {
    let mark = mark.to_owned();
    let ports = tokio::task::spawn_blocking(move || procfs::listening_ports(&procfs::marked(&mark))).await.ok()?;
    let port = ports.first()?;
    Some(format!(": it listens on port {port}, not on $PORT; let it use $PORT, or say port = {port}"))
}

/// One probe, bounded in time as a whole; the reason why it failed.
async fn ask(health: &Readiness, protocol: Protocol, port: Port, within: Duration) -> Result<(), String> {
    let answer = async {
        let stream = TcpStream::connect(port.on_loopback()).await.map_err(|error| reason(&error))?;
        match health {
            Readiness::Tcp(_) => Ok(()),
            Readiness::Grpc(check) => http2::check(stream, &check.service, port).await,
            // With whatever status.
            Readiness::Answer(_) => get(stream, "/", protocol, port).await.map(drop),
            Readiness::Http(check) => match get(stream, &check.path, protocol, port).await? {
                Some(status @ 400..) => Err(format!("GET {} answered {status}", check.path)),
                Some(_) => Ok(()),
                None => Err(format!("GET {} was refused", check.path)),
            },
        }
    };
    match timeout(within, answer).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("no answer within {}", Humane(within))),
    }
}

/// The status of an answer; `None`: there is one, and it has none.
async fn get(mut stream: TcpStream, path: &str, protocol: Protocol, port: Port) -> Result<Option<u16>, String> {
    match protocol {
        Protocol::Http1 => {
            let status = ask_http(&mut stream, path, port).await?;
            take_the_rest(stream);
            Ok(Some(status))
        }
        Protocol::H2c => http2::get(stream, path, port).await,
    }
}

/// The verdict does not wait for it.
fn take_the_rest(stream: TcpStream) {
    tokio::spawn(async move {
        // Nobody is told how it ended.
        let _ = timeout(REST_LIMIT, tokio::io::copy(&mut stream.take(REST), &mut tokio::io::sink())).await;
    });
}

fn reason(error: &io::Error) -> String {
    if error.kind() == ErrorKind::ConnectionRefused {
        REFUSED.to_owned()
    } else if error.kind() == ErrorKind::ConnectionReset {
        "connection reset".to_owned()
    } else {
        error.to_string()
    }
}

/// The final status of an answer.
async fn ask_http(stream: &mut TcpStream, path: &str, port: Port) -> Result<u16, String> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: {USER_AGENT}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(|error| reason(&error))?;
    let mut head = Vec::new();
    for _ in 0..MAX_INTERIM {
        match read_status(stream, &mut head).await? {
            100..=199 => {}
            status => return Ok(status),
        }
    }
    Err("answered only 1xx".to_owned())
}

/// Reads until one status line is whole; drops an informational head, which another follows.
async fn read_status(stream: &mut TcpStream, head: &mut Vec<u8>) -> Result<u16, String> {
    loop {
        if let Some(status) = parse_status(head)? {
            let end = head.windows(4).position(|four| four == b"\r\n\r\n");
            match (status, end) {
                (100..=199, Some(end)) => drop(head.drain(..end + 4)),
                (100..=199, None) => {
                    read_more(stream, head).await?;
                    continue;
                }
                _ => {}
            }
            return Ok(status);
        }
        read_more(stream, head).await?;
    }
}

async fn read_more(stream: &mut TcpStream, head: &mut Vec<u8>) -> Result<(), String> {
    if head.len() >= MAX_HEAD {
        return Err("answered with no end of headers".to_owned());
    }
    match stream.read_buf(head).await {
        Ok(0) if head.is_empty() => Err("closed without an answer".to_owned()),
        Ok(0) => Err("closed within an answer".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(reason(&error)),
    }
}

/// `HTTP/1.1 200`: RFC 9112, section 4. `None`: not whole yet.
fn parse_status(head: &[u8]) -> Result<Option<u16>, String> {
    const FORM: &[u8] = b"HTTP/1.";
    let start = &head[..head.len().min(FORM.len())];
    match head {
        // What a server of HTTP/2 begins with: an empty or a short frame of SETTINGS (RFC 9113, 3.4 and 6.5).
        [0, 0, _, 4, ..] => return Err("answered in HTTP/2: say `protocol = \"h2c\"` if it speaks that".to_owned()),
        [0] | [0, 0] | [0, 0, _] => return Ok(None),
        _ => {}
    }
    if start != &FORM[..start.len()] {
        return Err("answered with something that is not HTTP/1".to_owned());
    }
    let Some(code) = head.get(9..13) else { return Ok(None) };
    let digits = std::str::from_utf8(&code[..3]).ok().and_then(|digits| digits.parse().ok());
    match digits {
        Some(status @ 100..=599) => Ok(Some(status)),
        Some(_) | None => Err("answered with a malformed status line".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Serves one connection with `answer` (`None`: holds it open) and returns what a probe says.
    async fn probe(answer: Option<&'static [u8]>) -> Result<(), String> {
        probe_for(Readiness::Http(HttpCheck { path: "/ready".into(), probe: Probe::default() }), "/ready", answer).await
    }

    async fn probe_for(health: Readiness, path: &str, answer: Option<&'static [u8]>) -> Result<(), String> {
        let expected = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = Port::new(listener.local_addr().unwrap().port()).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(expected.as_bytes()));
            match answer {
                Some(answer) => drop(stream.write_all(answer).await),
                None => std::future::pending().await,
            }
        });
        // What is answered may come late on a busy machine.
        let limit = Duration::from_millis(if answer.is_some() { 20_000 } else { 300 });
        let outcome = ask(&health, Protocol::Http1, port, limit).await;
        server.abort();
        outcome
    }

    #[tokio::test]
    async fn answers_are_judged_and_reasons_can_be_read() {
        let check = async |answer: &'static [u8], expected: Result<(), &str>| {
            assert_eq!(probe(Some(answer)).await, expected.map_err(str::to_owned), "{}", answer.escape_ascii());
        };
        check(b"HTTP/1.1 200 OK\r\n\r\n", Ok(())).await;
        check(b"HTTP/1.0 301 Moved\r\nLocation: /x\r\n\r\n", Ok(())).await;
        check(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", Ok(())).await;
        check(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 500 Oh\r\n\r\n", Err("GET /ready answered 500")).await;
        check(b"HTTP/1.1 503 Busy\r\n\r\n", Err("GET /ready answered 503")).await;
        check(b"SSH-2.0-OpenSSH\r\n", Err("answered with something that is not HTTP/1")).await;
        let settings = Err("answered in HTTP/2: say `protocol = \"h2c\"` if it speaks that");
        check(b"\0\0\0\x04\0\0\0\0\0", settings).await;
        check(b"HTTP/1.1 abc\r\n\r\n", Err("answered with a malformed status line")).await;
        check(b"HTTP/1.1 1", Err("closed within an answer")).await;
        check(b"", Err("closed without an answer")).await;
        assert_eq!(probe(None).await, Err("no answer within 300ms".to_owned()));
    }

    #[tokio::test]
    async fn a_service_without_a_check_must_answer_and_listening_is_not_enough() {
        let check = async |answer: Option<&'static [u8]>, expected: Result<(), &str>| {
            let outcome = probe_for(Readiness::Answer(Probe::default()), "/", answer).await;
            assert_eq!(outcome, expected.map_err(str::to_owned));
        };
        check(Some(b"HTTP/1.1 404 Not Found\r\n\r\n"), Ok(())).await;
        check(Some(b"HTTP/1.1 500 Oh\r\n\r\n"), Ok(())).await;
        check(Some(b"SSH-2.0-OpenSSH\r\n"), Err("answered with something that is not HTTP/1")).await;
        check(None, Err("no answer within 300ms")).await;
    }

    #[tokio::test]
    async fn an_app_is_not_cut_off_in_the_middle_of_its_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = Port::new(listener.local_addr().unwrap().port()).unwrap();
        let (judged, is_judged) = tokio::sync::oneshot::channel();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let length = stream.read(&mut [0; 1024]).await.unwrap();
            assert!(length > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            is_judged.await.unwrap();
            for _ in 0..8 {
                stream.write_all(&[b'x'; 16 << 10]).await?;
            }
            stream.shutdown().await?;
            stream.read(&mut [0]).await
        });
        let health = Readiness::Http(HttpCheck { path: "/ready".into(), probe: Probe::default() });
        assert_eq!(ask(&health, Protocol::Http1, port, Duration::from_secs(5)).await, Ok(()));
        judged.send(()).unwrap();
        assert_eq!(server.await.unwrap().unwrap(), 0, "an orderly end, and no reset");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_needs_is_asked_less_often_until_somebody_does() {
        const SHORT: Duration = Duration::from_secs(2);
        const IDLE: Duration = Duration::from_secs(10);
        let (needed, mut busy) = watch::channel(false);
        let rested = async |idle, busy: &mut watch::Receiver<bool>| {
            let began = Instant::now();
            rest(began, SHORT, idle, busy).await;
            began.elapsed()
        };
        assert_eq!(rested(None, &mut busy).await, SHORT);
        let rest = rested(Some(IDLE), &mut busy).await;
        assert!(rest.abs_diff(IDLE) <= TOGETHER / 2, "{rest:?}");
        assert_eq!(rested(Some(Duration::from_secs(1)), &mut busy).await, SHORT, "never more often");
        let rest = rested(Some(SHORT + Duration::from_millis(1)), &mut busy).await;
        assert!(rest >= SHORT, "never more often: {rest:?}");
        let comes = async |after| {
            sleep_until(Instant::now() + after).await;
            needed.send_replace(true);
        };
        let (rest, ()) = tokio::join!(rested(Some(IDLE), &mut busy), comes(Duration::from_secs(7)));
        assert_eq!(rest, Duration::from_secs(7), "at once");
        assert_eq!(rested(Some(IDLE), &mut busy).await, SHORT);
        needed.send_replace(false);
        let (rest, ()) = tokio::join!(rested(Some(IDLE), &mut busy), comes(Duration::from_secs(1)));
        assert_eq!(rest, SHORT, "no more often than ever");
        needed.send_replace(false);
        drop(needed);
        assert_eq!(rested(Some(IDLE), &mut busy).await, SHORT, "nobody says");
    }

    #[test]
    fn looks_at_what_nobody_needs_meet_at_full_seconds() {
        let met = |now, after| now + together(now, Duration::from_millis(after)).as_millis() as u64;
        assert_eq!(met(1_000_003, 9_998), 1_010_000, "and stay there");
        assert_eq!(met(1_000_400, 10_000), 1_010_000);
        assert_eq!(met(1_000_700, 10_000), 1_011_000);
        assert_eq!(met(1_000_700, 0), 1_001_000);
        assert_eq!(met(1_000_300, 0), 1_000_300, "not before now");
    }

    #[tokio::test]
    async fn a_port_nobody_listens_on_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = Port::new(listener.local_addr().unwrap().port()).unwrap();
        let tcp = Readiness::Tcp(Probe::default());
        assert_eq!(ask(&tcp, Protocol::Http1, port, Duration::from_secs(1)).await, Ok(()));
        drop(listener);
        assert_eq!(
            ask(&tcp, Protocol::Http1, port, Duration::from_secs(1)).await,
            Err("connection refused".to_owned())
        );
    }
}
