//! What a daemon is told: of `up` by flags, of a server by `server.toml`, before which its flags go.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bowline_control::otlp;
use bowline_core::acme::{self, Method};
use bowline_core::app::HostName;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::route::Certificate;
use bowline_core::secret::Secret;
use bowline_spec::server::{self, CertificateFiles, EdgeEngine, Server, ServerFile};
use ipnet::IpNet;

use crate::args::{Mode, Serve, engine_or_usual};
use crate::ui;

/// Read where no other is said. That it is not there is no error.
const FILE: &str = "/etc/bowline/server.toml";

/// Keys that have a meaning and no code yet, each with why.
const NOT_CARRIED: [(&str, &str); 2] = [
    ("backup", "backups are not made yet"),
    ("limits.connections", "the edge takes as many connections as it may have descriptors"),
];

/// A daemon's settings, all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) http: SocketAddr,
    pub(crate) https: Option<SocketAddr>,
    pub(crate) admin: SocketAddr,
    pub(crate) edge: EdgeEngine,
    /// The socket of the engine whose containers instances are; `None`: they are processes of this machine.
    pub(crate) engine: Option<PathBuf>,
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Their connections begin with a PROXY header.
    pub(crate) proxy_protocol: bool,
    pub(crate) api: Option<Api>,
    pub(crate) acme: Acme,
    pub(crate) build_time: Duration,
    /// A log file of an instance is put aside when it would become larger, in bytes.
    pub(crate) log_bytes: u64,
    /// Log files of one slot, the one that is written to included.
    pub(crate) log_files: u32,
    /// `None`: telemetry goes nowhere.
    pub(crate) otlp: Option<otlp::Settings>,
    /// The file that it is from.
    pub(crate) file: Option<PathBuf>,
}

/// Whether public names get certificates from an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Acme {
    Never,
    /// If the server listens where authorities ask.
    OnItsPorts,
    /// The file says so.
    Always(server::Acme),
}

impl Acme {
    /// A file of authorities that is of no use is found at the start, not with the first certificate.
    fn read(acme: server::Acme) -> Result<Self, Fault> {
        let of_no_use = |error: bowline_api::HttpsError| {
            Fault::new(FaultKind::Invalid, "the authorities of [acme] cannot be used")
                .source(&error)
                .hint("`ca` names a PEM file: who has signed the certificate of the directory's own server")
        };
        acme.ca.as_deref().map(|ca| bowline_api::trust(Some(ca))).transpose().map_err(of_no_use)?;
        Ok(Self::Always(acme))
    }

    /// Of a server that has come to listen there.
    pub(crate) fn account(self, http: SocketAddr, https: Option<SocketAddr>) -> Option<bowline_control::Acme> {
        let (server::Acme { directory, contact, ca, challenge }, api) = match self.clone() {
            Self::Never => return None,
            // Nobody has said so: whoever knows the API by its certificate of the local CA goes on.
            Self::OnItsPorts => (server::Acme::default(), false),
            Self::Always(acme) => (acme, true),
        };
        let mut methods = acme::methods(Some(http), https, challenge);
        if self == Self::OnItsPorts {
            let asked = |method: &Method| match method {
                Method::Http01 => http.port() == method.port(),
                Method::TlsAlpn01 => https.is_some_and(|https| https.port() == method.port()),
            };
            methods.retain(asked);
        }
        (!methods.is_empty()).then_some(bowline_control::Acme { directory, contact, ca, methods, api })
    }
}

/// The way to the API from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Api {
    /// On which the edge leads to it.
    pub(crate) host: HostName,
    /// As its files are when the daemon starts; `None`: the local CA makes one.
    pub(crate) certificate: Option<Certificate>,
    /// Why they hold none that can be served.
    pub(crate) refused: Option<Fault>,
    /// Those files: what is renewed there is taken.
    pub(crate) files: Option<CertificateFiles>,
}

