//! Prometheus and Alertmanager, the real ones: what is rendered for them, and both as services of Bowline.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use bowline_tests::client::{Answer, curl};
use bowline_tests::port::Port;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, fixture, path, text, tool, wait};
use serde_json::Value;

/// Prometheus has to start, to scrape, and to evaluate.
const SEEN: Duration = Duration::from_secs(90);

/// Who may look.
const WATCHER: &str = "ada:lovelace";

/// A program of the packages `prometheus` and `prometheus-alertmanager`, in a folder, which must be content.
fn check(program: &str, args: &[&str], dir: &Path) -> String {
    let output = Command::new(program).args(args).current_dir(dir).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is installed by scripts/setup: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", text(&output));
    text(&output)
}

fn render(bowline: &Bowline, words: &[&str], dir: &Path) {
    let output = bowline.run(&[&["render"], words, &["--out", path(dir)]].concat());
    assert!(output.status.success(), "{words:?}: {}", text(&output));
}

#[test]
fn prom_tools_take_what_is_rendered_and_the_rules_do_what_they_should() {
    let bowline = Bowline::new();
    let dir = bowline.folder("prom-rendered");
    let elsewhere = ["--alertmanager", "am.example:9093/alerts", "--remote-write", "https://other.example/write"];
    let token = bowline.folder("prom-token").join("token");
    std::fs::write(&token, "t0ken").expect("a file of the test");
    render(&bowline, &[&["prometheus"], &elsewhere[..], &["--remote-write-token", path(&token)]].concat(), &dir);
    check("promtool", &["check", "config", "prometheus.yml"], &dir);
    let api = ["--metrics", "https://bowline.example", "--token-file", path(&token), "--ca-file", path(&token)];
    render(&bowline, &[&["prometheus"], &api[..]].concat(), &dir);
    check("promtool", &["check", "config", "--syntax-only", "prometheus.yml"], &dir);
    assert!(
        bowline.fails(&["render", "prometheus", "--metrics", "https://bowline.example"], 2).contains("--token-file")
    );
    render(&bowline, &["prometheus"], &dir);
    let said = check("promtool", &["check", "config", "prometheus.yml"], &dir);
    assert!(said.contains("2 rule files"), "{said}");
    for rules in ["rules/recording.yml", "rules/alerts.yml"] {
        check("promtool", &["check", "rules", "--lint=all", "--lint-fatal", rules], &dir);
    }
    std::fs::copy(fixture("prometheus").join("rules.test.yml"), dir.join("rules.test.yml")).expect("the fixture");
    check("promtool", &["test", "rules", "rules.test.yml"], &dir);

    render(&bowline, &["alertmanager"], &dir);
    check("amtool", &["check-config", "alertmanager.yml"], &dir);

    render(&bowline, &["grafana"], &dir);
    let dashboards = ["edge", "app", "instances", "releases", "envoy"].map(|name| format!("dashboards/{name}.json"));
    check(path(&tool("grafana-decode")), &dashboards.each_ref().map(String::as_str), &dir);
    let printed = text(&bowline.run(&["render", "grafana"]));
    for file in ["==> dashboards/edge.json <==", "==> provisioning/datasources/bowline.yml <=="] {
        assert!(printed.contains(file), "{printed}");
    }
}

/// Takes what Alertmanager sends to a webhook.
struct Webhook {
    url: String,
    told: mpsc::Receiver<Value>,
}

impl Webhook {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/hook", listener.local_addr().expect("it is bound"));
        let (sender, told) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let Some(body) = posted(stream) else { continue };
                if sender.send(body).is_err() {
                    return;
                }
            }
        });
        Self { url, told }
    }
}

fn posted(mut stream: TcpStream) -> Option<Value> {
    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length:").and_then(|n| n.trim().parse::<usize>().ok())
            });
            if body.len() >= length? {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").ok()?;
                return serde_json::from_str(body).ok();
            }
        }
        match stream.read(&mut piece).ok()? {
            0 => return None,
            n => request.extend_from_slice(&piece[..n]),
        }
    }
}

/// Another Prometheus, which samples are written to.
struct Elsewhere {
    port: u16,
    _held: Port,
    child: Child,
}

