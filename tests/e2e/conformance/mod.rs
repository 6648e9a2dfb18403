//! What an edge has to do, whichever serves: each case says which keys of the file it needs, sends requests over real
//! connections to a real app, and says what must come back and reach the app. Every edge is asked the same.
//!
//! What an edge does not carry has to be refused, by its key: that is what is expected of such a case there.
//! `docs/reference/conformance.md` shows what each has answered; `make conformance` writes it.

mod failures;
mod headers;
mod instances;
mod page;
mod policies;
mod protocols;
mod records;
mod releases;
mod routing;
mod scene;
mod secured;
mod uploads;

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use bowline_tests::engine::{Engine, Kind};
use bowline_tests::{Bowline, binary, path};

use self::scene::Scene;

/// One of those that may serve, with what it leads to.
struct Edge {
    name: &'static str,
    runs: Runs,
    /// How it is asked for: of `bowline up`, and in `server.toml`.
    up: &'static [&'static str],
    server: &'static str,
    /// Cases that it does not carry, by their ids.
    unsupported: &'static [&'static str],
    /// What it answers otherwise, and no key of the file asks for: by its id, and how. It is shown as that, and is held to it, so that
    /// what is mended is taken out here.
    differs: &'static [(&'static str, &'static str)],
}

/// What an edge leads to.
#[derive(Debug, Clone, Copy)]
enum Runs {
    Processes,
    /// Of Docker. It is asked what that could make different: all of it, or these.
    Containers(Option<&'static [&'static str]>),
}

/// What another edge shows of containers: that it is told of them.
const PART: &[&str] =
    &["failures/killed", "releases/shares", "releases/taken back", "drain/request", "instances/health"];

const BOWLINE: Edge = Edge {
    name: "Bowline",
    runs: Runs::Processes,
    up: &[],
    server: "edge = \"bowline\"\n",
    unsupported: &[],
    differs: &[],
};

const BOWLINE_DOCKER: Edge = Edge { name: "Bowline, Docker", runs: Runs::Containers(None), ..BOWLINE };

const ENVOY_DOCKER: Edge = Edge { name: "Envoy, Docker", runs: Runs::Containers(Some(PART)), ..ENVOY };

const ENVOY: Edge = Edge {
    name: "Envoy",
    runs: Runs::Processes,
    up: &["--edge", "envoy"],
    server: "edge = \"envoy\"\n",
    unsupported: &[
        "headers/trusted",
        "headers/trusted-scheme",
        "policies/allow-behind",
        "server/proxy header",
        "failures/resting",
        "files/served",
    ],
    differs: &[
        // Refused is what leaves no doubt, too.
        ("headers/nominated", "400"),
        ("headers/reserved", "no X-Bowline-Client · no x_bowline_client · Cookie a=1; bowline-release=5; b=2"),
        (
            "headers/answer",
            "X-Private 1 · no Keep-Alive · X-Bowline-Release 1 · Server app · X-App kept · 2 cookies · a date",
        ),
        ("headers/request-id", "given X-Request-Id abc-1 · none of 32 digits with dashes · refused x-request-id abc-1"),
        ("http1/continue", "100, then web 200 · too large 413, told to"),
        ("http1/strict", "two lengths 400 · two hosts 421 · none 400 · length and chunks 400 · a head of 100 KiB 431"),
        ("websocket/refused", "403, not you · then closed"),
        (
            "compression/text",
            "Content-Encoding gzip, Vary Accept-Encoding, no ETag, shorter · not asked no Content-Encoding, Vary Accept-Encoding · \
             short no Content-Encoding · packed already Content-Encoding br · over HTTP/2 Content-Encoding gzip",
        ),
        ("drain/websocket", "101, echoed · then nothing and the end"),
    ],
};

impl Edge {
    /// Whether this binary has it.
    fn is_there(&self) -> bool {
        let help = Command::new(binary()).args(["up", "--help"]).output().expect("the binary runs");
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        self.up.first().is_none_or(|flag| help.contains(flag))
    }

