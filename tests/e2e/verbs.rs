//! The verbs: their answers for people and for programs.

use std::os::unix::fs::PermissionsExt;

use bowline_tests::client::curl;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, machine, text};

#[test]
fn version_schema_and_completions_need_no_daemon() {
    let bowline = Bowline::new();
    assert!(text(&bowline.run(&["version"])).starts_with("bowline "));
    assert_eq!(bowline.json(&["version"])["api"][0], 1);
    let schema: serde_json::Value = serde_json::from_slice(&bowline.run(&["schema"]).stdout).expect("a JSON Schema");
    assert!(schema["properties"]["service"].is_object(), "{schema}");
    let completions = text(&bowline.run(&["completions", "bash"]));
    assert!(completions.contains("_bowline"), "{completions}");
}

#[test]
fn without_a_daemon_the_client_says_so() {
    let bowline = Bowline::new();
    for args in [["status"].as_slice(), &["logs"], &["events"], &["down"], &["down", "shop"]] {
        let said = bowline.fails(args, 4);
        assert!(said.contains("error:") && said.contains("hint:"), "{said}");
    }
}

#[test]
fn wrong_words_are_exit_code_2() {
    let bowline = Bowline::new();
    assert!(bowline.fails(&["upp"], 2).contains("up"));
    bowline.fails(&["secret", "set", "No", "x"], 2);
    bowline.fails(&["up", "/no/such/folder"], 2);
}

#[test]
fn status_and_logs_show_what_runs() {
    let bowline = Bowline::new();
    let folder = bowline.app("verbs-status", "plain");
    let up = Up::start(&bowline, &folder, SOON);
    curl(&bowline.ca(), &format!("{}/marker-path", up.https()), &[]);
    let status = bowline.status();
    let app = &status["apps"][0];
    assert_eq!((&app["app"], &app["state"], &app["release"]), (&"verbs-status".into(), &"ready".into(), &1.into()));
    assert_eq!(app["services"][0]["instances"][0]["state"], "ready");
    let human = text(&bowline.run(&["status"]));
    for words in ["local/verbs-status", "ready", "web.0"] {
        assert!(human.contains(words), "{words:?} in:\n{human}");
    }
    up.line("the request in the log", SOON, |l| l["line"]["text"].as_str().is_some_and(|t| t.contains("marker-path")));
    let logs = text(&bowline.run(&["logs", "--grep", "marker-p.th"]));
    assert!(logs.contains("GET /marker-path"), "{logs}");
    assert!(!logs.contains("listening"), "only what matches: {logs}");
    let said = bowline.fails(&["logs", "--grep", "(open"], 2);
    assert!(said.contains("error:") && said.contains("hint:"), "{said}");
    let events = text(&bowline.run(&["events"]));
    assert!(events.contains("verbs-status"), "{events}");
    let access = bowline_tests::wait("the access log", SOON, || {
        let logs = text(&bowline.run(&["logs", "--access", "--grep", "\"status\":200"]));
        logs.contains("marker-path").then_some(logs)
    });
    assert!(access.contains("verbs-status"), "{access}");
}

#[test]
fn a_secret_reaches_the_app_and_nothing_else() {
    const CANARY: &str = "canary-4f1c8e-secret-value";
    let bowline = Bowline::new();
    let folder = bowline.app("verbs-secret", "plain");
    let toml = "[service.web]\nrun = \"python3 server.py\"\n[env]\nAPI_TOKEN = { secret = \"api-token\" }\nGREETING = \"hi\"\n";
    std::fs::write(folder.join("bowline.toml"), toml).expect("a test's file");
    let value = bowline.folder("values").join("token");
    std::fs::write(&value, format!("{CANARY}\n")).expect("a test's file");
    let file = value.to_str().expect("UTF-8");
    let set = bowline.run(&["secret", "set", "verbs-secret", "api-token", "--file", file]);
    assert!(set.status.success(), "before any daemon runs: {}", text(&set));
    std::fs::remove_file(&value).expect("a test's file");
    let up = Up::start(&bowline, &folder, SOON);
    let env = curl(&bowline.ca(), &format!("{}/env", up.https()), &[]).text();
    assert!(env.contains(&format!("API_TOKEN={CANARY}")) && env.contains("GREETING=hi"), "{env}");
    let listed = text(&bowline.run(&["secret", "list", "verbs-secret"]));
    assert!(listed.contains("api-token") && !listed.contains(CANARY), "{listed}");
    for args in [["status"].as_slice(), &["logs"], &["events"], &["secret", "list", "verbs-secret"]] {
        assert!(!bowline.json_text(args).contains(CANARY), "{args:?} shows the secret");
    }
    let metrics = bowline_tests::wait("the request is counted", SOON, || {
        let metrics = curl(&bowline.ca(), &format!("{}/metrics", up.admin()), &[]).text();
        metrics.contains("http_server_request_duration_seconds_bucket{").then_some(metrics)
    });
    assert!(!metrics.contains(CANARY));
    for process in machine::processes() {
        assert!(!process.arguments().join(" ").contains(CANARY), "in the arguments of {process:?}");
    }
    let holders = bowline.files_with(CANARY.as_bytes());
    assert!(holders.is_empty(), "on disk: {holders:?}");
    assert!(up.interrupt().success());
    let holders = bowline.files_with(CANARY.as_bytes());
    assert!(holders.is_empty(), "on disk after the end: {holders:?}");
}

