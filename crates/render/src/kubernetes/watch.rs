//! What watches the app, where the Prometheus Operator is: who is scraped, what is promised, and what is looked at.

use std::collections::BTreeMap;

use bowline_core::units::Share;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use super::{Ctx, Edge, HTTP, rollout};
use crate::input::Api;
use crate::monitoring::rules::{BURNS, Burn};
use crate::names;
use crate::object::{Out, Wave};

pub(super) fn put(ctx: &Ctx<'_>, out: &mut Out) {
    if !ctx.has(Api::Prometheus) {
        return;
    }
    for (name, service) in &ctx.app.services {
        let Some(path) = &service.metrics else { continue };
        let mut endpoint = json!({ "port": HTTP, "path": path });
        if rollout::is_argo(ctx, name) {
            endpoint["relabelings"] = once(&ctx.named(&[name.as_str()]));
        }
        let body = json!({
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "ServiceMonitor",
            "metadata": ctx.meta(ctx.named(&[name.as_str()]), name.as_str()),
            "spec": {
                "selector": { "matchLabels": ctx.selector(name.as_str()) },
                "endpoints": [endpoint],
            },
        });
        out.put(Wave::Watch, &body);
    }
    let availability = ctx.app.slo.as_ref().and_then(|slo| slo.availability);
    let (Some(availability), Some(seen)) = (availability, Seen::of(ctx)) else { return };
    out.note_by_hand(format!(
        "the availability of {} is reckoned of requests to namespace {}: `--namespace` says another",
        ctx.key.app,
        names::namespace(ctx.key, ctx.app)
    ));
    rules(ctx, availability, &seen, out);
    dashboard(ctx, availability, &seen, out);
}

/// Two Services lead to the pods of a Rollout, and between releases both to all of them; while a release takes over, one of them alone to the new ones.
/// So neither is left out: a pod is the same target by either where its labels are, and Prometheus scrapes a target once.
fn once(service: &str) -> Value {
    let same = |label: &str| json!({ "action": "replace", "targetLabel": label, "replacement": service });
    json!([same("service"), same("job")])
}

/// The requests of the app's routes as the edge counts them: selectors, each of which counts some of them. An app of the same name in
/// another namespace has others.
pub(crate) struct Seen {
    metric: &'static str,
    selectors: Vec<String>,
    failed: &'static str,
}

impl Seen {
    /// `None`: of this edge it is not known how it counts, or no route has hosts.
    pub(crate) fn of(ctx: &Ctx<'_>) -> Option<Self> {
        let routes = ctx.app.routes.iter().filter(|(_, route)| !route.hosts.is_empty());
        let names: Vec<String> = routes.map(|(name, _)| ctx.named(&[name.as_str()])).collect();
        let names = Some(names.join("|")).filter(|names| !names.is_empty())?;
        let namespace = names::namespace(ctx.key, ctx.app);
        match Edge::of(ctx.input) {
            Edge::Gateway { envoy: true, .. } => Some(Self {
                metric: "envoy_cluster_upstream_rq_xx",
                selectors: vec![format!("envoy_cluster_name=~\"httproute/{namespace}/({names})/rule/.+\"")],
                failed: "envoy_response_code_class=\"5\"",
            }),
            // Who scrapes by the Prometheus Operator finds its own label of that name taken, and calls the Ingress' another.
            Edge::Ingress { nginx: true, .. } => Some(Self {
                metric: "nginx_ingress_controller_requests",
                selectors: vec![
                    format!("ingress=~\"{names}\",exported_namespace=\"{namespace}\""),
                    format!("ingress=~\"{names}\",exported_namespace=\"\",namespace=\"{namespace}\""),
                ],
                failed: "status=~\"5..\"",
            }),
            Edge::Gateway { envoy: false, .. } | Edge::Ingress { nginx: false, .. } => None,
        }
    }