impl Api {
    fn read(api: server::Api) -> Self {
        let (certificate, refused) = match api.certificate.as_ref().map(certificate) {
            Some(Ok(certificate)) => (Some(certificate), None),
            Some(Err(fault)) => (None, Some(fault)),
            None => (None, None),
        };
        Self { host: api.host, certificate, refused, files: api.certificate }
    }
}

/// What can be served, from its files.
pub(crate) fn certificate(files: &CertificateFiles) -> Result<Certificate, Fault> {
    let wrong = |error: &dyn std::error::Error, path: &Path| {
        Fault::new(FaultKind::Invalid, "the certificate of [api] cannot be used")
            .caused_by(path.display().to_string())
            .source(error)
            .hint("name PEM files: the chain, its first certificate the host's own, and the key of that one")
    };
    let read = |path: &Path| std::fs::read(path).map_err(|error| wrong(&error, path));
    let chain = String::from_utf8_lossy(&read(&files.chain)?).into_owned();
    let certificate = Certificate { chain, key: Secret::new(read(&files.key)?) };
    bowline_edge::check_certificate(&certificate).map_err(|error| wrong(&error, &files.chain))?;
    Ok(certificate)
}

/// That it could not be sent to is found at the start, not with the first request. What its files say is not: apps are not down for them.
fn collector(otlp: server::Otlp) -> Result<otlp::Settings, Fault> {
    let server::Otlp { endpoint, headers, ca, interval, sample } = otlp;
    let settings = otlp::Settings { endpoint, headers, ca, interval, sample };
    settings.check()?;
    Ok(settings)
}

impl Settings {
    /// # Errors
    /// All that is wrong with the file, each at its place. `colour`: for a terminal.
    pub(crate) fn of(args: &Serve, colour: bool) -> Result<Self, Fault> {
        let settings = Self::of_again(args, colour)?;
        match settings.api.as_ref().and_then(|api| api.refused.clone()) {
            None => Ok(settings),
            Some(fault) => Err(fault),
        }
    }

    /// Of a daemon that is started again: a certificate that cannot be served, as a renewal that broke off leaves it, does not keep it from
    /// what else it does.
    ///
    /// # Errors
    /// All else that is wrong with the file, each at its place.
    pub(crate) fn of_again(args: &Serve, colour: bool) -> Result<Self, Fault> {
        let base = match args.mode {
            Mode::Local => Self::local(),
            // Started to stop all: it listens as it did, and wrong settings are not in its way.
            Mode::Server if args.for_command => {
                Self { https: None, acme: Acme::Never, ..Self::carried(Server::default(), None)? }
            }
            Mode::Server => Self::server(args.config.as_deref(), colour)?,
        };
        let edge = args.edge.map_or(base.edge, EdgeEngine::from);
        let trusts = !args.trusted_proxy.is_empty() || !base.trusted_proxies.is_empty();
        let only_stops = args.for_command && args.mode == Mode::Server;
        if edge == EdgeEngine::Envoy && trusts && !only_stops {
            return Err(Fault::new(FaultKind::Invalid, "an Envoy is told of no proxies in front that are believed")
                .hint(
                    "have Bowline's own edge (`--edge bowline`), or take `trusted_proxies` and --trusted-proxy out",
                ));
        }
        Ok(Self {
            edge,
            engine: args.runtime.engine(base.engine)?,
            http: args.http.unwrap_or(base.http),
            https: args.https.or(base.https),
            admin: args.admin.unwrap_or(base.admin),
            trusted_proxies: match args.trusted_proxy.is_empty() {
                true => base.trusted_proxies,
                false => args.trusted_proxy.clone(),
            },
            ..base
        })
    }

