//! Who gets in, how often, and with how much.

use bowline_tests::path;

use super::scene::{APP, PROXY, TOKEN, Told, hears};
use super::{Case, Setting};

/// `USER` as Basic has it.
const BASIC: &str = "Basic YW5uOmNvbmZvcm1hbmNlLXBhc3N3b3Jk";

/// 64 KiB.
const ALLOWED: usize = 64 << 10;

pub(super) static CASES: &[Case] = &[
    Case {
        id: "policies/allow",
        of_instances: true,
        key: "route.listed.allow",
        file: "[route.listed]\npath = \"/listed\"\nto = \"web\"\nallow = [\"127.0.0.3\", \"192.0.2.0/24\"]\n",
        about: "only listed addresses, whatever is said of oneself",
        must: "a stranger 403 · one that says it is listed 403 · who is listed web 200 · over HTTP/2 403",
        ask: |scene| {
            let ask = || scene.get("/listed");
            let says = ask().field("X-Forwarded-For", "192.0.2.1").tell()?;
            let (stranger, listed, h2) = (ask().tell()?, ask().from(3).tell()?, ask().tell_h2()?);
            Ok(format!(
                "a stranger {stranger} · one that says it is listed {says} · who is listed {listed} · over HTTP/2 {h2}"
            ))
        },
        ..Case::HERE
    },
    Case {
        id: "policies/allow-behind",
        setting: Setting::Trusts,
        key: "trusted_proxies",
        file: "[route.behind]\npath = \"/behind\"\nto = \"web\"\nallow = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n",
        about: "behind a trusted proxy it is the address that it names: the rightmost one that is not a proxy's",
        must: "listed web 200 · mapped to IPv6 web 200 · of IPv6 web 200 · by Forwarded web 200 · another behind it 403 · none 403",
        ask: |scene| {
            let ask = || scene.get("/behind").from(PROXY);
            let by = |name: &str, value: &str| ask().field(name, value).tell();
            let listed = by("X-Forwarded-For", "198.51.100.1, 192.0.2.1")?;
            let mapped = by("X-Forwarded-For", "::ffff:192.0.2.1")?;
            let six = by("X-Forwarded-For", "[2001:db8::7]:4711")?;
            let forwarded = by("Forwarded", "for=\"[2001:db8::7]\"")?;
            let another = by("X-Forwarded-For", "192.0.2.1, 198.51.100.1")?;
            let none = ask().tell()?;
            Ok(format!(
                "listed {listed} · mapped to IPv6 {mapped} · of IPv6 {six} · by Forwarded {forwarded} · another behind it {another} · \
                 none {none}"
            ))
        },
        ..Case::HERE
    },
    Case {
        id: "policies/header",
        of_instances: true,
        key: "route.header.auth",
        file: "[route.header]\npath = \"/header\"\nto = \"web\"\nauth = { header = \"X-Auth-Token\", secret = \"token\" }\n",
        about: "a header that holds the secret, once; the app gets it, too",
        must: "without 403 · wrong 403 · twice 403 · right web 200, X-Auth-Token conformance-token · \
               as /HEADER 403 · over HTTP/2 wrong 403, right web 200",
        ask: |scene| {
            let with = |token: &str| scene.get("/header").field("X-Auth-Token", token);
            let (without, wrong) = (scene.get("/header").tell()?, with("other").tell()?);
            let twice = with(TOKEN).field("X-Auth-Token", TOKEN).tell()?;
            let right = with(TOKEN).tell()?;
            let hears = hears(right.asked()?, "X-Auth-Token");
            let spelled = scene.get("/HEADER").tell()?;
            let (h2_wrong, h2_right) = (with("other").tell_h2()?, with(TOKEN).tell_h2()?);
            Ok(format!(
                "without {without} · wrong {wrong} · twice {twice} · right {right}, {hears} · as /HEADER {spelled} · \
                 over HTTP/2 wrong {h2_wrong}, right {h2_right}"
            ))
        },
        ..Case::HERE
    },
    Case {
        id: "policies/bearer",
        of_instances: true,
        key: "route.bearer.auth",
        file: "[route.bearer]\npath = \"/bearer\"\nto = \"web\"\nauth = { bearer = { secret = \"token\" } }\n",
        about: "a bearer token (RFC 6750), in one field; the app gets it, too",
        must: "without 401, Bearer · wrong 401, Bearer · twice 401, Bearer · right web 200, Authorization Bearer conformance-token",
        ask: |scene| {
            let right = format!("Bearer {TOKEN}");
            let with = |proof: &str| scene.get("/bearer").field("Authorization", proof);
            let without = scene.get("/bearer").tell()?;
            let (wrong, twice) = (with("Bearer other").tell()?, with(&right).field("Authorization", &right).tell()?);
            let told = with(&right).tell()?;
            let [without, wrong, twice] = [without, wrong, twice].map(challenged);
            Ok(format!(
                "without {without} · wrong {wrong} · twice {twice} · right {told}, {}",
                hears(told.asked()?, "Authorization")
            ))
        },
        ..Case::HERE
    },
    Case {
        id: "policies/basic",
        key: "route.basic.auth",
        file: "[route.basic]\npath = \"/basic\"\nto = \"web\"\nauth = { basic = { secret = \"people\" } }\n",
        about: "one of the users with their password (RFC 7617), which stays at the edge",
        must: "without 401, Basic · wrong 401, Basic · right web 200, no Authorization · over HTTP/2 right web 200",
        ask: |scene| {
            let with = |proof: &str| scene.get("/basic").field("Authorization", proof);
            let without = challenged(scene.get("/basic").tell()?);
            let wrong = challenged(with("Basic YW5uOm90aGVy").tell()?);
            let right = with(BASIC).tell()?;
            let hears = hears(right.asked()?, "Authorization");
            let h2 = with(BASIC).tell_h2()?;
            Ok(format!("without {without} · wrong {wrong} · right {right}, {hears} · over HTTP/2 right {h2}"))
        },
        ..Case::HERE
    },
    Case {
        id: "policies/rate",
        key: "route.seldom.limit.rate",
        file: "[route.seldom]\npath = \"/seldom\"\nto = \"web\"\nlimit = { rate = \"3/h\" }\n",
        about: "so many requests of a client in a time, over all its connections",
        must: "web 200, web 200, web 200, 429, 429 · Retry-After of at most 20 minutes · another client web 200",
        ask: |scene| {
            let ask = || scene.get("/seldom").from(11).tell();
            let told = [ask()?, ask()?, ask()?, ask()?, scene.get("/seldom").from(11).tell_h2()?];
            let seconds = told[4].answer.field("retry-after").and_then(|text| text.parse::<u32>().ok());
            let waits = match seconds {
                Some(1..=1200) => "of at most 20 minutes".to_owned(),
                other => format!("{other:?}"),
            };
            let all = told.map(|one| one.to_string()).join(", ");
            Ok(format!("{all} · Retry-After {waits} · another client {}", scene.get("/seldom").from(12).tell()?))
        },
        ..Case::HERE
    },
    Case {
        id: "policies/rate-of-all",
        key: "route.shared-rate.limit.by",
        file: "[route.shared-rate]\npath = \"/shared-rate\"\nto = \"web\"\nlimit = { rate = \"2/h\", by = \"route\" }\n",
        about: "so many of all clients together",
        must: "web 200, web 200, 429",
        ask: |scene| {
            let told = |from: u8| scene.get("/shared-rate").from(from).tell();
            Ok([told(13)?, told(14)?, told(15)?].map(|one| one.to_string()).join(", "))
        },
        ..Case::HERE
    },
    Case {
        id: "policies/body",
        key: "route.small.limit.body",
        file: "[route.small]\npath = \"/small\"\nto = \"web\"\nlimit = { body = \"64KiB\" }\n",
        about: "a body of 64 KiB, and no byte more, announced or not",
        must: "64 KiB web 200 · one more 413 · 2^63 bytes refused · in chunks 413 · over HTTP/2 413",
        ask: |scene| {
            let (most, more) = (vec![b'x'; ALLOWED], vec![b'x'; ALLOWED + 1]);
            let put = || scene.ask("PUT", "/small");
            let (all, announced) = (put().sized(&most).tell()?, put().sized(&more).tell()?);
            // More than a signed number of 64 bits holds: too large, or no length.
            let beyond = put().field("Content-Length", "9223372036854775808").tell()?;
            let beyond = match beyond.answer.status {
                400 | 413 => "refused".to_owned(),
                _ => beyond.to_string(),
            };
            let (chunked, h2) = (put().chunked(&more).tell()?, put().sized(&more).tell_h2()?);
            Ok(format!(
                "64 KiB {all} · one more {announced} · 2^63 bytes {beyond} · in chunks {chunked} · over HTTP/2 {h2}"
            ))
        },
        ..Case::HERE
    },
    Case {
        id: "policies/maintenance",
        key: "bowline maintenance",
        about: "`bowline maintenance on --allow`: nobody but some, until it is over",
        must: "on 503, Retry-After 60 · who is let in web 200 · over HTTP/2 503 · off web 200",
        ask: |scene| {
            scene.run(&["maintenance", "on", APP, "--allow", "127.0.0.16"])?;
            let (on, allowed, h2) = (scene.get("/").tell(), scene.get("/").from(16).tell(), scene.get("/").tell_h2());
            // Whatever was answered, the cases behind this one are served.
            scene.run(&["maintenance", "off", APP])?;
            let (on, off) = (on?, scene.get("/").tell()?);
            Ok(format!(
                "on {on}, {} · who is let in {} · over HTTP/2 {} · off {off}",
                on.says("Retry-After"),
                allowed?,
                h2?
            ))
        },
        ..Case::HERE
    },
    Case {
        id: "policies/together",
        key: "route.both.allow",
        file: "[route.both]\npath = \"/both\"\nto = \"web\"\nallow = [\"127.0.0.3\"]\nauth = { bearer = { secret = \"token\" } }\n\
               limit = { rate = \"2/h\" }\n",
        about: "one after the other: address, then proof, then rate; a wrong proof counts as a request",
        must: "a stranger with the token 403 · listed without it 401 · with it web 200 · once more 429",
        ask: |scene| {
            let right = format!("Bearer {TOKEN}");
            let with = |from: u8| scene.get("/both").from(from).field("Authorization", &right).tell();
            let (stranger, without) = (with(1)?, scene.get("/both").from(3).tell()?);
            let (first, second) = (with(3)?, with(3)?);
            Ok(format!(
                "a stranger with the token {stranger} · listed without it {without} · with it {first} · once more {second}"
            ))
        },
        ..Case::HERE
    },
    Case {
        id: "policies/secrets",
        of_instances: true,
        key: "secret.token.source",
        about: "no secret of a route stands in what the machine keeps or shows",
        must: "in no log, no event and no file",
        ask: |scene| {
            let shown = [&["logs", APP][..], &["logs", APP, "--access"], &["events"], &["status"]];
            let told: Vec<String> = shown.iter().map(|verb| scene.bowline.json_text(verb)).collect();
            let values = [TOKEN, "conformance-password", BASIC];
            let shows = told.iter().any(|text| values.iter().any(|value| text.contains(value)));
            let kept = values.iter().flat_map(|value| scene.bowline.files_with(value.as_bytes())).collect::<Vec<_>>();
            Ok(match (shows, kept.as_slice()) {
                (false, []) => "in no log, no event and no file".to_owned(),
                (shows, kept) => {
                    format!("shown: {shows}, in {}", kept.iter().map(|file| path(file)).collect::<String>())
                }
            })
        },
        ..Case::HERE
    },
];

/// With the scheme that is asked for.
fn challenged(told: Told) -> String {
    let challenge = told.answer.field("www-authenticate").and_then(|value| value.split(' ').next());
    format!("{told}, {}", challenge.unwrap_or("no challenge"))
}
