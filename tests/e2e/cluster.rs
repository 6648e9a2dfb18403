//! A real control plane of Kubernetes: what a release in a cluster rests on, and what the kubelet of the tests shows of it.

use std::process::Command;

use bowline_tests::cluster::api::{Api, MERGE};
use bowline_tests::cluster::{Cluster, tool};
use bowline_tests::kubelet::{FATE, Fate, SAYS};
use bowline_tests::{SOON, text, wait};
use serde_json::{Value, json};

const MANAGER: &str = "bowline";

/// A pod as Pod Security's `restricted` wants it.
fn pod(annotations: &Value) -> Value {
    json!({
        "metadata": { "labels": { "app": "web" }, "annotations": annotations },
        "spec": {
            "securityContext": { "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "web", "image": "registry.example/shop/web:1",
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
            }],
        },
    })
}

fn deployment(copies: u32, annotations: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
        "spec": {
            "replicas": copies, "selector": { "matchLabels": { "app": "web" } }, "template": pod(annotations),
        },
    })
}

/// A pod of its own.
fn single(name: &str, annotations: &Value) -> Value {
    let mut pod = pod(annotations);
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!(name);
    pod
}

fn path_of(namespace: &str) -> String {
    format!("/apis/apps/v1/namespaces/{namespace}/deployments/web")
}

/// The Deployment when its rollout is over.
fn rolled_out(api: &Api, path: &str, copies: u32) -> Value {
    wait("all copies are ready", SOON, || {
        let now = api.get(path).done();
        let status = &now["status"];
        let conditions = status["conditions"].as_array()?;
        let is_over = conditions.iter().any(|one| one["reason"] == "NewReplicaSetAvailable")
            && status["observedGeneration"] == now["metadata"]["generation"]
            && [
                &status["readyReplicas"],
                &status["availableReplicas"],
                &status["updatedReplicas"],
                &status["replicas"],
            ]
            .into_iter()
            .all(|number| *number == copies);
        is_over.then_some(now)
    })
}

/// The pod as soon as its first container waits for this reason, or is in this state.
fn comes_to(api: &Api, namespace: &str, name: &str, is_there: impl Fn(&Value) -> bool) -> Value {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    wait("the pod gets there", SOON, || {
        let pod = api.get(&path).done();
        is_there(&pod["status"]["containerStatuses"][0]).then_some(pod)
    })
}

#[test]
fn cluster_what_is_applied_again_changes_nothing() {
    let cluster = Cluster::shared();
    cluster.namespace("again", "restricted");
    let path = path_of("again");
    let apply = |object: &Value| cluster.admin.apply(&path, MANAGER, object).done();
    apply(&deployment(2, &json!({})));
    let was = rolled_out(&cluster.admin, &path, 2);
    let is = apply(&deployment(2, &json!({})));
    for number in ["generation", "resourceVersion"] {
        assert_eq!(is["metadata"][number], was["metadata"][number], "{number}");
    }
    // So that the test can fail.
    let is = apply(&deployment(3, &json!({})));
    assert_eq!(is["metadata"]["generation"], 2);
    assert_ne!(is["metadata"]["resourceVersion"], was["metadata"]["resourceVersion"]);
    rolled_out(&cluster.admin, &path, 3);
}

#[test]
fn cluster_a_conflict_names_the_field_and_who_has_it() {
    let cluster = Cluster::shared();
    cluster.namespace("conflict", "restricted");
    let path = path_of("conflict");
    cluster.admin.apply(&path, MANAGER, &deployment(1, &json!({}))).done();
    let scaled = json!({ "spec": { "replicas": 2 } });
    cluster.admin.ask("PATCH", &format!("{path}?fieldManager=somebody"), MERGE, &scaled).done();
    let said = cluster.admin.apply(&path, MANAGER, &deployment(1, &json!({}))).refused(409);
    assert!(said.contains("conflict with \"somebody\"") && said.contains(".spec.replicas"), "{said}");
    // What both want is nobody's conflict.
    cluster.admin.apply(&path, MANAGER, &deployment(2, &json!({}))).done();
}