    /// Requests per second. `more`: which of them.
    fn rate(&self, window: &str, more: Option<&str>) -> String {
        let one = |selector: &String| {
            let all: Vec<&str> = std::iter::once(selector.as_str()).chain(more).collect();
            format!("rate({}{{{}}}[{window}])", self.metric, all.join(","))
        };
        format!("sum({})", self.selectors.iter().map(one).collect::<Vec<_>>().join(" or "))
    }

    /// The share of requests that failed.
    fn failing(&self, window: &str) -> String {
        format!("{} / {}", self.rate(window, Some(self.failed)), self.rate(window, None))
    }
}

/// What may fail: `0.001` of `99.9%`.
fn budget(availability: Share) -> String {
    let left = Share::WHOLE.ppm() - availability.ppm();
    let text = format!("{}.{:06}", left / 1_000_000, left % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn rules(ctx: &Ctx<'_>, availability: Share, seen: &Seen, out: &mut Out) {
    let (app, env, budget) = (&ctx.key.app, &ctx.key.env, budget(availability));
    let alert = |Burn { long, short, rate, severity }: &Burn| {
        let above = |window: &str| format!("{} > {rate} * {budget}", seen.failing(window));
        json!({
            "alert": "AppBurnsBudget",
            "expr": format!("{}\nand\n{}\n", above(long), above(short)),
            "labels": { "severity": severity, "app": app.as_str(), "env": env.as_str(), "window": long },
            "annotations": {
                "summary": format!("{app} in {env} fails more often than {availability} allows"),
                "description": format!("Over {long} and {short} it spends what may fail {rate} times too fast."),
            },
        })
    };
    let alerts: Vec<Value> = BURNS.iter().map(alert).collect();
    let body = json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": ctx.meta(ctx.named(&["availability"]), "watch"),
        "spec": { "groups": [{ "name": format!("{app}-availability"), "rules": alerts }] },
    });
    out.put(Wave::Watch, &body);
}

/// Found by Grafana's sidecar by its label.
fn dashboard(ctx: &Ctx<'_>, availability: Share, seen: &Seen, out: &mut Out) {
    let panel = |id: u8, title: &str, expr: String, unit: &str| {
        json!({
            "id": id,
            "type": "timeseries",
            "title": title,
            "gridPos": { "x": 8 * (id - 1), "y": 0, "w": 8, "h": 8 },
            "fieldConfig": { "defaults": { "unit": unit, "min": 0 }, "overrides": [] },
            "targets": [{ "refId": "A", "expr": expr, "legendFormat": title }],
        })
    };
    let left = format!("1 - ({}) / {}", seen.failing("3d"), budget(availability));
    let board = json!({
        "uid": ctx.named(&["availability"]).chars().take(40).collect::<String>(),
        "title": format!("{} in {}", ctx.key.app, ctx.key.env),
        "schemaVersion": 39,
        "time": { "from": "now-6h", "to": "now" },
        "panels": [
            panel(1, "Requests", seen.rate("5m", None), "reqps"),
            panel(2, "Failing", seen.failing("5m"), "percentunit"),
            panel(3, "Budget left", left, "percentunit"),
        ],
    });
    let text = format!("{board:#}\n");
    let mut metadata = ctx.meta(ctx.named(&["dashboard"]), "watch");
    metadata.labels.get_or_insert_default().insert("grafana_dashboard".to_owned(), "1".to_owned());
    let data = BTreeMap::from([(format!("{}.json", ctx.key.app), text)]);
    out.put(Wave::Watch, &ConfigMap { metadata, data: Some(data), ..ConfigMap::default() });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_what_is_left_of_the_whole() {
        let check = |ppm: u32, expected: &str| assert_eq!(budget(Share::from_ppm(ppm).unwrap()), expected);
        check(999_000, "0.001");
        check(900_000, "0.1");
        check(1_000_000, "0");
        check(999_999, "0.000001");
    }
}
