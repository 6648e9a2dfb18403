//! What an Envoy that is the edge counts itself. It tells only what has happened once: what may never happen is 0 beside that.

use super::{Dashboard, Look, Panel, Unit, or_none, rate, sum};

const BY_CLUSTER: &str = "{{envoy_cluster_name}}";
/// Of the listeners: its administration has figures, too.
const OURS: &str = "envoy_http_conn_manager_prefix=~\"https?\"";
/// Of apps, not of the daemon.
const APPS: &str = "envoy_cluster_name!~\"bowline.*\"";

pub(super) fn dashboard() -> Dashboard {
    let rows = vec![
        ("Now", now()),
        ("Requests, errors, durations", red()),
        ("Instances, as Envoy sees them", instances()),
        ("Envoy itself", itself()),
    ];
    Dashboard { name: "envoy", title: "Envoy", variables: &[], rows }
}

/// Seconds: Envoy counts milliseconds.
fn quantile(share: &str, by: &str, buckets: &str) -> String {
    let by = if by.is_empty() { "le".to_owned() } else { format!("{by}, le") };
    format!("histogram_quantile({share}, {}) / 1000", sum(&by, buckets))
}

fn or_zero(query: &str) -> String {
    format!("{query} or vector(0)")
}

fn of_clients(series: &str, labels: &str) -> String {
    let labels = if labels.is_empty() { OURS.to_owned() } else { format!("{OURS},{labels}") };
    rate(series, &labels)
}

fn of_clusters(series: &str, labels: &str) -> String {
    let labels = if labels.is_empty() { APPS.to_owned() } else { format!("{APPS},{labels}") };
    rate(series, &labels)
}

fn now() -> Vec<Panel> {
    let all = sum("", &of_clients("envoy_http_downstream_rq_total", ""));
    let failed = sum("", &of_clients("envoy_http_downstream_rq_xx", "envoy_response_code_class=\"5\""));
    let times = of_clients("envoy_http_downstream_rq_time_bucket", "");
    vec![
        Panel::number("Envoy", Unit::Count, "min(envoy_server_live)").says("1: it serves"),
        Panel::number("Requests", Unit::RequestsPerSecond, all.clone()),
        Panel::number("Errors", Unit::Share, format!("({}) / {all}", or_zero(&failed)))
            .says("Share of answers with 500 and above"),
        Panel::number("p99", Unit::Seconds, quantile("0.99", "", &times)).says("From the head to the last byte"),
        Panel::number("Connections", Unit::Count, format!("sum(envoy_http_downstream_cx_active{{{OURS}}})"))
            .says("Open, of clients"),
        Panel::number("Memory", Unit::Bytes, "sum(envoy_server_memory_allocated)"),
    ]
}

fn red() -> Vec<Panel> {
    let times = of_clients("envoy_http_downstream_rq_time_bucket", "");
    let answers = of_clients("envoy_http_downstream_rq_xx", "");
    vec![
        Panel::new("Answers by class", Unit::RequestsPerSecond)
            .query(sum("envoy_response_code_class", &answers), "{{envoy_response_code_class}}xx")
            .look(Look::Stack),
        Panel::new("Time to the last byte", Unit::Seconds)
            .query(quantile("0.5", "", &times), "p50")
            .query(quantile("0.9", "", &times), "p90")
            .query(quantile("0.99", "", &times), "p99"),
        Panel::new("Handshakes of TLS", Unit::PerSecond)
            .query(or_zero(&sum("", &rate("envoy_listener_ssl_handshake", ""))), "done")
            .query(or_zero(&sum("", &rate("envoy_listener_ssl_connection_error", ""))), "failed"),
    ]
}

fn instances() -> Vec<Panel> {
    let by = |series: &str, labels: &str| sum("envoy_cluster_name", &of_clusters(series, labels));
    let times = of_clusters("envoy_cluster_upstream_rq_time_bucket", "");
    let failed = by("envoy_cluster_upstream_rq_xx", "envoy_response_code_class=\"5\"");
    vec![
        Panel::new("Requests by release", Unit::RequestsPerSecond)
            .says("Of what was sent to instances")
            .query(by("envoy_cluster_upstream_rq_total", ""), BY_CLUSTER)
            .look(Look::Stack),
        Panel::new("Errors by release", Unit::RequestsPerSecond)
            .says("Answers with 500 and above")
            .query(or_none(&failed, "envoy_cluster_name"), BY_CLUSTER),
        Panel::new("p99 by release", Unit::Seconds)
            .says("Until an instance has answered")
            .query(quantile("0.99", "envoy_cluster_name", &times), BY_CLUSTER),
        Panel::new("Ready instances", Unit::Count)
            .query(format!("sum by (envoy_cluster_name) (envoy_cluster_membership_healthy{{{APPS}}})"), BY_CLUSTER),
        Panel::new("Asked again, and left out", Unit::PerSecond)
            .query(or_zero(&sum("", &of_clusters("envoy_cluster_upstream_rq_retry", ""))), "asked again")
            .query(or_zero(&sum("", &of_clusters("envoy_cluster_upstream_cx_connect_fail", ""))), "not connected")
            .query(
                or_zero(&sum("", &of_clusters("envoy_cluster_outlier_detection_ejections_enforced_total", ""))),
                "left out",
            ),
        Panel::new("Connections to instances", Unit::Count)
            .query(format!("sum by (envoy_cluster_name) (envoy_cluster_upstream_cx_active{{{APPS}}})"), BY_CLUSTER)
            .look(Look::Stack),
    ]
}

fn itself() -> Vec<Panel> {
    let updates = |kind: &str| or_zero(&format!("sum(envoy_{kind})"));
    vec![
        Panel::new("What it was told", Unit::Count)
            .says("Since its start, of clusters and listeners; what is refused is in `bowline status`")
            .query(updates("cluster_manager_cds_update_success"), "clusters taken up")
            .query(updates("listener_manager_lds_update_success"), "listeners taken up")
            .query(updates("cluster_manager_cds_update_rejected"), "clusters refused")
            .query(updates("listener_manager_lds_update_rejected"), "listeners refused"),
        Panel::new("Told by the daemon", Unit::Count)
            .says("1: it is connected; without, it serves what it was last told")
            .query("min(envoy_control_plane_connected_state)", "connected"),
        Panel::new("Memory", Unit::Bytes)
            .query("sum(envoy_server_memory_allocated)", "in use")
            .query("sum(envoy_server_memory_heap_size)", "of the system"),
    ]
}
