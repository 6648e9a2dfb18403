//! Builds of real folders with the real pip, in a state folder of their own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::Duration;

use bowline_core::app::{
    self, Cage, Command, Environment, Health, Limits, ReleaseHooks, Rollout, Scale, StaticFiles, Strategy,
};
use bowline_core::id::{AppName, EnvName};
use bowline_core::release::Shape;
use tempfile::TempDir;

use super::*;
use crate::cgroup::Membership;

/// A folder of files, as an operator has it, and a state.
struct Bench {
    source: TempDir,
    state: TempDir,
    app: App,
    time_limit: Duration,
    uid: Option<u32>,
    /// Of whoever runs the node; `None`: that of whoever runs the tests.
    home: Option<PathBuf>,
    namespaces: bool,
}

const WEB: &str = "web";

/// The app's user.
const BUILDER: u32 = 60_122;

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

fn service(origin: Origin, run: Option<&str>) -> Service {
    Service {
        origin,
        run: run.map(|r| Command(r.to_owned())),
        packages: Vec::new(),
        runtime: None,
        fixed_port: None,
        protocol: Default::default(),
        health: None::<Health>,
        alive: None,
        drain: Duration::from_secs(30),
        scale: Scale::default(),
        limits: Limits::default(),
        writable: Vec::new(),
        metrics: None,
        cage: Cage::Best,
        env: app::Variables::new(),
    }
}

const BUILDER_EXE: &str = "BOWLINE_TEST_BUILDER";

/// The binary that the integration tests of this crate run, too; another user gets a copy that it can reach.
fn builder() -> PathBuf {
    if let Some(copy) = std::env::var_os(BUILDER_EXE) {
        return copy.into();
    }
    let own = std::env::current_exe().unwrap();
    let beside = own.ancestors().nth(2).unwrap().join("bowline-node-shim");
    assert!(beside.exists(), "{} is built by `cargo test -p bowline-node`", beside.display());
    beside
}

fn folder(build: Option<&str>) -> Origin {
    Origin::Folder { dir: ".".to_owned(), build: build.map(|b| Command(b.to_owned())) }
}

fn app(service: Service) -> App {
    App {
        name: AppName::new("app").unwrap(),
        services: BTreeMap::from([(name(WEB), service)]),
        jobs: BTreeMap::new(),
        env: app::Variables::new(),
        secrets: BTreeMap::new(),
        databases: BTreeMap::new(),
        redis: BTreeMap::new(),
        volumes: BTreeMap::new(),
        buckets: BTreeMap::new(),
        routes: BTreeMap::new(),
        release: ReleaseHooks::default(),
        rollout: Rollout { strategy: Strategy::Rolling, abort: Vec::new(), watch: Duration::ZERO },
        slo: None,
        image: None,
        logs: None,
        environment: Environment {
            name: EnvName::new("local").unwrap(),
            protected: false,
            id: None,
            server: None,
            kubernetes: None,
        },
    }
}

impl Bench {
    fn new(files: &[(&str, &str)], service: Service) -> Self {
        let bench = Self {
            source: TempDir::new().unwrap(),
            state: TempDir::new().unwrap(),
            app: app(service),
            time_limit: Duration::from_secs(300),
            uid: nix::unistd::geteuid().is_root().then_some(BUILDER),
            home: None,
            namespaces: true,
        };
        fs::set_permissions(bench.state.path(), fs::Permissions::from_mode(0o711)).unwrap();
        for (path, text) in files {
            bench.write(path, text);
        }
        bench
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.source.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn config(&self) -> BuildConfig {
        let mut environment: BTreeMap<String, String> = std::env::vars().collect();
        environment.insert("CANARY".to_owned(), "hunter2".to_owned());
        if let Some(home) = &self.home {
            environment.insert("HOME".to_owned(), home.display().to_string());
        }
        let (state_dir, run_dir) = (self.state.path().to_owned(), self.state.path().join("run"));
        BuildConfig { state_dir, run_dir, exe: builder(), environment, namespaces: self.namespaces }
    }

    fn request(&self) -> BuildRequest {
        BuildRequest {
            key: AppKey { env: EnvName::new("local").unwrap(), app: self.app.name.clone() },
            source: self.source.path().to_owned(),
            app: Arc::new(self.app.clone()),
            uid: self.uid,
            time_limit: self.time_limit,
        }
    }

    /// Builds; gives the result and everything that was said.
    async fn run(&self) -> (Result<Built, Fault>, Vec<BuildProgress>) {
        let (send, mut receive) = mpsc::channel(16);
        let config = self.config();
        let said = async {
            let mut said = Vec::new();
            while let Some(progress) = receive.recv().await {
                said.push(progress);
            }
            said
        };
        tokio::join!(run(self.request(), send, &config), said)
    }

    async fn web(&self) -> Artifact {
        let (built, said) = self.run().await;
        built.unwrap_or_else(|fault| panic!("{fault:?}\n{said:?}")).artifacts.remove(&name(WEB)).unwrap()
    }

    async fn fault(&self) -> Fault {
        self.run().await.0.expect_err("it must fail")
    }

    /// Where the first build of a digest lies.
    fn folder(&self, digest: Digest) -> PathBuf {
        self.state.path().join("artifacts").join(digest.to_string())
    }

    /// Names in the artifacts' folder.
    fn artifacts(&self) -> Vec<String> {
        let entries = fs::read_dir(self.state.path().join("artifacts")).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).filter(|n| !n.ends_with(".lock")).collect()
    }
}

/// The folder of an artifact, which its root lies in.
fn home(artifact: &Artifact) -> PathBuf {
    artifact.root.parent().unwrap().to_owned()
}

