//! An Envoy that asks nobody: started with what `bowline render envoy` prints, and with `bowline uploads` beside it.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use bowline_tests::certificate::self_signed;
use bowline_tests::client::{Answer, curl};
use bowline_tests::port::Port;
use bowline_tests::up::Up;
use bowline_tests::wire::Wire;
use bowline_tests::{Bowline, SOON, envoy, path, root, text, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::envoy::{Running, START};
use crate::envoy_uploads::{PNG, file};

const TOKEN: &str = "canary-9b7e-rendered-token";
const PASSWORD: &str = "canary-1d5c-rendered-password";

const NAME: &str = "envoy-rendered";
/// The first address that `up` tells is that of `main`: they come in the order of names.
const TOML: &str = "[service.web]\nrun = \"python3 server.py\"\nhealth = { path = \"/health\", interval = \"300ms\" }\n\
    [route.main]\nto = \"web\"\nauth = { header = \"X-Auth-Token\", secret = \"api-token\" }\n\
    [route.robots]\npath = \"/robots\"\nto = \"web\"\nauth = { bearer = { secret = \"api-token\" } }\n\
    [route.people]\npath = \"/people\"\nto = \"web\"\nauth = { basic = { secret = \"people\" } }\n\
    [route.uploads]\npath = \"/files\"\nto = \"web\"\nupload = { extensions = [\"png\", \"txt\"] }\nlimit = { body = \"3MiB\" }\n";

fn app(bowline: &Bowline, name: &str, toml: &str) -> PathBuf {
    let folder = bowline.app(name, "plain");
    std::fs::write(folder.join("bowline.toml"), toml).expect("a test's file");
    folder
}

fn render<'a>(folder: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["render", "envoy", path(folder), "--env", "local", "--endpoint", "web=127.0.0.1:9"], more].concat()
}

/// A file that Envoy takes.
fn rendered(bowline: &Bowline, args: &[&str]) -> (PathBuf, Output) {
    let output = bowline.run(args);
    assert!(output.status.success(), "{}", text(&output));
    let file = bowline.folder("rendered").join("envoy.json");
    std::fs::write(&file, &output.stdout).expect("a test's file");
    let checked = Command::new(envoy()).args(["--mode", "validate", "-c", path(&file)]).output().expect("Envoy runs");
    assert!(checked.status.success(), "{}", text(&checked));
    (file, output)
}

/// Where a fixed Envoy finds them.
fn certificates(bowline: &Bowline, app: &str) -> PathBuf {
    let (folder, host) = (bowline.folder("certificates"), format!("{app}.localhost"));
    let (chain, key) = self_signed(&folder, &host);
    std::fs::rename(chain, folder.join(format!("{host}.pem"))).expect("it was made");
    std::fs::rename(key, folder.join(format!("{host}.key"))).expect("it was made");
    folder
}

/// One that is ended if the test fails.
fn uploads(bowline: &Bowline, socket: &Path, more: &[&str]) -> Running {
    let mut command = bowline.command(&[&["uploads", "--socket", path(socket), "--json"], more].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the binary runs");
    let mut said = String::new();
    let mut heard = BufReader::new(child.stdout.take().expect("a pipe"));
    heard.read_line(&mut said).expect("it says when it listens");
    // What it says at its end must find somebody, too.
    child.stdout = Some(heard.into_inner());
    let said: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    assert_eq!((said["pid"].as_u64(), said["socket"].as_str()), (Some(child.id().into()), Some(path(socket))));
    Running(child)
}

fn end(child: &mut Child, by: Signal) -> Option<i32> {
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), by).expect("the test's own child");
    wait("it ends", SOON, || child.try_wait().expect("the test's own child")).code()
}

/// What a client is told, whoever answers.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    status: u16,
    code: Option<String>,
    wants: Option<String>,
}

