//! One edge that serves, an app behind it that tells what reaches it, and requests to it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bowline_tests::certificate::self_signed;
use bowline_tests::client::{tls, tls_of};
use bowline_tests::engine::Engine;
use bowline_tests::grpc::INSTALLED;
use bowline_tests::server::{ANY_PORTS, Server};
use bowline_tests::up::Up;
use bowline_tests::upstream::{PROBE, Request, SCRIPT, Upstream};
use bowline_tests::wire::{Answer, Wire};
use bowline_tests::wire2::{self, Way};
use bowline_tests::{Bowline, fixture, path, root, text};
use rustls::ClientConfig;

use super::{Case, Edge, Place, Setting};

pub(super) const APP: &str = "conformance";
/// Of the app, where nothing else is said.
pub(super) const HOST: &str = "conformance.localhost";
pub(super) const API_HOST: &str = "api.conformance.localhost";
/// What lets in, and the line of a user.
pub(super) const TOKEN: &str = "conformance-token";
pub(super) const USER: &str = "ann:conformance-password";
/// The variable of a secret that gets another value.
pub(super) const PINNED: &str = "PINNED";
/// 127.0.0.2: the one whose word about others is taken.
pub(super) const PROXY: u8 = 2;

/// Who keeps the edge running.
enum Daemon {
    Up(Up),
    Server(#[expect(dead_code, reason = "it serves for as long as it is held")] Server),
}

pub(super) struct Scene {
    // Ended before what they belong to.
    daemon: Daemon,
    pub(super) bowline: Bowline,
    edge: &'static Edge,
    /// The socket of what has its instances as containers.
    engine: Option<PathBuf>,
    place: Place,
    pub(super) folder: PathBuf,
    pub(super) http: SocketAddr,
    pub(super) https: SocketAddr,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) web: Upstream,
    other: Upstream,
    probes: Cell<u32>,
    /// Of requests that the edge has answered itself.
    refused: RefCell<Vec<String>>,
    /// Two releases share the requests.
    split: OnceCell<()>,
}

impl Scene {
    pub(super) fn start(edge: &'static Edge, engine: Option<&Engine>, place: Place, cases: &[&Case]) -> Self {
        let (bowline, engine) = (Bowline::new(), engine.map(Engine::socket));
        // What rests is to rest within seconds.
        bowline.scale_faster(20);
        let [web, other] = ["web", "other"].map(|name| Upstream::start(name).expect("a free port"));
        let folder = bowline.folder(APP);
        std::fs::copy(root().join("tests/hostile/app/relay.py"), folder.join("relay.py")).expect("the relay");
        bowline_tests::copy(&fixture("grpc"), &folder.join("grpc"));
        bowline_tests::copy(&fixture("static-site"), &folder.join("public"));
        // Cases that need the same say so each.
        let carried = || cases.iter().filter(|case| edge.carries(case));
        let files: Vec<&str> = carried().map(|case| case.file).collect::<BTreeSet<_>>().into_iter().collect();
        let setting = carried().map(|case| case.setting).max().unwrap_or(Setting::Nothing);
        let file = file(&bowline, APP, place, (&web, &other), &files.concat());
        std::fs::write(folder.join("bowline.toml"), file).expect("a file of the test");
        let daemon = match place {
            Place::Here => {
                let trusts: &[&str] = if setting == Setting::Nothing { &[] } else { &["--trusted-proxy", "127.0.0.2"] };
                let runtime = engine.iter().flat_map(|engine| ["--runtime", "docker", "--engine", path(engine)]);
                let flags = [trusts, edge.up].concat().into_iter().chain(runtime).collect::<Vec<_>>();
                Daemon::Up(Up::start_with(&bowline, &folder, &flags, INSTALLED))
            }
            Place::Server => {
                let server = serve(&bowline, &server(edge, engine.as_deref(), setting));
                let output = bowline.run(&["deploy", path(&folder), "--env", "production"]);
                assert!(output.status.success(), "{}", text(&output));
                Daemon::Server(server)
            }
        };
        let status = bowline.status();
        let [http, https] = ["http", "https"].map(|what| {
            let address = status["edge"][what].as_str().expect("an address");
            let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
            SocketAddr::from((Ipv4Addr::LOCALHOST, port))
        });
        let tls = tls(&bowline.ca());
        let (probes, refused, split) = (Cell::default(), RefCell::default(), OnceCell::new());
        Self { daemon, bowline, edge, engine, place, folder, http, https, tls, web, other, probes, refused, split }
    }

