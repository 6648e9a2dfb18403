//! What is told of requests afterwards: the access log and the metrics.

use anyhow::Context;
use bowline_tests::client::curl;
use bowline_tests::{SOON, wait};
use serde_json::Value;

use super::Case;
use super::scene::{APP, Scene};

pub(super) static CASES: &[Case] = &[
    Case {
        id: "records/access log",
        key: "route.logged.to",
        file: "[route.logged]\npath = \"/logged\"\nto = \"web\"\n",
        about: "a line for each request: where it went, how long it took, who asked",
        must: "app conformance, env local, route logged, service web, release 1, method POST, host conformance.localhost, \
               path /logged/x, status 200, bytes_in 4, client 127.0.0.1, protocol HTTP/1.1, tls TLSv1.3, request_id logged-1; \
               ts, instance, duration_ms, upstream_ms, bytes_out, trace_id",
        ask: |scene| {
            scene.ask("POST", "/logged/x?secret=1").field("X-Request-Id", "logged-1").sized(b"body").tell()?;
            let line = logged(scene, "logged-1")?;
            let values = [
                "app",
                "env",
                "route",
                "service",
                "release",
                "method",
                "host",
                "path",
                "status",
                "bytes_in",
                "client",
                "protocol",
                "tls",
                "request_id",
            ];
            let there = ["ts", "instance", "duration_ms", "upstream_ms", "bytes_out", "trace_id"];
            Ok(format!("{}; {}", shown(&line, &values), present(&line, &there)))
        },
        ..Case::HERE
    },
    Case {
        id: "records/refused",
        key: "route.unlogged.deny",
        file: "[route.unlogged]\npath = \"/unlogged\"\ndeny = true\n",
        about: "a refusal has one, too, with whose fault it was and why",
        must: "app conformance, route unlogged, status 403, blame client, reason denied, request_id logged-2; \
               over HTTP/2 status 403, protocol HTTP/2.0, reason denied",
        ask: |scene| {
            let ask = |id: &str| scene.get("/unlogged").field("X-Request-Id", id);
            ask("logged-2").tell()?;
            ask("logged-3").tell_h2()?;
            let (h1, h2) = (logged(scene, "logged-2")?, logged(scene, "logged-3")?);
            let first = shown(&h1, &["app", "route", "status", "blame", "reason", "request_id"]);
            Ok(format!("{first}; over HTTP/2 {}", shown(&h2, &["status", "protocol", "reason"])))
        },
        ..Case::HERE
    },
    Case {
        id: "records/metrics",
        key: "route.counted.to",
        file: "[route.counted]\npath = \"/counted\"\nto = \"web\"\nlimit = { body = \"1KiB\" }\n",
        about: "requests are counted by app, service, release, method, route and status",
        must: "3 of conformance local web 1 GET /counted 200 · 1 of conformance local POST /counted 413 · 1 of conformance local web 1 POST /counted 500",
        ask: |scene| {
            for _ in 0..3 {
                scene.get("/counted/x").tell()?;
            }
            scene.ask("POST", "/counted").script("fail").sized(b"x").tell()?;
            scene.ask("POST", "/counted").sized(&[b'x'; 2000]).tell()?;
            let enough = |told: &Vec<String>| told.len() == 3 && told.iter().any(|one| one.starts_with('3'));
            let mut told = wait("they are counted", SOON, || Some(counted(scene, "/counted")).filter(enough));
            told.sort_by_key(|one| one.rsplit(' ').next().map(str::to_owned));
            Ok(told.join(" · "))
        },
        ..Case::HERE
    },
];

/// The line of the access log with this request's id.
fn logged(scene: &Scene, id: &str) -> anyhow::Result<Value> {
    let mark = format!("\"request_id\":\"{id}\"");
    let line = wait("the access log has it", SOON, || {
        let lines = scene.bowline.json_text(&["logs", APP, "--access"]);
        let texts = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        texts.filter_map(|line| line["text"].as_str().map(str::to_owned)).find(|text| text.contains(&mark))
    });
    serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
}

fn shown(line: &Value, keys: &[&str]) -> String {
    let value = |key: &&str| match line[*key].as_str() {
        Some(text) => format!("{key} {text}"),
        None => format!("{key} {}", line[*key]),
    };
    keys.iter().map(value).collect::<Vec<_>>().join(", ")
}

/// Those of them that the line has.
fn present(line: &Value, keys: &[&str]) -> String {
    keys.iter().copied().filter(|key| !line[*key].is_null()).collect::<Vec<_>>().join(", ")
}

/// Each series of requests of a route: how many, and of what.
pub(super) fn counted(scene: &Scene, route: &str) -> Vec<String> {
    let text = curl(&scene.bowline.ca(), &format!("{}/metrics", scene.admin()), &[]).text();
    let name = "http_server_request_duration_seconds_count{";
    let of_route = format!("http_route=\"{route}\"");
    let told = |line: &str| {
        let (labels, count) = line.strip_prefix(name)?.rsplit_once("} ")?;
        let label = |name: &str| {
            let (_, rest) = labels.split_once(&format!("{name}=\""))?;
            rest.split_once('"').map(|(value, _)| value.to_owned()).filter(|value| !value.is_empty())
        };
        let names =
            ["app", "env", "service", "release", "http_request_method", "http_route", "http_response_status_code"];
        let of: Vec<String> = names.iter().filter_map(|name| label(name)).collect();
        let count = count.split(' ').next()?.trim_end_matches(".0");
        Some(format!("{count} of {}", of.join(" ")))
    };
    text.lines().filter(|line| line.contains(&of_route)).filter_map(told).collect()
}