fn shown(fault: &Fault) -> String {
    let Fault { kind, message, causes, hint, detail } = fault;
    format!(
        "{kind:?}: {message}\n{}\n{}\n{}",
        causes.join("\n"),
        hint.as_deref().unwrap_or(""),
        detail.as_deref().unwrap_or("")
    )
}

/// Each part must be said somewhere in the fault.
fn says(fault: &Fault, parts: &[&str]) {
    let shown = shown(fault);
    for part in parts {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flask_app_without_a_server_gets_one_and_is_built_once() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/flask");
    let read = |file| fs::read_to_string(fixture.join(file)).unwrap();
    let (code, requirements) = (read("app.py"), read("requirements.txt"));
    let bench = Bench::new(&[("app.py", &code), ("requirements.txt", &requirements)], service(folder(None), None));

    let first = bench.web().await;
    assert!(!first.cached);
    let run = first.run.clone().unwrap().0;
    assert!(run.starts_with("gunicorn --bind 0.0.0.0:$PORT --workers ") && run.ends_with(" app:app"), "{run}");
    assert!(first.runtime.clone().unwrap().starts_with("python 3."));
    assert_eq!(first.env["PYTHONUNBUFFERED"], "1");
    let venv = Path::new(&first.env["VIRTUAL_ENV"]);
    assert!(venv.join("bin/gunicorn").is_file() && first.env["PATH"].starts_with(venv.join("bin").to_str().unwrap()));
    for path in [&first.root, &first.root.join("app.py"), &venv.join("bin/gunicorn")] {
        let mode = fs::metadata(path).unwrap().mode();
        assert_eq!(mode & 0o222, 0, "{} can be written", path.display());
        assert_eq!(mode & 0o004, 0o004, "{} cannot be read by others", path.display());
    }
    if nix::unistd::geteuid().is_root() {
        interpreter::reachable(&venv.join("bin/python")).unwrap();
    }

    serves(&first, "/health").await;

    // The best of a few: the machine may be busy with something else.
    let mut took = Duration::MAX;
    for _ in 0..200 {
        let started = std::time::Instant::now();
        let again = bench.web().await;
        assert!(again.cached && again.digest == first.digest && again.run == first.run);
        took = took.min(started.elapsed());
        if took < Duration::from_millis(100) {
            break;
        }
    }
    assert!(took < Duration::from_millis(100), "looking it up took {took:?}");

    bench.write("app.py", &format!("{code}\n# changed\n"));
    let third = bench.web().await;
    assert!(!third.cached && third.digest != first.digest);
    assert!(first.root.is_dir(), "the release before it is still there to go back to");

    let gone = collect(&bench.config(), &BTreeSet::from([third.root.clone()])).unwrap();
    assert_eq!(gone, vec![home(&first)]);
    assert!(!first.root.exists() && third.root.is_dir());
}

#[tokio::test]
async fn what_is_foreseen_is_what_is_built_and_nothing_is_done_for_it() {
    let check = async |files: &[(&str, &str)], service: Service, shape: Shape| {
        let bench = Bench::new(files, service);
        let foreseen = async || foresee(bench.request(), &bench.config()).await.unwrap().remove(&name(WEB)).unwrap();
        let before = foreseen().await;
        assert_eq!((&before.shape, &before.artifact), (&shape, &None));
        assert_eq!(bench.artifacts(), Vec::<String>::new(), "nothing was built");
        let built = bench.web().await;
        assert_eq!((built.digest, built.runtime.clone(), built.shape()), (before.digest, before.runtime, shape));
        let after = foreseen().await.artifact.unwrap();
        assert_eq!(after, Artifact { cached: true, ..built }, "what is there is told whole");
        bench.write("more", "of it");
        assert_ne!(foreseen().await.digest, before.digest);
    };
    let files = |fallback: Option<&str>| Shape::Files { fallback: fallback.map(str::to_owned) };
    check(&[("index.html", "hi")], service(folder(None), None), files(None)).await;
    check(&[("a.txt", "a")], service(folder(Some("cp a.txt b.txt")), Some("cat b.txt")), Shape::Process).await;
    let bench = Bench::new(&[("README", "")], service(folder(None), None));
    let fault = foresee(bench.request(), &bench.config()).await.unwrap_err();
    assert_eq!(shown(&fault), shown(&bench.fault().await), "what would fail fails now, in the same words");
}

#[tokio::test]
async fn an_artifact_that_was_changed_is_foreseen_to_be_built_again() {
    let bench = Bench::new(&[("index.html", "hi")], service(folder(None), None));
    let built = bench.web().await;
    let file = built.root.join("index.html");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&file, "something else").unwrap();
    let foreseen = foresee(bench.request(), &bench.config()).await.unwrap().remove(&name(WEB)).unwrap();
    assert_eq!((foreseen.digest, foreseen.artifact), (built.digest, None));
}