    /// A file with this case alone has to be refused by the key that it is about.
    pub(super) fn refuses(&self, case: &Case) -> anyhow::Result<()> {
        if case.setting != Setting::Nothing {
            return self.refuses_to_serve(case);
        }
        let name = "conformance-refused";
        let folder = self.bowline.folder(name);
        std::fs::copy(self.folder.join("relay.py"), folder.join("relay.py"))?;
        let file = file(&self.bowline, name, self.place, (&self.web, &self.other), case.file);
        std::fs::write(folder.join("bowline.toml"), file)?;
        let up = [&["up", path(&folder), "--detach"][..], self.edge.up].concat();
        let output = match self.place {
            Place::Here => self.bowline.run(&up),
            Place::Server => self.bowline.run(&["deploy", path(&folder), "--env", "production"]),
        };
        let said = text(&output);
        ensure!(output.status.code() == Some(2) && said.contains(case.key), "not refused by {}: {said}", case.key);
        Ok(())
    }

    /// The same where it is about the server.
    fn refuses_to_serve(&self, case: &Case) -> anyhow::Result<()> {
        let bowline = Bowline::new();
        let config = bowline.folder("etc").join("server.toml");
        std::fs::write(&config, server(self.edge, self.engine.as_deref(), case.setting))?;
        let status = Server::begin(&bowline, &[], &[&ANY_PORTS[..], &["--config", path(&config)]].concat()).ended();
        let said = std::fs::read_to_string(bowline.folder("parent").join("journal"))?;
        ensure!(status.code() == Some(2) && said.contains(case.key), "not refused by {}: {said}", case.key);
        Ok(())
    }

    pub(super) fn ask(&self, method: &str, target: &str) -> Ask<'_> {
        Ask {
            scene: self,
            method: method.to_owned(),
            target: target.to_owned(),
            host: HOST.to_owned(),
            from: 1,
            secure: true,
            proxy: None,
            fields: Vec::new(),
            body: Body::None,
        }
    }

    pub(super) fn get(&self, target: &str) -> Ask<'_> {
        self.ask("GET", target)
    }

    /// Whoever came to the app after all, though the edge had answered.
    pub(super) fn came_through(&self) -> Vec<String> {
        let refused = self.refused.borrow();
        let whole = |probe: &String| self.reached(probe).into_iter().find(|(_, request)| request.whole);
        refused.iter().filter_map(whole).map(|(_, request)| request.line).collect()
    }

    /// What came to the app with this probe, and to which of its services.
    fn reached(&self, probe: &str) -> Vec<(&'static str, Request)> {
        let all = [&self.web, &self.other];
        all.iter().flat_map(|one| one.requests(probe).into_iter().map(move |request| (one.name, request))).collect()
    }

    fn probe(&self) -> String {
        self.probes.set(self.probes.get() + 1);
        format!("probe-{}", self.probes.get())
    }

    /// `http://ADDRESS` of the admin port.
    pub(super) fn admin(&self) -> String {
        match &self.daemon {
            Daemon::Up(up) => up.admin(),
            Daemon::Server(_) => {
                format!("http://{}", self.bowline.status()["daemon"]["admin"].as_str().expect("the admin port"))
            }
        }
    }

    /// The secret of [`PINNED`] is this from the next release on.
    pub(super) fn pin(&self, value: &str) -> io::Result<()> {
        std::fs::write(self.bowline.folder("secrets").join("pinned"), value)
    }

    /// Runs a verb that has to succeed.
    pub(super) fn run(&self, args: &[&str]) -> anyhow::Result<Output> {
        let output = self.bowline.run(args);
        ensure!(output.status.success(), "{args:?}: {}", text(&output));
        Ok(output)
    }

    /// The next release is another one.
    pub(super) fn change(&self) -> io::Result<()> {
        std::fs::write(self.folder.join("changed"), self.probe())
    }

    /// Brings out a second release that gets half of the requests, once.
    pub(super) fn splits(&self) -> anyhow::Result<()> {
        if self.split.get().is_none() {
            self.change()?;
            self.run(&["deploy", path(&self.folder), "--env", "production", "--detach"])?;
            let mut seen = [false; 2];
            bowline_tests::wait("both releases answer", bowline_tests::SOON, || {
                let answer = self.get("/").tell().ok()?.answer;
                seen[usize::from(answer.field("x-bowline-release") == Some("2"))] = true;
                seen.iter().all(|one| *one).then_some(())
            });
            self.split.get_or_init(|| ());
        }
        Ok(())
    }
}

