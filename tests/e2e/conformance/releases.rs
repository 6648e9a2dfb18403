//! Releases beside each other, and what goes on while one takes the place of another; a server behind a proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Stdio};

use anyhow::{Context, ensure};
use bowline_tests::wire::GOING_AWAY;
use bowline_tests::{SOON, path, text, wait};

use super::failures::{PING, PONG, RESTING, good, service};
use super::records::counted;
use super::scene::{APP, HOST, PROXY, Scene, Told, hears};
use super::{Case, Setting};

/// Of whom the proxy says that it asks.
const FORWARDED: &str = "PROXY TCP4 192.0.2.9 127.0.0.1 4711 80\r\n";

const REQUESTS: usize = 400;

pub(super) static CASES: &[Case] = &[
    Case {
        id: "server/proxy header",
        setting: Setting::Proxied,
        key: "listen.proxy_protocol",
        about: "a proxy that forwards bytes says whose they are, before all else",
        must: "in clear web 200, X-Forwarded-For 192.0.2.9 · over TLS web 200, X-Forwarded-For 192.0.2.9 · without one nothing · \
               a stranger without one web 200 · a stranger with one 400",
        ask: |scene| {
            let by_proxy = || scene.get("/").from(PROXY).behind(FORWARDED);
            let (clear, over) = (by_proxy().clear().tell()?, by_proxy().tell()?);
            let told =
                |told: &Told| Ok::<_, anyhow::Error>(format!("{told}, {}", hears(told.asked()?, "X-Forwarded-For")));
            let without = match scene.get("/").from(PROXY).clear().tell() {
                Ok(told) => told.to_string(),
                Err(_) => "nothing".to_owned(),
            };
            let (stranger, lying) = (scene.get("/").tell()?, scene.get("/").clear().behind(FORWARDED).tell()?);
            Ok(format!(
                "in clear {} · over TLS {} · without one {without} · a stranger without one {stranger} · a stranger with one {lying}",
                told(&clear)?,
                told(&over)?,
            ))
        },
        ..Case::SERVER
    },
    Case {
        id: "server/hsts",
        key: "route.strict.hsts",
        file: "[route.strict]\npath = \"/strict\"\nto = \"web\"\nhsts = { age = \"1h\", subdomains = true }\n\
               [environment.production.route.strict]\nhosts = [\"conformance.localhost\"]\n",
        about: "browsers are told over HTTPS to come so again, and in clear nothing",
        must: "Strict-Transport-Security max-age=3600; includeSubDomains · in clear no Strict-Transport-Security",
        ask: |scene| {
            let name = "Strict-Transport-Security";
            let (over, clear) = (scene.get("/strict").tell()?, scene.get("/strict").clear().tell()?);
            Ok(format!("{} · in clear {}", over.says(name), clear.says(name)))
        },
        ..Case::SERVER
    },
    Case {
        id: "releases/shares",
        of_instances: true,
        key: "rollout.strategy",
        file: "[route.split]\npath = \"/split\"\nto = \"web\"\n\
               [environment.production.route.split]\nhosts = [\"conformance.localhost\"]\n",
        about: "400 requests, of which each of two releases is to have half; metrics tell as many of each",
        must: "each has 35% to 65% · metrics say the same",
        ask: shares,
        ..Case::SERVER
    },
    Case {
        id: "releases/sticky",
        of_instances: true,
        key: "rollout.strategy",
        about: "a browser stays with the release that it has had, by a cookie that scripts do not see; the app does not see it either",
        must: "bowline-release, HttpOnly, Secure · 20 of 20 at the first · 20 of 20 over HTTP/2 · no Cookie",
        ask: |scene| {
            scene.splits()?;
            let first = scene.get("/").tell()?;
            let set = first.answer.field("set-cookie").context("no cookie is set")?.to_owned();
            let cookie = set.split(';').next().unwrap_or_default().to_owned();
            let name = cookie.split('=').next().unwrap_or_default();
            let attributes =
                ["HttpOnly", "Secure"].into_iter().filter(|one| set.contains(one)).collect::<Vec<_>>().join(", ");
            let again = || scene.get("/").field("Cookie", &cookie);
            let stays = |told: anyhow::Result<Told>| told.map(|told| release(&told) == release(&first));
            let h1 =
                (0..20).map(|_| stays(again().tell())).filter(|one| one.as_ref().is_ok_and(|stays| *stays)).count();
            let h2 =
                (0..20).map(|_| stays(again().tell_h2())).filter(|one| one.as_ref().is_ok_and(|stays| *stays)).count();
            let seen = hears(again().tell()?.asked()?, "Cookie");
            Ok(format!("{name}, {attributes} · {h1} of 20 at the first · {h2} of 20 over HTTP/2 · {seen}"))
        },
        ..Case::SERVER
    },
    Case {
        id: "releases/preview",
        of_instances: true,
        key: "rollout.strategy",
        about: "`x-bowline-preview` asks for a release; of one that does not run it is passed over; the app does not see it",
        must: "2 gets 2 · 1 gets 1 · 99 web 200 · no X-Bowline-Preview",
        ask: |scene| {
            scene.splits()?;
            let of = |number: &str| scene.get("/").field("X-Bowline-Preview", number).tell();
            let gets = |number: &str| {
                let told: anyhow::Result<Vec<Told>> = (0..10).map(|_| of(number)).collect();
                let mut seen: Vec<String> = told?.iter().map(release).collect();
                seen.dedup();
                anyhow::Ok(seen.join(", "))
            };
            let unknown = of("99")?;
            let hears = hears(unknown.asked()?, "X-Bowline-Preview");
            Ok(format!("2 gets {} · 1 gets {} · 99 {unknown} · {hears}", gets("2")?, gets("1")?))
        },
        ..Case::SERVER
    },
    Case {
        id: "releases/taken back",
        of_instances: true,
        key: "rollout.abort",
        about: "of two releases the new one fails: it is taken back by itself, and what it failed has been its own",
        must: "web 500 of 2 · taken back, worse than it may be · then 20 of 20 web 200 of 1",
        ask: taken_back,
        ..Case::SERVER
    },
    Case {
        id: "drain/request",
        of_instances: true,
        key: "service.web.drain",
        about: "a request that is under way when its release is replaced is answered by it; new ones go to the next",
        must: "held web 200 of the one before · meanwhile web 200 of the next",
        ask: |scene| {
            let before = release(&scene.get("/").tell()?);
            let mut held = scene.get("/held").script("hold drained").begin()?;
            scene.web.comes(&held.probe).context("it does not reach the app")?;
            let up = replace(scene)?;
            let next = wait("the next release answers", SOON, || {
                scene.get("/").tell().ok().filter(|told| release(told) != before)
            });
            scene.web.let_go("drained");
            let told = Told::of(scene, &held.probe, held.wire.answer()?);
            let of = if release(&told) == before { "the one before" } else { "the next" };
            ends(up)?;
            Ok(format!("held {told} of {of} · meanwhile {next} of the next"))
        },
        ..Case::HERE
    },
    Case {
        id: "drain/left out",
        of_instances: true,
        key: "service.web.drain",
        about: "of two instances one is left out for its failures, and the other is replaced first: requests are answered all the while",
        must: "all web 200",
        ask: |scene| {
            let (mut left_out, mut others) = (BTreeSet::new(), BTreeSet::new());
            // Who is left out is chance, and who is replaced first is not.
            while left_out.len() < 2 {
                left_out.insert(wait("one is left out", RESTING, || {
                    (0..10).for_each(|_| drop(scene.get("/fails").script("fail").tell()));
                    slot_left_out(scene)
                }));
                let mut up = replace(scene)?;
                while up.try_wait()?.is_none() {
                    others.insert(scene.get("/").tell().map_or_else(|e| format!("{e:#}"), |told| told.to_string()));
                }
                ends(up)?;
            }
            Ok(format!("all {}", Vec::from_iter(others).join(", ")))
        },
        ..Case::HERE
    },
    Case {
        id: "drain/websocket",
        of_instances: true,
        key: "service.web.drain",
        about: "a WebSocket is told that its instance goes, and then closed",
        must: "101, echoed · then 1001 and the end",
        ask: |scene| {
            let mut wire = scene.get("/").open()?;
            let answer = wire.ask_for_websocket(HOST, "/socket", "")?;
            wire.send(PING)?;
            let echoed = if wire.receive(PONG.len())? == PONG { "echoed" } else { "garbled" };
            let up = replace(scene)?;
            // Who is not told has the whole time of the drain.
            wire.wait_for(2 * SOON)?;
            let told = wire.rest()?;
            ends(up)?;
            let told = match told.as_slice() {
                [] => "nothing".to_owned(),
                told if told == GOING_AWAY => "1001".to_owned(),
                other => format!("{other:x?}"),
            };
            Ok(format!("{}, {echoed} · then {told} and the end", answer.status))
        },
        ..Case::HERE
    },
];

