//! Services whose load says how many instances they have, minutes made seconds.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bowline_load::{Load, Pace, Plan, Target};
use bowline_tests::client::curl;
use bowline_tests::server::Server;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, path, text, wait};
use serde_json::Value;

/// The time of stabilisation, and what a busy machine adds.
const DOWN: Duration = Duration::from_secs(120);

/// What `/slow` does.
const SLEEPS: &str = "time.sleep(0.3)";
const BURNS: &str =
    "until = time.thread_time() + 0.05\n            while time.thread_time() < until:\n                pass";

/// An app with this scale, whose `/slow` takes 300 ms.
fn serving(bowline: &Bowline, name: &str, scale: &str, faster: u32) -> Up {
    serving_slowly(bowline, name, (scale, ""), SLEEPS, faster)
}

/// `keys`: its scale, and more lines of its service.
fn serving_slowly(bowline: &Bowline, name: &str, keys: (&str, &str), slowly: &str, faster: u32) -> Up {
    Up::start(bowline, &slow_app(bowline, name, keys, slowly, faster), SOON)
}

fn slow_app(bowline: &Bowline, name: &str, keys: (&str, &str), slowly: &str, faster: u32) -> PathBuf {
    bowline.scale_faster(faster);
    let folder = bowline.app(name, "plain");
    let path = folder.join("server.py");
    let source = std::fs::read_to_string(&path).expect("a fixture's file");
    let slow = format!(
        "if self.path == \"/slow\":\n            import time\n            {slowly}\n            \
         self.answer(b\"slow\")\n        elif self.path == \"/pid\":"
    );
    assert!(source.contains("if self.path == \"/pid\":"), "the fixture is as it was");
    std::fs::write(path, source.replace("if self.path == \"/pid\":", &slow)).expect("a test's file");
    let (scale, more) = keys;
    let toml = format!(
        "[service.web]\nrun = \"python3 server.py\"\nscale = {scale}\n{more}\
         health = {{ path = \"/health\", interval = \"200ms\" }}\n"
    );
    std::fs::write(folder.join("bowline.toml"), toml).expect("a test's file");
    folder
}

/// So many clients, each of which asks again as soon as it has its answer.
fn load(url: &str, ca: &Path, clients: usize, lasts: Duration) -> Load {
    let mut plan = Plan::new(Target::parse(&format!("{}/slow", url.trim_end_matches('/'))).expect("a URL"));
    plan.roots = std::fs::read(ca).expect("the local CA");
    (plan.pace, plan.connections, plan.duration) = (Pace::Closed, clients, lasts);
    Load::start(plan).expect("a load that can be generated")
}

fn service(bowline: &Bowline) -> Value {
    bowline.status()["apps"][0]["services"][0].clone()
}

fn ready(bowline: &Bowline) -> u64 {
    service(bowline)["ready"].as_u64().expect("a number")
}

fn has(bowline: &Bowline, wanted: u64, within: Duration) {
    wait(&format!("{wanted} instances are ready"), within, || {
        let one = service(bowline);
        (one["ready"] == wanted && one["wanted"] == wanted).then_some(())
    });
}

#[test]
fn a_load_ten_times_as_large_is_met_without_a_failed_request_and_given_up_again() {
    let bowline = Bowline::new();
    let up = serving(&bowline, "scale-step", "{ min = 1, max = 4, in_flight = 2 }", 10);
    let (url, ca) = (up.https(), bowline.ca());
    let small = load(&url, &ca, 1, Duration::from_secs(4)).report().expect("the load ends");
    assert_eq!((small.counts.failed, ready(&bowline)), (0, 1));
    let large = load(&url, &ca, 10, Duration::from_secs(3_600));
    has(&bowline, 4, SOON);
    let scale = wait("more are wanted than are allowed", SOON, || {
        let scale = service(&bowline)["scale"].clone();
        (scale["bound"] == "max").then_some(scale)
    });
    assert_eq!(
        (scale["min"].clone(), scale["max"].clone(), scale["in_flight"].clone()),
        (1.into(), 4.into(), 2.into())
    );
    let said = text(&bowline.run(&["status"]));
    assert!(said.contains("web scales 1 to 4: 4 of 4 ready") && said.contains(", 2 each"), "{said}");
    assert!(said.contains("wanted, 4 allowed by the file"), "{said}");
    // In the middle of it, the daemon dies: what it has decided stays.
    bowline.kill_daemon();
    has(&bowline, 4, SOON);
    large.stop();
    let report = large.report().expect("the load ends");
    assert_eq!(report.counts.failed, 0, "{:?}", report.failures);
    let by_hand = bowline.fails(&["scale", "scale-step.web", "2"], 3);
    assert!(by_hand.contains("scaled by its load, between 1 and 4") && by_hand.contains("`min`"), "{by_hand}");
    has(&bowline, 1, DOWN);
    let events = text(&bowline.run(&["events"]));
    assert!(events.contains("web: 1 to ") && events.contains("to 1 instances"), "{events}");
}