impl Told {
    fn of(answer: &Answer) -> Self {
        let text = answer.text();
        let field = |name: &str| {
            let fields = text.lines().filter_map(|line| line.split_once(": "));
            fields.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        Self { status: answer.status, code: field("x-bowline-error"), wants: field("www-authenticate") }
    }
}

/// An Envoy that asks nobody, before an instance that nobody supervises.
struct Fixed {
    url: String,
    _envoy: Running,
    _server: Running,
}

impl Fixed {
    /// Of secrets in these files.
    fn start(bowline: &Bowline, folder: &Path, socket: &Path, secrets: [(&str, &Path); 2]) -> Self {
        let [upstream, http] = [(); 2].map(|()| Port::reserve());
        let mut server = Command::new("python3");
        server.arg(folder.join("server.py")).env("PORT", upstream.number.to_string()).stdout(Stdio::null());
        let server = Running(server.spawn().expect("python3"));
        let certificates = certificates(bowline, NAME);
        let [endpoint, listen] =
            [("web=", &upstream), ("", &http)].map(|(word, at)| format!("{word}127.0.0.1:{}", at.number));
        let (admin, log) = (socket.with_file_name("admin.sock"), bowline.folder("logs").join("access.log"));
        let mut args = vec!["render", "envoy", path(folder), "--env", "local", "--endpoint", &endpoint];
        args.extend(["--http", &listen, "--https", "127.0.0.1:0", "--admin", path(&admin)]);
        args.extend(["--certificates", path(&certificates), "--access-log", path(&log), "--uploads", path(socket)]);
        let secrets = secrets.map(|(name, file)| format!("--secret={name}={}", file.display()));
        args.extend(secrets.iter().map(String::as_str));
        let (config, output) = rendered(bowline, &args);
        assert!(!text(&output).contains("canary-"), "no secret is said, nor in what is printed: {}", text(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains("chmod 600"), "{}", text(&output));
        assert_ne!(bowline.run(&args).stdout, output.stdout, "salted anew");
        let mut command = Command::new(envoy());
        command.args(["-c", path(&config), "--disable-hot-restart", "--log-level", "error"]);
        let envoy = Running(command.spawn().expect("Envoy runs"));
        wait("it serves", START, || Wire::connect(([127, 0, 0, 1], http.number).into()).ok());
        let found = std::fs::metadata(&admin).expect("its administration");
        assert!(found.file_type().is_socket() && found.mode() & 0o777 == 0o600, "{found:?}");
        Self { url: format!("http://{NAME}.localhost:{}", http.number), _envoy: envoy, _server: server }
    }
}

#[test]
fn a_rendered_envoy_answers_as_the_one_of_the_daemon() {
    let bowline = Bowline::new();
    let folder = app(&bowline, NAME, TOML);
    let token = file(&bowline, "token", format!("{TOKEN}\n").as_bytes());
    let people = file(&bowline, "people", format!("ann:{PASSWORD}\nbob:other\n").as_bytes());
    let secrets: [(&str, &Path); 2] = [("api-token", &token), ("people", &people)];
    for (name, from) in secrets {
        let output = bowline.run(&["secret", "set", NAME, name, "--file", path(from)]);
        assert!(output.status.success(), "{}", text(&output));
    }
    let up = Up::start_with(&bowline, &folder, &["--edge", "envoy"], START);
    let socket = bowline.folder("sockets").join("uploads.sock");
    let mut filter = uploads(&bowline, &socket, &[]);
    let fixed = Fixed::start(&bowline, &folder, &socket, secrets);

    let elf = std::fs::read("/proc/self/exe").expect("this test's own program")[..4096].to_vec();
    let pieces =
        [("a.png", [PNG, &[7; 2_000_000]].concat()), ("b.png", elf), ("c.png", [PNG, &[7; 4_000_000]].concat())];
    let [good, program, large] = pieces.map(|(name, content)| file(&bowline, name, &content).display().to_string());
    let header = format!("X-Auth-Token: {TOKEN}");
    let (bearer, user) = (format!("Authorization: Bearer {TOKEN}"), format!("ann:{PASSWORD}"));
    let check = |path: &str, args: &[&str], status: u16, code: Option<&str>| {
        let [own, other] = [&fixed.url, &up.http()].map(|base| {
            Told::of(&curl(&bowline.ca(), &format!("{base}{path}"), &[&["--include", "--http1.1"], args].concat()))
        });
        assert_eq!(own, other, "{path} {args:?}");
        assert_eq!((own.status, own.code.as_deref()), (status, code), "{path} {args:?}");
    };
    check("/", &["-H", &header], 200, None);
    check("/", &[], 403, Some("token-refused"));
    check("/", &["-H", "X-Auth-Token: other"], 403, Some("token-refused"));
    check("/", &["-H", &header, "-H", &header], 403, Some("token-refused"));
    check("/robots", &["-H", &bearer], 200, None);
    check("/robots", &["-H", &header], 401, Some("bearer-wanted"));
    check("/people", &["-u", &user], 200, None);
    check("/people", &["-u", "bob:other"], 200, None);
    check("/people", &["-u", "ann:other"], 401, Some("basic-wanted"));
    check("/PEOPLE", &[], 401, Some("basic-wanted"));
    check("/files/a.png", &["-T", &good], 200, None);
    check("/files/a.png", &["-T", &program], 415, Some("upload-program"));
    check("/files/a.exe", &["-T", &good], 415, Some("upload-extension"));
    check("/files/a.png", &["-T", &large], 413, Some("body-too-large"));

    // Nothing passes unjudged, and the next one takes the place of one that was killed.
    let sends = || Told::of(&curl(&bowline.ca(), &format!("{}/files/a.png", fixed.url), &["--include", "-T", &good]));
    filter.0.kill().and_then(|()| filter.0.wait()).expect("the test's own child");
    let away = sends();
    assert_eq!((away.status, away.code.as_deref()), (503, Some("upload-filter-away")));
    let mut next = uploads(&bowline, &socket, &[]);
    wait("it is asked", SOON, || (sends().status == 200).then_some(()));
    assert_eq!(end(&mut next.0, Signal::SIGTERM), Some(0));
    assert!(!socket.exists(), "it takes its socket with it");
}

#[test]
fn a_fixed_envoy_is_rendered_from_the_same_file() {
    let bowline = Bowline::new();
    // A guarded path of some length is a regular expression of more steps than Envoy takes by itself.
    let toml = format!(
        "[service.web]\nrun = \"python3 server.py\"\n\
        [route.main]\nto = \"web\"\nhosts = [\"shop.localhost\"]\ntls = \"off\"\nallow = [\"127.0.0.0/8\"]\n\
        [route.long]\nhosts = [\"shop.localhost\"]\ntls = \"off\"\npath = \"{}\"\nstrip = true\nto = \"web\"\nlimit = {{ rate = \"9/s\" }}\n",
        "/a-long-name".repeat(20)
    );
    let folder = app(&bowline, "envoy-render", &toml);
    let missing = bowline.fails(&["render", "envoy", path(&folder), "--env", "local"], 2);
    assert!(missing.contains("--endpoint web=ADDRESS:PORT"), "{missing}");
    let nowhere = app(&bowline, "envoy-nowhere", "[service.web]\nrun = \"x\"\n[route.main]\nto = \"web\"\n");
    let nowhere = bowline.fails(&["render", "envoy", path(&nowhere), "--endpoint", "web=127.0.0.1:9"], 2);
    assert!(nowhere.contains("has a host in production"), "{nowhere}");
    let (_, output) = rendered(&bowline, &render(&folder, &["--uploads", "/run/nobody-asks.sock"]));
    assert!(output.stderr.is_empty() && !text(&output).contains("nobody-asks"), "{}", text(&output));
    let rendered: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let monitors = &rendered["overload_manager"]["resource_monitors"];
    assert!(monitors[0]["typed_config"]["max_heap_size_bytes"].as_u64() >= Some(256 << 20), "{monitors}");
}

#[test]
fn what_a_fixed_envoy_lacks_is_told_with_the_word_to_say() {
    let bowline = Bowline::new();
    let folder = app(&bowline, NAME, TOML);
    let uploads = ["--uploads", "/run/uploads.sock"];
    let check = |more: &[&str], expected: &[&str]| {
        let said = bowline.fails(&render(&folder, more), 2);
        assert!(expected.iter().all(|part| said.contains(part)) && !said.contains("canary-"), "{said}");
    };
    check(&[], &["route.uploads.upload", "hint: say where that one listens: --uploads PATH"]);
    check(&uploads, &["what 2 secrets are", "hint: ", "--secret api-token=FILE --secret people=FILE"]);
    let value = format!("api-token={TOKEN}");
    check(&[&uploads[..], &["--secret", &value]].concat(), &["the file of --secret api-token cannot be read"]);
    let other = format!("other={}", path(&file(&bowline, "other", b"x")));
    check(&[&uploads[..], &["--secret", &other]].concat(), &["no route asks for a secret other"]);
    check(&["--uploads", "uploads.sock"], &["from the root on"]);
}

#[test]
fn every_example_is_rendered() {
    let bowline = Bowline::new();
    for name in ["board", "hello", "timestamps", "uploads", "users"] {
        let (folder, certificates) = (root().join("examples").join(name), certificates(&bowline, name));
        let more = ["--uploads", "/run/uploads.sock", "--certificates", path(&certificates)];
        let (_, output) = rendered(&bowline, &render(&folder, &more));
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(printed.contains(&format!("{name}.localhost")), "{name}");
        assert_eq!(printed.contains("/run/uploads.sock"), name == "uploads", "{name}");
    }
}

#[test]
fn the_socket_of_uploads_is_its_own_or_it_does_not_run() {
    let bowline = Bowline::new();
    let folder = bowline.folder("sockets");
    let socket = folder.join("uploads.sock");
    let mut first = uploads(&bowline, &socket, &["--mode", "660"]);
    let found = std::fs::symlink_metadata(&socket).expect("it listens");
    assert!(found.file_type().is_socket() && found.mode() & 0o777 == 0o660, "{found:?}");
    let refused = |at: &Path, code: i32, expected: &[&str]| {
        let said = bowline.fails(&["uploads", "--socket", path(at)], code);
        let expected = [&["error: uploads cannot be judged", "caused by: ", "hint: "], expected].concat();
        assert!(expected.iter().all(|part| said.contains(part)), "{said}");
    };
    let holder = format!("bowline (pid {}) listens on {}", first.0.id(), path(&socket));
    refused(&socket, 3, &[&holder, "--socket PATH"]);
    let plain = folder.join("plain");
    std::fs::write(&plain, "somebody's").expect("a test's file");
    refused(&plain, 2, &["is no socket"]);
    assert_eq!(std::fs::read_to_string(&plain).expect("it is left"), "somebody's");
    refused(&folder.join("none/uploads.sock"), 2, &["No such file or directory", "a folder that is there"]);
    let relative = bowline.fails(&["uploads", "--socket", "uploads.sock"], 2);
    assert!(relative.contains("from the root on"), "{relative}");

    assert_eq!(end(&mut first.0, Signal::SIGINT), Some(0));
    assert!(!socket.exists());
    let mut second = uploads(&bowline, &socket, &[]);
    std::fs::remove_file(&socket).expect("as somebody clears up");
    let ended = wait("it ends, since nobody finds it", SOON, || second.0.try_wait().expect("the test's own child"));
    assert_eq!(ended.code(), Some(1));
}
