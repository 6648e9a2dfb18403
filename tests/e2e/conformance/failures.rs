//! What comes of an app that is late, breaks off, answers nonsense, or is not there; and of clients that are late.

use std::time::Duration;

use anyhow::Context;
use bowline_tests::{SOON, wait};
use serde_json::Value;

use super::Case;
use super::instances::of_web;
use super::scene::{APP, Begun, HOST, MOMENT, Scene, Told};

/// The time of stabilisation, and what a busy machine adds.
pub(super) const RESTING: Duration = Duration::from_secs(120);

/// A frame of text, masked with zeros: `ping`.
pub(super) const PING: &[u8] = b"\x81\x84\0\0\0\0ping";
/// The same as a server says it.
pub(super) const PONG: &[u8] = b"\x81\x04ping";

pub(super) static CASES: &[Case] = &[
    Case {
        id: "failures/killed",
        of_instances: true,
        key: "service.web.scale",
        about: "one of two instances is killed: what it was asked and has not answered goes to the other one, and so does what comes then",
        must: "100 of 100 web 200, a good part of them asked twice · then 20 of 20 web 200",
        ask: |scene| {
            // Envoy would know of nobody else to ask for a moment: who is killed is not yet gone.
            wait("nobody is left out", RESTING, || all_are_asked(scene).then_some(()));
            let before = scene.bowline.processes_of(APP);
            let victim = of_web(scene).into_iter().next().context("an instance of web runs")?;
            let id = victim.environment("BOWLINE_INSTANCE").context("it has a name")?;
            let asked = (0..UNANSWERED).map(|_| scene.get("/before").script("hold-once killed").begin());
            let asked = asked.collect::<anyhow::Result<Vec<_>>>()?;
            for begun in &asked {
                scene.web.comes(&begun.probe).context("a request has not come")?;
            }
            let of_victim = before.iter().filter(|one| one.environment("BOWLINE_INSTANCE").as_deref() == Some(&id));
            for process in of_victim {
                process.kill();
                wait("it is gone", SOON, || (!process.runs()).then_some(()));
            }
            scene.web.let_go("killed");
            let told = |mut begun: Begun| Ok(Told::of(scene, &begun.probe, begun.wire.answer()?));
            let before: Vec<anyhow::Result<Told>> = asked.into_iter().map(told).collect();
            let twice = before.iter().flatten().filter(|told| told.requests.len() == 2).count();
            let after = (0..20).map(|_| scene.get("/after").tell()).collect();
            is_whole(scene);
            let twice = if twice >= OF_ONE { "a good part of them".to_owned() } else { format!("{twice} of them") };
            Ok(format!("{}, {twice} asked twice · then {}", good(before), good(after)))
        },
        ..Case::HERE
    },
    Case {
        id: "failures/late answer",
        key: "route.hasty.limit.timeout",
        file: "[route.hasty]\npath = \"/hasty\"\nto = \"web\"\nlimit = { timeout = \"3s\" }\n",
        about: "an app that does not begin to answer in time",
        must: "GET web 504 · POST web 504 · over HTTP/2 web 504",
        ask: |scene| {
            let ask = |method: &str| scene.ask(method, "/hasty").script("hang");
            let (get, post, h2) = (ask("GET").tell()?, ask("POST").sized(b"body").tell()?, ask("GET").tell_h2()?);
            Ok(format!("GET {get} · POST {post} · over HTTP/2 {h2}"))
        },
        ..Case::HERE
    },
    Case {
        id: "failures/late body",
        key: "route.slow-body.limit.idle",
        file: "[route.slow-body]\npath = \"/slow-body\"\nto = \"web\"\nlimit = { timeout = \"1s\", idle = \"1s\" }\n",
        about: "a client that does not go on with its body",
        must: "408, then closed",
        ask: |scene| {
            let ask = scene.ask("POST", "/slow-body").sized(b"0123456789");
            let mut wire = ask.open()?;
            let (bytes, probe) = ask.bytes();
            wire.send(&bytes[..bytes.len() - 7])?;
            let told = Told::of(scene, &probe, wire.answer()?);
            Ok(format!("{told}, {}", if wire.ends(MOMENT)? { "then closed" } else { "still open" }))
        },
        ..Case::HERE
    },
    Case {
        id: "failures/idle tunnel",
        key: "route.resting.limit.idle",
        file: "[route.resting]\npath = \"/resting\"\nto = \"web\"\nlimit = { idle = \"3s\" }\n",
        about: "a WebSocket in which nothing moves",
        must: "101, echoed, then closed",
        ask: |scene| {
            let mut wire = scene.get("/").open()?;
            let answer = wire.ask_for_websocket(HOST, "/resting", "")?;
            wire.send(PING)?;
            let echoed = if wire.receive(PONG.len())? == PONG { "echoed" } else { "garbled" };
            let closed = if wire.ends(MOMENT)? { "then closed" } else { "still open" };
            Ok(format!("{}, {echoed}, {closed}", answer.status))
        },
        ..Case::HERE
    },
    Case {
        id: "failures/own",
        key: "route.main.to",
        about: "a failure of the app's own goes to the client as it is",
        must: "web 500, broken · refused web 403, not you",
        ask: |scene| {
            let [own, refused] = ["fail", "refuse"].map(|script| scene.get("/own").script(script).tell());
            let (own, refused) = (own?, refused?);
            Ok(format!("{own}, {} · refused {refused}, {}", own.answer.text(), refused.answer.text()))
        },
        ..Case::HERE
    },
    Case {
        id: "failures/cut",
        key: "route.main.to",
        about: "an answer that breaks off is seen to be cut",
        must: "web 200, cut",
        ask: |scene| {
            let mut begun = scene.get("/cut").script("cut half").begin()?;
            begun.wire.begins()?;
            scene.web.let_go("half");
            let told = Told::of(scene, &begun.probe, begun.wire.answer()?);
            Ok(format!("{told}, {}", if told.answer.cut { "cut" } else { "whole" }))
        },
        ..Case::HERE
    },
    Case {
        id: "failures/nonsense",
        key: "route.main.to",
        about: "an answer with two lengths is no answer",
        must: "web 502",
        ask: |scene| Ok(scene.ask("POST", "/two-lengths").script("both").sized(b"x").tell()?.to_string()),
        ..Case::HERE
    },
    Case {
        id: "failures/no answer",
        key: "route.main.to",
        about: "a connection that ends without an answer: what may not be repeated is not",
        must: "POST web 502, asked once",
        ask: |scene| {
            let told = scene.ask("POST", "/close").script("close").sized(b"x").tell()?;
            Ok(format!("POST {told}, {}", times(&told)))
        },
        ..Case::HERE
    },
    Case {
        id: "failures/repeated",
        key: "route.main.to",
        about: "what may be repeated, and has had no answer, goes to another instance",
        must: "GET web 200, asked twice · DELETE web 200, asked twice · over HTTP/2 web 200, asked twice",
        ask: |scene| {
            let ask = |method: &str| scene.ask(method, "/again").script("close-once");
            let (get, delete, h2) = (ask("GET").tell()?, ask("DELETE").tell()?, ask("GET").tell_h2()?);
            let [a, b, c] = [&get, &delete, &h2].map(times);
            Ok(format!("GET {get}, {a} · DELETE {delete}, {b} · over HTTP/2 {h2}, {c}"))
        },
        ..Case::HERE
    },
    Case {
        id: "failures/nobody",
        of_instances: true,
        key: "service.none.scale",
        file: "[service.none]\nbuild_of = \"web\"\nrun = \"python3 relay.py\"\nscale = 0\nenv = { HOSTILE_UPSTREAM = \"@WEB@\" }\n\
               [route.none]\npath = \"/none\"\nto = \"none\"\n",
        about: "no instance at all",
        must: "503, Retry-After 1 · over HTTP/2 503",
        ask: |scene| {
            let (told, h2) = (scene.get("/none").tell()?, scene.get("/none").tell_h2()?);
            Ok(format!("{told}, {} · over HTTP/2 {h2}", told.says("Retry-After")))
        },
        ..Case::HERE
    },
    Case {
        id: "failures/resting",
        of_instances: true,
        key: "service.rests.scale",
        file: "[service.rests]\nbuild_of = \"web\"\nrun = \"python3 relay.py\"\nscale = { min = 0, max = 1 }\n\
               health = { path = \"/health\", interval = \"300ms\" }\nenv = { HOSTILE_UPSTREAM = \"@WEB@\" }\n\
               [route.rests]\npath = \"/rests\"\nto = \"rests\"\n",
        about: "a service that rests is woken by a request, which is held until it has started",
        must: "POST web 200 · then GET web 200",
        ask: |scene| {
            let rests = |one: &Value| one["ready"] == 0 && one["wanted"] == 0;
            wait("it rests", RESTING, || service(scene, "rests").filter(rests).map(drop));
            let first = scene.ask("POST", "/rests").sized(&vec![b'x'; 1 << 20]).tell()?;
            Ok(format!("POST {first} · then GET {}", scene.get("/rests").tell()?))
        },
        ..Case::HERE
    },
];

