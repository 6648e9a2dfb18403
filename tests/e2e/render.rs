//! `bowline render kubernetes`: every object by the schemas of Kubernetes, and read by PyYAML as by us.

mod compose;
mod examples;
mod helm;
mod postgres;
mod roles;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bowline_tests::{Bowline, path, root, text};
use serde_json::{Value, json};

const VERSIONS: [&str; 3] = ["1.34", "1.35", "1.36"];

const EXAMPLES: [&str; 5] = ["board", "hello", "timestamps", "uploads", "users"];

/// What each example is told for a cluster: where it is asked, and by which way.
const INGRESS: &str = "kubernetes = { ingress_class = \"nginx\", issuer = \"letsencrypt-prod\", storage_class = \"fast\", node_pool = \"apps\" }\n";
const GATEWAY: &str =
    "kubernetes = { gateway = \"infra/public\", issuer = \"letsencrypt-prod\", storage_class = \"nfs\" }\n";

/// Of nothing that was built: what is rendered is not asked for anywhere.
fn image(name: &str) -> String {
    format!("registry.example.com/acme/{name}@sha256:{}", "1f".repeat(32))
}

/// Asks the validator of each document whether it is what Kubernetes takes, without a field that it does not know.
const VALIDATE: &str = "
import json, sys, kubernetes_validate as k
def verdict(one, version):
    try:
        k.validate(one, version, strict=True)
        return None
    except k.SchemaNotFoundError:
        return 'no schema'
    except Exception as error:
        return str(error)[:300]
objects = json.load(sys.stdin)
json.dump([[verdict(one, version) for version in sys.argv[1:]] for one in objects], sys.stdout)
";

const READ: &str = "import json, sys, yaml\njson.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)\n";

/// A program that scripts/setup has put below the folder of what is built.
fn program(path: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("a test knows its own path");
    let target = exe.ancestors().nth(3).expect("tests lie in target/PROFILE/deps");
    let program = target.join(path);
    assert!(program.exists(), "run scripts/setup first: {} is missing", program.display());
    program
}

/// The Python that is beside the validator.
fn python(script: &str, args: &[&str], input: &str) -> Value {
    let mut child = Command::new(program("validate/bin/python"))
        .args(["-c", script])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python starts");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("Python reads");
    let output = child.wait_with_output().expect("Python ends");
    assert!(output.status.success(), "{script}");
    serde_json::from_slice(&output.stdout).expect("Python writes JSON")
}

/// What was printed for programs.
fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What is wrong with each object in each version.
fn verdicts(objects: &[Value]) -> Vec<Vec<Option<String>>> {
    let found = python(VALIDATE, &VERSIONS, &json!(objects).to_string());
    serde_json::from_value(found).expect("a list for each object")
}

fn rendered(bowline: &Bowline, dir: &Path, args: &[&str]) -> Vec<Value> {
    let output = bowline.run(&[&["--json", "render", "kubernetes", path(dir)], args].concat());
    let answer: Value = serde_json::from_str(&out(&output)).expect("one object");
    answer["objects"].as_array().expect("objects").clone()
}

fn app(bowline: &Bowline, name: &str, toml: &str) -> PathBuf {
    let folder = bowline.folder(name);
    std::fs::write(folder.join("bowline.toml"), toml).expect("a test's file");
    folder
}

/// What an example says of all environments.
fn plain(name: &str) -> String {
    let toml =
        std::fs::read_to_string(root().join("examples").join(name).join("bowline.toml")).expect("an example's file");
    let at = toml.find("\n# `make manifests`").expect("its environments are the last of it");
    toml[..at].to_owned()
}