/// What the daemon writes, but not the trees that instances, their users and the edge are given.
#[test]
fn nobody_else_can_read_the_state() {
    let bowline = Bowline::new();
    let folder = bowline.app("verbs-modes", "plain");
    let up = Up::start(&bowline, &folder, SOON);
    curl(&bowline.ca(), &up.https(), &[]);
    let value = bowline.folder("values").join("token");
    std::fs::write(&value, "x").expect("a test's file");
    let file = value.to_str().expect("UTF-8");
    assert!(bowline.run(&["secret", "set", "verbs-modes", "api-token", "--file", file]).status.success());
    let given = ["artifacts", "bin", "cache", "instances", "volumes"];
    let (mut open, mut seen) = (Vec::new(), Vec::new());
    let mut folders = vec![bowline.state()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the state") {
            let entry = entry.expect("an entry");
            let (name, meta) = (entry.file_name().into_string().expect("UTF-8"), entry.metadata().expect("there"));
            if meta.is_dir() {
                folders.extend((!given.contains(&name.as_str())).then(|| entry.path()));
            } else if meta.permissions().mode() & 0o007 != 0 {
                open.push(entry.path());
            }
            seen.push(name);
        }
    }
    assert!(open.is_empty(), "others can read {open:?}");
    for name in
        ["store.db", "store.db-wal", "store.head", "master.key", "lock", "daemon.json", "daemon.log", "web.r1.0.log"]
    {
        assert!(seen.iter().any(|s| s == name), "{name} in {seen:?}");
    }
}

#[test]
fn two_apps_share_a_daemon_and_the_last_stops_it() {
    let bowline = Bowline::new();
    let first = Up::start(&bowline, &bowline.app("verbs-one", "plain"), SOON);
    let second = Up::start(&bowline, &bowline.app("verbs-two", "plain"), SOON);
    assert_eq!(curl(&bowline.ca(), &first.https(), &[]).status, 200);
    assert!(first.interrupt().success());
    assert!(bowline.processes_of("verbs-one").is_empty());
    assert_eq!(curl(&bowline.ca(), &second.https(), &[]).status, 200, "the other goes on");
    let edge = machine::Process { pid: bowline.edge() };
    assert!(second.interrupt().success());
    assert!(!bowline.state().join("daemon.json").exists(), "the last one stops the daemon");
    bowline_tests::wait("the edge is stopped, too", SOON, || (!edge.runs()).then_some(()));
}

#[test]
fn an_app_that_ran_before_goes_on_when_a_follower_leaves() {
    let bowline = Bowline::new();
    let folder = bowline.app("verbs-follow", "plain");
    let path = folder.to_str().expect("UTF-8");
    let first = bowline.run(&["up", path, "--detach", "--http", "0", "--https", "0", "--admin", "0"]);
    assert!(first.status.success(), "{}", text(&first));
    let follower = Up::start(&bowline, &folder, SOON);
    let url = follower.https();
    assert!(follower.interrupt().success());
    assert_eq!(curl(&bowline.ca(), &url, &[]).status, 200, "it goes on");
}

#[test]
fn a_follower_ends_when_its_app_is_stopped_from_elsewhere() {
    let bowline = Bowline::new();
    let folder = bowline.app("verbs-watched", "plain");
    let first = Up::start(&bowline, &folder, SOON);
    let follower = Up::start(&bowline, &folder, SOON);
    // It keeps the daemon, and with it the follower's stream of lines.
    let _other = Up::start(&bowline, &bowline.app("verbs-keeper", "plain"), SOON);
    assert!(first.interrupt().success());
    assert!(follower.ended(SOON).success());
}

/// A command that comes in the middle of the end waits, or says that nobody is there; it never begins anew.
#[test]
fn commands_during_the_end_bring_no_daemon_back() {
    let bowline = Bowline::new();
    let folder = bowline.app("verbs-ending", "plain");
    let path = folder.to_str().expect("UTF-8");
    for _ in 0..3 {
        let up = bowline.run(&["up", path, "--detach", "--http", "0", "--https", "0", "--admin", "0"]);
        assert!(up.status.success(), "{}", text(&up));
        let (daemon, edge) = (machine::Process { pid: bowline.daemon() }, machine::Process { pid: bowline.edge() });
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    let status = bowline.run(&["status"]);
                    assert!(matches!(status.status.code(), Some(0 | 4)), "{}", text(&status));
                }
            });
            let down = bowline.run(&["down"]);
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(down.status.success(), "{}", text(&down));
        });
        assert!(!bowline.state().join("daemon.json").exists(), "no daemon is meant to run");
        assert!(!daemon.runs() && !edge.runs() && bowline.processes_of("verbs-ending").is_empty());
        bowline.fails(&["status"], 4);
    }
}

