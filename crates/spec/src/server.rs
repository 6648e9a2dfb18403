//! `server.toml`: one server's own settings, through the same parser and with the same errors.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bowline_core::acme::Method;
use bowline_core::app::HostName;
pub use bowline_core::route::EdgeEngine;
use bowline_core::units::{Bytes, Share};
use ipnet::IpNet;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::grammar::SERVER;
use crate::literal;
use crate::parse::{after_syntax, read_toml};
use crate::read::{Location, Locations, Reader, Section, ShortOr};

/// The settings of one server, every default filled in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Server {
    pub edge: EdgeEngine,
    pub runtime: Runtime,
    /// Whose `X-Forwarded-*`, `Forwarded` and PROXY headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    pub listen: Listen,
    pub acme: Authority,
    /// `None`: the API is on its Unix socket and the admin port only.
    pub api: Option<Api>,
    /// `None`: backups stay in the state folder.
    pub backup: Option<BackupDestination>,
    pub otlp: Option<Otlp>,
    pub limits: ServerLimits,
}

/// What instances are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Runtime {
    /// Processes of this machine.
    #[default]
    Process,
    /// Containers of Docker, or of Podman by the same API.
    Docker {
        /// `None`: that of the environment, or Docker's usual one.
        engine: Option<PathBuf>,
    },
}

/// At least one address of HTTP or HTTPS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub http: Vec<SocketAddr>,
    pub https: Vec<SocketAddr>,
    /// Console, API and `/metrics`.
    pub admin: SocketAddr,
    /// Connections of trusted proxies begin with a PROXY header.
    pub proxy_protocol: bool,
}

/// Whether public names get certificates of an authority.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Authority {
    /// The file does not say: of the default's where the server listens on a port on which that asks.
    #[default]
    Usual,
    /// Of none.
    Off,
    At(Acme),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acme {
    pub directory: String,
    pub contact: Option<String>,
    /// PEM file that the directory's own certificate is checked against.
    pub ca: Option<PathBuf>,
    /// `None`: whichever the server can answer.
    pub challenge: Option<Method>,
}

/// An OpenTelemetry receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Otlp {
    /// Base URL.
    pub endpoint: String,
    /// File with fields that each request has.
    pub headers: Option<PathBuf>,
    /// PEM file that the receiver's certificate is checked against.
    pub ca: Option<PathBuf>,
    /// How often metrics are sent: a second or more.
    pub interval: Duration,
    /// Of the traces that begin at the edge.
    pub sample: Share,
}

/// How often metrics are sent where nothing is said, and at most.
const OTLP_INTERVAL: Duration = Duration::from_secs(15);
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// The API over HTTPS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    pub host: HostName,
    /// `None`: from ACME or the local CA.
    pub certificate: Option<CertificateFiles>,
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    pub chain: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupDestination {
    pub to: Destination,
    /// An age recipient.
    pub recipient: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    Folder(PathBuf),
    /// `prefix` without slashes at its ends; it may be empty.
    S3 {
        bucket: String,
        prefix: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Client connections open at once.
    pub connections: u32,
    pub build_time: Duration,
    /// A log file is rotated at this size.
    pub log_size: Bytes,
    /// Rotated log files kept per instance slot.
    pub log_files: u16,
}

impl Default for Listen {
    fn default() -> Self {
        let any = |port| vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))];
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, 7070));
        Self { http: any(80), https: any(443), admin, proxy_protocol: false }
    }
}

impl Default for Acme {
    fn default() -> Self {
        let directory = "https://acme-v02.api.letsencrypt.org/directory".to_owned();
        Self { directory, contact: None, ca: None, challenge: None }
    }
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self { connections: 10_000, build_time: Duration::from_secs(900), log_size: Bytes(16 << 20), log_files: 4 }
    }
}

/// A file that is right.
#[derive(Debug, Clone)]
pub struct ServerFile {
    pub server: Server,
    locations: Locations,
    file: String,
    text: Arc<str>,
}

