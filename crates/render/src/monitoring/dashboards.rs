//! The dashboards, and how Grafana finds them.

mod envoy;

use super::panels::{Dashboard, Look, Panel, Unit};
use super::{File, HEAD, quoted};

/// What a Grafana is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grafana {
    /// Of the Prometheus that is asked.
    pub prometheus: String,
    /// Where the folder of the dashboards lies for Grafana.
    pub dashboards: String,
}

impl Grafana {
    pub fn files(&self) -> Vec<File> {
        let dashboard = |one: Dashboard| {
            let text = serde_json::to_string_pretty(&one.json()).expect("a JSON value prints");
            File::new(format!("dashboards/{}.json", one.name), text + "\n")
        };
        let provisioning = [
            File::new("provisioning/datasources/bowline.yml", self.datasource()),
            File::new("provisioning/dashboards/bowline.yml", self.provider()),
        ];
        provisioning.into_iter().chain(all().into_iter().map(dashboard)).collect()
    }

    fn datasource(&self) -> String {
        format!(
            "{HEAD}apiVersion: 1
datasources:
  - name: Prometheus
    uid: bowline-prometheus
    type: prometheus
    access: proxy
    url: {}
    isDefault: true
    jsonData:
      httpMethod: POST
      timeInterval: 15s
",
            quoted(&self.prometheus)
        )
    }

    fn provider(&self) -> String {
        format!(
            "{HEAD}apiVersion: 1
providers:
  - name: bowline
    folder: Bowline
    type: file
    allowUiUpdates: false
    options:
      path: {}
",
            quoted(&self.dashboards)
        )
    }
}

fn all() -> [Dashboard; 5] {
    [edge(), app(), instances(), releases(), envoy::dashboard()]
}

