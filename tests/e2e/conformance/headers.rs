//! What the app is told of a request beside what the client said, and what a client is told of an answer.

use super::scene::{HOST, PROXY, Told, hears};
use super::{Case, Setting};

/// A trace that somebody else has begun (W3C Trace Context, 3.2).
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

pub(super) static CASES: &[Case] = &[
    Case {
        id: "headers/identity",
        key: "route.main.to",
        about: "what a stranger says of itself is dropped, and the app is told who it is",
        must: "X-Forwarded-For 127.0.0.1 · X-Forwarded-Proto https · X-Forwarded-Host conformance.localhost · \
               no X-Real-IP · no X_Forwarded_For · no X-Forwarded-Port",
        ask: |scene| {
            let ask = scene.get("/who").field("X-Forwarded-For", "192.0.2.66").field("X-Forwarded-Proto", "gopher");
            let ask = ask.field("X-Forwarded-Host", "evil.example").field("X-Real-IP", "192.0.2.66");
            let told = ask.field("X_Forwarded_For", "192.0.2.66").field("X-Forwarded-Port", "1").tell()?;
            let names = ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-IP", "X_Forwarded_For"];
            let asked = told.asked()?;
            let all: Vec<String> = names.iter().chain(&["X-Forwarded-Port"]).map(|name| hears(asked, name)).collect();
            Ok(all.join(" · "))
        },
        ..Case::HERE
    },
    Case {
        id: "headers/forwarded",
        key: "route.main.to",
        about: "the same as RFC 7239 writes it",
        must: "Forwarded for=127.0.0.1;proto=https;host=\"conformance.localhost\"",
        ask: |scene| Ok(hears(scene.get("/who").field("Forwarded", "for=192.0.2.66").tell()?.asked()?, "Forwarded")),
        ..Case::HERE
    },
    Case {
        id: "headers/http2",
        key: "route.main.to",
        about: "and over HTTP/2",
        must: "X-Forwarded-For 127.0.0.1 · X-Forwarded-Proto https · X-Forwarded-Host as the URL has it · Host as the URL has it",
        ask: |scene| {
            let told = scene.get("/who").field("X-Forwarded-For", "192.0.2.66").tell_h2()?;
            let authority = format!("{}:{}", HOST, scene.https.port());
            let names = ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Host"];
            let asked = told.asked()?;
            let all: Vec<String> = names.iter().map(|name| hears(asked, name)).collect();
            Ok(all.join(" · ").replace(&authority, "as the URL has it"))
        },
        ..Case::HERE
    },
    Case {
        id: "headers/trusted",
        setting: Setting::Trusts,
        key: "trusted_proxies",
        about: "a trusted proxy's word goes on, with its own address behind it",
        must: "X-Forwarded-For 192.0.2.9, 127.0.0.2 · X-Forwarded-Proto https · X-Forwarded-Host shop.example",
        ask: |scene| {
            let ask = scene.get("/who").clear().from(PROXY).field("X-Forwarded-For", "192.0.2.9");
            let told = ask.field("X-Forwarded-Proto", "https").field("X-Forwarded-Host", "shop.example").tell()?;
            let names = ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"];
            let asked = told.asked()?;
            Ok(names.map(|name| hears(asked, name)).join(" · "))
        },
        ..Case::HERE
    },
    Case {
        id: "headers/trusted-scheme",
        setting: Setting::Trusts,
        key: "trusted_proxies",
        file: "[route.proxied]\npath = \"/proxied\"\nto = \"web\"\nhttp = \"redirect\"\n",
        about: "who came to a trusted proxy by HTTPS is not sent there again; a stranger's word counts for nothing",
        must: "the proxy web 200 · a stranger 308",
        ask: |scene| {
            let ask = || scene.get("/proxied").clear().field("X-Forwarded-Proto", "https");
            Ok(format!("the proxy {} · a stranger {}", ask().from(PROXY).tell()?, ask().tell()?))
        },
        ..Case::HERE
    },
    Case {
        id: "headers/hop-by-hop",
        key: "route.main.to",
        about: "what is for one hop, by its name or by `Connection`, ends there",
        must: "no X-Private · no Keep-Alive · no Proxy-Authorization · no Proxy-Connection · X-Kept 1",
        ask: |scene| {
            let ask = scene.get("/hop").field("Connection", "x-private").field("X-Private", "1").field("X-Kept", "1");
            let ask = ask.field("Keep-Alive", "timeout=5").field("Proxy-Connection", "keep-alive");
            let told = ask.field("Proxy-Authorization", "Basic YTpi").tell()?;
            let names = ["X-Private", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "X-Kept"];
            let asked = told.asked()?;
            Ok(names.map(|name| hears(asked, name)).join(" · "))
        },
        ..Case::HERE
    },
    Case {
        id: "headers/nominated",
        key: "route.main.to",
        about: "`Connection` takes nothing away that the edge says",
        must: "X-Forwarded-For 127.0.0.1 · Host conformance.localhost",
        ask: |scene| {
            let told = scene.get("/hop").field("Connection", "X-Forwarded-For, Host").tell()?;
            Ok(match told.asked() {
                Ok(asked) => ["X-Forwarded-For", "Host"].map(|name| hears(asked, name)).join(" · "),
                Err(_) => told.to_string(),
            })
        },
        ..Case::HERE
    },
    Case {
        id: "headers/reserved",
        key: "route.main.to",
        about: "Bowline's own words come from nobody else, and its cookie reaches no app",
        must: "no X-Bowline-Client · no x_bowline_client · Cookie a=1; b=2",
        ask: |scene| {
            let ask = scene.get("/own").field("X-Bowline-Client", "192.0.2.66").field("x_bowline_client", "192.0.2.66");
            let told = ask.field("Cookie", "a=1; bowline-release=5; b=2").tell()?;
            let asked = told.asked()?;
            Ok(["X-Bowline-Client", "x_bowline_client", "Cookie"].map(|name| hears(asked, name)).join(" · "))
        },
        ..Case::HERE
    },
    Case {
        id: "headers/answer",
        key: "route.main.to",
        about: "of an answer, too, what is for one hop ends there; the release is the edge's word; the rest goes on",
        must: "no X-Private · no Keep-Alive · X-Bowline-Release 1 · Server app · X-App kept · 2 cookies · a date",
        ask: |scene| {
            let told = scene.get("/fields").script("fields").tell()?;
            let names = ["X-Private", "Keep-Alive", "X-Bowline-Release", "Server", "X-App"];
            let said = names.map(|name| told.says(name)).join(" · ");
            let cookies = told.answer.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie")).count();
            let date = if told.answer.field("date").is_some() { "a date" } else { "no date" };
            Ok(format!("{said} · {cookies} cookies · {date}"))
        },
        ..Case::HERE
    },
    Case {
        id: "headers/request-id",
        key: "route.closed.deny",
        file: "[route.closed]\npath = \"/closed\"\ndeny = true\n",
        about: "a request has an id: the client's, or one that is made; a refusal says it",
        must: "given X-Request-Id abc-1 · none of 32 digits · refused x-request-id abc-1",
        ask: |scene| {
            let given = hears(scene.get("/id").field("X-Request-Id", "abc-1").tell()?.asked()?, "X-Request-Id");
            let none = scene.get("/id").tell()?;
            let made = none.asked()?.field("x-request-id").unwrap_or_default().to_owned();
            let refused = scene.get("/closed").field("X-Request-Id", "abc-1").tell()?.says("x-request-id");
            let digits = made.bytes().filter(u8::is_ascii_hexdigit).count();
            let made = match (digits, made.matches('-').count(), made.len()) {
                (32, 0, 32) => "of 32 digits",
                (32, 4, 36) => "of 32 digits with dashes",
                _ => made.as_str(),
            };
            Ok(format!("given {given} · none {made} · refused {refused}"))
        },
        ..Case::HERE
    },
    Case {
        id: "headers/trace",
        key: "route.main.to",
        about: "a trace goes on as it came, with what is said of it (W3C Trace Context)",
        must: "over HTTP/1.1 as given with a=1 · over HTTP/2 as given with a=1 · not sampled as given with a=1 · \
               of a later version as given with a=1",
        ask: |scene| {
            let ask = |given: &str| scene.get("/trace").field("traceparent", given).field("tracestate", "a=1");
            let (unsampled, later) = (TRACE.replace("-01", "-00"), format!("01{}-more", &TRACE[2..]));
            let first = trace(&ask(TRACE).tell()?, TRACE)?;
            let second = trace(&ask(TRACE).tell_h2()?, TRACE)?;
            let unsampled = trace(&ask(&unsampled).tell()?, &unsampled)?;
            let later = trace(&ask(&later).tell()?, &later)?;
            Ok(format!(
                "over HTTP/1.1 {first} · over HTTP/2 {second} · not sampled {unsampled} · of a later version {later}"
            ))
        },
        ..Case::HERE
    },
    Case {
        id: "headers/trace-begun",
        key: "route.main.to",
        about: "where there is none, one is begun; what is said of another goes no further",
        must: "over HTTP/1.1 a new one · over HTTP/2 a new one · a tracestate alone a new one",
        ask: |scene| {
            let ask = || scene.get("/trace");
            let (first, second) = (trace(&ask().tell()?, TRACE)?, trace(&ask().tell_h2()?, TRACE)?);
            let alone = trace(&ask().field("tracestate", "a=1").tell()?, TRACE)?;
            Ok(format!("over HTTP/1.1 {first} · over HTTP/2 {second} · a tracestate alone {alone}"))
        },
        ..Case::HERE
    },
    Case {
        id: "headers/trace-broken",
        key: "route.main.to",
        about: "a broken one is begun anew, without what was said of it",
        must: "of version ff a new one · in capitals a new one · of zeros a new one · with no parent a new one · too long a new one · \
               too short a new one · nothing a new one · twice a new one · twice over HTTP/2 a new one",
        ask: |scene| {
            let ask = |given: &[&str]| {
                let ask = scene.get("/trace").field("tracestate", "a=1");
                given.iter().fold(ask, |ask, given| ask.field("traceparent", given))
            };
            let broken = [
                ("of version ff", TRACE.replacen("00", "ff", 1)),
                ("in capitals", TRACE.to_uppercase()),
                ("of zeros", TRACE.replace(&TRACE[3..35], &"0".repeat(32))),
                ("with no parent", TRACE.replace(&TRACE[36..52], &"0".repeat(16))),
                ("too long", format!("{TRACE}-more")),
                ("too short", TRACE[..54].to_owned()),
                ("nothing", String::new()),
            ];
            let mut all = Vec::new();
            for (how, given) in &broken {
                all.push(format!("{how} {}", trace(&ask(&[given.as_str()]).tell()?, given)?));
            }
            let twice = || ask(&[TRACE; 2]);
            all.push(format!("twice {}", trace(&twice().tell()?, TRACE)?));
            all.push(format!("twice over HTTP/2 {}", trace(&twice().tell_h2()?, TRACE)?));
            Ok(all.join(" · "))
        },
        ..Case::HERE
    },
    Case {
        id: "headers/refusal",
        key: "route.shut.deny",
        file: "[route.shut]\npath = \"/shut\"\ndeny = true\n",
        about: "a refusal is a page for browsers and a line for others, says why, and is kept by nobody",
        must: "403 text/html; charset=utf-8 · 403 text/plain; charset=utf-8 · x-bowline-error denied · cache-control no-store",
        ask: |scene| {
            let page = scene.get("/shut").field("Accept", "text/html,*/*").tell()?;
            let line = scene.get("/shut").field("Accept", "application/json").tell()?;
            let kind = |told: &Told| told.answer.field("content-type").unwrap_or("no type").to_owned();
            let (html, text) = (kind(&page), kind(&line));
            let why = ["x-bowline-error", "cache-control"].map(|name| page.says(name)).join(" · ");
            Ok(format!("{page} {html} · {line} {text} · {why}"))
        },
        ..Case::HERE
    },
];

/// Which trace the app is told of, and what is said of it.
fn trace(told: &Told, given: &str) -> anyhow::Result<String> {
    let asked = told.asked()?;
    let parents = asked.all("traceparent");
    let is_new = |parent: &str| {
        let is_whole = parent.len() == TRACE.len() && parent.starts_with("00-") && parent.ends_with("-01");
        is_whole && !parent.contains(&TRACE[3..35]) && !parent.contains(&"0".repeat(16))
    };
    let parent = match parents.as_slice() {
        [] => "none".to_owned(),
        [parent] if *parent == given => "as given".to_owned(),
        [parent] if is_new(parent) => "a new one".to_owned(),
        other => other.join(" and "),
    };
    let state = asked.all("tracestate").join(" and ");
    Ok(if state.is_empty() { parent } else { format!("{parent} with {state}") })
}