impl ServerFile {
    /// The errors of keys that this version cannot carry out, each with why, as far as the file has them: `limits.build_time`.
    /// A path without a key of its own stands for all below it: `acme`. `None`: it has none.
    pub fn refused(&self, keys: &[(&str, &str)]) -> Option<Diagnostics> {
        let written = keys.iter().filter_map(|(path, why)| Some((self.locations.get(*path)?, *path, *why)));
        let problem = |(at, path, why): (&Location, &str, &str)| {
            let message = format!("this version of Bowline cannot do `{path}`: {why}");
            Diagnostic::new(path, at.key.clone(), message).hint(Some("take it out".to_owned()))
        };
        let problems: Vec<Diagnostic> = written.map(problem).collect();
        (!problems.is_empty()).then(|| Diagnostics::new(&self.file, Arc::clone(&self.text), problems))
    }
}

/// Reads a `server.toml`; an empty one is all defaults.
pub fn parse(text: &str, file_name: &str) -> Result<ServerFile, Diagnostics> {
    let source: Arc<str> = text.into();
    let fail = |problems| Diagnostics::new(file_name, Arc::clone(&source), problems);
    let (root, syntax) = read_toml(text).map_err(|problem| fail(vec![*problem]))?;
    let mut reader = Reader::default();
    let root = reader.open(&SERVER, String::new(), 0..0, &root);
    let server = reader.server(&root);
    let problems = after_syntax(text, syntax, std::mem::take(&mut reader.problems));
    match problems.is_empty() {
        true => {
            let file = file_name.to_owned();
            Ok(ServerFile { server, locations: reader.locations, file, text: source })
        }
        false => Err(fail(problems)),
    }
}

impl Reader {
    fn server(&mut self, s: &Section<'_>) -> Server {
        let server = self.all(s);
        if server.listen.proxy_protocol && server.trusted_proxies.is_empty() {
            let at = "listen.proxy_protocol";
            let problem = Diagnostic::new(at, self.value_at(at), "no proxy is trusted that could send a PROXY header");
            self.push(problem.hint(Some("add trusted_proxies = [\"ADDRESS\"] at the top of the file".to_owned())));
        }
        server
    }

    fn all(&mut self, s: &Section<'_>) -> Server {
        Server {
            edge: match self.word(s, "edge") {
                Some(1) => EdgeEngine::Envoy,
                Some(_) | None => EdgeEngine::Bowline,
            },
            runtime: self.runtime(s),
            trusted_proxies: self.list(s, "trusted_proxies", literal::cidr).unwrap_or_default(),
            listen: self.section(s, "listen").map(|t| self.listen(&t)).unwrap_or_default(),
            acme: match self.word_or_table(s, "acme") {
                None => Authority::Usual,
                Some(ShortOr::Short(())) => Authority::Off,
                Some(ShortOr::Table(t)) => Authority::At(self.acme(&t)),
            },
            api: self.section(s, "api").and_then(|t| self.api(&t)),
            backup: self.section(s, "backup").and_then(|t| self.backup_destination(&t)),
            otlp: self.section(s, "otlp").and_then(|t| self.otlp(&t)),
            limits: self.section(s, "limits").map(|t| self.server_limits(&t)).unwrap_or_default(),
        }
    }

    fn runtime(&mut self, s: &Section<'_>) -> Runtime {
        let engine = self.parsed(s, "engine", literal::absolute).map(PathBuf::from);
        match self.word(s, "runtime") {
            Some(1) => Runtime::Docker { engine },
            Some(_) | None => {
                if engine.is_some() {
                    let problem = Diagnostic::new(
                        "engine",
                        self.value_at("engine"),
                        "instances are processes, which need no engine",
                    );
                    self.push(problem.hint(Some("write runtime = \"docker\" beside it, or take it out".to_owned())));
                }
                Runtime::Process
            }
        }
    }

