//! `--to kubernetes`: the real binary on a real API server, whose controllers and scheduler do the rest.

mod images;
mod inside;
mod leads;
mod logs;
mod operated;
mod plan;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::Instant;

use bowline_tests::cluster::Cluster;
use bowline_tests::cluster::api::MERGE;
use bowline_tests::kubelet::Fate;
use bowline_tests::port::Port;
use bowline_tests::{Bowline, SOON, path, root, text, wait};
use serde_json::{Value, json};

const EXAMPLES: [&str; 5] = ["board", "hello", "timestamps", "uploads", "users"];

/// One for all tests here: it has what examples need beside Kubernetes.
fn cluster() -> &'static Cluster {
    static ONE: LazyLock<Cluster> = LazyLock::new(|| {
        let cluster = Cluster::start();
        // Certificates; the Gateway API is what one of these tests finds lacking.
        cluster.define("cert-manager");
        let class = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": { "name": "nginx" },
            "spec": { "controller": "k8s.io/ingress-nginx" },
        });
        cluster.admin.create("/apis/networking.k8s.io/v1/ingressclasses", &class).done();
        cluster
    });
    &ONE
}

/// Somebody, in a namespace.
struct Who {
    bowline: Bowline,
    config: PathBuf,
    to: String,
}

impl Who {
    fn admin(namespace: &str) -> Self {
        Self::of("admin", Some("system:masters"), namespace)
    }

    fn of(name: &str, group: Option<&str>, namespace: &str) -> Self {
        Self::at(cluster(), (name, group), namespace)
    }

    fn at(cluster: &Cluster, (name, group): (&str, Option<&str>), namespace: &str) -> Self {
        let config = cluster.config(name, group, namespace);
        Self { bowline: Bowline::new(), config, to: format!("kubernetes:tests/{namespace}") }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.bowline.command(&[&["--to", &self.to], args].concat());
        // Nobody's logins are the caller's.
        command.env("KUBECONFIG", &self.config).env("DOCKER_CONFIG", self.bowline.folder("docker"));
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary runs")
    }

    fn does(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        text(&output)
    }

    fn fails(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output));
        text(&output)
    }

    /// The last object that was printed for programs.
    fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[&["--json"], args].concat());
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        serde_json::from_str(stdout.lines().last().expect("an object")).expect("JSON")
    }
}

/// A command that goes on, and what it says.
struct Goes {
    child: Child,
    lines: mpsc::Receiver<String>,
    all: String,
}

impl Goes {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary runs");
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            // Whoever has stopped listening wants no more of it.
            BufReader::new(stdout).lines().map_while(Result::ok).all(|line| sender.send(line).is_ok());
        });
        Self { child, lines, all: String::new() }
    }

    /// Until it says this.
    fn says(&mut self, words: &str) {
        // Its first words come after all that it looks at.
        let deadline = Instant::now() + if self.all.is_empty() { SOON * 3 } else { SOON };
        loop {
            let line = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|error| panic!("it has not said {words:?}: {error}\n{}", self.all));
            self.all.push_str(&format!("{line}\n"));
            if line.contains(words) {
                return;
            }
        }
    }

    fn interrupt(&self) {
        let told = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(told.expect("it is there").success());
    }

    fn ends(mut self, code: i32) -> String {
        let status = wait("it ends", SOON, || self.child.try_wait().expect("it can be waited for"));
        let rest: String = self.lines.iter().map(|line| format!("{line}\n")).collect();
        let all = format!("{}{rest}", self.all);
        assert_eq!(status.code(), Some(code), "{all}");
        all
    }
}