/// The end of one command and the beginning of the next: the second waits for the first, and starts a daemon.
#[test]
fn an_up_right_after_the_end_starts_anew() {
    let bowline = Bowline::new();
    let folder = bowline.app("verbs-anew", "plain");
    let path = folder.to_str().expect("UTF-8");
    let args = ["up", path, "--detach", "--http", "0", "--https", "0", "--admin", "0"];
    assert!(bowline.run(&args).status.success());
    std::thread::scope(|scope| {
        let down = scope.spawn(|| bowline.run(&["down"]));
        bowline_tests::wait("the daemon ends", SOON, || (!bowline.state().join("daemon.json").exists()).then_some(()));
        let up = bowline.run(&args);
        assert!(up.status.success(), "{}", text(&up));
        let down = down.join().expect("no panic");
        assert!(down.status.success(), "{}", text(&down));
    });
    assert_eq!(bowline.status()["apps"][0]["state"], "ready");
}

#[test]
fn a_site_is_built_with_its_variables_and_without_its_secrets() {
    let bowline = Bowline::new();
    let folder = bowline.folder("verbs-site");
    let toml = |title: &str| {
        format!(
            "[service.web]\nbuild = \"mkdir out; env > out/index.html\"\nstatic = {{ dir = \"out\" }}\n\
             [env]\nSITE_TITLE = \"{title}\"\nSITE_KEY = {{ secret = \"key\" }}\n[secret.key]\ngenerate = true\n"
        )
    };
    std::fs::write(folder.join("bowline.toml"), toml("first")).expect("a test's file");
    let up = Up::start(&bowline, &folder, SOON);
    let page = || curl(&bowline.ca(), &up.https(), &[]).text();
    assert!(page().contains("SITE_TITLE=first") && !page().contains("SITE_KEY"), "{}", page());
    std::fs::write(folder.join("bowline.toml"), toml("second")).expect("a test's file");
    let again = bowline.run(&["up", folder.to_str().expect("UTF-8"), "--detach"]);
    assert!(again.status.success() && page().contains("SITE_TITLE=second"), "{}", text(&again));
}

#[test]
fn metrics_have_the_names_of_the_field() {
    let bowline = Bowline::new();
    let up = Up::start(&bowline, &bowline.app("verbs-metrics", "plain"), SOON);
    for _ in 0..5 {
        curl(&bowline.ca(), &up.https(), &[]);
    }
    let metrics = bowline_tests::wait("five requests are counted", SOON, || {
        let text = curl(&bowline.ca(), &format!("{}/metrics", up.admin()), &[]).text();
        let count = text.lines().find(|l| {
            l.starts_with("http_server_request_duration_seconds_count{")
                && l.contains("http_response_status_code=\"200\"")
        })?;
        (count.rsplit(' ').next()? == "5").then_some(text)
    });
    for label in [
        "app=\"verbs-metrics\"",
        "env=\"local\"",
        "service=\"web\"",
        "release=\"1\"",
        "http_request_method=\"GET\"",
        "http_route=\"/\"",
    ] {
        assert!(metrics.contains(label), "{label}");
    }
    for name in [
        "bowline_instance_memory_bytes",
        "bowline_instance_cpu_seconds_total",
        "bowline_instance_restarts_total",
        "http_server_active_requests{",
    ] {
        assert!(metrics.contains(name), "{name}");
    }
}

/// Another one goes on. It stays stopped whatever dies, and starts when its folder is brought out again.
#[test]
fn one_app_is_stopped_and_stays_so() {
    let bowline = Bowline::new();
    let folders = ["verbs-one", "verbs-other"].map(|name| bowline.app(name, "plain"));
    let [one, other] = folders.each_ref().map(|folder| folder.to_str().expect("UTF-8"));
    let up = |args: &[&str]| {
        let output = bowline.run(&[&["up", "--detach"], args].concat());
        assert!(output.status.success(), "{}", text(&output));
    };
    up(&[one, "--http", "0", "--https", "0", "--admin", "0"]);
    up(&[other]);
    let states = || {
        let status = bowline.status();
        ["verbs-one", "verbs-other"].map(|name| {
            let app = status["apps"].as_array().into_iter().flatten().find(|app| app["app"] == name);
            app.and_then(|app| app["state"].as_str()).unwrap_or_default().to_owned()
        })
    };
    let down = bowline.run(&["down", "verbs-one"]);
    assert!(down.status.success() && text(&down).contains("start it again: bowline up"), "{}", text(&down));
    assert_eq!(states(), ["stopped", "ready"]);
    assert!(bowline.processes_of("verbs-one").is_empty());
    bowline.kill_daemon();
    bowline_tests::wait("the other one is ready", SOON, || (states()[1] == "ready").then_some(()));
    assert_eq!(states()[0], "stopped", "whatever dies");
    assert!(bowline.processes_of("verbs-one").is_empty());
    up(&[one]);
    assert_eq!(states(), ["ready", "ready"]);
}