/// An example with an environment of its own.
fn example(bowline: &Bowline, name: &str, cluster: &str) -> PathBuf {
    let folder = bowline.folder(&format!("{name}-{}", cluster.len()));
    let from = root().join("examples").join(name);
    let toml = plain(name);
    let upload = if name == "uploads" { "upload = \"off\"\n" } else { "" };
    let routes = if toml.contains("[route.metrics]") {
        format!("[environment.production.route.metrics]\nhosts = [\"{name}.example.com\"]\n")
    } else {
        String::new()
    };
    let environment = format!(
        "\n[environment.production]\n{cluster}[environment.production.route.main]\nhosts = [\"{name}.example.com\"]\n{upload}{routes}"
    );
    std::fs::write(folder.join("bowline.toml"), toml + &environment).expect("a test's file");
    if from.join("source/init.sql").exists() {
        std::fs::create_dir_all(folder.join("source")).expect("a folder of a test");
        std::fs::copy(from.join("source/init.sql"), folder.join("source/init.sql")).expect("a test's file");
    }
    folder
}

/// All that a cluster without more than Kubernetes carries, and what ingress-nginx does.
const WHOLE: &str = r#"
app = "whole"
[service.web]
run = "bin/web"
health = { path = "/ready", interval = "300ms", timeout = "2s", grace = "1m" }
alive = { path = "/live" }
metrics = "/metrics"
drain = "45s"
scale = { min = 2, max = 6, cpu = "70%" }
limits = { memory = "256MiB", cpu = 0.5 }
writable = ["cache", "var/run"]
env = { TOKEN = { secret = "token", as = "file" }, API = { from = "service.api.url" }, MOTD = "one\ntwo\n" }
[service.api]
protocol = "h2c"
image = "registry.example.com/acme/api:2"
health = { grpc = "acme.v1.Api" }
scale = { min = 1, max = 3, cpu = "50%" }
[service.worker]
build_of = "web"
run = "bin/web work && exit 3"
port = 3000
health = "tcp"
[env]
URL = { from = "postgres.db.url" }
HOST = { from = "mariadb.old.host" }
WORD = { from = "mariadb.old.password" }
CACHE = { from = "redis.cache.url" }
FILES = { from = "volume.files.path" }
BUCKET = { from = "bucket.media.url" }
[secret.token]
generate = true
[postgres.db]
version = 16
init = "init.sql"
[mariadb.old]
[redis.cache]
persist = true
[redis.short]
[postgres.elsewhere]
url = { secret = "elsewhere" }
ca = { secret = "elsewhere-ca" }
[volume.files]
path = "/data"
size = "5GiB"
[volume.own]
services = ["worker"]
[bucket.media]
url = { secret = "media" }
[job.clean]
run = "bin/clean --all"
build_of = "web"
schedule = "*/5 3 * * 1-5,7"
timeout = "10m"
[job.now]
run = "bin/now"
build_of = "web"
[release]
before = "bin/migrate"
[image]
push = "registry.example.com/acme/whole"
login = { secret = "registry-login" }
[route.main]
hosts = ["whole.example.com", "*.whole.example.com"]
to = "web"
allow = ["10.0.0.0/8", "2001:db8::/32"]
limit = { rate = "50/m", body = "20MiB", timeout = "30s" }
auth = { basic = { secret = "users" } }
[route.api]
hosts = ["api.example.com"]
path = "/v1"
strip = true
to = "api"
[route.shut]
hosts = ["shut.example.com"]
deny = true
tls = "off"
[slo]
availability = "99.9%"
"#;

/// A redirect keeps the path of a request through a Gateway alone.
const OLD: &str = "[route.old]\nhosts = [\"old.example.com\"]\nredirect = \"https://whole.example.com/new\"\n";

fn whole(bowline: &Bowline, name: &str, kubernetes: &str) -> PathBuf {
    let old = if kubernetes == GATEWAY { OLD } else { "" };
    let folder = app(bowline, name, &format!("{WHOLE}{old}[environment.production]\n{kubernetes}"));
    std::fs::write(folder.join("init.sql"), "create table a (b int);\n-- \"x\": 'y' #z\n").expect("a test's file");
    folder
}

fn images_of_whole() -> [String; 6] {
    let (web, api) = (image("web"), image("api"));
    let said = [
        ("--image", format!("web={web}")),
        ("--image", format!("api={api}")),
        ("--image", format!("postgres.db={web}")),
    ];
    let [a, b, c] = said.map(|(flag, value)| [flag.to_owned(), value]);
    let [a0, a1] = a;
    let [b0, b1] = b;
    let [c0, c1] = c;
    [a0, a1, b0, b1, c0, c1]
}