impl Drop for Goes {
    fn drop(&mut self) {
        // A test that has failed leaves nobody behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An example, whose environment `production` is a cluster.
fn example(bowline: &Bowline, name: &str) -> PathBuf {
    let folder = bowline.folder(name);
    let from = root().join("examples").join(name);
    let toml = std::fs::read_to_string(from.join("bowline.toml")).expect("an example's file");
    std::fs::write(folder.join("bowline.toml"), toml).expect("a test's file");
    if from.join("source/init.sql").exists() {
        std::fs::create_dir_all(folder.join("source")).expect("a folder of a test");
        std::fs::copy(from.join("source/init.sql"), folder.join("source/init.sql")).expect("a test's file");
    }
    folder
}

/// A registry that is not there, on this machine alone.
fn nowhere() -> String {
    static CLOSED: LazyLock<Port> = LazyLock::new(Port::reserve);
    format!("127.0.0.1:{}", CLOSED.number)
}

/// Of nothing that was built: the kubelet of the tests pulls none.
fn image(service: &str, digit: &str) -> String {
    format!("{service}={}/acme/{}@sha256:{}", nowhere(), service.replace('.', "-"), digit.repeat(64))
}

/// What `deploy` is told of an example.
fn deploy(folder: &Path, name: &str, digit: &str) -> Vec<String> {
    let mut args = vec!["deploy".to_owned(), path(folder).to_owned(), "--env".to_owned(), "production".to_owned()];
    let database = match name {
        "users" => Some("postgres.db"),
        "timestamps" => Some("redis.cache"),
        _ => None,
    };
    for service in ["web"].into_iter().chain(database) {
        args.extend(["--image".to_owned(), image(service, digit)]);
    }
    args
}

fn words(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

fn edit(folder: &Path, was: &str, is: &str) {
    let file = folder.join("bowline.toml");
    let toml = std::fs::read_to_string(&file).expect("a test's file");
    assert!(toml.contains(was), "{was}");
    std::fs::write(file, toml.replace(was, is)).expect("a test's file");
}

fn deployment(namespace: &str, name: &str) -> Value {
    cluster().admin.get(&format!("/apis/apps/v1/namespaces/{namespace}/deployments/{name}")).done()
}

fn image_of(deployment: &Value) -> String {
    deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str().expect("an image").to_owned()
}

/// What the record of a release says.
fn unpacked(record: &Value) -> Option<String> {
    use base64::Engine;
    let packed = base64::prelude::BASE64_STANDARD.decode(record["binaryData"]["release"].as_str()?).expect("base64");
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text).expect("it is packed text");
    Some(text)
}

/// What the server counts changes of, of all that is applied there: by generation, and of kinds that have none by each write where nobody else
/// writes; of a scaler, whose status others write, what it is to be.
fn generations(namespace: &str) -> Vec<(Value, Value)> {
    let kinds = [
        ("apis/apps/v1/{}/deployments", "/metadata/generation"),
        ("apis/apps/v1/{}/statefulsets", "/metadata/generation"),
        ("apis/autoscaling/v2/{}/horizontalpodautoscalers", "/spec"),
        ("apis/batch/v1/{}/cronjobs", "/metadata/generation"),
        ("apis/networking.k8s.io/v1/{}/ingresses", "/metadata/generation"),
        ("apis/networking.k8s.io/v1/{}/networkpolicies", "/metadata/generation"),
        ("apis/policy/v1/{}/poddisruptionbudgets", "/metadata/generation"),
        ("apis/cert-manager.io/v1/{}/certificates", "/metadata/generation"),
        ("api/v1/{}/configmaps", "/metadata/resourceVersion"),
        ("api/v1/{}/persistentvolumeclaims", "/metadata/resourceVersion"),
        ("api/v1/{}/serviceaccounts", "/metadata/resourceVersion"),
        ("api/v1/{}/services", "/metadata/resourceVersion"),
    ];
    let all = kinds.map(|(kind, counted)| {
        let path = format!("/{}", kind.replace("{}", &format!("namespaces/{namespace}")));
        let mut items = cluster().admin.get(&path).done()["items"].as_array().expect("a list").clone();
        // Whoever brings something out says so in the record of its release.
        items.retain(|one| one["metadata"]["labels"]["bowline.dev/record"].is_null());
        let count = |one: &Value| (one["metadata"]["name"].clone(), one.pointer(counted).cloned().unwrap_or_default());
        let counted: Vec<_> = items.iter().map(count).collect();
        assert!(counted.iter().all(|(_, count)| !count.is_null()), "{path}: {counted:?}");
        counted
    });
    all.concat()
}

/// Takes something out of the file of an example that has an object of its own; says what that is and where it lies.
fn shrink(folder: &Path, name: &str) -> (String, String) {
    let namespace = format!("namespaces/five-{name}");
    if name == "hello" {
        edit(folder, "scale = 2\n", "scale = 1\n");
        return (
            "PodDisruptionBudget/hello-web".to_owned(),
            format!("/apis/policy/v1/{namespace}/poddisruptionbudgets/hello-web"),
        );
    }
    edit(folder, "[route.metrics]\npath = \"/metrics\"\ndeny = true\n", "");
    edit(folder, &format!("[environment.production.route.metrics]\nhosts = [\"{name}.example.com\"]\n"), "");
    (format!("Ingress/{name}-metrics"), format!("/apis/networking.k8s.io/v1/{namespace}/ingresses/{name}-metrics"))
}

/// One of them, from its first release to the way back from its second.
fn lives(name: &str) {
    let namespace = format!("five-{name}");
    let admin = &cluster().admin;
    cluster().namespace(&namespace, "restricted");
    let who = Who::admin(&namespace);
    let folder = example(&who.bowline, name);
    let first = deploy(&folder, name, "1");
    let said = who.does(&words(&first));
    assert!(said.contains("serves: release 1"), "{said}");
    let before = generations(&namespace);
    assert!(before.len() >= 3, "{before:?}");
    let said = who.does(&words(&first));
    assert!(said.contains("serves: release 1, nothing of it has changed"), "{said}");
    let said = who.does(&plan::plan(&first));
    assert!(said.contains(&format!("nothing changes: release 1 goes on in kubernetes:tests/{namespace}")), "{said}");
    assert_eq!(generations(&namespace), before);
    let web = || deployment(&namespace, &format!("{name}-web"));
    let runs = |digit: &str| {
        let web = web();
        assert!(image_of(&web).ends_with(&digit.repeat(64)), "{web}");
        assert_eq!(web["status"]["availableReplicas"], web["spec"]["replicas"], "{name}");
    };
    runs("1");

    // Another image and less of the file; and somebody has set what the release sets.
    let (gone, at) = shrink(&folder, name);
    admin.get(&at).done();
    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/{name}-web?fieldManager=somebody");
    let patience = web()["spec"]["progressDeadlineSeconds"].as_u64().expect("how long it may take");
    let change = json!({ "spec": { "progressDeadlineSeconds": patience + 1 } });
    admin.ask("PATCH", &path, MERGE, &change).done();
    let mut second = deploy(&folder, name, "2");
    let said = who.fails(&words(&second), 3);
    let conflict = format!("Deployment/{name}-web: spec.progressDeadlineSeconds is set by somebody");
    assert!(said.contains(&conflict) && said.contains("nothing was applied"), "{said}");
    runs("1");
    admin.get(&at).done();
    second.push("--take-over".to_owned());
    let said = who.does(&words(&second));
    assert!(said.contains("serves: release 2") && said.contains(&format!("removed {gone}")), "{said}");
    assert_eq!(admin.get(&at).status, 404, "{gone}");
    assert_eq!(web()["spec"]["progressDeadlineSeconds"], patience);
    runs("2");

    let said = who.does(&["rollback", name, "--env", "production"]);
    assert!(said.contains("release 1 serves again"), "{said}");
    admin.get(&at).done();
    runs("1");
}

#[test]
fn kubernetes_five_systems_come_out_under_the_strictest_standard_and_again_without_a_change() {
    // Each in a namespace of its own, and most of it is waiting.
    std::thread::scope(|scope| {
        let all = EXAMPLES.map(|name| (name, scope.spawn(move || lives(name))));
        for (name, one) in all {
            assert!(one.join().is_ok(), "{name}: what it was is above");
        }
    });
}

#[test]
fn kubernetes_a_release_takes_over_is_pruned_behind_and_goes_back() {
    cluster().namespace("story", "restricted");
    let (who, admin) = (Who::admin("story"), &cluster().admin);
    let folder = example(&who.bowline, "hello");
    who.does(&words(&deploy(&folder, "hello", "1")));
    let budget = "/apis/policy/v1/namespaces/story/poddisruptionbudgets/hello-web";
    admin.get(budget).done();

    // What others have set is theirs until it is taken from them.
    let scaled = json!({ "spec": { "replicas": 3 } });
    let path = "/apis/apps/v1/namespaces/story/deployments/hello-web";
    admin.ask("PATCH", &format!("{path}?fieldManager=somebody"), MERGE, &scaled).done();
    let second = deploy(&folder, "hello", "2");
    let said = who.fails(&words(&second), 3);
    assert!(said.contains("Deployment/hello-web: spec.replicas is set by somebody"), "{said}");
    assert!(said.contains("nothing was applied") && said.contains("--take-over"), "{said}");
    assert!(image_of(&deployment("story", "hello-web")).ends_with(&"1".repeat(64)));
    let mut takes = words(&second);
    takes.push("--take-over");
    let said = who.does(&takes);
    assert!(said.contains("serves: release 2"), "{said}");
    assert_eq!(deployment("story", "hello-web")["spec"]["replicas"], 2);

    // What nobody of us made stays, whatever its labels say.
    let labels = json!({ "app.kubernetes.io/managed-by": "bowline", "bowline.dev/app": "hello", "bowline.dev/env": "production" });
    let foreign =
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "foreign", "labels": labels } });
    admin.create("/api/v1/namespaces/story/configmaps", &foreign).done();
    edit(&folder, "scale = 2\n", "scale = 1\n");
    edit(&folder, "LOG_LEVEL = \"info\"", "LOG_LEVEL = \"debug\"");
    let said = who.does(&words(&deploy(&folder, "hello", "3")));
    assert!(said.contains("removed PodDisruptionBudget/hello-web"), "{said}");
    assert_eq!(admin.get(budget).status, 404);
    // Pods of jobs that begin or end now are given what they were told: it stays as long as its release is known.
    let maps = admin.get("/api/v1/namespaces/story/configmaps").done();
    let names = maps["items"].as_array().expect("a list").iter().filter_map(|map| map["metadata"]["name"].as_str());
    assert_eq!(names.filter(|name| name.starts_with("hello-web-")).count(), 2, "{maps}");
    admin.get("/api/v1/namespaces/story/configmaps/foreign").done();

    let said = who.does(&["rollback", "hello", "--env", "production"]);
    assert!(said.contains("release 2 serves again"), "{said}");
    let back = deployment("story", "hello-web");
    assert!(image_of(&back).ends_with(&"2".repeat(64)) && back["spec"]["replicas"] == 2, "{back}");
    admin.get(budget).done();
    let releases = who.json(&["releases", "hello", "--env", "production"]);
    let states: Vec<&str> =
        releases["releases"].as_array().expect("releases").iter().filter_map(|one| one["state"].as_str()).collect();
    assert_eq!(states, ["served", "serves", "served"]);
}