    fn is_asked(&self, case: &Case) -> bool {
        match self.runs {
            Runs::Processes => true,
            Runs::Containers(part) => case.of_instances && part.is_none_or(|part| part.contains(&case.id)),
        }
    }

    fn in_docker(&self) -> bool {
        matches!(self.runs, Runs::Containers(_))
    }

    fn carries(&self, case: &Case) -> bool {
        !self.unsupported.contains(&case.id)
    }

    /// How it answers this otherwise than it must.
    fn differs(&self, case: &Case) -> Option<&'static str> {
        self.differs.iter().find(|(id, _)| *id == case.id).map(|(_, told)| *told)
    }

    /// What has to come of a case there.
    fn must(&self, case: &Case) -> String {
        match self.carries(case) {
            true => self.differs(case).unwrap_or(case.must).to_owned(),
            false => refused_by(case.key),
        }
    }
}

fn refused_by(key: &str) -> String {
    format!("refused by `{key}`")
}

const EDGES: [&Edge; 4] = [&BOWLINE, &ENVOY, &BOWLINE_DOCKER, &ENVOY_DOCKER];

fn edges() -> Vec<&'static Edge> {
    EDGES.into_iter().filter(|edge| edge.is_there()).collect()
}

/// Where a case is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// `bowline up`: environment `local`.
    Here,
    /// `bowline serve`, behind a proxy: environment `production`, by canaries.
    Server,
}

/// What is said of the server itself; each has what stands before it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Setting {
    Nothing,
    /// 127.0.0.2 is a proxy whose word is taken.
    Trusts,
    /// It begins its connections with a PROXY header.
    Proxied,
}

impl Setting {
    /// In `server.toml`.
    const fn text(self) -> &'static str {
        match self {
            Self::Nothing => "",
            Self::Trusts => "trusted_proxies = [\"127.0.0.2\"]\n",
            Self::Proxied => "trusted_proxies = [\"127.0.0.2\"]\n[listen]\nproxy_protocol = true\n",
        }
    }
}

struct Case {
    /// Its area, and which of it.
    id: &'static str,
    place: Place,
    setting: Setting,
    /// What becomes of it depends on what runs the instances, too.
    of_instances: bool,
    /// Which key it is about: what has to be named where it is refused.
    key: &'static str,
    /// What it needs in `bowline.toml`.
    file: &'static str,
    /// What is asked, in a sentence.
    about: &'static str,
    /// What is told of it: `web 200` is an answer of the service `web`, `403` one of the edge, of which the app sees nothing.
    must: &'static str,
    ask: fn(&Scene) -> anyhow::Result<String>,
}

impl Case {
    /// What most of them are.
    const HERE: Self = Self {
        id: "",
        place: Place::Here,
        setting: Setting::Nothing,
        of_instances: false,
        key: "",
        file: "",
        about: "",
        must: "",
        ask: |_| anyhow::bail!("nothing is asked"),
    };
    const SERVER: Self = Self { place: Place::Server, ..Self::HERE };
}

/// What no edge has to carry, so that it is seen how that is refused.
const UNCARRIED: Case = Case {
    key: "service.extra.alive.grace",
    file: "[service.extra]\nbuild_of = \"web\"\nrun = \"python3 relay.py\"\nalive = { path = \"/\", grace = \"5s\" }\n",
    ..Case::HERE
};

/// In the order in which they are asked: what changes releases comes last.
fn cases() -> impl Iterator<Item = &'static Case> {
    let all = [
        routing::CASES,
        headers::CASES,
        policies::CASES,
        uploads::CASES,
        failures::CASES,
        protocols::CASES,
        secured::CASES,
        records::CASES,
        releases::CASES,
        instances::CASES,
    ];
    all.into_iter().flatten()
}

