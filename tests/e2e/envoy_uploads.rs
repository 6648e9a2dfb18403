//! Uploads behind a real Envoy, judged by the process that is kept beside it.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use bowline_tests::client::{Answer, curl};
use bowline_tests::machine::{Process, processes};
use bowline_tests::server::{ANY_PORTS, Server};
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, envoy, path, text, wait};

use crate::upgrade::{program, upgraded};

const START: Duration = Duration::from_secs(60);
pub(crate) const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
const VERSIONS: [&str; 2] = ["--http1.1", "--http2"];

/// What the filter may hold at once while one large body passes, beside what it is.
const HELD: u64 = 24 << 20;
/// The same of Envoy, which holds 1 MiB of a connection on either side, and its memory in large pieces.
const HELD_BY_ENVOY: u64 = 32 << 20;

/// An app that answers what has arrived: the number of bytes, their SHA-256, and the length that was announced.
fn app(bowline: &Bowline, name: &str, toml: &str) -> PathBuf {
    let folder = bowline.app(name, "plain");
    let file = folder.join("server.py");
    let mut code = std::fs::read_to_string(&file).expect("the fixture's file");
    let told = "self.answer(f\"{read} {digest.hexdigest()} {self.headers.get('Content-Length')}\".encode())";
    for (was, is) in [
        ("import os\n", "import hashlib\nimport os\n"),
        ("        read = 0\n", "        read = 0\n        digest = hashlib.sha256()\n"),
        (
            "                read += len(chunk)\n",
            "                read += len(chunk)\n                digest.update(chunk)\n",
        ),
        ("self.answer(str(read).encode())", told),
    ] {
        assert!(code.contains(was), "the fixture counts as it did");
        code = code.replacen(was, is, 1);
    }
    std::fs::write(file, code).expect("a file of the test");
    let service = "[service.web]\nrun = \"python3 server.py\"\nhealth = { path = \"/health\", interval = \"300ms\" }\n";
    let toml = format!("{service}[route.main]\nto = \"web\"\nupload = {{ extensions = [\"png\", \"txt\"] }}\n{toml}");
    std::fs::write(folder.join("bowline.toml"), toml).expect("a file of the test");
    folder
}

fn up(bowline: &Bowline, folder: &Path) -> Up {
    assert!(envoy().exists(), "run scripts/setup first: {} is missing", envoy().display());
    Up::start_with(bowline, folder, &["--edge", "envoy"], START)
}

/// The upload filter of this state.
fn filter(bowline: &Bowline) -> Option<Process> {
    filters(bowline).into_iter().next()
}

fn filters(bowline: &Bowline) -> Vec<Process> {
    let sockets = bowline.api_socket().parent().expect("sockets lie in a folder").to_owned();
    let is_ours = |process: &Process| {
        let words = process.arguments();
        words.get(1).is_some_and(|verb| verb == "upload-filter")
            && words.iter().any(|word| Path::new(word).starts_with(&sockets))
    };
    processes().into_iter().filter(|process| is_ours(process) && process.runs()).collect()
}

pub(crate) fn file(bowline: &Bowline, name: &str, content: &[u8]) -> PathBuf {
    let file = bowline.folder("files").join(name);
    std::fs::write(&file, content).expect("a file of the test");
    file
}

/// What the app answers to this.
fn arrived(bowline: &Bowline, content: &[u8], announced: bool) -> String {
    let output = Command::new("sha256sum").arg(file(bowline, "arrived", content)).output().expect("sha256sum runs");
    let digest = String::from_utf8_lossy(&output.stdout[..64]).into_owned();
    let length = if announced { content.len().to_string() } else { "None".to_owned() };
    format!("{} {digest} {length}", content.len())
}

fn sends(bowline: &Bowline, url: &str, args: &[&str]) -> Answer {
    curl(&bowline.ca(), url, &[&["--include"], args].concat())
}