#[test]
fn kubernetes_a_release_that_does_not_come_up_is_taken_back() {
    cluster().namespace("taken-back", "restricted");
    let who = Who::admin("taken-back");
    let folder = example(&who.bowline, "hello");
    who.does(&words(&deploy(&folder, "hello", "1")));
    cluster().kubelet.let_pods("taken-back", "hello-web", Fate::ImageMissing, "");
    let said = who.fails(&words(&deploy(&folder, "hello", "2")), 1);
    assert!(said.contains("its image cannot be pulled: Failed to pull image"), "{said}");
    assert!(said.contains("it was taken back, and release 1 serves as before"), "{said}");
    let web = deployment("taken-back", "hello-web");
    assert!(image_of(&web).ends_with(&"1".repeat(64)));
    assert_eq!(web["status"]["availableReplicas"], 2);
    cluster().kubelet.let_pods("taken-back", "hello-web", Fate::Well, "");
    let said = who.fails(&["rollback", "hello", "2", "--env", "production"], 2);
    assert!(said.contains("is not tried again"), "{said}");

    // Of a first release, nothing is left.
    cluster().namespace("first", "restricted");
    let who = Who::admin("first");
    cluster().kubelet.let_pods("first", "hello-web", Fate::Ends(3), "no such file: /data/config");
    let said = who.fails(&words(&deploy(&folder, "hello", "1")), 1);
    assert!(said.contains("it ends again and again: exit code 3"), "{said}");
    assert!(said.contains("no such file: /data/config") && said.contains("nothing served before it"), "{said}");
    let left = cluster().admin.get("/apis/apps/v1/namespaces/first/deployments").done();
    assert_eq!(left["items"], json!([]));
}

