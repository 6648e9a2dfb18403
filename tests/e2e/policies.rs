//! What a request must pass before the app sees it: over TLS, with HTTP/1.1 and HTTP/2.

use std::path::{Path, PathBuf};

use bowline_tests::client::{Answer, curl};
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, text};

const VERSIONS: [&str; 2] = ["--http1.1", "--http2"];

/// The plain fixture with one route more; its health is asked past the edge.
fn app(bowline: &Bowline, name: &str, toml: &str) -> PathBuf {
    let folder = bowline.app(name, "plain");
    write(&folder, toml);
    folder
}

fn write(folder: &Path, toml: &str) {
    let toml = format!("[service.web]\nrun = \"python3 server.py\"\n[route.main]\nto = \"web\"\n{toml}");
    std::fs::write(folder.join("bowline.toml"), toml).expect("a test's file");
}

fn set(bowline: &Bowline, app: &str, name: &str, value: &str) {
    let file = bowline.folder("secrets").join(name);
    std::fs::write(&file, value).expect("a test's file");
    let output = bowline.run(&["secret", "set", app, name, "--file", file.to_str().expect("UTF-8")]);
    assert!(output.status.success(), "{}", text(&output));
}

/// One request in each version, which must be answered alike. curl is asked for the answer's head, too.
fn each(bowline: &Bowline, url: &str, args: &[&str]) -> Answer {
    let answers = VERSIONS.map(|version| curl(&bowline.ca(), url, &[args, &[version, "--include"]].concat()));
    assert_eq!(answers[0].status, answers[1].status, "{args:?}");
    let [_, second] = answers;
    second
}

#[test]
fn only_who_proves_it_gets_in_and_no_secret_is_seen() {
    const TOKEN: &str = "canary-7a1b-route-token";
    let bowline = Bowline::new();
    let auth = "auth = { header = \"X-Auth-Token\", secret = \"api-token\" }\n";
    let basic = "[route.people]\npath = \"/people\"\nto = \"web\"\nauth = { basic = { secret = \"people\" } }\n\
        [route.robots]\npath = \"/robots\"\nto = \"web\"\nauth = { bearer = { secret = \"api-token\" } }\n";
    let folder = app(&bowline, "policy-auth", &format!("{auth}{basic}"));
    let refused =
        bowline.fails(&["up", folder.to_str().expect("UTF-8"), "--http", "0", "--https", "0", "--admin", "0"], 2);
    assert!(refused.contains("api-token") && refused.contains("people"), "{refused}");
    set(&bowline, "policy-auth", "api-token", TOKEN);
    set(&bowline, "policy-auth", "people", "ann:canary-password\n# a guest\nbob:other\n");
    let up = Up::start(&bowline, &folder, SOON);
    let token = format!("X-Auth-Token: {TOKEN}");
    let get = |path: &str, args: &[&str]| each(&bowline, &format!("{}{path}", up.https()), args);

    assert_eq!(get("/", &["-H", &token]).status, 200);
    assert_eq!(get("/", &[]).status, 403);
    assert_eq!(get("/", &["-H", "X-Auth-Token: other"]).status, 403);
    assert_eq!(get("/", &["-H", &token, "-H", &token]).status, 403, "two tokens are none");

    let wanted = get("/people", &[]);
    assert_eq!(wanted.status, 401);
    assert!(wanted.text().to_lowercase().contains("www-authenticate: basic realm="), "{}", wanted.text());
    assert_eq!(get("/people", &["-u", "ann:canary-password"]).status, 200);
    assert_eq!(get("/people", &["-u", "ann:other"]).status, 401);
    let wanted = get("/robots", &["-H", "Authorization: Bearer nonsense"]);
    assert_eq!(wanted.status, 401);
    assert!(wanted.text().to_lowercase().contains("www-authenticate: bearer realm="), "{}", wanted.text());
    assert_eq!(get("/robots", &["-H", &format!("Authorization: Bearer {TOKEN}")]).status, 200);

    // A new value counts from the next `up` on.
    set(&bowline, "policy-auth", "api-token", "canary-7a1b-rotated");
    assert_eq!(get("/", &["-H", &token]).status, 200, "until then the release goes on with what it was made with");
    let again = bowline.run(&["up", folder.to_str().expect("UTF-8"), "--detach"]);
    assert!(again.status.success(), "{}", text(&again));
    assert_eq!(get("/", &["-H", &token]).status, 403);
    assert_eq!(get("/", &["-H", "X-Auth-Token: canary-7a1b-rotated"]).status, 200);

    for verb in [["status"].as_slice(), &["logs"], &["logs", "--access"], &["events"]] {
        assert!(!bowline.json_text(verb).contains("canary-"), "{verb:?} shows a secret");
    }
    assert_eq!(bowline.files_with(b"canary-"), Vec::<PathBuf>::new());
}

