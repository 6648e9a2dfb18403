//! What leads to an app, by the status that the controllers of routes and certificates write: here the test writes it.

use bowline_tests::cluster::api::MERGE;
use bowline_tests::path;
use serde_json::json;

use super::operated::taught;
use super::{Goes, Who, nowhere};

const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/led/httproutes";
const CERTIFICATE: &str = "/apis/cert-manager.io/v1/namespaces/led/certificates/led-example-com-tls";

/// As their controller writes it of what there is now: of the route, and of the one that leads from HTTP to it.
fn routes(accepted: &str, reason: &str) {
    let admin = &taught().admin;
    for name in ["led-main", "led-main-plain"] {
        let path = format!("{ROUTES}/{name}");
        let now = admin.get(&path).done();
        let condition = |kind: &str, status: &str, reason: &str| {
            json!({
                "type": kind, "status": status, "reason": reason, "message": "said by its controller",
                "lastTransitionTime": "2026-01-01T10:00:00Z", "observedGeneration": now["metadata"]["generation"],
            })
        };
        let conditions = [condition("Accepted", accepted, reason), condition("ResolvedRefs", "True", "ResolvedRefs")];
        let parent = json!({
            "parentRef": now["spec"]["parentRefs"][0], "controllerName": "example.com/gateway", "conditions": conditions,
        });
        let status = json!({ "status": { "parents": [parent] } });
        admin.ask("PATCH", &format!("{path}/status?fieldManager=gateway"), MERGE, &status).done();
    }
}

fn certificate(ready: &str, reason: &str, message: &str) {
    let admin = &taught().admin;
    let ready = json!({
        "type": "Ready", "status": ready, "reason": reason, "message": message, "lastTransitionTime": "2026-01-01T10:00:00Z",
        "observedGeneration": admin.get(CERTIFICATE).done()["metadata"]["generation"],
    });
    let status = json!({ "status": { "conditions": [ready] } });
    admin.ask("PATCH", &format!("{CERTIFICATE}/status?fieldManager=cert-manager"), MERGE, &status).done();
}

#[test]
fn what_leads_nowhere_is_said_and_is_in_the_way_of_nothing() {
    let cluster = taught();
    cluster.namespace("led", "restricted");
    let who = Who::at(cluster, ("admin", Some("system:masters")), "led");
    let folder = who.bowline.folder("led");
    let write = |path: &str| {
        let file = format!(
            r#"
            app = "led"
            [service.web]
            run = "bin/web"
            [route.main]
            to = "web"
            path = "{path}"
            [environment.production]
            kubernetes = {{ gateway = "infra/public", issuer = "letsencrypt-prod" }}
            [environment.production.route.main]
            hosts = ["led.example.com"]
        "#
        );
        std::fs::write(folder.join("bowline.toml"), file).expect("a file of the test");
    };
    write("/");
    let goes = |digit: &str| {
        let image = format!("web={}/acme/led@sha256:{}", nowhere(), digit.repeat(64));
        Goes::start(who.command(&["deploy", path(&folder), "--env", "production", "--image", &image]))
    };

    // Nobody is there who makes anything of it.
    let first = goes("1").ends(0);
    for words in [
        "it has no Gateway infra/public: routes lead nowhere until it has",
        "it has no ClusterIssuer letsencrypt-prod: hosts have no certificate until it has",
        "HTTPRoute/led-main: nobody has taken it up: the controller of its Gateway says nothing of it",
        "Certificate/led-example-com-tls: nobody has taken it up: the issuer of certificates says nothing of it",
        "describe httproute led-main",
        "serves: release 1",
    ] {
        assert!(first.contains(words), "{words}: {first}");
    }

    routes("False", "NoMatchingListenerHostname");
    certificate("False", "DoesNotExist", "Issuing certificate as Secret does not exist");
    let second = goes("2").ends(0);
    for words in [
        "HTTPRoute/led-main: it leads nowhere yet: NoMatchingListenerHostname: said by its controller",
        "Certificate/led-example-com-tls: it is not issued yet: DoesNotExist: Issuing certificate as Secret does not exist",
        "serves: release 2",
    ] {
        assert!(second.contains(words), "{words}: {second}");
    }
    assert!(!second.contains("led-main waits on"), "nothing of it has changed: {second}");

    // What has changed is waited for, for a while.
    routes("True", "Accepted");
    certificate("True", "Ready", "");
    write("/app");
    let mut third = goes("3");
    third.says("HTTPRoute/led-main waits on its controller: what is new of it is not taken up");
    routes("True", "Accepted");
    third.says("serves: release 3");
    let third = third.ends(0);
    assert!(!third.contains("leads nowhere yet") && !third.contains("nobody has taken"), "{third}");
}