/// Runs what was built, as another user where that is possible, until it answers with 200; then stops it.
async fn serves(artifact: &Artifact, path: &str) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = tokio::process::Command::new("/bin/sh");
    command.args(["-c", &format!("exec {}", artifact.run.as_ref().unwrap().0)]);
    command.current_dir(&artifact.root).env_clear().envs(&artifact.env).env("PORT", port.to_string());
    if nix::unistd::geteuid().is_root() {
        command.uid(60_124).gid(60_124);
    }
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let answer = || {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    };
    until("it answers", || {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("it ended with {status}");
        }
        answer().is_some_and(|a| a.starts_with("HTTP/1.1 200"))
    })
    .await;
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).unwrap();
    // A worker of gunicorn that gets its TERM while it boots is waited for as long as `--graceful-timeout` says.
    let status = tokio::time::timeout(Duration::from_secs(60), child.wait()).await.expect("it leaves on TERM").unwrap();
    assert!(status.success() || status.code() == Some(143) || status.code().is_none(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_the_requirements_bring_are_used() {
    let check = async |code: &str, requirements: &str, expected: &str| {
        let bench = Bench::new(&[("app.py", code), ("requirements.txt", requirements)], service(folder(None), None));
        let artifact = bench.web().await;
        let run = &artifact.run.as_ref().unwrap().0;
        assert!(run.starts_with(expected), "{run}");
        assert!(!Path::new(&artifact.env["VIRTUAL_ENV"]).join("bin/gunicorn").exists(), "gunicorn was not asked for");
        serves(&artifact, "/").await;
    };
    let function = "def application(environ, start_response):\n    start_response('200 OK', [])\n    return [b'hi']\n";
    check(
        &format!("{function}\ndef create_app():\n    return application\n"),
        "waitress\n",
        "waitress-serve --listen=0.0.0.0:$PORT",
    )
    .await;
    check(
        "from starlette.applications import Starlette\nfrom starlette.responses import PlainTextResponse\nfrom starlette.routing import Route\napp = Starlette(routes=[Route('/', lambda request: PlainTextResponse('hi'))])\n",
        "starlette\nuvicorn\n",
        "uvicorn --host 0.0.0.0 --port $PORT",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_builds_when_told_so_and_cannot_change_the_result() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let build = "id -u > made; cp made \"$BOWLINE_BUILD_CACHE/kept\"; touch \"$HOME/x\" \"$TMPDIR/y\"";
    let mut bench = Bench::new(&[("a.txt", "a")], service(folder(Some(build)), Some("true")));
    // What another user left there is none of its own.
    bench.web().await;
    bench.write("a.txt", "b");
    bench.uid = Some(60_123);
    let artifact = bench.web().await;
    let made = artifact.root.join("made");
    assert_eq!(fs::read_to_string(&made).unwrap(), "60123\n");
    let metadata = fs::metadata(&made).unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o777), (0, 0o444));
    let kept = bench.state.path().join("cache/build/local/app/web/kept");
    assert_eq!(fs::metadata(kept).unwrap().uid(), 60_123);
    assert_eq!(fs::read_dir(bench.state.path().join("cache/tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_folder_with_an_index_is_served_as_files() {
    let bench = Bench::new(&[("index.html", "<h1>hi</h1>"), (".git/config", "x")], service(folder(None), None));
    let artifact = bench.web().await;
    assert_eq!((artifact.run, artifact.runtime), (None, None));
    assert_eq!(fs::read_to_string(artifact.root.join("index.html")).unwrap(), "<h1>hi</h1>");
    assert!(!artifact.root.join(".git").exists());
}

#[tokio::test]
async fn a_static_service_serves_what_its_build_makes() {
    let files = |dir: &str| StaticFiles { dir: dir.to_owned(), fallback: None, cache: Duration::from_secs(3600) };
    let origin = |dir: &str, build: &str| Origin::Static {
        dir: ".".to_owned(),
        build: Some(Command(build.to_owned())),
        files: files(dir),
    };
    let bench = Bench::new(&[("a.md", "# hi")], service(origin("dist", "mkdir dist && cp a.md dist/index.html"), None));
    let artifact = bench.web().await;
    assert!(artifact.root.ends_with("app/dist") && artifact.root.join("index.html").is_file());

    let check = async |dir: &str, build: &str, part: &str| {
        let bench = Bench::new(&[("a.md", "# hi")], service(origin(dir, build), None));
        says(&bench.fault().await, &["static.dir", part]);
        assert_eq!(bench.artifacts(), Vec::<String>::new());
    };
    check("dist", "true", "no such folder after the build").await;
    let nothing = Bench::new(&[("a.md", "# hi")], service(origin("dist", ""), None)).fault().await;
    says(&nothing, &["static.dir", "an artifact must hold it"]);
    assert!(!nothing.hint.as_ref().unwrap().contains("`build`"), "{nothing:?}");
    check("out", "ln -s /etc out", "not a folder within").await;
}

#[tokio::test]
async fn commands_run_as_written_with_a_clean_environment() {
    let build =
        "env > environment; nice > niceness; cat /proc/self/oom_score_adj > score; readlink /proc/self/fd/0 > stdin";
    let bench = Bench::new(&[("a.txt", "a")], service(folder(Some(build)), Some("./serve --port $PORT")));
    let artifact = bench.web().await;
    assert_eq!(artifact.run, Some(Command("./serve --port $PORT".to_owned())));
    let read = |file| fs::read_to_string(artifact.root.join(file)).unwrap();
    let environment = read("environment");
    assert!(environment.contains("BOWLINE_BUILD_CACHE=") && environment.contains("PATH="), "{environment}");
    assert!(!environment.contains("hunter2"), "a variable of the daemon reached the build");
    assert_eq!(
        (read("niceness").as_str(), read("score").as_str(), read("stdin").as_str()),
        ("19\n", "500\n", "/dev/null\n")
    );
}

#[tokio::test]
async fn a_failing_build_says_which_command_and_its_last_words() {
    let build = "for i in $(seq 1 80); do echo line $i; done; echo 'no: good' >&2; frobnicate";
    let bench = Bench::new(&[("a.txt", "a")], service(folder(Some(build)), Some("true")));
    let fault = bench.fault().await;
    says(
        &fault,
        &["Failed: the build of service web failed", "exit code 127", "line 80", "no: good", "frobnicate is not on"],
    );
    let detail = fault.detail.unwrap();
    assert!(!detail.contains("line 30\n") && detail.lines().count() == 50, "{detail}");
    assert_eq!(bench.artifacts(), Vec::<String>::new(), "a failed build leaves nothing");
}

#[tokio::test]
async fn a_requirement_that_does_not_exist_is_named() {
    let files = [("app.py", "from flask import Flask\napp = Flask(__name__)\n"), ("requirements.txt", "flask==999\n")];
    let bench = Bench::new(&files, service(folder(None), None));
    says(
        &bench.fault().await,
        &["pip install -r requirements.txt", "exit code 1", "flask==999: check its name and version"],
    );
}

/// Processes whose command line holds `needle`.
fn running(needle: &str) -> usize {
    let entries = fs::read_dir("/proc").unwrap();
    let lines = entries.filter_map(|e| fs::read(e.ok()?.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(needle)).count()
}

async fn until(what: &str, mut predicate: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while !predicate() {
        assert!(Instant::now() < give_up, "{what} within 20 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One child in the group, one in a session of its own whose parent is gone, one of those without the mark.
fn build_that_hangs(number: u32) -> String {
    format!(
        "sleep {number} & setsid -f sleep {number}; setsid -f env -i /bin/sh -c 'sleep {number}; :' ; touch \"$BOWLINE_BUILD_CACHE/begun\"; sleep {number}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_limit_ends_the_whole_tree() {
    let number = 70_000 + std::process::id() % 10_000;
    let build = format!("sleep {number} & setsid -f sleep {number}; sleep {number}");
    let mut bench = Bench::new(&[("a.txt", "a")], service(folder(Some(&build)), Some("true")));
    bench.time_limit = Duration::from_millis(1500);
    let fault = bench.fault().await;
    says(&fault, &["took longer than 1500ms"]);
    assert_eq!(running(&format!("sleep\0{number}")), 0);
    assert_eq!(bench.artifacts(), Vec::<String>::new());
}

/// Without a control group nothing would find it: a machine that gives none has nothing to test.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_leaves_behind_ends_with_it_however_it_hides() {
    let number = 90_000 + std::process::id() % 10_000;
    let hidden = format!("setsid -f env -i /bin/sh -c 'sleep {number}; :'");
    let mut bench = Bench::new(&[("a.txt", "a")], service(folder(Some(&hidden)), Some("true")));
    bench.time_limit = Duration::from_secs(10);
    let probe = Membership::of_build(bench.state.path());
    let has_groups = !probe.folders.is_empty();
    if let Some((_, group)) = &probe.cpu {
        let weight = |name: &str| fs::read_to_string(group.with_file_name(name)).unwrap_or_default();
        assert!(weight("cpu.shares") == "204\n" || weight("cpu.weight") == "20\n");
    }
    probe.remove().unwrap();
    if !has_groups {
        return;
    }
    let digest = bench.web().await.digest;
    assert_eq!(running(&format!("sleep\0{number}")), 0);
    let built = bench.folder(digest);
    let group = Membership::of_build(&built);
    let empty = group.pids().is_empty();
    group.remove().unwrap();
    assert!(empty);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_future_ends_the_whole_tree_and_frees_the_lock() {
    let number = 80_000 + std::process::id() % 10_000;
    let bench = Bench::new(&[("a.txt", "a")], service(folder(Some(&build_that_hangs(number))), Some("true")));
    let begun = bench.state.path().join("cache/build/local/app/web/begun");
    let (send, _receive) = mpsc::channel(100);
    let (request, config) = (bench.request(), bench.config());
    let task = tokio::spawn(async move { run(request, send, &config).await });
    until("the build begins", || begun.exists()).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    until("no process is left", || running(&format!("sleep\0{number}")) == 0).await;
    assert_eq!(bench.artifacts().len(), 1, "an unsealed folder");
    assert_eq!(clean(&bench.config()).unwrap().len(), 1, "it was never sealed");
    assert_eq!(bench.artifacts(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_of_the_same_source_wait_for_each_other() {
    let build = "echo x >> \"$BOWLINE_BUILD_CACHE/runs\"";
    let bench = Bench::new(&[("a.txt", "a")], service(folder(Some(build)), Some("true")));
    let results = tokio::join!(bench.web(), bench.web(), bench.web());
    let cached = [results.0.cached, results.1.cached, results.2.cached];
    assert_eq!(cached.iter().filter(|c| !**c).count(), 1, "{cached:?}");
    assert_eq!(fs::read_to_string(bench.state.path().join("cache/build/local/app/web/runs")).unwrap(), "x\n");
}

#[tokio::test]
async fn a_build_that_runs_is_not_collected() {
    let bench = Bench::new(&[("a.txt", "a")], service(folder(Some("echo hi")), Some("true")));
    let artifact = bench.web().await;
    let artifacts = Artifacts::open(bench.state.path()).unwrap();
    let held = artifacts.hold(artifact.digest).await.unwrap();
    assert_eq!(collect(&bench.config(), &BTreeSet::new()).unwrap(), Vec::<PathBuf>::new());
    drop(held);
    assert_eq!(collect(&bench.config(), &BTreeSet::new()).unwrap(), vec![home(&artifact)]);
}

#[tokio::test]
async fn what_a_crash_left_is_not_taken_for_whole() {
    let bench = Bench::new(&[("a.txt", "a")], service(folder(Some("echo hi > made")), Some("true")));
    let artifact = bench.web().await;
    let seal = bench.state.path().join(format!("artifacts/{}.json", artifact.digest));
    for damage in [Vec::new(), b"{\"version\":1".to_vec()] {
        fs::write(&seal, damage).unwrap();
        assert!(!bench.web().await.cached);
    }
    // Three generations were sealed once, and may run; one was never finished.
    fs::remove_file(&seal).unwrap();
    let unfinished = bench.state.path().join(format!("artifacts/{}.4", artifact.digest));
    fs::create_dir(&unfinished).unwrap();
    assert_eq!(clean(&bench.config()).unwrap(), vec![unfinished.clone()]);
    let beside = bench.web().await;
    assert!(!beside.cached && beside.root.starts_with(&unfinished), "{}", beside.root.display());
    assert!(artifact.root.join("made").is_file());
}

#[tokio::test]
async fn a_seal_that_cannot_be_read_takes_nothing_away() {
    let bench = Bench::new(&[("a.txt", "a")], service(folder(Some("echo hi > made")), Some("true")));
    let artifact = bench.web().await;
    let seal = bench.state.path().join(format!("artifacts/{}.json", artifact.digest));
    fs::rename(&seal, seal.with_extension("aside")).unwrap();
    // Reading a folder fails as a disk or a lack of descriptors would make it fail.
    fs::create_dir(&seal).unwrap();
    assert_eq!(clean(&bench.config()).unwrap(), Vec::<PathBuf>::new());
    assert_eq!(collect(&bench.config(), &BTreeSet::new()).unwrap(), Vec::<PathBuf>::new());
    says(&bench.fault().await, &["Is a directory"]);
    assert!(artifact.root.join("made").is_file());
    fs::remove_dir(&seal).unwrap();
    fs::rename(seal.with_extension("aside"), &seal).unwrap();
    assert!(bench.web().await.cached);
}

#[tokio::test]
async fn an_older_generation_that_runs_outlives_the_one_that_healed_it() {
    let bench = Bench::new(&[("a.txt", "a")], service(folder(Some("echo hi > made")), Some("true")));
    let first = bench.web().await;
    fs::set_permissions(&first.root, fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(first.root.join("a.txt")).unwrap();
    let second = bench.web().await;
    assert_ne!(first.root, second.root);
    let gone = collect(&bench.config(), &BTreeSet::from([first.root.clone()])).unwrap();
    assert_eq!(gone, vec![home(&second)]);
    assert_eq!(clean(&bench.config()).unwrap(), Vec::<PathBuf>::new(), "a restart takes it for no leftover");
    assert!(first.root.join("made").is_file());
    let third = bench.web().await;
    assert!(!third.cached && third.root != first.root);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_artifact_is_built_again_beside_what_runs_from_it() {
    let bench = Bench::new(&[("a.txt", "a")], service(folder(Some("echo hi > made")), Some("true")));
    let first = bench.web().await;
    let damage = |artifact: &Artifact, file: &str| {
        // Root passes; an ordinary user must open the folder first, as whoever damages it would.
        fs::set_permissions(&artifact.root, fs::Permissions::from_mode(0o755)).unwrap();
        fs::remove_file(artifact.root.join(file)).unwrap();
    };
    damage(&first, "a.txt");
    // A restart changes nothing about it, and takes nothing away from what runs.
    assert_eq!(clean(&bench.config()).unwrap(), Vec::<PathBuf>::new());
    let (built, said) = bench.run().await;
    let second = built.unwrap().artifacts.remove(&name(WEB)).unwrap();
    assert!(format!("{said:?}").contains("was changed after it was built (app"), "{said:?}");
    assert_eq!((second.cached, second.digest), (false, first.digest));
    assert!(second.root != first.root && second.root.join("a.txt").is_file());
    assert!(first.root.join("made").is_file(), "what runs from it keeps what is left");
    let again = bench.web().await;
    assert!(again.cached && again.root == second.root);
    fs::remove_dir_all(&first.root).unwrap();
    assert!(bench.web().await.cached, "of the generations before nothing depends any more");

    let gone = collect(&bench.config(), &BTreeSet::from([second.root.clone()])).unwrap();
    assert_eq!(gone, vec![home(&first)]);
    fs::remove_dir_all(home(&second)).unwrap();
    let third = bench.web().await;
    assert!(!third.cached && third.root != second.root, "a place is never used twice");
}

#[tokio::test]
async fn ignore_files_and_customs_leave_out_what_is_no_source() {
    let files = [
        (".gitignore", "*.log\ndist/\n"),
        (".bowlineignore", "docs\n!dist\n"),
        ("index.html", "x"),
        ("debug.log", "x"),
        ("dist/site.js", "x"),
        ("docs/manual.md", "x"),
        (".env", "SECRET=1"),
        (".env.production", "SECRET=1"),
        (".env.example", "SECRET="),
        (".git/HEAD", "x"),
        ("venv/pyvenv.cfg", "x"),
        ("target/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n"),
        ("target/page.html", "x"),
        ("lib/target/page.html", "x"),
        ("__pycache__/app.pyc", "x"),
        ("deep/.gitignore", "secret\n"),
        ("deep/secret", "x"),
        ("deep/open", "x"),
    ];
    let bench = Bench::new(&files, service(folder(None), None));
    let artifact = bench.web().await;
    let check = |path: &str, expected: bool| assert_eq!(artifact.root.join(path).exists(), expected, "{path}");
    for there in ["index.html", "dist/site.js", ".env.example", "lib/target/page.html", "deep/open", ".gitignore"] {
        check(there, true);
    }
    for gone in [
        "debug.log",
        "docs",
        ".env",
        ".env.production",
        ".git",
        "venv",
        "target",
        "__pycache__",
        "deep/secret",
        ".bowlineignore",
    ] {
        check(gone, false);
    }
}

#[tokio::test]
async fn ignore_files_that_are_no_files_neither_block_nor_fill_the_memory() {
    let pipe = |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let endless = |path: &Path| symlink("/dev/zero", path).unwrap();
    let huge = |path: &Path| fs::File::create(path).unwrap().set_len(1 << 40).unwrap();
    let check = async |name: &str, make: &dyn Fn(&Path), expected: &str| {
        for folder in ["", "sub"] {
            let bench = Bench::new(&[("sub/a.txt", "a")], service(self::folder(None), None));
            make(&bench.source.path().join(folder).join(name));
            let fault = tokio::time::timeout(Duration::from_secs(20), bench.fault()).await.expect("an answer");
            says(&fault, &[name, expected]);
        }
    };
    for name in [".gitignore", ".bowlineignore"] {
        check(name, &pipe, "a named pipe").await;
        check(name, &endless, "a device").await;
        check(name, &huge, "larger than 1MiB").await;
    }
    check("CACHEDIR.TAG", &pipe, "a named pipe").await;
}

#[tokio::test]
async fn links_stay_within_the_folder() {
    let check = async |link: &str, target: &str, expected: Option<&str>| {
        let bench = Bench::new(&[("index.html", "x"), ("sub/a.txt", "a")], service(folder(None), None));
        symlink(target, bench.source.path().join(link)).unwrap();
        match expected {
            Some(part) => says(&bench.fault().await, &[part, link]),
            None => {
                let artifact = bench.web().await;
                assert_eq!(fs::read_link(artifact.root.join(link)).unwrap(), Path::new(target));
            }
        }
    };
    check("a", "sub/a.txt", None).await;
    check("sub/b", "../index.html", None).await;
    check("later", "made/by/build", None).await;
    check("a", "/etc/passwd", Some("leads out of the folder")).await;
    check("a", "../../etc/passwd", Some("leads out of the folder")).await;
    check("sub/a", "../sub/../../x", Some("leads out of the folder")).await;
}

#[tokio::test]
async fn special_files_are_refused_without_blocking() {
    let bench = Bench::new(&[("index.html", "x")], service(folder(None), None));
    nix::unistd::mkfifo(&bench.source.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    says(&bench.fault().await, &["pipe is a named pipe"]);
    fs::remove_file(bench.source.path().join("pipe")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(bench.source.path().join("sock")).unwrap();
    says(&bench.fault().await, &["sock is a socket"]);
}

#[tokio::test]
async fn modes_and_names_are_part_of_the_digest() {
    let bench = Bench::new(&[("index.html", "x"), ("run.sh", "#!/bin/sh\n")], service(folder(None), None));
    let mut digests = vec![bench.web().await.digest];
    let script = bench.source.path().join("run.sh");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    digests.push(bench.web().await.digest);
    fs::rename(&script, bench.source.path().join("start.sh")).unwrap();
    digests.push(bench.web().await.digest);
    fs::create_dir(bench.source.path().join("empty")).unwrap();
    digests.push(bench.web().await.digest);
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), 4);
}

#[tokio::test]
async fn a_folder_with_nothing_to_run_says_what_was_looked_for() {
    let check = async |files: &[(&str, &str)], parts: &[&str]| {
        let bench = Bench::new(files, service(folder(None), None));
        says(&bench.fault().await, parts);
    };
    check(&[("notes.txt", "x")], &["nothing that can run", "requirements.txt", "index.html", "[service.web]: run ="])
        .await;
    check(&[("package.json", "{}"), ("index.html", "x")], &["package.json is there", "no `start` script", "run ="])
        .await;
    check(&[("requirements.txt", "flask"), ("app.py", "x = 1")], &["no application", "looked in app.py", "run ="])
        .await;
    check(&[("app.py", "def (:\n")], &["not Python that this interpreter reads: line 1"]).await;
}

#[tokio::test]
async fn what_this_engine_does_not_build_is_named() {
    let check = async |service: Service, part: &str| says(&Bench::new(&[], service).fault().await, &["Invalid", part]);
    check(service(Origin::Image("x:1".to_owned()), None), "service.web.image").await;
    let dockerfile = Origin::Dockerfile { dir: ".".to_owned(), file: "Dockerfile".to_owned() };
    check(service(dockerfile, None), "service.web.dockerfile").await;
    check(service(Origin::BuildOf(name("web")), Some("true")), "circle").await;
    let outside = Origin::Folder { dir: "..".to_owned(), build: None };
    check(service(outside, Some("true")), "leads out of").await;
    let missing = Origin::Folder { dir: "api".to_owned(), build: None };
    check(service(missing.clone(), Some("true")), "dir = \"api\" names nothing beside bowline.toml").await;
    let fault = Bench::new(&[], service(missing, Some("true"))).fault().await;
    assert!(fault.causes.is_empty() && fault.hint.is_some_and(|hint| hint.contains("an artifact has the folders")));
}

#[tokio::test]
async fn runtimes_and_packages_are_verified() {
    let check = async |runtime: Option<&str>, package: Option<&str>, parts: &[&str]| {
        let mut service = service(folder(None), Some("true"));
        service.runtime = runtime.map(str::to_owned);
        service.packages = package.map(str::to_owned).into_iter().collect();
        says(&Bench::new(&[("a", "a")], service).fault().await, parts);
    };
    check(Some("python 3.1"), None, &["no usable python 3.1", "apt install python3.1"]).await;
    check(Some("frob 3"), None, &["no usable frob 3", "no frob on PATH"]).await;
    check(Some("Python: 3"), None, &["is no runtime"]).await;
    check(None, Some("no-such-package-0"), &["not installed: no-such-package-0", "apt install no-such-package-0"])
        .await;
}

#[tokio::test]
async fn services_that_share_a_build_share_the_artifact() {
    let mut bench =
        Bench::new(&[("a", "a")], service(folder(Some("echo x >> \"$BOWLINE_BUILD_CACHE/runs\"")), Some("true")));
    let worker = service(Origin::BuildOf(name(WEB)), Some("python3 worker.py"));
    bench.app.services.insert(name("worker"), worker);
    let built = bench.run().await.0.unwrap();
    let (web, worker) = (&built.artifacts[&name(WEB)], &built.artifacts[&name("worker")]);
    assert_eq!((&web.digest, &web.root), (&worker.digest, &worker.root));
    assert_eq!(worker.run, Some(Command("python3 worker.py".to_owned())));
    assert_eq!(fs::read_to_string(bench.state.path().join("cache/build/local/app/web/runs")).unwrap(), "x\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let bench = Bench::new(&[("index.html", &"x".repeat(3 << 20))], service(folder(None), None));
    let state = bench.state.path();
    mount(Some("tmpfs"), state, Some("tmpfs"), MsFlags::empty(), Some("size=1m,mode=0711")).unwrap();
    let fault = bench.fault().await;
    let left = bench.artifacts();
    umount2(state, MntFlags::MNT_DETACH).unwrap();
    says(&fault, &["Failed", "No space left on device", "free space"]);
    assert_eq!(left, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_outlived_a_crash_are_ended_at_the_start() {
    let bench = Bench::new(&[("a.txt", "a")], service(folder(Some("true")), Some("true")));
    let digest = bench.web().await.digest;
    let folder = bench.folder(digest);
    fs::remove_file(folder.with_extension("json")).unwrap();
    // As a build leaves it that was killed.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let mut orphan = std::process::Command::new("sleep").arg("1000").env(tree::MARK, &folder).spawn().unwrap();
    assert_eq!(clean(&bench.config()).unwrap(), vec![folder.clone()]);
    assert!(!orphan.wait().unwrap().success() && !folder.exists());
}

#[tokio::test]
async fn waiting_for_another_build_ends_with_the_time_limit() {
    let mut bench = Bench::new(&[("a.txt", "a")], service(folder(Some("true")), Some("true")));
    let digest = bench.web().await.digest;
    assert_eq!(collect(&bench.config(), &BTreeSet::new()).unwrap(), vec![bench.folder(digest)]);
    let _held = Artifacts::open(bench.state.path()).unwrap().hold(digest).await.unwrap();
    bench.time_limit = Duration::from_millis(300);
    says(&bench.fault().await, &["another build of the same source"]);
}

/// Runs the tests of the cage once more as an ordinary user. Nothing to do for one.
#[test]
fn again_as_an_ordinary_user() {
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65_534;
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let copy = |from: &Path, name: &str| {
        let to = folder.path().join(name);
        fs::copy(from, &to).unwrap();
        to
    };
    let (tests, exe) = (copy(&std::env::current_exe().unwrap(), "tests"), copy(&builder(), "builder"));
    for path in [folder.path(), &tests, &exe] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = std::process::Command::new(tests);
    command.arg("build::tests::caged_").env_clear().env("PATH", "/usr/bin:/bin").env(BUILDER_EXE, exe);
    let output = command.current_dir("/").uid(NOBODY).gid(NOBODY).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !said.contains("0 passed"), "as an ordinary user: {said}");
}

/// Each line of `attempts` runs in a build, where it must fail; all that it printed is given.
async fn attempts(bench: &mut Bench, attempts: &[String]) -> String {
    let lines: Vec<String> =
        attempts.iter().map(|one| format!("( {one} ) && echo 'ESCAPED: {}'", one.replace('\'', ""))).collect();
    bench.app.services.get_mut(&name(WEB)).unwrap().origin =
        folder(Some(&format!("{{ {}; }} 2>&1 | cat > told", lines.join("; "))));
    let artifact = bench.web().await;
    fs::read_to_string(artifact.root.join("told")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn caged_builds_reach_nothing_but_their_own() {
    let mut bench = Bench::new(&[("a.txt", "a")], service(folder(None), Some("true")));
    let home = TempDir::new().unwrap();
    let state = bench.state.path().to_owned();
    let secrets =
        [state.join("master.key"), state.join("volumes/local/other/data"), home.path().join(".ssh/id_ed25519")];
    for secret in &secrets {
        fs::create_dir_all(secret.parent().unwrap()).unwrap();
        fs::write(secret, "a secret").unwrap();
    }
    fs::write(state.join("store.db"), "a store").unwrap();
    fs::write(home.path().join(".npmrc"), "registry=https://mirror.example\n").unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
    bench.home = Some(home.path().to_owned());
    // A process of the node's user with a secret in its environment.
    let mut victim = std::process::Command::new("sleep").arg("1000").env("SECRET", "hunter3").spawn().unwrap();
    let secret_of_others = format!("tr '\\0' '\\n' < /proc/{}/environ | grep -q hunter3", victim.id());

    let mut all: Vec<String> = secrets.iter().map(|secret| format!("cat {}", secret.display())).collect();
    all.extend([
        secret_of_others,
        format!("kill -0 {}", victim.id()),
        format!("ls {} | grep -q store.db", state.display()),
        format!("ls -A {} | grep -q ssh", home.path().display()),
        "ls /root /run/user/* | grep -q .".to_owned(),
        "mknod device c 1 3".to_owned(),
        "unshare -Ur true".to_owned(),
        "grep -q '^NoNewPrivs:.*0$' /proc/self/status".to_owned(),
        "grep '^Cap' /proc/self/status | grep -qv '0000000000000000$'".to_owned(),
        "echo x > /proc/sys/kernel/hostname".to_owned(),
    ]);
    let told = attempts(&mut bench, &all).await;
    victim.kill().unwrap();
    victim.wait().unwrap();
    let is_contained = !bench.lacks().await.contains("process isolation");
    let escapes: Vec<&str> =
        told.lines().filter(|line| line.contains("ESCAPED") || line.contains("a secret")).collect();
    // Without a PID namespace an ordinary user's processes are its own.
    let escapes: Vec<&&str> =
        escapes.iter().filter(|line| is_contained || !line.contains(&victim.id().to_string())).collect();
    assert!(escapes.is_empty(), "{escapes:#?} in\n{told}");

    let planted = [home.path().join("planted"), state.join("planted"), state.join("artifacts/planted")];
    let plant = planted.iter().chain(&secrets).map(|path| format!("echo x > {}; ", path.display())).collect::<String>();
    bench.app.services.get_mut(&name(WEB)).unwrap().origin =
        folder(Some(&format!("{plant} echo x > ../planted; mv ../app ../other; true")));
    let artifact = bench.web().await;
    assert!(artifact.root.is_dir() && !self::home(&artifact).join("planted").exists());
    assert!(planted.iter().all(|path| !path.exists()));
    assert!(secrets.iter().all(|path| fs::read_to_string(path).unwrap() == "a secret"));

    let positive = [
        "cat \"$HOME/.npmrc\" | grep -q mirror",
        "echo x > \"$TMPDIR/x\"",
        "echo x > /dev/stderr",
        "test -r /etc/passwd",
    ];
    let told = attempts(&mut bench, &positive.map(str::to_owned)).await;
    assert_eq!(told.matches("ESCAPED").count(), positive.len(), "{told}");
}

impl Bench {
    /// What a build said of its cage.
    async fn lacks(&self) -> String {
        self.write("b.txt", "b");
        let (_, said) = self.run().await;
        fs::remove_file(self.source.path().join("b.txt")).unwrap();
        let notes = said.into_iter().filter_map(|one| match one {
            BuildProgress::Note { text, .. } => {
                text.strip_prefix("the cage of this build cannot enforce: ").map(str::to_owned)
            }
            BuildProgress::Phase { .. } | BuildProgress::Line { .. } => None,
        });
        notes.collect::<Vec<_>>().join(", ")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn caged_builds_leave_nothing_that_acts_or_leads_elsewhere() {
    let build = "cp /usr/bin/id id; chmod 6755 id; mkfifo pipe; ln -s /etc/passwd link; ln \"$HOME/kept\" other 2>/dev/null; \
                 echo x > \"$HOME/kept\"; true";
    let mut bench = Bench::new(&[("a.txt", "a")], service(folder(Some(build)), Some("true")));
    bench.web().await;
    bench.write("a.txt", "b");
    let (built, said) = bench.run().await;
    let artifact = built.unwrap().artifacts.remove(&name(WEB)).unwrap();
    let of = |file: &str| fs::symlink_metadata(artifact.root.join(file)).unwrap();
    let own = nix::unistd::geteuid().as_raw();
    assert_eq!((of("id").mode() & 0o7777, of("id").uid()), (0o555, own));
    assert!(of("link").is_symlink() && !artifact.root.join("pipe").exists());
    assert!(format!("{said:?}").contains("app/pipe is a socket, pipe or device"), "{said:?}");
    let kept = bench.state.path().join("cache/homes/local/app/kept");
    assert_eq!(fs::metadata(&kept).unwrap().nlink(), 1, "a later build could write to a sealed artifact");
    bench.app.services.get_mut(&name(WEB)).unwrap().origin = folder(Some("rm -rf ../app; ln -s /etc ../app; true"));
    let (built, _) = bench.run().await;
    if let Ok(built) = built {
        assert!(fs::symlink_metadata(&built.artifacts[&name(WEB)].root).unwrap().is_dir());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn caged_builds_find_what_earlier_ones_kept() {
    let build = "cat \"$HOME/kept\" \"$BOWLINE_BUILD_CACHE/kept\" > before 2>/dev/null; for d in \"$HOME\" \"$BOWLINE_BUILD_CACHE\"; do \
                 echo x >> \"$d/kept\"; done; true";
    let bench = Bench::new(&[("a.txt", "a")], service(folder(Some(build)), Some("true")));
    let before = |artifact: Artifact| fs::read_to_string(artifact.root.join("before")).unwrap();
    assert_eq!(before(bench.web().await), "");
    bench.write("a.txt", "b");
    assert_eq!(before(bench.web().await), "x\nx\n");
}

#[tokio::test]
async fn caged_builds_are_refused_where_a_required_cage_is_not_whole() {
    let mut bench = Bench::new(&[("a.txt", "a")], service(folder(Some("true")), Some("true")));
    bench.namespaces = false;
    assert!(bench.lacks().await.contains("process isolation"));
    bench.app.services.get_mut(&name(WEB)).unwrap().cage = Cage::Required;
    says(
        &bench.fault().await,
        &["cannot enforce the cage that the build of service web requires", "process isolation"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn caged_builds_run_out_of_memory_alone() {
    let build = "touch \"$BOWLINE_BUILD_CACHE/begun\"; until [ -e \"$BOWLINE_BUILD_CACHE/go\" ]; do sleep 0.01; done; \
                 head -c 300m /dev/zero | tail -c 299m > /dev/null";
    let bench = Bench::new(&[("a.txt", "a")], service(folder(Some(build)), Some("true")));
    let begun = bench.state.path().join("cache/build/local/app/web/begun");
    let starve = async {
        until("the build begins", || begun.exists()).await;
        let folder = bench.artifacts().into_iter().next().unwrap();
        let group = Membership::of_build(&bench.state.path().join("artifacts").join(folder));
        let bound = group.starve(64 << 20);
        fs::write(begun.with_file_name("go"), "").unwrap();
        bound
    };
    let ((built, _), bound) = tokio::join!(bench.run(), starve);
    if bound {
        says(&built.unwrap_err(), &["ran out of the memory", "of this machine's memory"]);
    }
}