#[test]
fn only_listed_addresses_get_in_whatever_they_say_of_themselves() {
    let bowline = Bowline::new();
    let folder = app(&bowline, "policy-allow", "allow = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n");
    let up = Up::start(&bowline, &folder, SOON);
    let from = |addresses: &str| each(&bowline, &up.https(), &["-H", &format!("X-Forwarded-For: {addresses}")]).status;
    assert_eq!(each(&bowline, &up.https(), &[]).status, 403);
    assert_eq!(from("192.0.2.1"), 403, "nobody is trusted unless it was said");
    assert!(up.interrupt().success());

    let up = Up::start_with(&bowline, &folder, &["--trusted-proxy", "127.0.0.0/8"], SOON);
    let from = |addresses: &str| each(&bowline, &up.https(), &["-H", &format!("X-Forwarded-For: {addresses}")]).status;
    assert_eq!(from("192.0.2.1"), 200);
    assert_eq!(from("::ffff:192.0.2.1"), 200);
    assert_eq!(from("[2001:db8::7]:4711"), 200);
    assert_eq!(from("192.0.2.1, 198.51.100.1"), 403, "what a stranger has said is not believed");
    assert_eq!(from("198.51.100.1, 192.0.2.1, 127.0.0.9"), 200);
    bowline_tests::wait("the access log names who came", SOON, || {
        let log = bowline.json_text(&["logs", "--access"]);
        (log.contains("198.51.100.1") && log.contains("192.0.2.1")).then_some(())
    });
}

#[test]
fn who_asks_too_often_waits() {
    let bowline = Bowline::new();
    let folder = app(&bowline, "policy-rate", "limit = { rate = \"3/h\" }\n");
    let up = Up::start(&bowline, &folder, SOON);
    let statuses: Vec<u16> = (0..5).map(|_| curl(&bowline.ca(), &up.https(), &["--http1.1"]).status).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    let refused = curl(&bowline.ca(), &up.https(), &["--http2", "--include"]);
    let waits = refused.text().lines().find_map(|line| line.strip_prefix("retry-after: ")?.trim().parse::<u32>().ok());
    assert!(matches!(waits, Some(1..=1200)), "{}", refused.text());
}

#[test]
fn only_files_that_are_what_they_say_come_in() {
    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    let bowline = Bowline::new();
    let toml = "upload = { extensions = [\"png\", \"txt\"] }\nlimit = { body = \"1MiB\" }\n";
    let up = Up::start(&bowline, &app(&bowline, "policy-upload", toml), SOON);
    let files = bowline.folder("files");
    let url = format!("{}/up", up.https());
    let form = |name: &str, content: &[u8]| {
        let path = files.join("content");
        std::fs::write(&path, content).expect("a test's file");
        format!("file=@{};filename=\"{name}\"", path.display())
    };
    let send = |name: &str, content: &[u8], more: &[&str]| {
        each(&bowline, &url, &[&["-F", &form(name, content)], more].concat())
    };
    assert_eq!(send("a.png", PNG, &[]).status, 200);
    assert_eq!(send("notes.txt", "Grüße".as_bytes(), &[]).status, 200);
    assert_eq!(send("a.png", &[PNG, &[7; 500_000]].concat(), &[]).status, 200);
    assert_eq!(
        curl(&bowline.ca(), &format!("{url}/a.png"), &["-T", files.join("content").to_str().expect("UTF-8")]).status,
        200
    );
    let sent = bowline.json_text(&["logs"]).matches("POST /up").count();

    let elf = std::fs::read("/proc/self/exe").expect("this test's own program")[..4096].to_vec();
    for (name, content, reason) in [
        ("a.exe", &elf[..], "upload-extension"),
        ("a.png", &elf, "upload-program"),
        ("a.txt", &elf, "upload-not-text"),
        ("a.php.png", PNG, "upload-hidden-extension"),
        ("a.png", &[PNG, b"<?php x();"].concat(), "upload-polyglot"),
        ("a.png", &[PNG, &[0; 500_000], b"<?php x();"].concat(), "upload-polyglot"),
        ("a.txt", &[&[b'a'; 500_000][..], b"\xff"].concat(), "upload-not-text"),
    ] {
        let refused = send(name, content, &[]);
        assert_eq!(refused.status, 415, "{name} {reason}");
        assert!(refused.text().contains(reason), "{}", refused.text());
    }
    assert_eq!(send("a.png", PNG, &["-H", "Content-Encoding: gzip"]).status, 415);
    assert_eq!(send("a.png", &[PNG, &[7; 2_000_000]].concat(), &[]).status, 413);
    let chunked =
        ["-F", &form("a.png", &[PNG, &[7; 2_000_000]].concat()), "--http1.1", "-H", "Transfer-Encoding: chunked"];
    assert_eq!(curl(&bowline.ca(), &url, &chunked).status, 413);
    let after = bowline.json_text(&["logs"]).matches("POST /up").count();
    assert_eq!(after, sent, "the app answered none of them");
}