#[test]
fn kubernetes_two_who_deploy_are_told_apart_and_what_was_cut_off_is_gone_back_from() {
    cluster().namespace("two", "restricted");
    let (who, admin) = (Who::admin("two"), &cluster().admin);
    let folder = example(&who.bowline, "hello");
    who.does(&words(&deploy(&folder, "hello", "1")));
    let path = "/apis/apps/v1/namespaces/two/deployments/hello-web";
    let comes = |digit: &str| {
        wait("the new release is applied", SOON, || {
            image_of(&deployment("two", "hello-web")).ends_with(&digit.repeat(64)).then_some(())
        });
    };

    cluster().kubelet.let_pods("two", "hello-web", Fate::NeverReady, "");
    let said = std::thread::scope(|scope| {
        let second = scope.spawn(|| who.fails(&words(&deploy(&folder, "hello", "2")), 1));
        comes("2");
        let said = who.fails(&words(&deploy(&folder, "hello", "3")), 1);
        assert!(said.contains("somebody else brings out release 2 of production/hello just now"), "{said}");
        let said = who.fails(&["rollback", "hello", "--env", "production"], 1);
        assert!(said.contains("somebody else brings out release 2"), "{said}");
        let change = json!({ "spec": { "template": { "metadata": { "annotations": { "by": "hand" } } } } });
        admin.ask("PATCH", &format!("{path}?fieldManager=somebody"), MERGE, &change).done();
        second.join().expect("it has ended")
    });
    assert!(said.contains("somebody else has changed Deployment/hello-web while it came up"), "{said}");

    // What was not taken back is gone back from, and what was interrupted.
    cluster().kubelet.let_pods("two", "hello-web", Fate::Well, "");
    let said = who.does(&["rollback", "hello", "--env", "production"]);
    assert!(said.contains("release 1 serves again"), "{said}");
    cluster().kubelet.let_pods("two", "hello-web", Fate::NeverReady, "");
    let third = deploy(&folder, "hello", "3");
    let mut third = who.command(&words(&third)).spawn().expect("the binary runs");
    comes("3");
    let interrupt = Command::new("kill").args(["-INT", &third.id().to_string()]).status();
    assert!(interrupt.expect("it is there").success());
    assert_eq!(third.wait().expect("a child").code(), Some(130));
    cluster().kubelet.let_pods("two", "hello-web", Fate::Well, "");
    let said = who.does(&["rollback", "hello", "1", "--env", "production"]);
    assert!(said.contains("release 1 serves again"), "{said}");
    let web = deployment("two", "hello-web");
    assert!(image_of(&web).ends_with(&"1".repeat(64)) && web["status"]["availableReplicas"] == 2, "{web}");
    let releases = who.json(&["releases", "hello", "--env", "production"]);
    let states: Vec<&str> =
        releases["releases"].as_array().expect("releases").iter().filter_map(|one| one["state"].as_str()).collect();
    assert_eq!(states, ["serves", "rejected", "rejected"]);
}

#[test]
fn kubernetes_as_many_run_when_the_load_begins_to_say_how_many() {
    cluster().namespace("range", "restricted");
    let who = Who::admin("range");
    let folder = example(&who.bowline, "hello");
    edit(&folder, "scale = 2\n", "scale = 3\n");
    let said = who.does(&words(&deploy(&folder, "hello", "1")));
    assert!(!said.contains("metrics server"), "nothing of it goes by the load: {said}");
    edit(&folder, "scale = 3\n", "scale = { min = 2, max = 5, cpu = \"70%\" }\n");
    edit(&folder, "memory = \"64MiB\" }", "memory = \"64MiB\", cpu = 0.5 }");
    let said = who.does(&words(&deploy(&folder, "hello", "2")));
    assert_eq!(deployment("range", "hello-web")["spec"]["replicas"], 3);
    // Nothing measures the load here, which keeps nobody from a release.
    assert!(said.contains("it has no metrics server: web keeps its least number of instances"), "{said}");
    assert!(said.contains("install the metrics server (https://"), "{said}");
    // As the load says it; the way back to a number takes it from nobody but the load.
    let scale = json!({ "spec": { "replicas": 4 } });
    let path = "/apis/apps/v1/namespaces/range/deployments/hello-web/scale?fieldManager=kube-controller-manager";
    cluster().admin.ask("PATCH", path, MERGE, &scale).done();
    let said = who.does(&["rollback", "hello", "--env", "production"]);
    assert!(said.contains("release 1 serves again"), "{said}");
    assert_eq!(deployment("range", "hello-web")["spec"]["replicas"], 3);
    // What somebody else has set is said to be taken by the flag that there is.
    let path = "/apis/apps/v1/namespaces/range/deployments/hello-web?fieldManager=somebody";
    cluster().admin.ask("PATCH", path, MERGE, &scale).done();
    let said = who.fails(&["scale", "hello.web", "2", "--env", "production"], 3);
    assert!(said.contains("spec.replicas is set by somebody") && said.contains("--take-over"), "{said}");
    who.does(&["scale", "hello.web", "2", "--env", "production", "--take-over"]);
    assert_eq!(deployment("range", "hello-web")["spec"]["replicas"], 2);
}

