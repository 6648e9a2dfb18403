//! `bowline render helm`, by the real Helm: the same objects, and what its values change.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use bowline_tests::cluster::tool;
use bowline_tests::{Bowline, path, text};
use serde_json::Value;

use super::{INGRESS, READ, app, everything, example, image, out, python, rendered, whole, words};

/// No hook of Helm comes after what it needs.
const BEFORE: &str = "[release]\nbefore = \"bin/migrate\"\n";
const NAMESPACE: &str = "shops";

fn helm(args: &[&str]) -> Output {
    Command::new(tool("helm")).args(args).output().expect("Helm runs")
}

/// The objects of a chart, by kind and name.
fn templated(chart: &Path, more: &[&str]) -> BTreeMap<String, Value> {
    let output = helm(&[&["template", "anything", path(chart), "--namespace", NAMESPACE], more].concat());
    by_name(python(READ, &[], &out(&output)).as_array().expect("a list").iter().filter(|one| !one.is_null()).cloned())
}

fn by_name(objects: impl Iterator<Item = Value>) -> BTreeMap<String, Value> {
    let name = |one: &Value| format!("{} {}", one["kind"], one["metadata"]["name"]);
    objects.map(|one| (name(&one), one)).collect()
}

fn charted(bowline: &Bowline, folder: &Path, args: &[&str], name: &str) -> std::path::PathBuf {
    let chart = bowline.folder(name);
    out(&bowline.run(&[&["render", "helm", path(folder)], args, &["--out", path(&chart)]].concat()));
    chart
}

#[test]
fn a_chart_is_what_is_rendered_and_lint_finds_nothing() {
    let bowline = Bowline::new();
    for (index, (name, folder, args)) in everything(&bowline).into_iter().enumerate() {
        let file = folder.join("bowline.toml");
        let toml = std::fs::read_to_string(&file).expect("a test's file");
        std::fs::write(&file, toml.replace(BEFORE, "")).expect("a test's file");
        let args = words(&args);
        let chart = charted(&bowline, &folder, &args, &format!("chart-{index}"));
        let lint = helm(&["lint", "--strict", path(&chart)]);
        assert!(lint.status.success() && !text(&lint).contains("WARNING"), "{name}: {}", text(&lint));
        let expected = rendered(&bowline, &folder, &[&args[..], &["--namespace", NAMESPACE]].concat());
        let mut expected = by_name(expected.into_iter());
        for holder in expected
            .values_mut()
            .filter(|one| ["Cluster", "PersistentVolumeClaim"].iter().any(|kind| one["kind"] == *kind))
        {
            holder["metadata"]["annotations"]["helm.sh/resource-policy"] = "keep".into();
        }
        assert_eq!(templated(&chart, &[]), expected, "{name}");
    }
}

