//! What operators bring up, by the status that they write: here the test writes it, on the API that each of them defines.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::LazyLock;

use bowline_tests::cluster::Cluster;
use bowline_tests::cluster::api::MERGE;
use bowline_tests::{Bowline, SOON, path, wait};
use serde_json::{Value, json};

use super::Who;

/// Of a release here: that of CloudNativePG is not among the definitions that are at hand, so it is what a status needs of it.
fn taught() -> &'static Cluster {
    static ONE: LazyLock<&Cluster> = LazyLock::new(|| {
        let cluster = Cluster::shared();
        cluster.define("argo-rollouts");
        let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": { "name": "clusters.postgresql.cnpg.io" },
            "spec": {
                "group": "postgresql.cnpg.io", "scope": "Namespaced",
                "names": { "kind": "Cluster", "plural": "clusters", "singular": "cluster" },
                "versions": [{
                    "name": "v1", "served": true, "storage": true, "subresources": { "status": {} },
                    "schema": { "openAPIV3Schema": schema },
                }],
            },
        });
        cluster.admin.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).done();
        // What is served is listed a moment later.
        let lists = |path: &str, name: &str| cluster.admin.get(path).value.to_string().contains(name);
        wait("the kinds are listed", SOON, || {
            let all = [
                ("/apis", "postgresql.cnpg.io"),
                ("/apis/postgresql.cnpg.io/v1", "clusters"),
                ("/apis/argoproj.io/v1alpha1", "rollouts"),
            ];
            all.iter().all(|(path, name)| lists(path, name)).then_some(())
        });
        cluster
    });
    *ONE
}

/// A service that Argo rolls out all at once, and a database of CloudNativePG.
fn app(bowline: &Bowline) -> PathBuf {
    let folder = bowline.folder("ops");
    let file = r#"
        app = "ops"
        [service.web]
        run = "bin/web"
        [env]
        DATABASE_URL = { from = "postgres.db.url" }
        [postgres.db]
        [route.main]
        to = "web"
        tls = "off"
        [environment.production]
        kubernetes = { rollouts = "argo" }
        [environment.production.rollout]
        strategy = "blue-green"
        [environment.production.route.main]
        hosts = ["ops.example.com"]
    "#;
    std::fs::write(folder.join("bowline.toml"), file).expect("a file of the test");
    folder
}

const ROLLOUT: &str = "/apis/argoproj.io/v1alpha1/namespaces/operated/rollouts/ops-web";
const DATABASE: &str = "/apis/postgresql.cnpg.io/v1/namespaces/operated/clusters/ops-postgres-db";

/// As its controller writes it of what there is now.
fn argo(phase: &str, message: &str) {
    let admin = &taught().admin;
    let generation = admin.get(ROLLOUT).done()["metadata"]["generation"].to_string();
    let status = json!({ "status": { "phase": phase, "message": message, "observedGeneration": generation } });
    admin.ask("PATCH", &format!("{ROLLOUT}/status?fieldManager=rollouts-controller"), MERGE, &status).done();
}

fn cloudnative_pg(phase: &str, is_ready: bool) {
    let admin = &taught().admin;
    let (word, reason) = if is_ready { ("True", "ClusterIsReady") } else { ("False", "ClusterIsNotReady") };
    let ready = json!({
        "type": "Ready", "status": word, "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T10:00:00Z",
    });
    let image = admin.get(DATABASE).done()["spec"]["imageName"].clone();
    let status = json!({ "status": {
        "phase": phase, "image": image, "instances": 1, "readyInstances": u8::from(is_ready), "conditions": [ready],
    } });
    admin.ask("PATCH", &format!("{DATABASE}/status?fieldManager=cloudnative-pg"), MERGE, &status).done();
}

/// A deploy that goes on, and what it says.
struct Deploys {
    child: Child,
    said: BufReader<ChildStdout>,
    all: String,
}

impl Deploys {
    fn start(who: &Who, digit: &str, folder: &str) -> Self {
        let image = format!("web=registry.example.com/acme/ops@sha256:{}", digit.repeat(64));
        let mut command = who.command(&["deploy", folder, "--env", "production", "--image", &image]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary runs");
        let said = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, said, all: String::new() }
    }

    /// Until it says this.
    fn says(&mut self, words: &str) {
        loop {
            let mut line = String::new();
            assert!(self.said.read_line(&mut line).expect("text") > 0, "it ended without {words}: {}", self.all);
            self.all.push_str(&line);
            if line.contains(words) {
                return;
            }
        }
    }

    fn ends(mut self, code: i32) -> String {
        std::io::Read::read_to_string(&mut self.said, &mut self.all).expect("text");
        assert_eq!(self.child.wait().expect("a child").code(), Some(code), "{}", self.all);
        self.all
    }
}

#[test]
fn what_operators_bring_up_is_waited_for_and_judged_by_their_status() {
    let cluster = taught();
    cluster.namespace("operated", "restricted");
    let who = Who::at(cluster, ("admin", Some("system:masters")), "operated");
    let folder = app(&who.bowline);
    let there = |path: &str| cluster.admin.get(path).status == 200;

    let mut first = Deploys::start(&who, "1", path(&folder));
    first.says("postgres-db waits on CloudNativePG to take it up");
    assert!(there(DATABASE) && !there(ROLLOUT), "what holds data is up before what reads it");
    cloudnative_pg("Setting up primary", false);
    first.says("postgres-db waits on CloudNativePG: Setting up primary, 0 of 1 ready");
    cloudnative_pg("Cluster in healthy state", true);
    first.says("web waits on to be taken up");
    argo("Paused", "BlueGreenPause");
    first.says("web waits on Argo Rollouts, which holds a step (BlueGreenPause)");
    argo("Healthy", "");
    first.says("serves: release 1");
    first.ends(0);

    let services = || -> Vec<(Value, Value, Value)> {
        let status = who.json(&["status", "ops", "--env", "production"]);
        let all = status["apps"][0]["services"].as_array().expect("services").clone();
        all.iter().map(|one| (one["name"].clone(), one["ready"].clone(), one["waits_on"].clone())).collect()
    };
    let ready = |name: &str| (json!(name), json!(true), Value::Null);
    assert_eq!(services(), [ready("web"), ready("postgres-db")]);
    cloudnative_pg("Cluster is unrecoverable and needs manual intervention", false);
    let (name, is_ready, on) = services().remove(1);
    assert_eq!((name, is_ready), (json!("postgres-db"), json!(false)));
    assert!(on.to_string().contains("its operator does not go on with it: Cluster is unrecoverable"), "{on}");
    cloudnative_pg("Cluster in healthy state", true);

    // What Argo gives up is taken back.
    let mut second = Deploys::start(&who, "2", path(&folder));
    second.says("web waits on to be taken up");
    argo("Degraded", "RolloutAborted: Rollout aborted update to revision 2");
    second.says("release 2 is taken back");
    let image = || {
        let now = cluster.admin.get(ROLLOUT).done();
        now["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned()
    };
    wait("what served is applied again", SOON, || image().ends_with(&"1".repeat(64)).then_some(()));
    argo("Healthy", "");
    second.ends(1);
    let releases = who.json(&["releases", "ops", "--env", "production"]);
    let why = releases["releases"][1]["rejected_because"].as_str().unwrap_or_default().to_owned();
    assert!(why.contains("RolloutAborted: Rollout aborted update to revision 2"), "{releases}");
}