#[test]
fn kubernetes_a_service_that_scales_by_its_load_is_up_with_its_least_number() {
    cluster().namespace("least", "restricted");
    let who = Who::admin("least");
    let folder = example(&who.bowline, "hello");
    edit(&folder, "scale = 2\n", "scale = { min = 2, max = 5, cpu = \"70%\" }\n");
    edit(&folder, "memory = \"64MiB\" }", "memory = \"64MiB\", cpu = 0.5 }");
    // It begins as one, until the cluster's own controller has looked at its load.
    let said = who.does(&words(&deploy(&folder, "hello", "1")));
    assert!(said.contains("web waits on 1 of 2 ready") && said.contains("serves: release 1"), "{said}");
    assert_eq!(deployment("least", "hello-web")["status"]["availableReplicas"], 2);
}

#[test]
fn kubernetes_what_runs_before_a_release_runs_once() {
    cluster().namespace("before", "restricted");
    let (who, admin) = (Who::admin("before"), &cluster().admin);
    let folder = example(&who.bowline, "hello");
    let file = folder.join("bowline.toml");
    let toml = std::fs::read_to_string(&file).expect("a test's file");
    std::fs::write(&file, format!("{toml}\n[release]\nbefore = \"bin/migrate\"\n")).expect("a test's file");
    let jobs = || -> Vec<String> {
        let all = admin.get("/apis/batch/v1/namespaces/before/jobs").done();
        let uid = |job: &Value| job["metadata"]["uid"].as_str().map(str::to_owned);
        all["items"].as_array().expect("a list").iter().filter_map(uid).collect()
    };
    who.does(&words(&deploy(&folder, "hello", "1")));
    let first = jobs();
    assert_eq!(first.len(), 1);
    // Another image is another command; the one before is not to run again when its release is brought out again.
    who.does(&words(&deploy(&folder, "hello", "2")));
    assert_eq!(jobs().len(), 2);
    let said = who.does(&words(&deploy(&folder, "hello", "1")));
    assert!(jobs().contains(&first[0]), "it is the same object");
    assert!(said.contains("`release.before` has run already for just this (Job/hello-"), "{said}");
    // Somebody has tidied up.
    let all = admin.get("/apis/batch/v1/namespaces/before/jobs").done();
    for job in all["items"].as_array().expect("a list") {
        let name = job["metadata"]["name"].as_str().expect("a name");
        admin.delete(&format!("/apis/batch/v1/namespaces/before/jobs/{name}?propagationPolicy=Background")).done();
    }
    wait("they are gone", SOON, || jobs().is_empty().then_some(()));
    let said = who.does(&words(&deploy(&folder, "hello", "1")));
    assert!(said.contains("nothing of it has changed") && jobs().is_empty(), "{said}");
}

#[test]
fn kubernetes_a_database_that_does_not_come_up_is_put_back() {
    cluster().namespace("database", "restricted");
    let (who, admin) = (Who::admin("database"), &cluster().admin);
    let folder = example(&who.bowline, "users");
    who.does(&words(&deploy(&folder, "users", "1")));
    let [pod, set] = [
        "/api/v1/namespaces/database/pods/users-postgres-db-0",
        "/apis/apps/v1/namespaces/database/statefulsets/users-postgres-db",
    ];
    let image_of_pod =
        || admin.get(pod).value["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned();
    cluster().kubelet.let_pods("database", "users-postgres-db", Fate::ImageMissing, "");
    let said = std::thread::scope(|scope| {
        let second = scope.spawn(|| who.fails(&words(&deploy(&folder, "users", "2")), 1));
        wait("the new pod is there", SOON, || image_of_pod().ends_with(&"2".repeat(64)).then_some(()));
        // Nothing but its end brings the pod before back: the cluster waits for it for ever.
        wait("it has made way", SOON * 3, || image_of_pod().ends_with(&"1".repeat(64)).then_some(()));
        cluster().kubelet.let_pods("database", "users-postgres-db", Fate::Well, "");
        second.join().expect("it has ended")
    });
    assert!(said.contains("it was taken back, and release 1 serves"), "{said}");
    assert!(image_of(&admin.get(set).done()).ends_with(&"1".repeat(64)));
    wait("it serves", SOON, || (admin.get(set).done()["status"]["readyReplicas"] == 1).then_some(()));
}

#[test]
fn kubernetes_a_disk_that_was_enlarged_is_in_the_way_of_no_release() {
    cluster().namespace("disk", "restricted");
    let (who, admin) = (Who::admin("disk"), &cluster().admin);
    let folder = example(&who.bowline, "users");
    who.does(&words(&deploy(&folder, "users", "1")));
    who.does(&words(&deploy(&folder, "users", "2")));
    let claim = "/api/v1/namespaces/disk/persistentvolumeclaims/users-postgres-db";
    let larger = json!({ "spec": { "resources": { "requests": { "storage": "20Gi" } } } });
    admin.ask("PATCH", &format!("{claim}?fieldManager=kubectl-edit"), MERGE, &larger).done();
    let said = who.does(&words(&deploy(&folder, "users", "3")));
    assert!(said.contains("serves: release 3"), "{said}");
    assert!(said.contains("PersistentVolumeClaim/users-postgres-db keeps its 20Gi: 8Gi is asked for"), "{said}");
    let mut takes = deploy(&folder, "users", "1");
    takes.push("--take-over".to_owned());
    let said = who.does(&words(&takes));
    assert!(said.contains("serves: release 4"), "{said}");
    let said = who.does(&["rollback", "users", "--env", "production"]);
    assert!(said.contains("release 3 serves again"), "{said}");
    // The one that serves may be brought again: a way back that has failed leaves another half there.
    let said = who.does(&["rollback", "users", "3", "--env", "production"]);
    assert!(said.contains("release 3 serves again"), "{said}");
    assert_eq!(admin.get(claim).done()["spec"]["resources"]["requests"]["storage"], "20Gi");
}

#[test]
fn kubernetes_what_is_told_to_an_ingress_controller_goes_by_what_its_class_says_of_it() {
    cluster().namespace("classes", "restricted");
    let (who, admin) = (Who::admin("classes"), &cluster().admin);
    let class = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": { "name": "nginx-public" },
        "spec": { "controller": "traefik.io/ingress-controller" },
    });
    admin.create("/apis/networking.k8s.io/v1/ingressclasses", &class).done();
    let folder = example(&who.bowline, "hello");
    edit(&folder, "ingress_class = \"nginx\"", "ingress_class = \"nginx-public\"");
    let args = deploy(&folder, "hello", "1");
    // Another class is of ingress-nginx: that says nothing of this one.
    let said = who.fails(&words(&args), 2);
    assert!(said.contains("this ingress controller is not known to carry it"), "{said}");
    assert_eq!(admin.get("/apis/apps/v1/namespaces/classes/deployments").done()["items"], json!([]));
    let said = who.does(&words(&[args, ["--api", "ingress-nginx"].map(str::to_owned).into()].concat()));
    assert!(said.contains("serves: release 1"), "{said}");
}