#[test]
fn envoy_lets_in_only_files_that_are_what_they_say() {
    let bowline = Bowline::new();
    let up = up(&bowline, &app(&bowline, "envoy-uploads", "limit = { body = \"3MiB\" }\n"));
    let url = format!("{}/in", up.https());
    let elf = std::fs::read("/proc/self/exe").expect("this test's own program")[..4096].to_vec();
    let put = |name: &str, content: &[u8], more: &[&str]| {
        let file = file(&bowline, "content", content);
        sends(&bowline, &format!("{url}/{name}"), &[&["-T", path(&file)], more].concat())
    };
    let form = |name: &str, content: &[u8], more: &[&str]| {
        let file = file(&bowline, "content", content);
        let part = format!("file=@{};filename=\"{name}\"", file.display());
        sends(&bowline, &url, &[&["-F", &part], more].concat())
    };
    for version in VERSIONS {
        let picture = [PNG, &[7; 2_000_000]].concat();
        let told = put("a.png", &picture, &[version]);
        assert_eq!(told.status, 200, "{}", told.text());
        assert!(told.text().ends_with(&arrived(&bowline, &picture, true)), "its length, too: {}", told.text());
        assert_eq!(form("notes.txt", "Grüße".as_bytes(), &[version]).status, 200);
        assert_eq!(form("a.png", PNG, &[version]).status, 200);
        assert_eq!(sends(&bowline, &url, &[version]).status, 200, "nothing is sent");
        assert_eq!(put("empty.txt", b"", &[version]).status, 200);
        for (name, content, reason) in [
            ("a.exe", &elf[..], "upload-extension"),
            ("a.png", &elf, "upload-program"),
            ("a.txt", &elf, "upload-not-text"),
            ("a.php.png", PNG, "upload-hidden-extension"),
            ("a.png", &[PNG, b"<?php x();"].concat(), "upload-polyglot"),
            ("a.png", &[PNG, &[0; 500_000], b"<?php x();"].concat(), "upload-polyglot"),
            ("a.txt", &[&[b'a'; 500_000][..], b"\xff"].concat(), "upload-not-text"),
        ] {
            let of_form = form(name, content, &[version]);
            let alone = (!["a.exe", "a.php.png"].contains(&name)).then(|| put(name, content, &[version]));
            for refused in [Some(of_form), alone].into_iter().flatten() {
                assert_eq!(refused.status, 415, "{name} {reason} {version}: {}", refused.text());
                assert!(refused.text().contains(&format!("x-bowline-error: {reason}")), "{}", refused.text());
            }
        }
    }
    // By the head alone: of an answer behind which a stream is reset curl hears nothing over HTTP/2.
    let put_h1 = |name: &str, content: &[u8], more: &[&str]| put(name, content, &[&["--http1.1"], more].concat());
    assert!(put_h1("a.exe", &elf, &[]).text().contains("x-bowline-error: upload-extension"));
    assert_eq!(put_h1("a.png", &[PNG, &[7; 4_000_000]].concat(), &[]).status, 413);
    let packed = put_h1("a.png", PNG, &["-H", "Content-Encoding: gzip"]);
    assert_eq!(packed.status, 415);
    assert!(packed.text().contains("accept-encoding: identity"), "{}", packed.text());
    let two = put_h1("a.png", PNG, &["-H", "Content-Type: image/png", "-H", "content-type: text/plain"]);
    assert!(two.text().contains("upload-media-type"), "{}", two.text());
    let page = put_h1("a.exe", PNG, &["-H", "Accept: text/html"]).text();
    assert!(page.contains("text/html") && page.contains("<html"), "{page}");
    let socket = ["--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"];
    assert!(sends(&bowline, &url, &socket).text().contains("x-bowline-error: upload-tunnel"));
    let chunked = ["--http1.1", "-H", "Transfer-Encoding: chunked"];
    let picture = [PNG, &[7; 2_000_000]].concat();
    // Over HTTP/2 that is a body without a length.
    for unannounced in [&chunked[..], &["--http2", "-H", "Transfer-Encoding: chunked"]] {
        let told = put("a.png", &picture, unannounced);
        assert!(told.status == 200 && told.text().ends_with(&arrived(&bowline, &picture, false)), "{}", told.text());
    }
    let empty =
        curl(&bowline.ca(), &format!("{url}/empty.txt"), &[&["-X", "PUT", "--data-binary", ""], &chunked[..]].concat());
    assert_eq!(empty.status, 200);
    assert_eq!(put("a.png", &[PNG, &[7; 4_000_000]].concat(), &chunked).status, 413, "announced or not");
    let line = wait("the access log says why", SOON, || {
        let log = bowline.json_text(&["logs", "envoy-uploads", "--access"]);
        log.lines().find(|line| line.contains("upload-hidden-extension")).map(str::to_owned)
    });
    assert!(line.contains("415") && line.contains("client"), "{line}");
}