/// What `server.toml` says of these.
fn server(edge: &Edge, engine: Option<&Path>, setting: Setting) -> String {
    let runtime = engine.map(|engine| format!("runtime = \"docker\"\nengine = \"{}\"\n", path(engine)));
    [edge.server, runtime.as_deref().unwrap_or_default(), setting.text()].concat()
}

/// A server on any ports, behind a proxy that says whose connections it forwards.
fn serve(bowline: &Bowline, server: &str) -> Server {
    let (chain, key) = self_signed(&bowline.folder("certificate"), API_HOST);
    let config = bowline.folder("etc").join("server.toml");
    let (chain, key) = (path(&chain), path(&key));
    let api = format!("[api]\nhost = \"{API_HOST}\"\ncertificate = \"{chain}\"\nkey = \"{key}\"\n");
    std::fs::write(&config, [server, &api].concat()).expect("a file of the test");
    Server::start_with(bowline, &[], &[&ANY_PORTS[..], &["--config", path(&config)]].concat())
}

/// Two services that tell, and these keys.
fn file(bowline: &Bowline, app: &str, place: Place, (web, other): (&Upstream, &Upstream), more: &str) -> String {
    let secrets = bowline.folder("secrets");
    let secret = |name: &str, value: &str| {
        let file = secrets.join(name);
        std::fs::write(&file, value).expect("a file of the test");
        format!("[secret.{name}]\nsource = \"file:{}\"\n", path(&file))
    };
    let relay = |upstream: &Upstream, more: &str| {
        let (name, port) = (upstream.name, upstream.port);
        format!(
            "[service.{name}]\nrun = \"python3 relay.py\"\nhealth = {{ path = \"/health\", interval = \"300ms\" }}\n\
             env = {{ HOSTILE_UPSTREAM = \"{port}\" }}\n{more}"
        )
    };
    let services = [relay(web, "scale = 2\n"), relay(other, "build_of = \"web\"\n")].concat();
    let of_place = match place {
        Place::Here => String::new(),
        Place::Server => format!(
            "[rollout]\nstrategy = \"canary\"\nsteps = [\"50% for 1h\"]\nabort = [\"error_rate > 20%\"]\nwatch = \"0s\"\n\
             [environment.production.route.main]\nhosts = [\"{app}.localhost\"]\n"
        ),
    };
    let secrets =
        [secret("token", TOKEN), secret("people", &format!("{USER}\n")), secret("pinned", "the first")].concat();
    format!("app = \"{app}\"\n{services}{secrets}[route.main]\nto = \"web\"\n{of_place}{more}")
        .replace("@WEB@", &web.port.to_string())
}

#[derive(Clone)]
enum Body {
    None,
    Sized(Vec<u8>),
    Chunked(Vec<u8>),
}

/// One request, as it is put together.
#[derive(Clone)]
pub(super) struct Ask<'s> {
    scene: &'s Scene,
    method: String,
    target: String,
    host: String,
    from: u8,
    secure: bool,
    proxy: Option<&'static str>,
    fields: Vec<(String, String)>,
    body: Body,
}