#[test]
fn kubernetes_another_environment_is_not_taken_and_what_was_there_before_stays() {
    cluster().namespace("shared", "restricted");
    let who = Who::admin("shared");
    let folder = example(&who.bowline, "hello");
    who.does(&words(&deploy(&folder, "hello", "1")));
    let toml = std::fs::read_to_string(folder.join("bowline.toml")).expect("a test's file");
    let staging = "[environment.staging]\nkubernetes = { ingress_class = \"nginx\" }\n";
    std::fs::write(folder.join("bowline.toml"), format!("{toml}\n{staging}")).expect("a test's file");
    let mut staging = deploy(&folder, "hello", "2");
    staging[3] = "staging".to_owned();
    staging.push("--take-over".to_owned());
    let said = who.fails(&words(&staging), 3);
    assert!(said.contains("Deployment/hello-web is of production/hello"), "{said}");
    assert!(said.contains("nothing was applied") && said.contains("one namespace has one environment"), "{said}");
    let web = deployment("shared", "hello-web");
    assert_eq!(web["metadata"]["labels"]["bowline.dev/env"], "production");
    assert!(image_of(&web).ends_with(&"1".repeat(64)));

    // What `kubectl` has applied is adopted, and outlives a first release that does not come up.
    cluster().namespace("adopted", "restricted");
    let (who, admin) = (Who::admin("adopted"), &cluster().admin);
    let image = image("web", "1");
    let args = ["--json", "render", "kubernetes", path(&folder), "--env", "production", "--image", &image];
    let args = [&args[..], &["--api", "ingress-nginx"]].concat();
    let rendered = who.bowline.command(&args).output().expect("the binary runs");
    let rendered: Value = serde_json::from_slice(&rendered.stdout).expect("JSON");
    let web = rendered["objects"].as_array().expect("objects").iter().find(|one| one["kind"] == "Deployment");
    admin.apply("/apis/apps/v1/namespaces/adopted/deployments/hello-web", "kubectl", web.expect("it is served")).done();
    cluster().kubelet.let_pods("adopted", "hello-web", Fate::Ends(3), "");
    let mut takes = deploy(&folder, "hello", "2");
    takes.push("--take-over".to_owned());
    let said = who.fails(&words(&takes), 1);
    assert!(said.contains("Deployment/hello-web was there before the first release, and stays"), "{said}");
    assert!(said.contains("what was there before it stays, as this release has set it"), "{said}");
    let web = deployment("adopted", "hello-web");
    assert_eq!(web["metadata"]["annotations"]["bowline.dev/found"], "true");
    assert_eq!(admin.get("/api/v1/namespaces/adopted/services/hello-web").status, 404, "the release made it");
}

#[test]
fn kubernetes_what_a_cluster_lacks_is_said_before_anything_is_applied() {
    let (who, admin) = (Who::admin("lacking"), &cluster().admin);
    let folder = example(&who.bowline, "hello");
    let args = deploy(&folder, "hello", "1");
    let said = who.fails(&words(&args), 1);
    let create = "kubectl --context tests -n lacking create namespace lacking";
    assert!(said.contains("there is no namespace lacking") && said.contains(create), "{said}");

    cluster().namespace("lacking", "restricted");
    let quota = json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "few" }, "spec": { "hard": { "pods": "1" } } });
    admin.create("/api/v1/namespaces/lacking/resourcequotas", &quota).done();
    wait("the quota is counted", SOON, || {
        let now = admin.get("/api/v1/namespaces/lacking/resourcequotas/few").done();
        now["status"]["used"]["pods"].is_string().then_some(())
    });
    let said = who.fails(&words(&args), 1);
    assert!(said.contains("the quota few leaves 1 of pods, and the release needs 2"), "{said}");
    admin.delete("/api/v1/namespaces/lacking/resourcequotas/few").done();

    let nobody = Who::of("nobody", None, "lacking");
    let said = nobody.fails(&words(&args), 3);
    assert!(said.contains("error:"), "{said}");

    edit(&folder, "ingress_class = \"nginx\", issuer = \"letsencrypt-prod\"", "gateway = \"infra/public\"");
    edit(&folder, "limit = { body = \"64KiB\", timeout = \"15s\" }\n", "");
    let said = who.fails(&words(&args), 1);
    assert!(said.contains("it does not know the kind HTTPRoute of gateway.networking.k8s.io/v1"), "{said}");
    assert!(said.contains("install the Gateway API"), "{said}");
    let left = admin.get("/apis/apps/v1/namespaces/lacking/deployments").done();
    assert_eq!(left["items"], json!([]));
}