/// What was told of each case.
type Seen = Vec<(&'static str, String)>;

/// Asks an edge everything of one place.
fn ask(edge: &'static Edge, engine: Option<&Engine>, place: Place) -> Seen {
    let here: Vec<&'static Case> = cases().filter(|case| case.place == place && edge.is_asked(case)).collect();
    let scene = Scene::start(edge, engine, place, &here);
    let told = |case: &&'static Case| {
        let answer = catch_unwind(AssertUnwindSafe(|| match edge.carries(case) {
            true => (case.ask)(&scene),
            false => scene.refuses(case).map(|()| refused_by(case.key)),
        }));
        let told = match answer {
            Ok(Ok(told)) => told,
            Ok(Err(error)) => format!("failed: {error:#}"),
            Err(panic) => format!("failed: {}", said(panic.as_ref())),
        };
        (case.id, told)
    };
    let seen = here.iter().map(told).collect();
    scene.refuses(&UNCARRIED).expect("what nothing carries is refused by its key");
    assert_eq!(scene.came_through(), Vec::<String>::new(), "what {} refused reached the app", edge.name);
    seen
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").replace('\n', " ")
}

fn conforms(edge: &'static Edge) {
    let engine = edge.in_docker().then(|| Engine::start(Kind::Docker));
    let seen: Seen = std::thread::scope(|scope| {
        let engine = engine.as_ref();
        let places = [Place::Here, Place::Server].map(|place| scope.spawn(move || ask(edge, engine, place)));
        places.into_iter().flat_map(|place| place.join().expect("the panic above")).collect()
    });
    if std::env::var_os("BOWLINE_RENEW").is_some() {
        page::renew(edge, &seen);
    }
    let differs = |case: &'static Case| {
        let told = seen.iter().find(|(id, _)| *id == case.id).map(|(_, told)| told.as_str())?;
        (told != edge.must(case)).then(|| format!("{}\n  must  {}\n  is    {told}", case.id, edge.must(case)))
    };
    let differing: Vec<String> = cases().filter_map(differs).collect();
    assert!(differing.is_empty(), "{} differs in {}:\n{}", edge.name, differing.len(), differing.join("\n"));
    assert_eq!(seen.len(), cases().filter(|case| edge.is_asked(case)).count(), "every case was asked");
}

#[test]
fn bowline_answers_as_an_edge_must() {
    conforms(&BOWLINE);
}

#[test]
fn bowline_answers_the_same_where_instances_are_containers() {
    conforms(&BOWLINE_DOCKER);
}

#[test]
fn envoy_answers_the_same_where_instances_are_containers() {
    conforms(&ENVOY_DOCKER);
}

/// A binary that does not have it refuses it by name, and serves nothing.
#[test]
fn envoy_answers_as_an_edge_must() {
    if ENVOY.is_there() {
        return conforms(&ENVOY);
    }
    let bowline = Bowline::new();
    let folder = bowline.app("conformance-envoy", "plain");
    let up = [&["up", path(&folder), "--detach"][..], ENVOY.up].concat();
    assert!(bowline.fails(&up, 2).contains("--edge"), "the flag is named");
    let config = bowline.folder("etc").join("server.toml");
    std::fs::write(&config, ENVOY.server).expect("a file of the test");
    let said = bowline.fails(&["serve", "--config", path(&config)], 2);
    assert!(said.contains("cannot do `edge`"), "{said}");
}

#[test]
fn a_case_says_what_it_is_about_once() {
    let ids: BTreeSet<&str> = cases().map(|case| case.id).collect();
    assert_eq!(ids.len(), cases().count(), "each has a name of its own");
    for case in cases() {
        let said = [case.id, case.key, case.about, case.must];
        assert!(said.iter().all(|text| !text.is_empty() && !text.contains(['|', '\n'])), "{}", case.id);
    }
    let mut areas: Vec<&str> = cases().filter_map(|case| case.id.split('/').next()).collect();
    areas.dedup();
    assert_eq!(areas.iter().collect::<BTreeSet<_>>().len(), areas.len(), "each area stands together: {areas:?}");
    let of_edge = |edge: &Edge| {
        edge.unsupported.iter().copied().chain(edge.differs.iter().map(|(id, _)| *id)).collect::<Vec<_>>()
    };
    let unknown = |edge: &Edge| of_edge(edge).into_iter().filter(|id| !ids.contains(id)).collect::<Vec<_>>();
    assert_eq!(EDGES.map(unknown), EDGES.map(|_| Vec::<&str>::new()));
}