    fn listen(&mut self, s: &Section<'_>) -> Listen {
        let default = Listen::default();
        let http = self.list(s, "http", literal::listen).unwrap_or(default.http);
        let https = self.list(s, "https", literal::listen).unwrap_or(default.https);
        let admin = self.parsed(s, "admin", literal::listen).unwrap_or(default.admin);
        if self.list_is_empty(s, "http") && self.list_is_empty(s, "https") {
            let problem = Diagnostic::new(s.path.clone(), s.at.clone(), "a server listens on HTTP or HTTPS");
            self.push(problem.hint(Some("remove `http` or `https` for the default".to_owned())));
        }
        let taken = |address: &SocketAddr| address.port() != 0 && http.contains(address);
        if let Some(address) = https.iter().find(|address| taken(address)) {
            let message = format!("{address} cannot serve both HTTP and HTTPS");
            let other = self.value_at(&s.path("http"));
            let problem = Diagnostic::new(s.path("https"), self.value_at(&s.path("https")), message);
            self.push(problem.related(other, "the other is here"));
        }
        let proxy_protocol = self.boolean(s, "proxy_protocol").unwrap_or(default.proxy_protocol);
        Listen { http, https, admin, proxy_protocol }
    }

    fn otlp(&mut self, s: &Section<'_>) -> Option<Otlp> {
        let headers = self.parsed(s, "headers", literal::absolute).map(PathBuf::from);
        let ca = self.parsed(s, "ca", literal::absolute).map(PathBuf::from);
        let interval = self.parsed(s, "interval", literal::positive).unwrap_or(OTLP_INTERVAL);
        if interval < SHORTEST_INTERVAL {
            let at = s.path("interval");
            let problem = Diagnostic::new(at.clone(), self.value_at(&at), "metrics are sent once a second at most");
            self.push(problem.hint(Some("write \"1s\" or more".to_owned())));
        }
        let sample = self.parsed(s, "sample", literal::share).unwrap_or(Share::WHOLE);
        let endpoint = self.parsed(s, "endpoint", literal::url)?;
        if let Some(at) = ca.as_ref().filter(|_| endpoint.starts_with("http://")).map(|_| s.path("ca")) {
            let problem = Diagnostic::new(at.clone(), self.value_at(&at), "an endpoint of http:// has no certificate");
            self.push(problem.hint(Some("write https:// in `endpoint`, or take `ca` out".to_owned())));
        }
        Some(Otlp { endpoint, headers, ca, interval, sample })
    }

    fn acme(&mut self, s: &Section<'_>) -> Acme {
        Acme {
            directory: self.parsed(s, "directory", literal::https_url).unwrap_or(Acme::default().directory),
            contact: self.parsed(s, "contact", literal::email),
            ca: self.parsed(s, "ca", literal::absolute).map(PathBuf::from),
            challenge: self.word(s, "challenge").and_then(|word| Method::ALL.get(word).copied()),
        }
    }

    fn api(&mut self, s: &Section<'_>) -> Option<Api> {
        let chain = self.parsed(s, "certificate", literal::absolute).map(PathBuf::from);
        let key = self.parsed(s, "key", literal::absolute).map(PathBuf::from);
        let host = self.parsed(s, "host", literal::host)?;
        if host.is_wildcard() {
            let problem =
                Diagnostic::new(s.path("host"), self.value_at(&s.path("host")), "the API has one name, not a wildcard");
            self.push(problem);
        }
        Some(Api { host, certificate: chain.zip(key).map(|(chain, key)| CertificateFiles { chain, key }) })
    }

    fn backup_destination(&mut self, s: &Section<'_>) -> Option<BackupDestination> {
        let to = self.parsed(s, "to", literal::destination);
        let recipient = self.parsed(s, "recipient", literal::recipient);
        let to = to.map(|to| match to.strip_prefix("s3://") {
            None => Destination::Folder(to.into()),
            Some(rest) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                Destination::S3 { bucket: bucket.to_owned(), prefix: prefix.trim_matches('/').to_owned() }
            }
        });
        Some(BackupDestination { to: to?, recipient: recipient? })
    }

    fn server_limits(&mut self, s: &Section<'_>) -> ServerLimits {
        let default = ServerLimits::default();
        ServerLimits {
            connections: self.integer(s, "connections").unwrap_or(default.connections),
            build_time: self.parsed(s, "build_time", literal::positive).unwrap_or(default.build_time),
            log_size: self.parsed(s, "log_size", literal::size).unwrap_or(default.log_size),
            log_files: self.integer(s, "log_files").unwrap_or(default.log_files),
        }
    }
}

/// The JSON Schema of `server.toml`.
pub fn schema() -> serde_json::Value {
    crate::schema::schema(&SERVER, "server.toml")
}
