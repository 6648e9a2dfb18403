//! What operators bring up, by the status that they write: here the test writes it, on the API that each of them defines.

use std::path::PathBuf;
use std::sync::LazyLock;

use bowline_tests::cluster::Cluster;
use bowline_tests::cluster::api::MERGE;
use bowline_tests::{Bowline, SOON, path, wait};
use serde_json::{Value, json};

use super::{Goes, Who, nowhere};

pub(super) fn taught() -> &'static Cluster {
    static ONE: LazyLock<&Cluster> = LazyLock::new(|| {
        let cluster = Cluster::shared();
        cluster.define("argo-rollouts");
        cluster.define("cloudnative-pg");
        cluster.define("cert-manager");
        cluster.define("external-secrets");
        cluster.define("gateway-api");
        // What is served is listed a moment later.
        let lists = |path: &str, name: &str| cluster.admin.get(path).value.to_string().contains(name);
        wait("the kinds are listed", SOON, || {
            let all = [
                ("/apis", "postgresql.cnpg.io"),
                ("/apis/postgresql.cnpg.io/v1", "clusters"),
                ("/apis/argoproj.io/v1alpha1", "rollouts"),
                ("/apis", "external-secrets.io"),
                ("/apis/external-secrets.io/v1", "externalsecrets"),
                ("/apis", "cert-manager.io"),
                ("/apis/cert-manager.io/v1", "certificates"),
                ("/apis/gateway.networking.k8s.io/v1", "httproutes"),
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
    if is_ready {
        instance(&image);
    }
    let status = json!({ "status": {
        "phase": phase, "image": image, "instances": 1, "readyInstances": u8::from(is_ready), "conditions": [ready],
    } });
    admin.ask("PATCH", &format!("{DATABASE}/status?fieldManager=cloudnative-pg"), MERGE, &status).done();
}

/// One of the database's that runs this, as CloudNativePG makes them.
fn instance(image: &Value) {
    const PODS: &str = "/api/v1/namespaces/operated/pods";
    let admin = &taught().admin;
    let path = format!("{PODS}/ops-postgres-db-1");
    if admin.get(&path).status == 404 {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "ops-postgres-db-1", "labels": { "cnpg.io/cluster": "ops-postgres-db" } },
            "spec": {
                "securityContext": { "runAsNonRoot": true, "runAsUser": 26, "seccompProfile": { "type": "RuntimeDefault" } },
                "containers": [{
                    "name": "postgres", "image": image,
                    "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
                }],
            },
        });
        admin.create(PODS, &pod).done();
    }
    wait("the instance is ready", SOON, || {
        let conditions = admin.get(&path).done()["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True").then_some(())
    });
}

fn deploys(who: &Who, digit: &str, folder: &str) -> Goes {
    let image = format!("web={}/acme/ops@sha256:{}", nowhere(), digit.repeat(64));
    Goes::start(who.command(&["deploy", folder, "--env", "production", "--image", &image]))
}

#[test]
fn what_operators_bring_up_is_waited_for_and_judged_by_their_status() {
    let cluster = taught();
    cluster.namespace("operated", "restricted");
    let who = Who::at(cluster, ("admin", Some("system:masters")), "operated");
    let folder = app(&who.bowline);
    let there = |path: &str| cluster.admin.get(path).status == 200;

    let mut first = deploys(&who, "1", path(&folder));
    first.says("postgres-db waits on CloudNativePG to take it up");
    assert!(there(DATABASE) && !there(ROLLOUT), "what holds data is up before what reads it");
    cloudnative_pg("Setting up primary", false);
    first.says("postgres-db waits on CloudNativePG: Setting up primary, 0 of 1 ready");
    cloudnative_pg("Cluster in healthy state", true);
    first.says("web waits on Argo Rollouts to take it up");
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

    // What is as it was is in nobody's way. What Argo gives up is taken back.
    let mut second = deploys(&who, "2", path(&folder));
    second.says("postgres-db is not ready, and is not waited for, since nothing of it has changed");
    second.says("web waits on Argo Rollouts to take it up");
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

const SECRET: &str = "/apis/external-secrets.io/v1/namespaces/brought/externalsecrets/vaulted-token";

/// As the operator writes it of what there is now; `None`: it is brought.
fn external_secrets(against: Option<&str>) {
    let admin = &taught().admin;
    let generation = admin.get(SECRET).done()["metadata"]["generation"].to_string();
    let (word, reason) = if against.is_none() { ("True", "SecretSynced") } else { ("False", "SecretSyncedError") };
    let ready = json!({
        "type": "Ready", "status": word, "reason": reason, "message": against.unwrap_or("secret synced"),
        "lastTransitionTime": "2026-01-01T10:00:00Z",
    });
    let mut status = json!({ "conditions": [ready] });
    if against.is_none() {
        status["syncedResourceVersion"] = format!("{generation}-5e0").into();
    }
    let status = json!({ "status": status });
    admin.ask("PATCH", &format!("{SECRET}/status?fieldManager=external-secrets"), MERGE, &status).done();
}

#[test]
fn what_a_store_elsewhere_holds_is_there_before_pods_read_it() {
    let cluster = taught();
    cluster.namespace("brought", "restricted");
    let who = Who::at(cluster, ("admin", Some("system:masters")), "brought");
    let folder = who.bowline.folder("vaulted");
    let file = r#"
        app = "vaulted"
        [service.web]
        run = "bin/web"
        [env]
        TOKEN = { secret = "token" }
        [secret.token]
        source = "vault:apps/vaulted"
        [environment.production]
        kubernetes = { secret_store = "ClusterSecretStore/vault" }
    "#;
    std::fs::write(folder.join("bowline.toml"), file).expect("a file of the test");
    let image = |digit: &str| format!("web={}/acme/vaulted@sha256:{}", nowhere(), digit.repeat(64));
    let goes = |digit: &str| {
        Goes::start(who.command(&["deploy", path(&folder), "--env", "production", "--image", &image(digit)]))
    };

    let mut first = goes("1");
    first.says("it has no ClusterSecretStore vault: what reads a new secret of it does not come up until it has");
    first.says("secret token waits on External Secrets to take it up");
    let deployments = || cluster.admin.get("/apis/apps/v1/namespaces/brought/deployments").done()["items"].clone();
    assert_eq!(deployments(), json!([]), "no pod begins without what it reads");
    external_secrets(Some("could not get secret data from provider"));
    first.says("External Secrets does not bring it: SecretSyncedError: could not get secret data from provider");
    external_secrets(None);
    first.says("serves: release 1");
    first.ends(0);

    // A store that is away later on holds up nothing that reads what it has read before.
    external_secrets(Some("the store is sealed"));
    let mut second = goes("2");
    second.says("secret token is not ready, and is not waited for, since nothing of it has changed");
    second.says("serves: release 2");
    second.ends(0);
}