fn release(told: &Told) -> String {
    told.answer.field("x-bowline-release").unwrap_or("none").to_owned()
}

/// Of an instance of `web` that waits until it gets requests again.
fn slot_left_out(scene: &Scene) -> Option<u64> {
    let web = service(scene, "web")?;
    web["instances"].as_array()?.iter().find(|one| !one["waits_on"].is_null())?["slot"].as_u64()
}

fn shares(scene: &Scene) -> anyhow::Result<String> {
    scene.splits()?;
    let mut wire = scene.get("/split").open()?;
    let mut seen = BTreeMap::<String, usize>::new();
    for _ in 0..REQUESTS {
        let (bytes, probe) = scene.get("/split").bytes();
        wire.send(&bytes)?;
        *seen.entry(release(&Told::of(scene, &probe, wire.answer()?))).or_default() += 1;
    }
    let fair = |count: &usize| (REQUESTS * 35 / 100..=REQUESTS * 65 / 100).contains(count);
    let each = match seen.len() == 2 && seen.values().all(fair) {
        true => "each has 35% to 65%".to_owned(),
        false => format!("{seen:?}"),
    };
    let expected: Vec<String> = seen
        .iter()
        .map(|(release, count)| format!("{count} of conformance production web {release} GET /split 200"))
        .collect();
    let all_told = |told: &Vec<String>| expected.iter().all(|one| told.contains(one));
    wait(&format!("metrics say {expected:?}"), SOON, || Some(counted(scene, "/split")).filter(all_told));
    Ok(format!("{each} · metrics say the same"))
}