/// Requests that two instances have and have not answered; of each, more than so many. A proxy that bounds tries by a few at once
/// would not try all of them again.
const UNANSWERED: usize = 100;
const OF_ONE: usize = 20;

/// How many are answered by the app, and what became of the others.
pub(super) fn good(all: Vec<anyhow::Result<Told>>) -> String {
    let count = all.len();
    let told = all.into_iter().map(|told| told.map_or_else(|e| e.to_string(), |told| told.to_string()));
    let others: Vec<String> = told.filter(|told| told != "web 200").collect();
    let rest = if others.is_empty() { String::new() } else { format!(", {others:?}") };
    format!("{} of {count} web 200{rest}", count - others.len())
}

fn times(told: &Told) -> &'static str {
    match told.requests.len() {
        1 => "asked once",
        2 => "asked twice",
        _ => "asked more often",
    }
}

/// Waits until all instances are ready again.
pub(super) fn is_whole(scene: &Scene) {
    wait("it is started again", SOON, || service(scene, "web").filter(|web| web["ready"] == web["wanted"]).map(drop));
}

pub(super) fn all_are_asked(scene: &Scene) -> bool {
    let web = service(scene, "web").expect("the scene has it");
    web["instances"].as_array().expect("its instances").iter().all(|one| one["waits_on"].is_null())
}

pub(super) fn service(scene: &Scene, name: &str) -> Option<Value> {
    let services = scene.bowline.status()["apps"][0]["services"].as_array().cloned()?;
    services.into_iter().find(|one| one["name"] == name)
}