/// 100 MB, in forms and as they are, of which the filter holds a little at a time.
#[test]
fn a_large_upload_streams_through_envoy() {
    let bowline = Bowline::new();
    let up = up(&bowline, &app(&bowline, "envoy-large", "limit = { body = \"200MiB\" }\n"));
    let line = b"a line of text that is sent, and is what it says\n";
    let content = line.repeat((100 << 20) / line.len());
    let large = file(&bowline, "large.txt", &content);
    let filter = filter(&bowline).expect("a route needs it");
    let envoy = Process { pid: bowline.edge() };
    let peaks = || [&filter, &envoy].map(|process| process.peak_bytes().expect("it runs"));
    let before = peaks();
    for version in VERSIONS {
        let told = sends(&bowline, &format!("{}/large.txt", up.https()), &["-T", path(&large), version]);
        assert!(told.status == 200 && told.text().ends_with(&arrived(&bowline, &content, true)), "{}", told.text());
    }
    let form = format!("file=@{}", large.display());
    assert_eq!(sends(&bowline, &up.https(), &["-F", &form]).status, 200);
    let after = peaks();
    for (name, at, most) in [("the filter", 0, HELD), ("Envoy", 1, HELD_BY_ENVOY)] {
        let held = after[at] - before[at];
        assert!(held < most, "{name} held {} MiB", held >> 20);
    }
}

/// A body whose first bytes come one by one is waited for, longer than a filter that does not answer would be.
#[test]
fn a_slow_upload_is_judged_when_it_has_come() {
    let bowline = Bowline::new();
    let up = up(&bowline, &app(&bowline, "envoy-slow", ""));
    let url = |name: &str| format!("{}/{name}", up.https());
    let slowly = |name: &str, content: &[u8]| {
        let file = file(&bowline, name, content);
        sends(&bowline, &url(name), &["-T", path(&file), "--limit-rate", "100", "--http1.1"])
    };
    let text = b"slow ".repeat(140);
    let told = slowly("slow.txt", &text);
    assert!(told.status == 200 && told.text().ends_with(&arrived(&bowline, &text, true)), "{}", told.text());
}

/// Each piece of a body that comes too slowly would put off an end that only silence has.
#[test]
fn who_drips_is_waited_for_no_longer_than_who_sends_nothing() {
    let bowline = Bowline::new();
    let up = up(&bowline, &app(&bowline, "envoy-drips", "limit = { timeout = \"3s\" }\n"));
    let client =
        "(while sleep 0.3; do printf x; done) | curl -sS --include --max-time 60 --http1.1 --cacert \"$1\" -T - \"$2\"";
    let output = Command::new("sh")
        .args(["-c", client, "client", path(&bowline.ca()), &format!("{}/drips.txt", up.https())])
        .output()
        .expect("a shell and curl");
    let told = text(&output);
    assert!(told.contains(" 408 ") && told.contains("x-bowline-error: body-timeout"), "{told}");
}