/// A browser that has its place with the new release counts, as any other does.
fn taken_back(scene: &Scene) -> anyhow::Result<String> {
    scene.splits()?;
    let [stable, canary] = ["1", "2"].map(|number| {
        wait(&format!("a browser has release {number}"), SOON, || {
            let told = scene.get("/judged").tell().ok().filter(|told| release(told) == number)?;
            Some(told.answer.field("set-cookie")?.split(';').next()?.to_owned())
        })
    });
    let of = |cookie: &str| scene.get("/judged").field("Cookie", cookie);
    let failed = of(&canary).script("fail").tell()?;
    let told = format!("{failed} of {}", release(&failed));
    wait("it is taken back", RESTING, || {
        let _ = (of(&canary).script("fail").tell(), of(&stable).tell());
        scene.bowline.status()["apps"][0]["change"].is_null().then_some(())
    });
    let why = scene.bowline.json_text(&["releases", APP, "--env", "production"]);
    let why = if why.contains("worse than it may be") { "worse than it may be" } else { "otherwise" };
    let after: Vec<anyhow::Result<Told>> = (0..20).map(|_| scene.get("/judged").tell()).collect();
    let of_first = after.iter().flatten().all(|told| release(told) == "1");
    let of = if of_first { "of 1" } else { "of others, too" };
    Ok(format!("{told} · taken back, {why} · then {} {of}", good(after)))
}

/// Begins another release.
pub(super) fn replace(scene: &Scene) -> anyhow::Result<Child> {
    scene.change()?;
    let mut command = scene.bowline.command(&["up", path(&scene.folder), "--detach"]);
    Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

pub(super) fn ends(up: Child) -> anyhow::Result<()> {
    let output = up.wait_with_output()?;
    ensure!(output.status.success(), "{}", text(&output));
    Ok(())
}