type Variable = (&'static str, &'static str, &'static str);

const ENV: Variable = ("env", "Environment", "label_values(bowline_change_running, env)");
const APP: Variable = ("app", "App", "label_values(bowline_change_running{env=~\"$env\"}, app)");

/// Of what is chosen above a dashboard.
const CHOSEN: &str = "env=~\"$env\",app=~\"$app\"";
const FAILED: &str = "http_response_status_code=~\"5..\"";
const BY_APP: &str = "{{app}} ({{env}})";

/// Per second, over as long as a step of the picture wants.
fn rate(series: &str, labels: &str) -> String {
    format!("rate({series}{{{labels}}}[$__rate_interval])")
}

fn sum(by: &str, of: &str) -> String {
    match by {
        "" => format!("sum({of})"),
        by => format!("sum by ({by}) ({of})"),
    }
}

/// Where there is none, 0 under a name of its own.
fn or_none(query: &str, by: &str) -> String {
    format!("{query} or label_replace(vector(0), \"{by}\", \"none\", \"\", \"\")")
}

fn requests(by: &str, labels: &str) -> String {
    sum(by, &rate("http_server_request_duration_seconds_count", labels))
}

/// Seconds to the last byte that so many do not take longer than.
fn quantile(share: &str, by: &str, labels: &str) -> String {
    let by = if by.is_empty() { "le".to_owned() } else { format!("{by}, le") };
    let buckets = sum(&by, &rate("http_server_request_duration_seconds_bucket", labels));
    format!("histogram_quantile({share}, {buckets})")
}

/// Requests, errors and durations of all that comes in.
fn edge() -> Dashboard {
    let rows = vec![
        ("Now", edge_now()),
        ("Requests, errors, durations", edge_red()),
        ("The edge itself", edge_itself()),
        ("The machine", machine()),
    ];
    Dashboard { name: "edge", title: "Edge", variables: &[], rows }
}

fn edge_now() -> Vec<Panel> {
    let failed = format!("({} or vector(0)) / {}", requests("", FAILED), requests("", ""));
    vec![
        Panel::number("Edge", Unit::Count, "min(bowline_edge_up)").says("1: connected to its daemon"),
        Panel::number("Requests", Unit::RequestsPerSecond, requests("", "")).says("Of all apps"),
        Panel::number("Errors", Unit::Share, failed).says("Share of answers with 500 and above"),
        Panel::number("p99", Unit::Seconds, quantile("0.99", "", "")).says("From the head to the last byte, of all"),
        Panel::number("Connections", Unit::Count, "sum(bowline_edge_connections)").says("Open, of clients"),
        Panel::number("Disk free", Unit::Share, "min(bowline_disk_free_bytes / bowline_disk_total_bytes)")
            .says("Where the state lies"),
    ]
}

fn edge_red() -> Vec<Panel> {
    vec![
        Panel::new("Requests by app", Unit::RequestsPerSecond)
            .query(requests("app, env", ""), BY_APP)
            .look(Look::Stack),
        Panel::new("Requests by status", Unit::RequestsPerSecond)
            .query(requests("http_response_status_code", ""), "{{http_response_status_code}}")
            .look(Look::Stack),
        Panel::new("Time to the last byte", Unit::Seconds)
            .says("Of all requests")
            .query(quantile("0.5", "", ""), "p50")
            .query(quantile("0.9", "", ""), "p90")
            .query(quantile("0.99", "", ""), "p99"),
        Panel::new("Errors by app", Unit::Share)
            .says("Share of answers with 500 and above, in 5 minutes")
            .query("app:http_errors:ratio_rate5m", BY_APP),
        Panel::new("p99 by app", Unit::Seconds)
            .says("In 5 minutes")
            .query("app:http_request_duration_seconds:p99", BY_APP),
        Panel::new("Requests under way", Unit::Count)
            .says("And tunnels")
            .query("sum by (app, env) (http_server_active_requests)", BY_APP)
            .look(Look::Stack),
    ]
}

fn edge_itself() -> Vec<Panel> {
    let refused = or_none(&sum("reason", &rate("bowline_edge_refused_total", "")), "reason");
    vec![
        Panel::new("Connections", Unit::PerSecond)
            .query(sum("", &rate("bowline_edge_connections_accepted_total", "")), "accepted"),
        Panel::new("TLS handshakes", Unit::PerSecond)
            .query(sum("result", &rate("bowline_edge_tls_handshakes_total", "")), "{{result}}"),
        Panel::new("Refused", Unit::PerSecond).says("Before a route was found, by reason").query(refused, "{{reason}}"),
        Panel::new("Tried again", Unit::PerSecond)
            .says("Requests that one instance had failed")
            .query(sum("result", &rate("bowline_edge_retries_total", "")), "{{result}}"),
        Panel::new("Left out", Unit::PerSecond)
            .says("Instances whose last five requests had failed")
            .query(sum("", &rate("bowline_edge_left_out_total", "")), "left out"),
        Panel::new("Memory", Unit::Bytes)
            .says("Private memory of the edge's process")
            .query("sum by (instance) (bowline_edge_private_memory_bytes)", "{{instance}}"),
    ]
}

fn machine() -> Vec<Panel> {
    let of_apps = format!("{} or vector(0)", sum("", &rate("bowline_app_series_dropped_total", "")));
    vec![
        Panel::new("Disk", Unit::Bytes)
            .says("Where the state lies")
            .query("bowline_disk_free_bytes", "free of {{instance}}")
            .query("bowline_disk_total_bytes", "size of {{instance}}"),
        Panel::new("Certificates", Unit::DateFromNow)
            .says("When each ends")
            .query("min by (host) (bowline_certificate_expiry_timestamp_seconds) * 1000", "{{host}}")
            .look(Look::Bars),
        Panel::new("Series dropped", Unit::PerSecond)
            .says("Because there were too many")
            .query(sum("", &rate("bowline_edge_series_dropped_total", "")), "of the edge")
            .query(of_apps, "of apps"),
    ]
}

/// One app, as those who use it see it.
fn app() -> Dashboard {
    let rows = vec![("Objective", objective()), ("Requests", app_requests())];
    Dashboard { name: "app", title: "App", variables: &[ENV, APP], rows }
}

fn objective() -> Vec<Panel> {
    let budget = format!("app:http_error_budget:ratio{{{CHOSEN}}}");
    vec![
        Panel::number("Objective", Unit::Share, format!("max(1 - {budget})"))
            .says("Of `[slo]`; 99 % where the app promises nothing"),
        Panel::number("Failed in an hour", Unit::Share, format!("max(app:http_errors:ratio_rate1h{{{CHOSEN}}})"))
            .says("Share of answers with 500 and above"),
        Panel::number(
            "Budget left",
            Unit::Share,
            format!("min(1 - app:http_errors:ratio_rate3d{{{CHOSEN}}} / {budget})"),
        )
        .says("Of three days; below 0 more has failed than was promised"),
        Panel::number("Requests", Unit::RequestsPerSecond, requests("", CHOSEN)),
        Panel::number("p50", Unit::Seconds, quantile("0.5", "", CHOSEN)),
        Panel::number("p99", Unit::Seconds, quantile("0.99", "", CHOSEN)),
    ]
}

fn app_requests() -> Vec<Panel> {
    let mean = |what: &str| {
        let of = |part: &str| sum("", &rate(&format!("http_server_{what}_body_size_bytes_{part}"), CHOSEN));
        format!("{} / {}", of("sum"), of("count"))
    };
    vec![
        Panel::new("Requests by route", Unit::RequestsPerSecond)
            .query(requests("http_request_method, http_route", CHOSEN), "{{http_request_method}} {{http_route}}")
            .look(Look::Stack)
            .half(),
        Panel::new("Requests by status", Unit::RequestsPerSecond)
            .query(requests("http_response_status_code", CHOSEN), "{{http_response_status_code}}")
            .look(Look::Stack)
            .half(),
        Panel::new("Time to the last byte", Unit::Seconds)
            .query(quantile("0.5", "", CHOSEN), "p50")
            .query(quantile("0.9", "", CHOSEN), "p90")
            .query(quantile("0.99", "", CHOSEN), "p99")
            .half(),
        Panel::new("p95 by route", Unit::Seconds)
            .query(quantile("0.95", "http_route", CHOSEN), "{{http_route}}")
            .half(),
        Panel::new("Errors against the objective", Unit::Share)
            .says("Share of answers with 500 and above, in 5 minutes; above the budget, it is spent")
            .query(format!("app:http_errors:ratio_rate5m{{{CHOSEN}}}"), BY_APP)
            .query(format!("app:http_error_budget:ratio{{{CHOSEN}}}"), "budget of {{app}} ({{env}})")
            .half(),
        Panel::new("Mean size of bodies", Unit::Bytes)
            .query(mean("request"), "requests")
            .query(mean("response"), "answers")
            .half(),
    ]
}

/// Utilisation, saturation and errors of what runs.
fn instances() -> Dashboard {
    let now = vec![
        Panel::number("Ready", Unit::Count, format!("sum(bowline_instance_state{{{CHOSEN},state=\"ready\"}})"))
            .says("Instances that get requests"),
        Panel::number("Memory", Unit::Bytes, format!("sum(bowline_instance_memory_bytes{{{CHOSEN}}})"))
            .says("Of all of them"),
        Panel::number("Processor", Unit::Cores, sum("", &rate("bowline_instance_cpu_seconds_total", CHOSEN)))
            .says("Of all of them"),
    ];
    let rows = vec![
        ("Now", now),
        ("Use", instances_use()),
        ("Saturation", instances_saturation()),
        ("Errors", instances_errors()),
    ];
    Dashboard { name: "instances", title: "Instances", variables: &[ENV, APP], rows }
}

fn instances_use() -> Vec<Panel> {
    let cores = rate("bowline_instance_cpu_seconds_total", CHOSEN);
    let memory = format!("bowline_instance_memory_bytes{{{CHOSEN}}}");
    let of_cores = format!("{cores} / bowline_instance_cpu_limit_cores{{{CHOSEN}}}");
    let of_memory = format!("{memory} / bowline_instance_memory_limit_bytes{{{CHOSEN}}}");
    vec![
        Panel::new("Processor", Unit::Cores).says("Cores that each uses").query(cores, "{{instance}}").half(),
        Panel::new("Processor, of its limit", Unit::Share)
            .says("Only of services with `limits.cpu`")
            .query(of_cores, "{{instance}}")
            .half(),
        Panel::new("Memory", Unit::Bytes).query(memory, "{{instance}}").half(),
        Panel::new("Memory, of its limit", Unit::Share)
            .says("Only of services with `limits.memory`; at its limit an instance is killed")
            .query(of_memory, "{{instance}}")
            .half(),
    ]
}

fn instances_saturation() -> Vec<Panel> {
    vec![
        Panel::new("Requests under way", Unit::Count)
            .says("Each instance's")
            .query(format!("http_server_active_requests{{{CHOSEN}}}"), "{{instance}}")
            .look(Look::Stack),
        Panel::new("Log lines lost", Unit::PerSecond)
            .says("Because the disk could not take them")
            .query(rate("bowline_instance_log_lines_dropped_total", CHOSEN), "{{instance}}"),
        Panel::new("Own metrics", Unit::Count)
            .says("1: they can be read. Only of services with `metrics`")
            .query(format!("up{{job=\"bowline-apps\",{CHOSEN}}}"), "{{instance}}"),
    ]
}

fn instances_errors() -> Vec<Panel> {
    let restarts = format!("increase(bowline_instance_restarts_total{{{CHOSEN}}}[1h])");
    vec![
        Panel::new("Instances by state", Unit::Count)
            .query(format!("sum by (state) (bowline_instance_state{{{CHOSEN}}})"), "{{state}}")
            .look(Look::Stack)
            .half(),
        Panel::new("Started again", Unit::Count)
            .says("In an hour")
            .query(sum("app, service, slot", &restarts), "{{app}}.{{service}} {{slot}}")
            .half(),
    ]
}

/// What a new release does to traffic, errors and times.
fn releases() -> Dashboard {
    let rows = vec![("Course", course()), ("Judged by", judged()), ("Scale and secrets", scale_and_secrets())];
    Dashboard { name: "releases", title: "Releases", variables: &[ENV, APP], rows }
}

fn course() -> Vec<Panel> {
    const BY_SET: &str = "{{app}}.{{service}} r{{release}} {{role}}";
    vec![
        Panel::new("Under way", Unit::Count)
            .says("1: a release, a rollback, a restart or another scale")
            .query(format!("bowline_change_running{{{CHOSEN}}}"), BY_APP),
        Panel::new("Share of the traffic", Unit::Share)
            .says("That each release is given")
            .query(format!("bowline_release_weight_ratio{{{CHOSEN}}}"), BY_SET)
            .look(Look::Stack),
        Panel::new("Instances", Unit::Count)
            .says("That each release is to have")
            .query(format!("bowline_release_wanted_instances{{{CHOSEN}}}"), BY_SET)
            .look(Look::Stack),
    ]
}

fn judged() -> Vec<Panel> {
    const BY: &str = "app, env, release";
    const LEGEND: &str = "{{app}} ({{env}}) r{{release}}";
    // A redirect or a refusal is no release's.
    let served = format!("{CHOSEN},release!=\"\"");
    let (all, failed) = (requests(BY, &served), requests(BY, &format!("{served},{FAILED}")));
    vec![
        Panel::new("Requests by release", Unit::RequestsPerSecond).query(all.clone(), LEGEND).look(Look::Stack),
        Panel::new("Errors by release", Unit::Share)
            .says("Share of answers with 500 and above")
            .query(format!("({failed} or 0 * {all}) / ({all} > 0)"), LEGEND),
        Panel::new("p99 by release", Unit::Seconds)
            .says("From the head to the last byte")
            .query(quantile("0.99", BY, &served), LEGEND),
    ]
}

fn scale_and_secrets() -> Vec<Panel> {
    let scaler = |what: &str| format!("sum by (app, env, service) (bowline_scaler_{what}_instances{{{CHOSEN}}})");
    let set = format!("max by (app, env, secret) (bowline_secret_set_timestamp_seconds{{{CHOSEN}}})");
    vec![
        Panel::new("Scaled by load", Unit::Count)
            .says("Only of services between two bounds")
            .query(scaler("desired"), "{{app}}.{{service}} is to have")
            .query(scaler("ready"), "{{app}}.{{service}} ready")
            .query(scaler("wanted"), "{{app}}.{{service}} wants")
            .query(scaler("max"), "{{app}}.{{service}} at most")
            .half(),
        Panel::new("Age of secrets", Unit::Seconds)
            .says("Since the newest version was set")
            .query(format!("time() - {set}"), "{{app}} ({{env}}) {{secret}}")
            .look(Look::Bars)
            .half(),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::panels::COLUMNS;
    use super::*;

    #[test]
    fn every_panel_has_a_place_of_its_own_a_query_and_a_unit() {
        for dashboard in all() {
            let json = dashboard.json();
            let panels = json["panels"].as_array().unwrap();
            let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
            for panel in panels {
                assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
                let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
                assert!(at("x") + at("w") <= u64::from(COLUMNS), "{panel}");
                for x in at("x")..at("x") + at("w") {
                    for y in at("y")..at("y") + at("h") {
                        assert!(cells.insert((x, y)), "{} lies on another: {panel}", dashboard.name);
                    }
                }
                if panel["type"] == "row" {
                    continue;
                }
                let targets = panel["targets"].as_array().unwrap();
                assert!(!targets.is_empty() && panel["fieldConfig"]["defaults"]["unit"].is_string(), "{panel}");
                let many = targets.iter().all(|target| target["legendFormat"] != "");
                assert!(many || panel["type"] == "stat", "a series without a name: {panel}");
            }
        }
    }

    /// A series that is asked for and nobody exposes is an empty picture.
    #[test]
    fn every_series_that_a_panel_asks_for_is_documented() {
        let documented = include_str!("../../../../docs/reference/metrics.md");
        for dashboard in all() {
            for (_, panels) in &dashboard.rows {
                for (query, _) in panels.iter().flat_map(|panel| &panel.queries) {
                    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
                    for name in words.filter(|word| word.starts_with("bowline_") || word.starts_with("http_server_")) {
                        let base = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
                        let known = |name: &str| documented.contains(&format!("`{name}`"));
                        assert!(known(name) || base.is_some_and(known), "{name} in {query}");
                    }
                }
            }
        }
    }
}