impl Elsewhere {
    fn start(bowline: &Bowline) -> Self {
        let (held, dir) = (Port::reserve(), bowline.folder("prom-elsewhere"));
        let port = held.number;
        let config = dir.join("prometheus.yml");
        std::fs::write(&config, "global: {}\n").expect("a file of the test");
        let flag = |name: &str, value: &str| format!("--{name}={value}");
        let child = Command::new("prometheus")
            .arg("--web.enable-remote-write-receiver")
            .arg(flag("config.file", path(&config)))
            .arg(flag("storage.tsdb.path", path(&dir.join("data"))))
            .arg(flag("web.listen-address", &format!("127.0.0.1:{port}")))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is installed by scripts/setup");
        Self { port, _held: held, child }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Whether it has this series.
    fn has(&self, query: &str) -> bool {
        let arguments = ["--get", "--data-urlencode", &format!("query={query}")];
        let answer = curl(Path::new("/dev/null"), &self.url("/api/v1/query"), &arguments);
        answer.status == 200 && answer.json()["data"]["result"].as_array().is_some_and(|all| !all.is_empty())
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // Ends only what this test started.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An app, and beside it a Prometheus and an Alertmanager that watch it.
struct Watched {
    bowline: Bowline,
    up: Up,
    webhook: Webhook,
    elsewhere: Elsewhere,
    /// Of the Prometheus and the Alertmanager.
    _ports: [Port; 2],
    /// `https://monitoring….localhost:PORT`
    monitoring: String,
    load: Child,
}

impl Watched {
    fn start(bowline: Bowline, edge: &[&str]) -> Self {
        let webhook = Webhook::start();
        let up = Up::start_with(&bowline, &bowline.app("prom-app", "watched"), edge, SOON);
        let folder = bowline.folder("prom-monitoring");
        let elsewhere = Elsewhere::start(&bowline);
        let remote = elsewhere.url("/api/v1/write");
        let ports = [Port::reserve(), Port::reserve()];
        let servers: [(&str, &[&str]); 2] = [("prometheus", &["--remote-write", &remote]), ("alertmanager", &[])];
        for ((server, more), port) in servers.into_iter().zip(&ports) {
            let port = port.number.to_string();
            let added = bowline.json(&[&["add", server, path(&folder), "--port", &port][..], more].concat());
            assert_eq!((&added["app"], &added["installed"]), (&"prom-monitoring".into(), &true.into()), "{added}");
        }
        faster(&folder.join("prometheus/prometheus.yml"));
        let secret = |name: &str, value: &str| {
            let file = bowline.folder("prom-secrets").join(name);
            std::fs::write(&file, value).expect("a file of the test");
            let set = bowline.run(&["secret", "set", "prom-monitoring", name, "--file", path(&file)]);
            assert!(set.status.success(), "{}", text(&set));
        };
        secret("watchers", WATCHER);
        secret("alert-webhook", &webhook.url);
        let load = load(&bowline, &up);
        let output = bowline.run(&["up", path(&folder), "--detach"]);
        assert!(output.status.success(), "{}\n{}", text(&output), logs(&bowline));
        let monitoring = up.https().replace("prom-app.", "prom-monitoring.");
        Self { bowline, up, webhook, elsewhere, _ports: ports, monitoring, load }
    }

    fn get(&self, url: &str, more: &[&str]) -> Answer {
        curl(&self.bowline.ca(), &format!("{}{url}", self.monitoring), &[&["--user", WATCHER], more].concat())
    }

    /// Series that a query gives now, with a number.
    fn query(&self, query: &str) -> Vec<Value> {
        let answer = self.get("/prometheus/api/v1/query", &["--get", "--data-urlencode", &format!("query={query}")]);
        assert_eq!(answer.status, 200, "{query}: {}", answer.text());
        let json = answer.json();
        let series = json["data"]["result"].as_array().cloned().unwrap_or_default();
        series.into_iter().filter(|one| one["value"][1] != "NaN").collect()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Ends only what this test started.
        let _ = self.load.kill();
        let _ = self.load.wait();
    }
}

fn logs(bowline: &Bowline) -> String {
    text(&bowline.run(&["logs", "prom-monitoring"]))
}

/// As a person would who cannot wait: the configuration is theirs.
fn faster(config: &Path) {
    let text = std::fs::read_to_string(config).expect("what `add` has written");
    std::fs::write(config, text.replace(": 15s", ": 1s")).expect("a file of the test");
}

/// A third of the requests fails, over and over.
fn load(bowline: &Bowline, up: &Up) -> Child {
    let script = format!(
        "while :; do for path in a b fail c d fail; do curl -s -o /dev/null --cacert {} {}/$path; done; done",
        bowline.ca().display(),
        up.https()
    );
    Command::new("sh").args(["-c", &script]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("sh")
}

/// Every dashboard's queries, as Grafana would ask them with nothing chosen.
fn panels(bowline: &Bowline) -> Vec<(String, String)> {
    let rendered = bowline.json(&["render", "grafana"]);
    let mut queries = Vec::new();
    for file in rendered["files"].as_array().expect("files") {
        let name = file["path"].as_str().expect("a path");
        if !name.starts_with("dashboards/") {
            continue;
        }
        let dashboard: Value = serde_json::from_str(file["text"].as_str().expect("a text")).expect("JSON");
        for panel in dashboard["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let asked = target["expr"].as_str().expect("a query").replace("$__rate_interval", "20s");
                let asked = asked.replace("$env", ".*").replace("$app", "prom-app");
                queries.push((format!("{name}: {}", panel["title"]), asked));
            }
        }
    }
    assert!(queries.len() > 50, "{queries:?}");
    queries
}

/// The whole: a real load, a real Prometheus behind the edge, every panel's query and every rule, and the message of an alert.
#[test]
fn prom_a_server_that_was_added_has_data_for_every_panel_and_tells_of_an_outage() {
    let watched = Watched::start(Bowline::new(), &[]);
    let unknown = curl(&watched.bowline.ca(), &format!("{}/prometheus/api/v1/query", watched.monitoring), &[]);
    assert_eq!(unknown.status, 401, "{}", unknown.text());
    for job in ["bowline", "bowline-apps"] {
        let query = format!("up{{job=\"{job}\"}} == 1");
        wait(&format!("{job} is scraped"), SEEN, || (!watched.query(&query).is_empty()).then_some(()));
    }
    own_metrics(&watched);
    wait("samples are written elsewhere, too", SEEN, || watched.elsewhere.has("bowline_build_info").then_some(()));
    by_the_api(&watched);

    for (panel, query) in panels(&watched.bowline).into_iter().filter(|(panel, _)| !panel.contains("envoy.json")) {
        wait(&format!("{panel} has data: {query}"), SEEN, || (!watched.query(&query).is_empty()).then_some(()));
    }
    rules(&watched);

    let page = "ALERTS{alertname=\"ErrorBudgetBurn\",alertstate=\"firing\",severity=\"page\",app=\"prom-app\"}";
    wait("the outage is an alert", SEEN, || (!watched.query(page).is_empty()).then_some(()));
    let told = watched.webhook.told.recv_timeout(SEEN).expect("Alertmanager tells the webhook");
    let said = told.to_string();
    for words in ["ok → PAGE ErrorBudgetBurn", "prom-app (local) fails"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

/// The same with a real Envoy, whose own figures are beside Bowline's and for nobody but who may read those.
#[test]
fn prom_an_envoy_that_is_the_edge_has_data_for_every_panel() {
    let watched = Watched::start(Bowline::new(), &["--edge", "envoy"]);
    for job in ["bowline", "bowline-apps", "bowline-envoy"] {
        let query = format!("up{{job=\"{job}\"}} == 1");
        wait(&format!("{job} is scraped"), SEEN, || (!watched.query(&query).is_empty()).then_some(()));
    }
    for (panel, query) in panels(&watched.bowline) {
        wait(&format!("{panel} has data: {query}"), SEEN, || (!watched.query(&query).is_empty()).then_some(()));
    }
    let released = "envoy_cluster_upstream_rq_total{envoy_cluster_name=\"local/prom-app/web/r1\"} > 0";
    assert!(!watched.query(released).is_empty(), "{:?}", watched.query("envoy_cluster_upstream_rq_total"));
}

/// With Bowline's labels, and its own beside them; not to be had from outside.
fn own_metrics(watched: &Watched) {
    let query = "watched_requests_total{app=\"prom-app\",env=\"local\",service=\"web\",release=\"1\",exported_app=\"its own\",outcome=\"failed\"} > 0";
    let found = wait("the app's own metrics", SEEN, || watched.query(query).into_iter().next());
    let instance = found["metric"]["instance"].as_str().unwrap_or_default();
    assert!(instance.starts_with("local/prom-app.web.r1."), "{found}");
    let outside = curl(&watched.bowline.ca(), &format!("{}/own/metrics", watched.up.https()), &[]);
    assert_eq!(outside.status, 403);
}

/// The same is told by the API, for a Prometheus elsewhere.
fn by_the_api(watched: &Watched) {
    let socket = watched.bowline.api_socket();
    let get = |at: &str| {
        let url = format!("http://bowline.example:8443/v1/metrics{at}");
        curl(Path::new("/dev/null"), &url, &["--unix-socket", path(&socket)])
    };
    assert!(get("").text().contains("bowline_build_info"));
    let targets = get("/targets").json();
    let target = targets.as_array().and_then(|all| all.first()).cloned().unwrap_or_else(|| panic!("{targets}"));
    assert_eq!(target["targets"][0], "bowline.example:8443", "{target}");
    let at = target["labels"]["__metrics_path__"].as_str().expect("a path");
    let own = get(at.strip_prefix("/v1/metrics").unwrap_or_else(|| panic!("{at}")));
    assert!(own.status == 200 && own.text().contains("watched_requests_total{app=\"prom-app\""), "{}", own.text());
    assert_eq!(get("/instances/local/prom-app.web.r9.0.1").status, 404);
}

fn rules(watched: &Watched) {
    let rules = || watched.get("/prometheus/api/v1/rules", &[]).json()["data"]["groups"].clone();
    let all = |groups: &Value| -> Vec<Value> {
        groups
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default())
            .collect()
    };
    let found = wait("all rules are evaluated", SEEN, || {
        let found = all(&rules());
        (!found.is_empty() && found.iter().all(|rule| rule["health"] != "unknown")).then_some(found)
    });
    for rule in &found {
        assert_eq!(rule["health"], "ok", "{rule}");
        if rule["type"] == "recording" {
            let name = rule["name"].as_str().expect("a name");
            wait(&format!("{name} has data"), SEEN, || (!watched.query(name).is_empty()).then_some(()));
        }
    }
}

/// Where nothing is to be overwritten, nothing is.
#[test]
fn prom_add_changes_nothing_that_is_there() {
    let bowline = Bowline::new();
    let folder = bowline.app("prom-add", "watched");
    let file = folder.join("bowline.toml");
    let before = std::fs::read_to_string(&file).expect("the fixture");
    let add = |words: &[&str]| bowline.run(&[&["add"], words].concat());
    let said = |output: &Output| text(output);

    std::fs::create_dir(folder.join("prometheus")).expect("a folder of the test");
    std::fs::write(folder.join("prometheus/prometheus.yml"), "mine").expect("a file of the test");
    let refused = add(&["prometheus", path(&folder)]);
    assert_eq!(refused.status.code(), Some(3), "{}", said(&refused));
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), before);

    std::fs::remove_file(folder.join("prometheus/prometheus.yml")).expect("a file of the test");
    let added = add(&["prometheus", path(&folder), "--remote-write", "https://other.example/write"]);
    assert!(added.status.success(), "{}", said(&added));
    assert!(said(&added).contains("bowline secret set prom-add watchers"), "{}", said(&added));
    let after = std::fs::read_to_string(&file).expect("the file");
    assert!(after.starts_with(&before) && after.contains("[service.prometheus]"), "{after}");
    check("promtool", &["check", "config", "prometheus.yml"], &folder.join("prometheus"));
    let again = add(&["prometheus", path(&folder)]);
    assert!(
        again.status.code() == Some(3) && said(&again).contains("[service.prometheus] already"),
        "{}",
        said(&again)
    );

    let code = bowline.folder("prom-code");
    std::fs::write(code.join("app.py"), "").expect("a file of the test");
    let refused = add(&["grafana", path(&code)]);
    assert!(refused.status.code() == Some(3) && said(&refused).contains("bowline init"), "{}", said(&refused));
    let empty: PathBuf = bowline.folder("prom-new").join("grafana-only");
    let added = add(&["grafana", path(&empty)]);
    assert!(added.status.success() && said(&added).contains("grafana.com"), "{}", said(&added));
    assert!(empty.join("grafana/dashboards/edge.json").exists());
}