#[test]
fn values_change_what_teams_say_for_themselves_and_no_more() {
    let bowline = Bowline::new();
    let folder = example(&bowline, "hello", INGRESS);
    let said = format!("web={}", image("hello"));
    let chart = charted(&bowline, &folder, &["--image", &said, "--api", "ingress-nginx"], "chart-values");
    let was = templated(&chart, &[]);
    let other = format!("registry.example.com/acme/hello@sha256:{}", "2e".repeat(32));
    let more = [
        format!("services.web.image={other}"),
        "services.web.replicas=1".to_owned(),
        "services.web.env.LOG_LEVEL=debug".to_owned(),
        "services.web.resources.limits.memory=1Gi".to_owned(),
        "routes.main.hosts={a-b.example.com,c.example.com}".to_owned(),
        "ingress.className=public".to_owned(),
        "issuer.name=own".to_owned(),
    ];
    let set: Vec<&str> = more.iter().flat_map(|one| ["--set", one.as_str()]).collect();
    let is = templated(&chart, &set);
    let of = |all: &BTreeMap<String, Value>, kind: &str| -> Vec<Value> {
        all.values().filter(|one| one["kind"] == kind).cloned().collect()
    };
    let deployment = &of(&is, "Deployment")[0];
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&deployment["spec"]["replicas"], &container["image"]), (&1.into(), &other.into()));
    assert_eq!(container["resources"]["limits"]["memory"], "1Gi");
    // Of other variables pods are others.
    let (config, old) = (&of(&is, "ConfigMap")[0], &of(&was, "ConfigMap")[0]);
    assert_eq!(config["data"]["LOG_LEVEL"], "debug");
    assert_ne!(config["metadata"]["name"], old["metadata"]["name"]);
    assert_eq!(container["envFrom"][0]["configMapRef"]["name"], config["metadata"]["name"]);
    assert!(of(&is, "PodDisruptionBudget").is_empty(), "one pod is taken away at need");
    let ingress = &of(&is, "Ingress")[0]["spec"];
    let hosts: Vec<&Value> = ingress["rules"].as_array().expect("rules").iter().map(|rule| &rule["host"]).collect();
    assert_eq!(hosts, ["a-b.example.com", "c.example.com"]);
    assert_eq!(ingress["ingressClassName"], "public");
    assert_eq!(ingress["tls"][0]["secretName"], "a--b-example-com-tls");
    let certificates = of(&is, "Certificate");
    assert_eq!(certificates.len(), 2);
    assert!(certificates.iter().all(|one| one["spec"]["issuerRef"]["name"] == "own"), "{certificates:?}");
    for (value, said) in [
        ("services.web.image=registry.example.com/acme/hello:1", "image"),
        ("services.web.replicas=many", "replicas"),
        ("services.wep.replicas=1", "wep"),
    ] {
        let output = helm(&["template", "anything", path(&chart), "--set", value]);
        assert!(!output.status.success() && text(&output).contains(said), "{value}: {}", text(&output));
    }
}

/// A plain path is none of a host on which it would be an expression, which whoever installs may not know.
#[test]
fn a_host_is_not_given_to_a_plain_path_and_an_expression() {
    let bowline = Bowline::new();
    let route =
        |name: &str, rest: &str| format!("[route.{name}]\nto = \"web\"\nhosts = [\"{name}.example.com\"]\n{rest}\n");
    let routes = [route("pub", "path = \"/pub\""), route("api", "path = \"/api\"\nstrip = true"), route("all", "")];
    let toml = format!("[service.web]\nrun = \"x\"\n{}[environment.production]\n{INGRESS}", routes.concat());
    let folder = app(&bowline, "apart", &toml);
    let said = format!("web={}", image("apart"));
    let chart =
        charted(&bowline, &folder, &["--env", "production", "--image", &said, "--api", "ingress-nginx"], "chart-apart");
    assert!(!templated(&chart, &["--set", "routes.all.hosts={api.example.com}"]).is_empty(), "`/` stays what it is");
    let set = ["template", "anything", path(&chart), "--set", "routes.pub.hosts={pub.example.com,api.example.com}"];
    let refused = helm(&set);
    let expected = "api.example.com has a path of a regular expression, which that of route pub would be there";
    assert!(!refused.status.success() && text(&refused).contains(expected), "{}", text(&refused));
}

#[test]
fn what_helm_does_not_carry_is_refused_by_its_key() {
    let bowline = Bowline::new();
    let folder = whole(&bowline, "whole-before", INGRESS);
    let images = super::images_of_whole();
    let apis = ["--api", "ingress-nginx", "--api", "prometheus"];
    let said = bowline.fails(&[&["render", "helm", path(&folder)], &apis[..], &words(&images)].concat(), 2);
    assert!(said.contains("a chart does not carry release.before"), "{said}");
    let small = app(&bowline, "small", "[service.web]\nrun = \"x\"\n");
    let pinned = format!("web={}", image("small"));
    let said = bowline.fails(&["render", "helm", path(&small), "--image", &pinned, "--chart-version", "1"], 2);
    assert!(said.contains("1.2.3"), "{said}");
}