    fn local() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            http: loopback(8080),
            https: Some(loopback(8443)),
            admin: loopback(7070),
            edge: EdgeEngine::Bowline,
            engine: None,
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            api: None,
            acme: Acme::Never,
            build_time: bowline_control::BUILD_TIME,
            log_bytes: bowline_node::LOG_BYTES,
            log_files: bowline_node::LOG_FILES,
            otlp: None,
            file: None,
        }
    }

    fn server(config: Option<&Path>, colour: bool) -> Result<Self, Fault> {
        let path = config.unwrap_or(Path::new(FILE));
        let path = std::path::absolute(path).map_err(|e| unreadable(path, &e))?;
        let limit = u64::try_from(bowline_spec::MAX_FILE).expect("a MiB fits");
        let (bytes, file) = match bowline_control::read_small(&path, limit) {
            Ok(bytes) => (bytes, Some(path.clone())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && config.is_none() => (Vec::new(), None),
            Err(error) => return Err(unreadable(&path, &error)),
        };
        let refused = |diagnostics: bowline_spec::Diagnostics| {
            let detail = diagnostics.render(colour);
            let detail = if colour { ui::painted(&detail) } else { detail };
            Fault::from(diagnostics).detail(detail)
        };
        let name = path.display().to_string();
        let text = bowline_spec::decode(&bytes, &name).map_err(refused)?;
        let parsed = server::parse(&text, &name).map_err(refused)?;
        if let Some(diagnostics) = not_carried(&parsed) {
            return Err(refused(diagnostics));
        }
        Self::carried(parsed.server, file)
    }

    /// Of a file in which nothing is refused.
    fn carried(server: Server, file: Option<PathBuf>) -> Result<Self, Fault> {
        let Server { edge, runtime, listen, trusted_proxies, api, acme, limits, otlp, backup: _ } = server;
        Ok(Self {
            http: *listen.http.first().expect("no other number than one is carried"),
            https: listen.https.first().copied(),
            admin: listen.admin,
            edge,
            engine: match runtime {
                server::Runtime::Process => None,
                server::Runtime::Docker { engine } => Some(engine_or_usual(engine.as_deref())?),
            },
            trusted_proxies,
            proxy_protocol: listen.proxy_protocol,
            api: api.map(Api::read),
            acme: match acme {
                server::Authority::Usual => Acme::OnItsPorts,
                server::Authority::Off => Acme::Never,
                server::Authority::At(acme) => Acme::read(acme)?,
            },
            build_time: limits.build_time,
            log_bytes: limits.log_size.0,
            log_files: u32::from(limits.log_files) + 1,
            otlp: otlp.map(collector).transpose()?,
            file,
        })
    }
}