/// What others carry out: Argo a release in shares, CloudNativePG a database, the External Secrets Operator a secret.
const OPERATED: &str = r#"
app = "operated"
[service.web]
run = "bin/web"
health = { path = "/ready" }
scale = { min = 2, max = 4, cpu = "70%" }
[env]
TOKEN = { secret = "token" }
URL = { from = "postgres.db.url" }
[secret.token]
source = "vault:apps/token"
[postgres.db]
init = "init.sql"
[rollout]
strategy = "canary"
steps = ["5% for 1m", "50% for 2m"]
[route.main]
hosts = ["operated.example.com"]
to = "web"
[environment.production]
kubernetes = { ingress_class = "nginx", issuer = "letsencrypt-prod", rollouts = "argo", secret_store = "ClusterSecretStore/vault" }
"#;

fn operated(bowline: &Bowline) -> (PathBuf, Vec<String>) {
    let folder = app(bowline, "operated", OPERATED);
    std::fs::write(folder.join("init.sql"), "create table a (b int);\n").expect("a test's file");
    let image = format!("web={}", image("operated"));
    let args = ["--image", &image, "--api", "cloudnative-pg", "--api", "external-secrets", "--api", "ingress-nginx"];
    (folder, args.map(str::to_owned).into())
}

/// The examples and the whole app, by Ingress and by Gateway, with all APIs and without, and what operators carry out.
fn everything(bowline: &Bowline) -> Vec<(String, PathBuf, Vec<String>)> {
    let mut all = Vec::new();
    let apis =
        |names: &[&str]| names.iter().flat_map(|name| ["--api".to_owned(), (*name).to_owned()]).collect::<Vec<_>>();
    for name in EXAMPLES {
        let images = ["--image".to_owned(), format!("web={}", image(name))].to_vec();
        let with = [images.clone(), apis(&["ingress-nginx"])].concat();
        all.push((format!("{name} by ingress"), example(bowline, name, INGRESS), with));
        let with = [images, apis(&["envoy-gateway", "prometheus", "cloudnative-pg"])].concat();
        all.push((format!("{name} by gateway"), example(bowline, name, GATEWAY), with));
    }
    let plain = [images_of_whole().to_vec(), apis(&["ingress-nginx", "prometheus"])].concat();
    all.push(("whole by ingress".to_owned(), whole(bowline, "whole-ingress", INGRESS), plain));
    let with = [images_of_whole().to_vec(), apis(&["envoy-gateway", "prometheus", "cloudnative-pg"])].concat();
    all.push(("whole by gateway".to_owned(), whole(bowline, "whole-gateway", GATEWAY), with));
    let (folder, args) = operated(bowline);
    all.push(("operated".to_owned(), folder, args));
    all
}