#[test]
fn cluster_an_unknown_field_is_refused() {
    let cluster = Cluster::shared();
    cluster.namespace("strict", "restricted");
    let mut object = deployment(1, &json!({}));
    object["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = json!("Always");
    // An apply needs the schema in any case, and says so as if it were the server's own fault.
    let said = cluster.admin.apply(&path_of("strict"), MANAGER, &object).refused(500);
    assert!(said.contains("imagePullPolice: field not declared in schema"), "{said}");
    // Whoever creates is heard, unless strictness is asked for.
    let create = |validation: &str| {
        let all = format!("/apis/apps/v1/namespaces/strict/deployments?dryRun=All&fieldValidation={validation}");
        cluster.admin.create(&all, &object)
    };
    let said = create("Strict").refused(400);
    assert!(said.contains("unknown field \"spec.template.spec.containers[0].imagePullPolice\""), "{said}");
    create("Ignore").done();
    assert_eq!(cluster.admin.get(&path_of("strict")).status, 404);
}

#[test]
fn cluster_pods_are_held_to_standards_and_quotas() {
    let cluster = Cluster::shared();
    cluster.namespace("restricted", "restricted");
    let pods = "/api/v1/namespaces/restricted/pods";
    let mut wild = single("wild", &json!({}));
    wild["spec"]["containers"][0]["securityContext"] = json!({ "privileged": true });
    let said = cluster.admin.create(pods, &wild).refused(403);
    assert!(said.contains("violates PodSecurity \"restricted:latest\": privileged"), "{said}");
    cluster.admin.create(pods, &single("tame", &json!({}))).done();
    // It is the standard that refuses it.
    cluster.namespace("privileged", "privileged");
    cluster.admin.create("/api/v1/namespaces/privileged/pods", &wild).done();

    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "few" }, "spec": { "hard": { "pods": "1" } },
    });
    cluster.admin.create("/api/v1/namespaces/restricted/resourcequotas", &quota).done();
    let path = "/api/v1/namespaces/restricted/resourcequotas/few";
    wait("the quota is counted", SOON, || {
        (cluster.admin.get(path).done()["status"]["used"]["pods"] == "1").then_some(())
    });
    let said = cluster.admin.create(pods, &single("one-more", &json!({}))).refused(403);
    assert!(said.contains("exceeded quota: few"), "{said}");
}

#[test]
fn cluster_somebody_may_do_what_a_role_says() {
    let cluster = Cluster::shared();
    cluster.namespace("roles", "restricted");
    let ada = cluster.user("ada", Some("viewers"));
    let said = ada.get(&path_of("roles")).refused(403);
    assert!(said.contains("User \"ada\" cannot get resource \"deployments\""), "{said}");
    let group = "rbac.authorization.k8s.io";
    let binding = json!({
        "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": { "name": "viewers" },
        "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": "view" },
        "subjects": [{ "apiGroup": group, "kind": "Group", "name": "viewers" }],
    });
    cluster.admin.create(&format!("/apis/{group}/v1/namespaces/roles/rolebindings"), &binding).done();
    wait("the binding counts", SOON, || (ada.get(&path_of("roles")).status == 404).then_some(()));
    ada.apply(&path_of("roles"), MANAGER, &deployment(1, &json!({}))).refused(403);
}