#[test]
fn routes_lead_elsewhere_or_nowhere() {
    let bowline = Bowline::new();
    let toml = "[route.old]\npath = \"/old\"\nredirect = \"https://example.com/new\"\n[route.no]\npath = \"/no\"\ndeny = true\n";
    let up = Up::start(&bowline, &app(&bowline, "policy-routes", toml), SOON);
    let moved = each(&bowline, &format!("{}/old/a?b=c", up.https()), &[]);
    assert_eq!(moved.status, 308);
    assert!(moved.text().contains("ocation: https://example.com/new/old/a?b=c"), "{}", moved.text());
    assert_eq!(each(&bowline, &format!("{}/no/way", up.https()), &[]).status, 403);
    assert_eq!(each(&bowline, &up.https(), &[]).status, 200);
}

#[test]
fn maintenance_outlives_daemon_edge_and_release() {
    let bowline = Bowline::new();
    let folder = app(&bowline, "policy-maintenance", "");
    let up = Up::start(&bowline, &folder, SOON);
    let status = || each(&bowline, &up.https(), &[]).status;
    assert_eq!(status(), 200);
    let run = |args: &[&str]| {
        let output = bowline.run(&[&["maintenance"], args].concat());
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    };
    bowline.fails(&["maintenance", "on", "nobody"], 2);
    run(&["on", "policy-maintenance"]);
    run(&["on", "policy-maintenance"]);
    let page = each(&bowline, &up.https(), &["-H", "Accept: text/html"]);
    assert_eq!(page.status, 503);
    assert!(page.text().contains("retry-after: 60") && page.text().contains("will be back"), "{}", page.text());

    for pid in [bowline.edge(), bowline.daemon()] {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
        bowline_tests::wait("it is back", SOON, || {
            let answer = bowline.run(&["status", "--json"]);
            let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).ok()?;
            (answer["edge"]["state"] == "serving").then_some(())
        });
        assert_eq!(status(), 503);
    }
    assert_eq!(bowline.status()["apps"][0]["maintenance"]["allow"], serde_json::json!([]));
    assert!(text(&bowline.run(&["status"])).contains("maintenance: 503 to all"));

    run(&["on", "policy-maintenance", "--allow", "127.0.0.1"]);
    assert_eq!(status(), 200, "who is let in sees the app");
    assert!(text(&bowline.run(&["status"])).contains("503 to all but 127.0.0.1/32"));
    run(&["on", "policy-maintenance", "--allow", "192.0.2.0/24"]);
    assert_eq!(status(), 503);
    std::fs::write(folder.join("more.txt"), "a new release").expect("a test's file");
    let second = bowline.run(&["up", folder.to_str().expect("UTF-8"), "--detach"]);
    assert!(second.status.success(), "{}", text(&second));
    assert_eq!(status(), 503);
    run(&["off", "policy-maintenance"]);
    run(&["off", "policy-maintenance"]);
    assert_eq!(status(), 200);
    let events = bowline.json_text(&["events"]);
    assert_eq!(
        (events.matches("maintenance.on").count(), events.matches("maintenance.off").count()),
        (3, 1),
        "{events}"
    );
}

#[test]
fn plain_http_is_led_to_https_and_text_is_compressed_as_the_file_says() {
    let bowline = Bowline::new();
    let toml = "http = \"redirect\"\nhsts = { age = \"1h\" }\n[route.text]\npath = \"/bytes\"\nto = \"web\"\ncompress = true\n";
    let folder = app(&bowline, "policy-transfer", toml);
    let up = Up::start(&bowline, &folder, SOON);
    let plain = curl(&bowline.ca(), &up.http(), &["--include"]);
    assert_eq!(plain.status, 308);
    let location = format!("location: {}/", up.https().trim_end_matches('/'));
    assert!(plain.text().to_lowercase().contains(&location), "{location}: {}", plain.text());
    let followed = curl(&bowline.ca(), &up.http(), &["--location"]);
    assert!(followed.status == 200 && followed.text().starts_with("hello from"), "{}", followed.text());
    // On this machine browsers would keep it for a name that is another app tomorrow.
    let over_tls = each(&bowline, &up.https(), &[]);
    assert!(!over_tls.text().to_lowercase().contains("strict-transport-security"), "{}", over_tls.text());
    let url = format!("{}/bytes/100000", up.https().trim_end_matches('/'));
    for (args, expected) in [(&["-H", "Accept-Encoding: gzip"][..], true), (&[], false)] {
        let answer = each(&bowline, &url, args);
        let head = String::from_utf8_lossy(&answer.body).to_lowercase();
        assert_eq!(head.contains("content-encoding: gzip"), expected, "{args:?}");
        assert_eq!(answer.body.len() < 50_000, expected, "{args:?}");
        assert!(head.contains("vary: accept-encoding"), "{args:?}");
    }
}
