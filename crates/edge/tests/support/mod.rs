//! An edge in its own process, upstreams and clients that speak raw bytes.
#![allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bowline_core::app::{BodyLimit, HostName, PathPrefix, Protocol};
use bowline_core::id::{AppKey, AppName, EnvName, Generation, InstanceId, ReleaseNumber, RouteName, ServiceName};
use bowline_core::route::{
    Action, ApiSite, Certificate, Challenge, Cohort, EdgeDesired, EdgeObservation, EdgeStatus, Files, Flow, Pool,
    PoolId, Rule, RuleId, Site, SiteTls, Split, Table, Transfer,
};
use bowline_core::units::{Bytes, Share, Weight};
use bowline_edge::link::{self, LinkConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longest that anything a test waits for may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Edge {
    pub handle: link::Handle,
    /// Behind `handle`, so that it is dropped after it.
    pub dir: Folder,
    pub http: SocketAddr,
    pub https: SocketAddr,
    generation: AtomicU64,
}

/// The folder of an edge. Whatever edge still runs when it goes, because a test failed, is killed.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &std::path::Path {
        self.0.path()
    }

    /// The edges of this folder, by their command line.
    fn edges(&self) -> Vec<i32> {
        let logs = self.path().join("logs");
        let is_ours = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|argument| argument == logs.as_os_str().as_encoded_bytes())
        };
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_ours).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The link may be starting another at this moment; it ends with its handle, which is gone already.
        let mut quiet = 0;
        while quiet < 2 && std::thread::panicking() {
            let edges = self.edges();
            quiet = if edges.is_empty() { quiet + 1 } else { 0 };
            for pid in edges {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

pub fn config(dir: &std::path::Path) -> LinkConfig {
    LinkConfig {
        exe: PathBuf::from(env!("CARGO_BIN_EXE_bowline-edge-alone")),
        args: Vec::new(),
        run_dir: dir.to_path_buf(),
        log_dir: dir.join("logs"),
        http: "127.0.0.1:0".parse().unwrap(),
        https: Some("127.0.0.1:0".parse().unwrap()),
        uid: None,
        workers: 2,
        holder_of: |port| Some((1, format!("whoever holds {port}"))),
    }
}

impl Edge {
    pub async fn start() -> Self {
        Self::with_workers(2).await
    }

    pub async fn with_workers(workers: usize) -> Self {
        let dir = Folder::new();
        let handle = link::spawn(LinkConfig { workers, ..config(dir.path()) });
        Self::connected(handle, dir).await
    }

    pub async fn connected(mut handle: link::Handle, dir: Folder) -> Self {
        let seen = until(&mut handle, |seen| seen.status == EdgeStatus::Connected).await;
        let (http, https) = (seen.http.unwrap(), seen.https.unwrap());
        Self { handle, dir, http, https, generation: AtomicU64::new(1) }
    }

    /// The next table comes behind this one.
    pub fn go_on_from(&self, served: Option<Generation>) {
        self.generation.store(served.map_or(1, |generation| generation.0 + 1), Ordering::Relaxed);
    }

    /// Gives the edge a table and waits until it serves it.
    pub async fn serve(&mut self, table: TableBuilder) -> Generation {
        self.serve_with(table, BTreeMap::new()).await
    }

    pub async fn serve_with(
        &mut self,
        table: TableBuilder,
        certificates: BTreeMap<HostName, Certificate>,
    ) -> Generation {
        let generation = Generation(self.generation.fetch_add(1, Ordering::Relaxed));
        let table = Table { generation, ..table.0 };
        let certificates = certificates.into_iter().map(|(host, certificate)| (host, Arc::new(certificate)));
        let desired = EdgeDesired { table: Arc::new(table), certificates: Arc::new(certificates.collect()) };
        self.handle.desired.send(Arc::new(desired)).unwrap();
        self.until(|seen| seen.serving == Some(generation)).await;
        generation
    }

    pub async fn until(&mut self, predicate: impl FnMut(&EdgeObservation) -> bool) -> Arc<EdgeObservation> {
        until(&mut self.handle, predicate).await
    }

    pub async fn connect(&self) -> Talk<TcpStream> {
        Talk::new(TcpStream::connect(self.http).await.unwrap())
    }

    /// One request on its own connection.
    pub async fn get(&self, host: &str, path: &str) -> Answer {
        let mut talk = self.connect().await;
        talk.say(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        talk.answer().await
    }

    pub async fn stop(self) {
        self.handle.shutdown.edge(Duration::from_secs(5)).await;
    }
}

pub async fn until(
    handle: &mut link::Handle,
    mut predicate: impl FnMut(&EdgeObservation) -> bool,
) -> Arc<EdgeObservation> {
    let observed = &mut handle.observed;
    let waited = tokio::time::timeout(PATIENCE, observed.wait_for(|seen| predicate(seen))).await;
    if let Ok(seen) = waited.map(|seen| Arc::clone(&seen.unwrap())) {
        return seen;
    }
    panic!("not seen in time: {:?}", handle.observed.borrow())
}

impl Edge {
    /// Keeps asking until the answer is right.
    pub async fn eventually<F: Future<Output = bool>>(&self, mut ask: impl FnMut() -> F) {
        let asked = async {
            // What asks without waiting would leave the time no turn, and those it waits for no core.
            while !ask().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let asked = tokio::time::timeout(PATIENCE, asked);
        asked.await.expect("it did not come true in time");
    }
}

#[derive(Default)]
pub struct TableBuilder(Table);

pub fn key() -> AppKey {
    AppKey { env: EnvName::new("local").unwrap(), app: AppName::new("app").unwrap() }
}

pub fn pool(release: u32) -> PoolId {
    PoolId {
        key: key(),
        service: ServiceName::new("web").unwrap(),
        release: ReleaseNumber(release),
        cohort: Cohort::Whole,
    }
}

pub fn instance(release: u32, slot: u16) -> InstanceId {
    format!("local/app.web.r{release}.{slot}.1").parse().unwrap()
}

pub fn rule(prefix: &str, action: Action) -> Rule {
    Rule {
        id: RuleId { key: key(), route: RouteName::new("main").unwrap() },
        prefix: PathPrefix::new(prefix).unwrap(),
        strip: false,
        action,
        policies: bowline_core::route::Policies::default(),
        body: BodyLimit(Bytes(200 << 20)),
        timeout: Duration::from_secs(10),
        idle: Duration::from_secs(10),
        transfer: Transfer::default(),
    }
}

pub fn forward(release: u32) -> Action {
    let splits = vec![Split { pool: pool(release), weight: Weight::ALL }];
    Action::Forward { service: ServiceName::new("web").unwrap(), splits, judged: false, flow: Flow::Uncounted }
}

pub fn files(root: &std::path::Path, fallback: Option<&str>) -> Action {
    Action::Files(Files {
        service: ServiceName::new("web").unwrap(),
        release: ReleaseNumber(3),
        root: root.to_path_buf(),
        fallback: fallback.map(str::to_owned),
        cache: Duration::from_secs(3600),
    })
}

impl TableBuilder {
    pub fn into_table(self) -> Table {
        self.0
    }

    pub fn site(mut self, host: &str, rules: Vec<Rule>) -> Self {
        self.0.sites.insert(HostName::new(host).unwrap(), Arc::new(Site { tls: SiteTls::Both, rules }));
        self
    }

    pub fn pool(mut self, release: u32, addresses: &[SocketAddr]) -> Self {
        let endpoints = addresses.iter().enumerate();
        let endpoints = endpoints.map(|(slot, address)| (instance(release, u16::try_from(slot).unwrap()), *address));
        self.0.pools.insert(pool(release), Arc::new(Pool { endpoints: endpoints.collect(), ..Pool::default() }));
        self
    }

    /// The instances of this release speak HTTP/2.
    pub fn h2c(mut self, release: u32) -> Self {
        Arc::make_mut(self.0.pools.get_mut(&pool(release)).unwrap()).protocol = Protocol::H2c;
        self
    }

    pub fn leaving(mut self, release: u32, slot: u16) -> Self {
        self.0.leaving.insert(instance(release, slot));
        self
    }

    pub fn trusting(mut self, networks: &[&str]) -> Self {
        self.0.trusted_proxies = networks.iter().map(|network| network.parse().unwrap()).collect();
        self
    }

    /// The edge is a span of so many of the traces that begin with it.
    pub fn sampling(mut self, percent: u32) -> Self {
        self.0.sample = Share::from_ppm(percent * 10_000);
        self
    }

    /// Connections of those whom it trusts begin with a PROXY header.
    pub fn proxied(mut self) -> Self {
        self.0.proxy_protocol = true;
        self
    }

    /// The host of the daemon's API, and the socket behind it.
    pub fn api(mut self, host: &str, socket: &std::path::Path) -> Self {
        self.0.api = Some(Arc::new(ApiSite { host: HostName::new(host).unwrap(), socket: socket.to_path_buf() }));
        self
    }

    /// An authority asks whether this host leads here.
    pub fn asked(mut self, host: &str, challenge: Challenge) -> Self {
        self.0.challenges.insert(HostName::new(host).unwrap(), challenge);
        self
    }

    /// `a.test` forwarded to instances of release 1.
    pub fn plain(addresses: &[SocketAddr]) -> Self {
        Self::default().site("a.test", vec![rule("/", forward(1))]).pool(1, addresses)
    }
}

/// An upstream: `serve` gets every connection, numbered from 0.
pub async fn upstream<F>(serve: impl Fn(usize, Talk<TcpStream>) -> F + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(number, Talk::new(stream)));
        }
    });
    address
}