#[test]
fn behind_envoy_the_load_says_how_many_there_are_too() {
    let bowline = Bowline::new();
    let folder = slow_app(&bowline, "scale-envoy", ("{ min = 1, max = 3, in_flight = 2 }", ""), SLEEPS, 10);
    let up = Up::start_with(&bowline, &folder, &["--edge", "envoy"], DOWN);
    assert_eq!(ready(&bowline), 1);
    let large = load(&up.https(), &bowline.ca(), 8, Duration::from_secs(3_600));
    has(&bowline, 3, SOON);
    let scale = service(&bowline)["scale"].clone();
    assert_eq!((&scale["max"], &scale["in_flight"]), (&3.into(), &2.into()), "{scale}");
    large.stop();
    let report = large.report().expect("the load ends");
    assert_eq!(report.counts.failed, 0, "{:?}", report.failures);
    has(&bowline, 1, DOWN);
}

/// A fifth of a core is all that one may have: two clients that burn it without end ask for more than one.
#[test]
fn an_app_that_uses_its_processor_time_is_given_company() {
    let bowline = Bowline::new();
    let keys = ("{ min = 1, max = 2, cpu = \"50%\" }", "limits = { cpu = 0.2 }\n");
    let up = serving_slowly(&bowline, "scale-cpu", keys, BURNS, 10);
    wait("this machine says how much processor time the instance has used", SOON, || {
        service(&bowline)["instances"][0]["cpu_us"].as_u64().filter(|used| *used > 0)
    });
    assert_eq!(ready(&bowline), 1);
    let burning = load(&up.https(), &bowline.ca(), 2, Duration::from_secs(3_600));
    let scale = wait("it is scaled by the processor time that it uses", SOON, || {
        let one = service(&bowline);
        (one["ready"] == 2 && one["scale"]["signal"] == "cpu").then(|| one["scale"].clone())
    });
    assert_eq!((&scale["cpu_percent"], &scale["in_flight"]), (&50.into(), &Value::Null), "{scale}");
    let said = text(&bowline.run(&["status"]));
    assert!(
        said.contains("web scales 1 to 2: 2 of 2 ready") && said.contains("% of their cores used, 50% wanted"),
        "{said}"
    );
    let events = text(&bowline.run(&["events"]));
    let told = events.lines().find(|line| line.contains("web: 1 to 2 instances"));
    assert!(told.is_some_and(|told| told.contains("% of their cores used, 50% wanted")), "{events}");
    burning.stop();
    let report = burning.report().expect("the load ends");
    assert_eq!(report.counts.failed, 0, "{:?}", report.failures);
}

