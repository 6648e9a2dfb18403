//! Deployed from within: who runs in a pod, and has no kubeconfig, means the cluster and the namespace that it runs in.

use bowline_tests::{SOON, path, text, wait};
use serde_json::json;

use super::{Who, bind, cluster, deploy, example, roles, words};

#[test]
fn in_a_pod_the_cluster_is_the_one_that_it_runs_in() {
    cluster().namespace("inside", "restricted");
    let (who, admin) = (Who::admin("inside"), &cluster().admin);
    let folder = example(&who.bowline, "hello");
    roles(&who, &folder, "inside");
    bind("inside", "deployer", &json!({ "kind": "ServiceAccount", "name": "default", "namespace": "inside" }));

    // What a kubelet mounts into a pod of this account.
    let asked = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
    let token = admin.create("/api/v1/namespaces/inside/serviceaccounts/default/token", &asked).done();
    // A controller puts it there.
    let authority = wait("the authority is in the namespace", SOON, || {
        let found = admin.get("/api/v1/namespaces/inside/configmaps/kube-root-ca.crt");
        (found.status == 200).then_some(found.value)
    });
    let account = who.bowline.folder("account");
    let files = [
        ("token", &token["status"]["token"]),
        ("ca.crt", &authority["data"]["ca.crt"]),
        ("namespace", &json!("inside")),
    ];
    for (name, value) in files {
        std::fs::write(account.join(name), value.as_str().expect("text")).expect("a file of the test");
    }
    let run = |args: &[&str]| {
        let mounted = "mount -t tmpfs none /var/run && mkdir -p /var/run/secrets/kubernetes.io \
                       && cp -r \"$0\" /var/run/secrets/kubernetes.io/serviceaccount && exec \"$@\"";
        let wrapper = ["unshare", "--map-root-user", "--mount", "sh", "-c", mounted, path(&account)];
        let mut command = who.bowline.command_under(&wrapper, args);
        let address = cluster().address();
        command.env("KUBERNETES_SERVICE_HOST", address.ip().to_string());
        command.env("KUBERNETES_SERVICE_PORT", address.port().to_string());
        command.env_remove("KUBECONFIG").env("HOME", who.bowline.folder("home"));
        command.output().expect("unshare runs")
    };
    let does = |args: &[&str]| {
        let output = run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        text(&output)
    };
    // What the binding says counts a moment later.
    wait("the account may read releases", SOON, || {
        run(&["--to", "kubernetes", "releases", "hello", "--env", "production"]).status.success().then_some(())
    });
    let args = deploy(&folder, "hello", "1");
    // What is beside the namespace is not for that account to look at.
    let said = does(&[&["--to", "kubernetes"], &words(&args)[..], &["--api", "ingress-nginx"]].concat());
    assert!(said.contains("serves: release 1"), "{said}");
    // As commands for people say it.
    let said = does(&["--to", "kubernetes:/inside", "status", "hello", "--env", "production"]);
    assert!(said.contains("release 1"), "{said}");
    // Who may do no more than that.
    let denied = run(&["--to", "kubernetes:/default", "releases", "hello", "--env", "production"]);
    assert_eq!(denied.status.code(), Some(3), "{}", text(&denied));
    // A file that is said is meant, whatever there is beside it.
    let elsewhere = who.does(&["status", "hello", "--env", "production"]);
    assert!(elsewhere.contains("release 1"), "{elsewhere}");
}