/// An upstream that answers every request of a connection with 200 and this body.
pub async fn answering(body: &'static str) -> SocketAddr {
    upstream(move |_, mut talk| async move {
        while let Some(head) = talk.try_head().await {
            talk.body(&head).await;
            talk.say(&ok(body)).await;
        }
    })
    .await
}

pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// One end of a connection.
pub struct Talk<S> {
    pub stream: S,
    pub buffer: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

pub fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .find_map(|(n, v)| n.eq_ignore_ascii_case(name).then(|| v.trim()))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn more(&mut self) -> usize {
        let mut piece = vec![0; 64 << 10];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut piece)).await.expect("nothing came in time");
        let read = read.unwrap_or(0);
        self.buffer.extend_from_slice(&piece[..read]);
        read
    }

    /// A head with its blank line; `None` at the end.
    pub async fn try_head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                return Some(String::from_utf8(self.buffer.drain(..end + 4).collect()).unwrap());
            }
            if self.more().await == 0 {
                return None;
            }
        }
    }

    pub async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            assert_ne!(self.more().await, 0, "ended after {} of {length} bytes", self.buffer.len());
        }
        self.buffer.drain(..length).collect()
    }

    pub async fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                return String::from_utf8(self.buffer.drain(..end + 2).collect()).unwrap().trim_end().to_owned();
            }
            assert_ne!(self.more().await, 0, "ended within a line");
        }
    }

    pub async fn stream_byte(&mut self) -> Option<u8> {
        if self.buffer.is_empty() && self.more().await == 0 {
            return None;
        }
        Some(self.buffer.remove(0))
    }

    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await > 0 {}
        std::mem::take(&mut self.buffer)
    }

    /// The body that a request's or response's head announces.
    pub async fn body(&mut self, head: &str) -> Vec<u8> {
        if let Some(length) = header(head, "content-length") {
            return self.exactly(length.parse().unwrap()).await;
        }
        if header(head, "transfer-encoding") == Some("chunked") {
            let mut body = Vec::new();
            loop {
                let size = usize::from_str_radix(&self.line().await, 16).unwrap();
                body.extend(self.exactly(size).await);
                assert_eq!(self.line().await, "");
                if size == 0 {
                    return body;
                }
            }
        }
        Vec::new()
    }

    pub async fn answer(&mut self) -> Answer {
        self.try_answer().await.expect("the connection ended without an answer")
    }

    pub async fn try_answer(&mut self) -> Option<Answer> {
        let head = self.try_head().await?;
        let status = head[9..12].parse().unwrap();
        let empty = matches!(status, 101 | 100 | 204 | 304);
        let body = if empty { Vec::new() } else { self.body(&head).await };
        Some(Answer { status, head, body })
    }
}