impl Ask<'_> {
    pub(super) fn on(self, host: &str) -> Self {
        Self { host: host.to_owned(), ..self }
    }

    /// By a client at 127.0.0.N.
    pub(super) fn from(self, from: u8) -> Self {
        Self { from, ..self }
    }

    /// Without TLS.
    pub(super) fn clear(self) -> Self {
        Self { secure: false, ..self }
    }

    /// Behind this header of a proxy, with its end of line.
    pub(super) fn behind(self, header: &'static str) -> Self {
        Self { proxy: Some(header), ..self }
    }

    pub(super) fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// What the app is to do: see [`Upstream`].
    pub(super) fn script(self, script: &str) -> Self {
        self.field(SCRIPT, script)
    }

    pub(super) fn sized(self, body: &[u8]) -> Self {
        Self { body: Body::Sized(body.to_vec()), ..self }
    }

    pub(super) fn chunked(self, body: &[u8]) -> Self {
        Self { body: Body::Chunked(body.to_vec()), ..self }
    }

    /// The request as HTTP/1.1 has it, and what tells it from others.
    pub(super) fn bytes(&self) -> (Vec<u8>, String) {
        let probe = self.scene.probe();
        let mut head =
            format!("{} {} HTTP/1.1\r\nHost: {}\r\n{PROBE}: {probe}\r\n", self.method, self.target, self.host);
        for (name, value) in &self.fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let body = match &self.body {
            Body::None => Vec::new(),
            Body::Sized(body) => {
                head.push_str(&format!("Content-Length: {}\r\n", body.len()));
                body.clone()
            }
            Body::Chunked(body) => {
                head.push_str("Transfer-Encoding: chunked\r\n");
                let chunk = |piece: &[u8]| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
                [body.chunks(4096).map(chunk).collect::<Vec<_>>().concat(), b"0\r\n\r\n".to_vec()].concat()
            }
        };
        ([head.as_bytes(), b"\r\n", &body].concat(), probe)
    }

    /// A connection to ask on.
    pub(super) fn open(&self) -> io::Result<Wire> {
        let to = if self.secure { self.scene.https } else { self.scene.http };
        let mut wire = Wire::connect_from(IpAddr::from([127, 0, 0, self.from]), to)?;
        if let Some(header) = self.proxy {
            wire.send(header.as_bytes())?;
        }
        if self.secure { wire.secured(&self.host, &self.scene.tls) } else { Ok(wire) }
    }

    /// Sends it, and waits for nothing.
    pub(super) fn begin(self) -> anyhow::Result<Begun> {
        let mut wire = self.open().with_context(|| format!("a connection for {}", self.host))?;
        let (bytes, probe) = self.bytes();
        // Who has refused it may take no more of its body.
        let sent = wire.send(&bytes);
        match self.body {
            Body::None => sent?,
            Body::Sized(_) | Body::Chunked(_) => {}
        }
        Ok(Begun { wire, probe, method: self.method })
    }

    pub(super) fn tell(self) -> anyhow::Result<Told> {
        let scene = self.scene;
        let mut begun = self.begin()?;
        let answer = begun.wire.answer_to(&begun.method)?;
        Ok(Told::of(scene, &begun.probe, answer))
    }

    /// The same over HTTP/2.
    pub(super) fn tell_h2(self) -> anyhow::Result<Told> {
        let (scene, probe) = (self.scene, self.scene.probe());
        let (hosts, fields): (Vec<_>, Vec<_>) =
            self.fields.iter().partition(|(name, _)| name.eq_ignore_ascii_case("host"));
        let authority = format!("{}:{}", self.host, scene.https.port());
        let authority = hosts.first().map_or(authority, |(_, value)| value.clone());
        let request =
            http::Request::builder().method(self.method.as_str()).uri(format!("https://{authority}{}", self.target));
        let request = request.header(PROBE, &probe).version(http::Version::HTTP_2);
        let request = fields.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        let (request, body) = match &self.body {
            Body::None => (request, &[][..]),
            Body::Sized(body) => (request.header("content-length", body.len()), body.as_slice()),
            Body::Chunked(body) => (request, body.as_slice()),
        };
        let tls = tls_of(&scene.bowline.ca(), rustls::DEFAULT_VERSIONS, &[b"h2"]);
        let from = SocketAddr::from(([127, 0, 0, self.from], 0));
        let way = Way { from, to: scene.https, name: self.host, tls };
        let answer = wire2::ask(&way, request.body(())?, body)?;
        Ok(Told::of(scene, &probe, answer))
    }
}

/// A request that is on its way.
pub(super) struct Begun {
    pub(super) wire: Wire,
    pub(super) probe: String,
    method: String,
}

/// What became of a request.
pub(super) struct Told {
    pub(super) answer: Answer,
    /// As it came to the app, once for each try.
    pub(super) requests: Vec<Request>,
    service: Option<&'static str>,
}

impl Told {
    pub(super) fn of(scene: &Scene, probe: &str, answer: Answer) -> Self {
        let reached = scene.reached(probe);
        let service = reached.iter().find(|(_, request)| request.whole).map(|(service, _)| *service);
        if service.is_none() {
            scene.refused.borrow_mut().push(probe.to_owned());
        }
        Self { answer, requests: reached.into_iter().map(|(_, request)| request).collect(), service }
    }

    /// What the app was asked.
    pub(super) fn asked(&self) -> anyhow::Result<&Request> {
        self.requests.iter().find(|request| request.whole).with_context(|| format!("{self}: the app was not asked"))
    }

    /// A field of the answer, or that there is none.
    pub(super) fn says(&self, name: &str) -> String {
        self.answer.field(name).map_or_else(|| format!("no {name}"), |value| format!("{name} {value}"))
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(service) = self.service {
            write!(f, "{service} ")?;
        }
        write!(f, "{}", self.answer.status)
    }
}

/// What the app was told in a field, or that it was not.
pub(super) fn hears(request: &Request, name: &str) -> String {
    match request.all(name).as_slice() {
        [] => format!("no {name}"),
        values => format!("{name} {}", values.join(" and ")),
    }
}

/// Long enough for what happens by itself on a busy machine.
pub(super) const MOMENT: Duration = Duration::from_secs(10);