#[test]
fn kubernetes_is_operated_by_the_same_verbs() {
    cluster().namespace("verbs", "restricted");
    cluster().kubelet.let_pods("verbs", "hello-web", Fate::Well, "first\nlistening on 8080");
    let who = Who::admin("verbs");
    let folder = example(&who.bowline, "hello");
    let file = folder.join("token");
    std::fs::write(&file, "hunter2-of-the-test").expect("a test's file");
    let set = ["secret", "set", "hello", "auth-token", "--file", path(&file), "--env", "production"];
    let said = who.does(&set);
    assert!(said.contains("version 1"), "{said}");
    who.does(&words(&deploy(&folder, "hello", "1")));
    let named = |namespace: &str| {
        let env = &deployment(namespace, "hello-web")["spec"]["template"]["spec"]["containers"][0]["env"];
        let all = env.as_array().expect("variables");
        all.iter()
            .find_map(|one| one["valueFrom"]["secretKeyRef"]["name"].as_str().map(str::to_owned))
            .expect("a secret")
    };
    let first = named("verbs");
    assert!(who.does(&set).contains("version 1"), "the same value is the same version");
    std::fs::write(&file, "hunter3-of-the-test").expect("a test's file");
    assert!(who.does(&set).contains("version 2"));
    let said = who.does(&words(&deploy(&folder, "hello", "1")));
    assert!(said.contains("serves: release 2"), "{said}");
    assert_ne!(named("verbs"), first, "another value is another object");
    let listed = who.json(&["secret", "list", "hello", "--env", "production"]);
    assert_eq!((&listed["secrets"][0]["version"], &listed["secrets"][0]["by"]), (&json!(2), &json!("admin")));
    let records = cluster().admin.get("/api/v1/namespaces/verbs/configmaps").done();
    assert!(!records.to_string().contains("hunter"), "no value is in what is there to be read");
    let unpacked: Vec<String> = records["items"].as_array().expect("a list").iter().filter_map(unpacked).collect();
    assert_eq!(unpacked.len(), 2, "each release has a record");
    assert!(
        unpacked.iter().all(|text| text.contains("hello-web") && !text.contains("hunter")),
        "no value is in a record"
    );

    wait("the pods of the release before are gone", SOON, || {
        let pods = cluster().admin.get("/api/v1/namespaces/verbs/pods").done();
        (pods["items"].as_array().map(Vec::len) == Some(2)).then_some(())
    });
    let status = who.json(&["status", "hello", "--env", "production"]);
    let app = &status["apps"][0];
    assert_eq!((&app["release"], &app["services"][0]["ready"]), (&json!(2), &json!(true)), "{status}");
    assert_eq!(app["services"][0]["instances"].as_array().map(Vec::len), Some(2), "{status}");

    let logs = who.does(&["logs", "hello", "--env", "production", "--grep", "listening"]);
    assert_eq!(logs.lines().count(), 2, "{logs}");
    let said = who.does(&["scale", "hello.web", "3", "--env", "production"]);
    assert!(said.contains("hello.web has 3 instances"), "{said}");
    assert_eq!(deployment("verbs", "hello-web")["status"]["availableReplicas"], 3);
    let exec = |command: &[&str]| who.run(&[&["exec", "hello.web", "--env", "production", "--"], command].concat());
    let said = exec(&["sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!(
        (said.status.code(), said.stdout.as_slice(), said.stderr.as_slice()),
        (Some(3), &b"out\n"[..], &b"err\n"[..])
    );
    let said = exec(&["no-such-program"]);
    assert_eq!(said.status.code(), Some(127), "{}", text(&said));
    let said = who.fails(&["restart", "hello", "--env", "production"], 2);
    assert!(said.contains("not for Kubernetes"), "{said}");
    removes_secrets(&who, "verbs", &named("verbs"), &file);
}

/// What a release reads stays for it; what none has read is gone at once.
fn removes_secrets(who: &Who, namespace: &str, read: &str, file: &Path) {
    let there = |object: &str| cluster().admin.get(&format!("/api/v1/namespaces/{namespace}/secrets/{object}")).status;
    let of = |verb, name| ["secret", verb, "hello", name, "--env", "production"];
    who.does(&[&of("set", "spare")[..], &["--file", path(file)]].concat());
    let listed = || who.json(&["secret", "list", "hello", "--env", "production"])["secrets"].clone();
    let spare = listed().as_array().expect("a list").iter().find(|one| one["name"] == "spare").expect("it").clone();
    let spare = spare["object"].as_str().expect("an object").to_owned();
    assert_eq!((there(&spare), there(read)), (200, 200));
    for name in ["spare", "auth-token"] {
        let said = who.does(&of("rm", name));
        assert!(said.contains(&format!("{name} of production/hello is removed")), "{said}");
    }
    assert_eq!(listed(), json!([]));
    assert_eq!((there(&spare), there(read)), (404, 200));
    let said = who.fails(&of("rm", "spare"), 2);
    assert!(said.contains("production/hello has no secret spare"), "{said}");
    assert!(who.does(&["status", "hello", "--env", "production"]).contains("release 2"));
}

#[test]
fn kubernetes_exec_is_left_while_the_cluster_says_nothing() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let server = format!("http://{}", listener.local_addr().expect("it is bound"));
    let bowline = Bowline::new();
    let config = bowline.folder("nobody").join("config");
    let context = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "tests", "users": [{ "name": "tests", "user": {} }],
        "clusters": [{ "name": "tests", "cluster": { "server": server } }],
        "contexts": [{ "name": "tests", "context": { "cluster": "tests", "user": "tests", "namespace": "none" } }],
    });
    std::fs::write(&config, context.to_string()).expect("a test's file");
    let args = ["--to", "kubernetes:tests/none", "exec", "hello.web", "--env", "production", "--", "true"];
    let mut exec = bowline.command(&args).env("KUBECONFIG", &config).spawn().expect("the binary runs");
    let _asks = listener.accept().expect("it asks");
    let told = Command::new("kill").args(["-INT", &exec.id().to_string()]).status();
    assert!(told.expect("it is there").success());
    assert_eq!(exec.wait().expect("a child").code(), Some(130));
}