#[test]
fn what_rests_is_woken_by_the_first_request_which_is_held_and_answered() {
    let bowline = Bowline::new();
    let up = serving(&bowline, "scale-rest", "{ min = 0, max = 2, in_flight = 5 }", 20);
    let url = up.https();
    let rests = || {
        wait("nothing of it runs", DOWN, || bowline.processes_of("scale-rest").is_empty().then_some(()));
        has(&bowline, 0, SOON);
    };
    assert_eq!(ready(&bowline), 1, "a release shows that it starts");
    rests();
    let said = text(&bowline.run(&["status"]));
    assert!(said.contains("web scales 0 to 2: 0 of 0 ready; nobody asks for it"), "{said}");
    let body = bowline.folder("scale-rest-body").join("body");
    std::fs::write(&body, vec![b'x'; 3 << 20]).expect("a test's file");
    let answer = curl(&bowline.ca(), &url, &["-T", body.to_str().expect("UTF-8")]);
    assert!(answer.text().ends_with(&(3 << 20).to_string()), "{}", answer.text());
    assert_eq!(ready(&bowline), 1);
    let labels = "app=\"scale-rest\",env=\"local\",service=\"web\"";
    wait("metrics say that one was held", SOON, || {
        let metrics = curl(&bowline.ca(), &format!("{}/metrics", up.admin()), &[]).text();
        let says = |name: &str, value| metrics.contains(&format!("{name}{{{labels}}} {value}.0\n"));
        let held = says("bowline_holds_total", 1) && says("bowline_held_requests", 0);
        (held && says("bowline_scaler_desired_instances", 1)).then_some(())
    });
    rests();
    bowline.kill_daemon();
    has(&bowline, 0, SOON);
    let many = load(&url, &bowline.ca(), 8, Duration::from_secs(4)).report().expect("the load ends");
    assert_eq!(many.counts.failed, 0, "{:?}", many.failures);
    assert!(many.counts.succeeded >= 8);
}

/// Both releases are started at once, and the new one is ready long before the one that somebody has let serve.
#[test]
fn the_next_release_of_what_rests_answers_nobody_before_it_is_let() {
    let bowline = Bowline::new();
    bowline.scale_faster(20);
    let _server = Server::start(&bowline);
    let folder = bowline.app("scale-release", "plain");
    let toml = "[service.web]\nrun = \"python3 server.py\"\nscale = { min = 0, max = 2, in_flight = 5 }\n\
                health = { path = \"/health\", interval = \"200ms\" }\n[route.main]\nto = \"web\"\n\
                [rollout]\nstrategy = \"blue-green\"\nwatch = \"0s\"\n\
                [environment.production]\nroute.main.hosts = [\"scale-release.localhost\"]\n";
    std::fs::write(folder.join("bowline.toml"), toml).expect("a test's file");
    let quick = std::fs::read_to_string(folder.join("server.py")).expect("a fixture's file");
    let changed = |from: &str, to: &str| {
        assert!(quick.contains(from), "the fixture is as it was");
        std::fs::write(folder.join("server.py"), quick.replace(from, to)).expect("a test's file");
    };
    let starts = "if __name__ == \"__main__\":\n";
    changed(starts, &format!("{starts}    import time\n    time.sleep(6)\n"));
    let deploy = ["deploy", path(&folder), "--env", "production"];
    let first = bowline.run(&deploy);
    assert!(first.status.success(), "{}", text(&first));
    let https = bowline.status()["edge"]["https"].as_str().expect("an address").to_owned();
    let url = format!("https://scale-release.localhost:{}/", https.rsplit(':').next().expect("a port"));
    let runs = || !bowline.processes_of("scale-release").is_empty();
    wait("nothing of it runs", DOWN, || (!runs()).then_some(()));
    changed("b\"hello from \"", "b\"second, hello from \"");
    let deploying =
        bowline.command(&deploy).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    wait("both are started", SOON, || runs().then_some(()));
    let ask = |more: &[&str]| curl(&bowline.ca(), &url, more).text();
    let waits = || bowline.status()["apps"][0]["change"]["waits_on"].to_string();
    let mut asked = 0;
    wait("it asks for a look", SOON, || {
        let answer = ask(&[]);
        assert!(answer.starts_with("hello from "), "after {asked} others: {answer}; {}", waits());
        asked += 1;
        waits().contains("bowline promote").then_some(())
    });
    assert!(ask(&["-H", "x-bowline-preview: 2"]).starts_with("second, "));
    assert!(ask(&[]).starts_with("hello from "));
    let promoted = bowline.run(&["promote", "scale-release", "--env", "production"]);
    assert!(promoted.status.success(), "{}", text(&promoted));
    assert!(ask(&[]).starts_with("second, "));
    let output = deploying.wait_with_output().expect("it was started");
    assert!(output.status.success(), "{}", text(&output));
}