fn not_carried(parsed: &ServerFile) -> Option<bowline_spec::Diagnostics> {
    let mut keys = NOT_CARRIED.to_vec();
    if parsed.server.edge == EdgeEngine::Envoy {
        let why = "an Envoy is told of no proxies in front that are believed; Bowline's own edge is";
        keys.extend([("trusted_proxies", why), ("listen.proxy_protocol", why)]);
    }
    if parsed.server.listen.http.len() != 1 {
        keys.push(("listen.http", "the edge listens on exactly one address for HTTP; [::] takes IPv4, too"));
    }
    if parsed.server.listen.https.len() > 1 {
        keys.push(("listen.https", "the edge listens on one address for HTTPS; [::] takes IPv4, too"));
    }
    let over_tls = |acme: &server::Authority| {
        matches!(acme, server::Authority::At(server::Acme { challenge: Some(Method::TlsAlpn01), .. }))
    };
    if parsed.server.listen.https.is_empty() && over_tls(&parsed.server.acme) {
        keys.push(("acme.challenge", "it is answered over HTTPS, and `listen.https` is empty"));
    }
    if parsed.server.listen.https.is_empty() {
        keys.push(("api", "it is answered over HTTPS only, and `listen.https` is empty"));
    }
    parsed.refused(&keys)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Fault {
    Fault::new(FaultKind::Invalid, format!("{} cannot be read", path.display()))
        .source(error)
        .hint("say another with --config FILE; `bowline schema --server` says what it may hold")
}

#[cfg(test)]
mod tests {
    use super::*;

    use clap::Parser;

    fn settings(text: &str, flags: &[&str]) -> Result<Settings, Fault> {
        with_args(text, flags, |args| Settings::of(args, false))
    }

    /// As a daemon is started whose file says this.
    fn with_args<T>(text: &str, flags: &[&str], read: impl FnOnce(&Serve) -> T) -> T {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("server.toml");
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let words = [&["bowline", "serve", "--config", file], flags].concat();
        let crate::args::Verb::Serve(args) = crate::args::Cli::parse_from(words).verb else { panic!("another verb") };
        read(&args)
    }

    #[test]
    fn every_key_that_is_carried_is_carried() {
        let text = "trusted_proxies = [\"10.0.0.0/8\"]\napi = { host = \"bowline.example.com\" }\n\
            [listen]\nhttp = [\"0.0.0.0:81\"]\nhttps = [\"127.0.0.1:444\"]\nadmin = \"127.0.0.1:71\"\n\
            proxy_protocol = true\n[limits]\nbuild_time = \"5m\"\nlog_size = \"2MiB\"\nlog_files = 2\n";
        let got = settings(text, &[]).unwrap();
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!((got.http, got.https), (address("0.0.0.0:81"), Some(address("127.0.0.1:444"))));
        assert_eq!((got.admin, got.build_time), (address("127.0.0.1:71"), Duration::from_secs(300)));
        assert_eq!((got.log_bytes, got.log_files), (2 << 20, 3), "beside the one that is written to");
        assert_eq!(got.trusted_proxies, ["10.0.0.0/8".parse().unwrap()]);
        assert!(got.proxy_protocol);
        let host = HostName::new("bowline.example.com").unwrap();
        let api = Api { host, certificate: None, refused: None, files: None };
        assert_eq!(got.api, Some(api));
        let flags = ["--http", "127.0.0.1:82", "--trusted-proxy", "192.0.2.1"];
        let flagged = settings(text, &flags).unwrap();
        assert_eq!((flagged.http, flagged.https), (address("127.0.0.1:82"), got.https), "a flag goes before the file");
        assert_eq!(flagged.trusted_proxies, ["192.0.2.1/32".parse().unwrap()]);
    }

    #[test]
    fn instances_are_what_a_flag_says_or_else_the_file() {
        let docker = "runtime = \"docker\"\nengine = \"/run/a.sock\"\n";
        let engine = |text, flags: &[&str]| settings(text, flags).unwrap().engine;
        assert_eq!(engine("", &[]), None);
        assert_eq!(engine(docker, &[]), Some("/run/a.sock".into()));
        assert_eq!(engine(docker, &["--runtime", "docker", "--engine", "/run/b.sock"]), Some("/run/b.sock".into()));
        assert_eq!(engine(docker, &["--runtime", "process"]), None);
    }

    #[test]
    fn files_for_a_collector_that_are_not_there_keep_no_daemon_from_starting() {
        let text = |endpoint: &str| {
            format!("[otlp]\nendpoint = \"{endpoint}\"\nheaders = \"/nowhere/headers\"\nca = \"/nowhere/ca.pem\"\n")
        };
        let otlp = settings(&text("https://c.example.com:4318"), &[]).unwrap().otlp.unwrap();
        assert_eq!(otlp.headers.as_deref(), Some(Path::new("/nowhere/headers")));
        let fault = settings(&text("https://exa_mple..com"), &[]).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Invalid);
        assert_eq!(settings("", &[]).unwrap().otlp, None);
    }

    #[test]
    fn an_empty_file_is_a_server_on_its_ports() {
        let got = settings("", &[]).unwrap();
        assert_eq!((got.http.port(), got.https.map(|a| a.port()), got.admin.port()), (80, Some(443), 7070));
        assert!(got.http.ip().is_unspecified() && got.admin.ip().is_loopback());
        assert_eq!(settings("listen = { https = [] }", &[]).unwrap().https, None);
    }

    #[test]
    fn what_is_not_carried_is_refused_by_its_key_all_at_once() {
        let text = "edge = \"envoy\"\ntrusted_proxies = [\"10.0.0.0/8\"]\n[listen]\nhttp = []\nhttps = [\"[::]:1\", \"[::]:2\"]\n\
            [api]\nhost = \"api.example.com\"\n[backup]\nto = \"/backups\"\n\
            recipient = \"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\"\n\
            [limits]\nconnections = 100\n";
        let fault = settings(text, &[]).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Invalid);
        let detail = fault.detail.unwrap();
        let keys = ["trusted_proxies", "listen.http", "listen.https", "backup", "limits.connections"];
        for key in keys {
            assert!(detail.contains(&format!("cannot do `{key}`")), "{key}: {detail}");
        }
        let plain = settings("listen = { https = [] }\napi = { host = \"api.example.com\" }\n", &[]).unwrap_err();
        assert!(plain.detail.unwrap().contains("over HTTPS only"));
        let proven = settings("listen = { https = [] }\nacme = { challenge = \"tls-alpn-01\" }\n", &[]).unwrap_err();
        assert!(proven.detail.unwrap().contains("cannot do `acme.challenge`"));
    }

    #[test]
    fn an_authority_is_asked_where_it_can_ask_back_or_where_the_file_says_so() {
        let check = |text: &str, http: u16, https: Option<u16>, expected: Option<&[Method]>| {
            let address = |port| SocketAddr::from(([0, 0, 0, 0], port));
            let account = settings(text, &[]).unwrap().acme.account(address(http), https.map(address));
            assert_eq!(account.map(|account| account.methods).as_deref(), expected, "{text} {http} {https:?}");
        };
        check("", 80, Some(443), Some(&[Method::Http01, Method::TlsAlpn01]));
        check("", 8080, Some(443), Some(&[Method::TlsAlpn01]));
        check("", 80, None, Some(&[Method::Http01]));
        check("", 8080, Some(8443), None);
        let written = "acme = { contact = \"a@b.c\" }\n";
        check(written, 8080, Some(8443), Some(&[Method::Http01, Method::TlsAlpn01]));
        check(written, 8080, Some(443), Some(&[Method::TlsAlpn01, Method::Http01]));
        check("acme = { challenge = \"tls-alpn-01\" }\n", 80, Some(443), Some(&[Method::TlsAlpn01]));
        check("acme = \"off\"\n", 80, Some(443), None);
        let takes_api = |text: &str| {
            let [http, https] = [80, 443].map(|port| SocketAddr::from(([0, 0, 0, 0], port)));
            settings(text, &[]).unwrap().acme.account(http, Some(https)).map(|account| account.api)
        };
        assert_eq!((takes_api(""), takes_api(written)), (Some(false), Some(true)), "only if the file says so");
        assert_eq!(Settings::local().acme, Acme::Never);
    }

    #[test]
    fn a_certificate_that_cannot_be_served_is_said_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let [chain, key] = ["chain.pem", "key.pem"].map(|name| dir.path().join(name));
        let text = format!(
            "[api]\nhost = \"api.example.com\"\ncertificate = \"{}\"\nkey = \"{}\"\n",
            chain.display(),
            key.display()
        );
        let missing = settings(&text, &[]).unwrap_err();
        assert!(missing.causes[0].ends_with("chain.pem"), "{missing:?}");
        [&chain, &key].into_iter().for_each(|path| std::fs::write(path, "no PEM").unwrap());
        let wrong = settings(&text, &[]).unwrap_err();
        assert_eq!(
            (wrong.kind, wrong.message.as_str()),
            (FaultKind::Invalid, "the certificate of [api] cannot be used")
        );
        let again = with_args(&text, &[], |args| Settings::of_again(args, false)).unwrap().api.unwrap();
        assert_eq!(
            (again.certificate, again.refused),
            (None, Some(wrong)),
            "one that is started again serves all the same"
        );
    }
}