fn words(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

#[test]
fn objects_are_valid_in_three_versions_and_broken_ones_are_not() {
    let bowline = Bowline::new();
    let mut kinds: BTreeMap<String, Value> = BTreeMap::new();
    let mut custom = BTreeSet::new();
    for (name, folder, args) in everything(&bowline) {
        let objects = rendered(&bowline, &folder, &words(&args));
        for (object, found) in objects.iter().zip(verdicts(&objects)) {
            let kind = object["kind"].as_str().expect("a kind").to_owned();
            if found.iter().all(|one| one.as_deref() == Some("no schema")) {
                custom.insert(kind);
                continue;
            }
            assert!(found.iter().all(Option::is_none), "{name}: {kind} {}: {found:?}", object["metadata"]["name"]);
            kinds.insert(kind, object.clone());
        }
    }
    let of_kubernetes = [
        "ConfigMap",
        "CronJob",
        "Deployment",
        "HorizontalPodAutoscaler",
        "Ingress",
        "Job",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
        "StatefulSet",
    ];
    assert_eq!(kinds.keys().map(String::as_str).collect::<Vec<_>>(), of_kubernetes);
    let of_others = [
        "BackendTrafficPolicy",
        "Certificate",
        "Cluster",
        "ExternalSecret",
        "HTTPRoute",
        "HTTPRouteFilter",
        "PrometheusRule",
        "ReferenceGrant",
        "Rollout",
        "SecurityPolicy",
        "ServiceMonitor",
    ];
    assert_eq!(custom.iter().map(String::as_str).collect::<Vec<_>>(), of_others);
    let broken = |object: &Value, pointer: &str, value: Value| {
        let mut object = object.clone();
        object.pointer_mut(pointer).expect("it is there")["bowline"] = value;
        object
    };
    let unknown: Vec<Value> = kinds
        .values()
        .map(|object| broken(object, if object["spec"].is_object() { "/spec" } else { "" }, json!("unknown")))
        .chain(kinds.values().map(|object| {
            let mut object = object.clone();
            object["metadata"]["name"] = json!(7);
            object
        }))
        .collect();
    for (object, found) in unknown.iter().zip(verdicts(&unknown)) {
        assert!(found.iter().all(|one| one.is_some()), "{} is not refused: {found:?}", object["kind"]);
    }
}

#[test]
fn pyyaml_reads_what_is_meant() {
    let bowline = Bowline::new();
    for (name, folder, args) in everything(&bowline) {
        let objects = rendered(&bowline, &folder, &words(&args));
        let output = bowline.run(&[&["render", "kubernetes", path(&folder)], &words(&args)[..]].concat());
        let stream = out(&output);
        assert_eq!(python(READ, &[], &stream), Value::Array(objects), "{name}:\n{stream}");
    }
}

#[test]
fn hello_is_rendered_as_it_was_read() {
    let bowline = Bowline::new();
    let folder = example(&bowline, "hello", INGRESS);
    let said = format!("web={}", image("hello"));
    let output = bowline.run(&["render", "kubernetes", path(&folder), "--image", &said, "--api", "ingress-nginx"]);
    let golden = root().join("tests/fixtures/rendered/hello.yaml");
    let found = out(&output);
    if std::env::var_os("BOWLINE_RENEW").is_some() {
        std::fs::create_dir_all(golden.parent().expect("a folder")).expect("a folder");
        std::fs::write(&golden, &found).expect("a golden");
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    assert!(found == expected, "look at it, then BOWLINE_RENEW=1: {found}");
    let notes = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        notes.contains("first: secret hello-auth-token must be there: kubectl create secret generic hello-auth-token"),
        "{notes}"
    );
}

#[test]
fn files_are_one_per_object_and_kustomize_knows_them() {
    let bowline = Bowline::new();
    let (folder, to) = (example(&bowline, "users", INGRESS), bowline.folder("out"));
    let said = format!("web={}", image("users"));
    let nginx = ["--image", &said, "--api", "ingress-nginx"];
    let output = bowline.run(&[&["render", "kubernetes", path(&folder)], &nginx[..], &["--out", path(&to)]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let kustomization = std::fs::read_to_string(to.join("kustomization.yaml")).expect("it is written");
    let read = python(READ, &[], &kustomization);
    let resources: BTreeSet<&str> =
        read[0]["resources"].as_array().expect("a list").iter().map(|one| one.as_str().expect("a path")).collect();
    let there: BTreeSet<String> = std::fs::read_dir(&to)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name != "kustomization.yaml")
        .collect();
    assert_eq!(resources, there.iter().map(String::as_str).collect());
    let objects = rendered(&bowline, &folder, &nginx);
    let all: Vec<Value> = read[0]["resources"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| {
            let file = std::fs::read_to_string(to.join(one.as_str().expect("a path"))).expect("a file");
            python(READ, &[], &file)[0].clone()
        })
        .collect();
    assert_eq!(all, objects, "in the order in which they are to be there");
}

#[test]
fn argo_cd_is_told_where_and_in_which_order() {
    let bowline = Bowline::new();
    let (folder, to) = (whole(&bowline, "whole-argocd", INGRESS), bowline.folder("argocd"));
    let source = "https://git.example.com/acme/whole#deploy@main";
    let images = images_of_whole();
    let apis = ["--api", "prometheus", "--api", "ingress-nginx"];
    let args = [&["render", "kubernetes", path(&folder)], &apis[..], &words(&images)[..]].concat();
    out(&bowline.run(&[&args[..], &["--out", path(&to), "--argocd", source]].concat()));
    let read = |name: &str| {
        let text = std::fs::read_to_string(to.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        python(READ, &[], &text)[0].clone()
    };
    let application = read("argocd.yaml");
    assert_eq!(
        application["spec"]["source"],
        json!({"repoURL": "https://git.example.com/acme/whole", "path": "deploy", "targetRevision": "main"})
    );
    let (there, goes) = (&application["metadata"]["namespace"], &application["spec"]["destination"]["namespace"]);
    assert_eq!((there, goes), (&json!("argocd"), &json!("whole-production")));
    let listed = read("kustomization.yaml")["resources"].to_string();
    assert!(!listed.contains("argocd") && listed.contains("job-whole-before.yaml"), "{listed}");
    let wave = |name: &str| read(name)["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"].clone();
    let waves = [
        "serviceaccount-whole-web.yaml",
        "persistentvolumeclaim-whole-postgres-db.yaml",
        "statefulset-whole-postgres-db.yaml",
        "persistentvolumeclaim-whole-volume-files.yaml",
        "job-whole-before.yaml",
        "persistentvolumeclaim-whole-volume-own.yaml",
        "deployment-whole-web.yaml",
    ];
    assert_eq!(waves.map(wave), ["0", "1", "1", "2", "2", "3", "3"]);
    let elsewhere = ["--out", path(&to), "--argocd", source, "--argocd-namespace", "gitops", "--namespace", "shops"];
    out(&bowline.run(&[&args[..], &elsewhere].concat()));
    let application = read("argocd.yaml");
    let (there, goes) = (&application["metadata"]["namespace"], &application["spec"]["destination"]["namespace"]);
    assert_eq!((there, goes), (&json!("gitops"), &json!("shops")));
    assert!(bowline.fails(&[&args[..], &["--argocd", source]].concat(), 2).contains("--out"));
}

#[test]
fn what_is_missing_or_not_carried_is_said_by_its_name() {
    let bowline = Bowline::new();
    let hello = example(&bowline, "hello", INGRESS);
    let check = |folder: &Path, args: &[&str], expected: &[&str]| {
        let nginx = ["--api", "ingress-nginx"];
        let said = bowline.fails(&[&["render", "kubernetes", path(folder)], &nginx[..], args].concat(), 2);
        expected.iter().for_each(|word| assert!(said.contains(word), "{word}: {said}"));
    };
    check(&hello, &["--argocd-namespace", "x"], &["--argocd"]);
    check(&hello, &[], &["which image web runs", "--image web=REGISTRY/REPOSITORY@sha256:"]);
    check(&hello, &["--image", "web=registry.example.com/acme/hello:1"], &["a tag moves"]);
    check(&hello, &["--image", &format!("wep={}", image("hello"))], &["called wep", "it runs web"]);
    check(&hello, &["--api", "gate"], &["envoy-gateway"]);
    let said = format!("web={}", image("uploads"));
    let toml = plain("uploads");
    let uploads = app(
        &bowline,
        "uploads-as-it-is",
        &format!("{toml}[environment.production.route.main]\nhosts = [\"a.example.com\"]\n"),
    );
    check(&uploads, &["--image", &said], &["route.main.upload", "upload = \"off\"", "[environment.production.…]"]);
    let canary = app(
        &bowline,
        "canary",
        "[service.web]\nrun = \"x\"\n[rollout]\nstrategy = \"canary\"\n[logs]\nto = \"otlp\"\n",
    );
    check(&canary, &["--image", &said], &["2 things", "rollout.strategy: ", "logs: "]);
}