#[test]
fn no_upload_passes_while_nobody_judges_it() {
    let bowline = Bowline::new();
    let up = up(&bowline, &app(&bowline, "envoy-unjudged", ""));
    let small = file(&bowline, "small.txt", b"a text");
    let large = file(&bowline, "large.txt", &b"a text ".repeat(60_000));
    let url = format!("{}/in/a.txt", up.https());
    let send = || sends(&bowline, &url, &["-T", path(&small), "--http1.1"]);
    assert_eq!(send().status, 200);
    let first = filter(&bowline).expect("a route needs it");

    // One that has stopped is given up, and what waits for it is refused.
    let stopped = std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            wait("it has stopped", SOON, || is_stopped(&first).then_some(()));
            send()
        });
        first.stall(Duration::from_secs(8));
        sending.join().expect("the panic above")
    });
    assert_eq!(stopped.status, 503);
    assert!(stopped.text().contains("upload-filter-away"), "{}", stopped.text());
    wait("it is asked again", SOON, || (send().status == 200).then_some(()));

    // One that is killed in the midst of a body takes that with it.
    let answered = || bowline.json_text(&["logs"]).matches("PUT /in/a.txt").count();
    let before = answered();
    let mut sending = Command::new("curl")
        .args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", path(&bowline.ca()), "--http1.1"])
        .args(["-T", path(&large), "--limit-rate", "100K", &url])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("curl runs");
    // A body of a hundred kilobytes a second is under way by then.
    let begun = std::time::Instant::now();
    wait("it is under way", SOON, || (begun.elapsed() > Duration::from_secs(1)).then_some(()));
    assert!(sending.try_wait().expect("it was started").is_none(), "it is still being sent");
    first.kill();
    let output = sending.wait_with_output().expect("it was started");
    assert_ne!(output.stdout, b"200", "what was not judged to its end has not passed");
    let second = wait("another one is started", SOON, || filter(&bowline).filter(|one| *one != first));
    wait("and judges", SOON, || (send().status == 200).then_some(()));
    assert!(second.runs());
    let since =
        wait("the one that is whole is answered", SOON, || Some(answered() - before).filter(|since| *since > 0));
    assert_eq!(since, 1, "and none else");
}

#[test]
fn a_filter_that_answers_no_more_is_replaced() {
    let bowline = Bowline::new();
    let up = up(&bowline, &app(&bowline, "envoy-silent", ""));
    let small = file(&bowline, "small.txt", b"a text");
    let send = || sends(&bowline, &format!("{}/a.txt", up.https()), &["-T", path(&small), "--http1.1"]).status;
    assert_eq!(send(), 200);
    let first = filter(&bowline).expect("a route needs it");
    first.stop();
    wait("another one takes its place", SOON, || filter(&bowline).filter(|one| *one != first));
    assert!(!first.runs());
    wait("and judges", SOON, || (send() == 200).then_some(()));
}

/// As a daemon leaves it that is killed in the midst of an upgrade: nobody tells the one before.
#[test]
fn a_filter_whose_place_is_taken_goes() {
    let bowline = Bowline::new();
    let up = up(&bowline, &app(&bowline, "envoy-taken", ""));
    let small = file(&bowline, "small.txt", b"a text");
    let send = || sends(&bowline, &format!("{}/a.txt", up.https()), &["-T", path(&small), "--http1.1"]).status;
    assert_eq!(send(), 200);
    let first = filter(&bowline).expect("a route needs it");
    let arguments = first.arguments();
    let user = std::fs::metadata(format!("/proc/{}", first.pid)).expect("it runs").uid();
    let mut second = Command::new(&arguments[0]);
    second.args(&arguments[1..]).uid(user).stderr(Stdio::null());
    let mut second = second.spawn().expect("the same program");
    wait("the first one goes", SOON, || (!first.runs()).then_some(()));
    wait("the second one is asked", SOON, || (send() == 200).then_some(()));
    let now = filter(&bowline).expect("it is there");
    assert_eq!(now.pid, second.id());
    assert!(up.interrupt().success());
    second.wait().expect("it is the test's own child, and ends with the daemon");
}