#[test]
fn kubernetes_an_app_may_be_called_what_no_label_holds() {
    cluster().namespace("hyphen", "restricted");
    let who = Who::admin("hyphen");
    let folder = example(&who.bowline, "hello");
    edit(&folder, "app = \"hello\"", "app = \"hello-\"");
    for (digit, release) in [("1", 1), ("2", 2)] {
        let said = who.does(&words(&deploy(&folder, "hello", digit)));
        assert!(said.contains(&format!("serves: release {release}")), "{said}");
    }
    let said = who.does(&["rollback", "hello-", "--env", "production"]);
    assert!(said.contains("release 1 serves again"), "{said}");
    let status = who.json(&["status", "hello-", "--env", "production"]);
    assert_eq!(status["apps"][0]["release"], 1, "{status}");
}

const RBAC: &str = "rbac.authorization.k8s.io";

/// Those of an example. They are no part of a release: whoever keeps the namespace applies them.
fn roles(who: &Who, folder: &Path, namespace: &str) {
    let render = ["--json", "render", "kubernetes", path(folder), "--env", "production", "--roles"];
    let rendered = who.bowline.command(&render).output().expect("the binary runs");
    assert!(rendered.status.success(), "{}", text(&rendered));
    let rendered: Value = serde_json::from_slice(&rendered.stdout).expect("JSON");
    for role in rendered["objects"].as_array().expect("roles") {
        cluster().admin.create(&format!("/apis/{RBAC}/v1/namespaces/{namespace}/roles"), role).done();
    }
}

fn bind(namespace: &str, role: &str, subject: &Value) {
    let binding = json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "RoleBinding", "metadata": { "name": subject["name"] },
        "roleRef": { "apiGroup": RBAC, "kind": "Role", "name": format!("hello-{role}") }, "subjects": [subject],
    });
    cluster().admin.create(&format!("/apis/{RBAC}/v1/namespaces/{namespace}/rolebindings"), &binding).done();
}

#[test]
fn kubernetes_roles_let_each_do_what_is_theirs() {
    cluster().namespace("roles-of-hello", "restricted");
    let (who, admin) = (Who::admin("roles-of-hello"), &cluster().admin);
    let folder = example(&who.bowline, "hello");
    who.does(&words(&deploy(&folder, "hello", "1")));
    let group = RBAC;
    roles(&who, &folder, "roles-of-hello");
    for (user, role) in [("vera", "viewer"), ("dan", "deployer"), ("ada", "admin")] {
        bind("roles-of-hello", role, &json!({ "apiGroup": group, "kind": "User", "name": user }));
    }
    let may = |user: &str, verb: &str, group: &str, resource: &str| {
        let attributes = json!({ "namespace": "roles-of-hello", "verb": verb, "group": group, "resource": resource });
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": { "user": user, "resourceAttributes": attributes },
        });
        admin.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).done()["status"]["allowed"] == true
    };
    wait("the bindings count", SOON, || may("ada", "delete", "", "secrets").then_some(()));
    let table = [
        ("get", "apps", "deployments", [true, true, true]),
        ("patch", "apps", "deployments", [false, true, true]),
        ("create", "", "secrets", [false, true, true]),
        ("get", "", "secrets", [false, false, true]),
        ("delete", "", "persistentvolumeclaims", [false, false, true]),
        ("patch", group, "roles", [false, false, true]),
    ];
    for (verb, group, resource, expected) in table {
        let found = ["vera", "dan", "ada"].map(|user| may(user, verb, group, resource));
        assert_eq!(found, expected, "{verb} {resource}");
    }
    // Who deploys needs no right to read a secret, nor to write a role.
    let dan = Who::of("dan", None, "roles-of-hello");
    // What may not be looked at is not guessed: it is what the release that serves was told.
    let said = dan.does(&words(&deploy(&folder, "hello", "2")));
    assert!(said.contains("serves: release 2"), "{said}");
    let vera = Who::of("vera", None, "roles-of-hello");
    assert!(vera.does(&["status", "hello", "--env", "production"]).contains("release 2"));
    let said = vera.fails(&words(&deploy(&folder, "hello", "3")), 3);
    assert!(said.contains("you may not create or delete or patch deployments.apps there"), "{said}");
    // Secrets are made beside the objects.
    assert!(said.contains("you may not create secrets there"), "{said}");
    assert!(said.contains("--role=hello-deployer"), "{said}");
}