#[test]
fn cluster_a_pod_fails_as_it_is_told() {
    let cluster = Cluster::shared();
    cluster.namespace("fates", "restricted");
    let admin = &cluster.admin;
    let start = |name: &str, annotations: &Value| {
        admin.create("/api/v1/namespaces/fates/pods", &single(name, annotations)).done();
    };
    let logs = |name: &str, query: &str| {
        let said = admin.get(&format!("/api/v1/namespaces/fates/pods/{name}/log?{query}"));
        assert_eq!(said.status, 200, "{}", said.value);
        said.value.as_str().expect("text").to_owned()
    };

    start("missing", &json!({ FATE: "image-missing" }));
    start("crashes", &json!({ FATE: "crash-loop", SAYS: "one\ntwo" }));
    start("unwell", &json!({ FATE: "never-ready" }));
    let missing = comes_to(admin, "fates", "missing", |of| of["state"]["waiting"]["reason"] == "ImagePullBackOff");
    assert_eq!(missing["status"]["phase"], "Pending");
    let crashes = comes_to(admin, "fates", "crashes", |of| of["state"]["waiting"]["reason"] == "CrashLoopBackOff");
    let before = &crashes["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&before["exitCode"], &before["reason"]), (&json!(1), &json!("Error")));
    assert_eq!(logs("crashes", "previous=true"), "one\ntwo\n");
    assert_eq!(logs("crashes", "tailLines=1"), "two\n");

    let said = wait("the probe's failure is an event", SOON, || {
        let events = admin.get("/api/v1/namespaces/fates/events?fieldSelector=reason%3DUnhealthy").done();
        events["items"][0]["message"].as_str().map(str::to_owned)
    });
    assert!(said.starts_with("Readiness probe failed"), "{said}");
    comes_to(admin, "fates", "unwell", |of| of["ready"] == false && of["state"]["running"].is_object());
    cluster.kubelet.let_pods("fates", "unw", Fate::Well, "");
    comes_to(admin, "fates", "unwell", |of| of["ready"] == true);

    let mut follow = admin.watch("/api/v1/namespaces/fates/pods/unwell/log?follow=true").expect("the log goes on");
    for line in ["first", "second"] {
        cluster.kubelet.say("fates", "unwell", "web", line);
        assert_eq!(follow.next().as_deref(), Some(line));
    }
    admin.delete("/api/v1/namespaces/fates/pods/unwell").done();
    assert_eq!(follow.next(), None, "the log ends with the pod");
}

#[test]
fn cluster_a_job_succeeds_or_fails() {
    let cluster = Cluster::shared();
    cluster.namespace("jobs", "restricted");
    for (name, annotations, condition) in
        [("good", json!({}), "Complete"), ("bad", json!({ FATE: "ends 3" }), "Failed")]
    {
        let mut template = pod(&annotations);
        template["spec"]["restartPolicy"] = json!("Never");
        let job = json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
            "spec": { "backoffLimit": 0, "template": template },
        });
        let path = format!("/apis/batch/v1/namespaces/jobs/jobs/{name}");
        cluster.admin.apply(&path, MANAGER, &job).done();
        wait("the job ends as it should", SOON, || {
            let now = cluster.admin.get(&path).done();
            now["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == condition).map(|_| ())
        });
    }
}

#[test]
fn cluster_a_database_has_its_volume_and_leaves_it() {
    let cluster = Cluster::shared();
    cluster.namespace("volumes", "restricted");
    let claim = json!({
        "metadata": { "name": "data" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
    });
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "db" },
        "spec": {
            "replicas": 1, "serviceName": "db", "selector": { "matchLabels": { "app": "web" } },
            "template": pod(&json!({})), "volumeClaimTemplates": [claim],
        },
    });
    let path = "/apis/apps/v1/namespaces/volumes/statefulsets/db";
    cluster.admin.apply(path, MANAGER, &set).done();
    wait("the database is ready", SOON, || {
        (cluster.admin.get(path).done()["status"]["availableReplicas"] == 1).then_some(())
    });
    cluster.admin.delete(path).done();
    let pods = "/api/v1/namespaces/volumes/pods";
    wait("its pod is gone", SOON, || {
        cluster.admin.get(pods).done()["items"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    let claim = cluster.admin.get("/api/v1/namespaces/volumes/persistentvolumeclaims/data-db-0").done();
    assert_eq!(claim["status"]["phase"], "Bound");
}

#[test]
fn cluster_of_its_own_knows_what_it_is_taught_and_ends_when_it_is_dropped() {
    let cluster = Cluster::start();
    let routes = "/apis/gateway.networking.k8s.io/v1/httproutes";
    assert_eq!(cluster.admin.get(routes).status, 404);
    for project in PROJECTS {
        cluster.define(project);
    }
    cluster.admin.get(routes).done();
    let config = cluster.config("helm", Some("system:masters"), "default");
    let helm = |args: &[&str]| {
        let output = Command::new(tool("helm")).args(args).env("KUBECONFIG", &config).output().expect("Helm runs");
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        text(&output)
    };
    let version = cluster.admin.get("/version").done()["gitVersion"].clone();
    assert!(helm(&["version"]).contains("v4."), "Helm says which it is");
    assert_eq!(helm(&["list", "--all-namespaces", "--output", "json"]).trim(), "[]");
    assert!(version.as_str().is_some_and(|version| version.starts_with("v1.36.")), "{version}");
    let folder = config.parent().expect("a folder").to_owned();
    drop(cluster);
    assert!(!folder.exists());
}

/// Folders of tests/cluster/build.
const PROJECTS: [&str; 7] = [
    "argo-cd",
    "argo-rollouts",
    "cert-manager",
    "envoy-gateway",
    "external-secrets",
    "gateway-api",
    "prometheus-operator",
];