#[test]
fn a_filter_that_cannot_be_started_is_told_until_it_is() {
    let bowline = Bowline::new();
    let up = up(&bowline, &app(&bowline, "envoy-unstarted", ""));
    let small = file(&bowline, "small.txt", b"a text");
    let send = || sends(&bowline, &format!("{}/a.txt", up.https()), &["-T", path(&small), "--http1.1"]).status;
    let status = || text(&bowline.run(&["status"]));
    assert_eq!(send(), 200);
    let socket = bowline.api_socket().with_file_name("envoy").join("upload.sock");
    std::fs::remove_file(&socket).expect("the filter listens there");
    std::fs::create_dir_all(socket.join("in the way")).expect("a folder of the test");
    filter(&bowline).expect("a route needs it").kill();
    wait("status tells of it", SOON, || status().contains("the upload filter cannot be started").then_some(()));
    assert_eq!(send(), 503);
    std::fs::remove_dir_all(&socket).expect("the test's own");
    wait("it is started", SOON, || (send() == 200).then_some(()));
    wait("and told no more", SOON, || (!status().contains("cannot be started")).then_some(()));
}

#[test]
fn an_upgrade_swaps_the_filter_and_breaks_off_no_upload() {
    let bowline = Bowline::new();
    let _server = Server::start_with(&bowline, &[], &[&ANY_PORTS[..], &["--edge", "envoy"]].concat());
    let folder = app(
        &bowline,
        "envoy-upgraded",
        "[environment.production]\nroute.main.hosts = [\"envoy-upgraded.localhost\"]\n",
    );
    let deployed = bowline.run(&["deploy", path(&folder), "--env", "production"]);
    assert!(deployed.status.success(), "{}", text(&deployed));
    let https = bowline.status()["edge"]["https"].as_str().expect("an address").to_owned();
    let url = format!("https://envoy-upgraded.localhost:{}/a.txt", https.rsplit_once(':').expect("a port").1);
    let (small, large) = (file(&bowline, "small.txt", b"a text"), b"a text ".repeat(60_000));
    let before = filter(&bowline).expect("a route needs it");
    let slow = file(&bowline, "large.txt", &large);
    let told = std::thread::scope(|scope| {
        let sending = scope.spawn(|| sends(&bowline, &url, &["-T", path(&slow), "--limit-rate", "30K", "--http1.1"]));
        upgraded(&bowline, &bowline.other_binary(0));
        let now = wait("a new one takes its place", SOON, || filters(&bowline).into_iter().find(|one| *one != before));
        assert_eq!(program(now.pid), program(bowline.daemon()), "of the new binary");
        assert!(!sending.is_finished(), "the upload is under way, and before the upgrade it was");
        for _ in 0..20 {
            assert_eq!(sends(&bowline, &url, &["-T", path(&small)]).status, 200, "whichever is asked");
        }
        sending.join().expect("the panic above")
    });
    assert!(told.status == 200 && told.text().ends_with(&arrived(&bowline, &large, true)), "{}", told.text());
    wait("the one before ends", SOON, || (!before.runs()).then_some(()));
}

fn is_stopped(process: &Process) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}

#[test]
fn uploads_are_judged_while_the_daemon_is_away() {
    let bowline = Bowline::new();
    let up = up(&bowline, &app(&bowline, "envoy-alone", ""));
    let good = file(&bowline, "good.txt", b"a text");
    let bad = file(&bowline, "bad.txt", b"\0\0no text");
    let send = |file: &Path| sends(&bowline, &format!("{}/a.txt", up.https()), &["-T", path(file), "--http1.1"]).status;
    let (daemon, before) = (Process { pid: bowline.daemon() }, filter(&bowline).expect("a route needs it"));
    daemon.kill();
    wait("the daemon is gone", SOON, || (!daemon.runs()).then_some(()));
    assert_eq!((send(&good), send(&bad)), (200, 415));
    wait("the app is adopted", SOON, || (bowline.status()["apps"][0]["state"] == "ready").then_some(()));
    assert_eq!(filter(&bowline), Some(before.clone()), "the same filter");
    assert_eq!((send(&good), send(&bad)), (200, 415));
    // The daemon that has come keeps it.
    before.kill();
    wait("another one is started", SOON, || filter(&bowline).filter(|one| *one != before));
    wait("and judges", SOON, || (send(&good) == 200).then_some(()));
    assert_eq!(send(&bad), 415);
    let last = filter(&bowline).expect("it runs");
    assert!(up.interrupt().success());
    wait("it ends with Envoy", SOON, || (!last.runs()).then_some(()));
}
