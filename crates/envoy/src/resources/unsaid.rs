//! Rules that Envoy's API has no words for: left out of their routes, so that those of all others are told.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use bowline_core::id::{AppKey, AppName, EnvName, RouteName};
use bowline_core::route::RuleId;
use serde_json::Value;

use super::route;
use crate::schema;

const ROUTE: &str = "envoy.config.route.v3.Route";

/// The routes without those of rules that cannot be encoded, which answer 503 in their place; and which those are, and why.
pub(crate) fn without_unsaid(configuration: &Value) -> (Value, BTreeMap<RuleId, String>) {
    let mut configuration = configuration.clone();
    let mut all = BTreeMap::new();
    for host in configuration["virtual_hosts"].as_array_mut().into_iter().flatten() {
        let Some(routes) = host["routes"].as_array_mut() else { continue };
        let wrong = |route: &Value| Some((rule_of(route)?, why(&schema::encode(ROUTE, route).err()?)));
        let unsaid: BTreeMap<RuleId, String> = routes.iter().filter_map(wrong).collect();
        let mut answered = BTreeSet::new();
        let kept = std::mem::take(routes).into_iter().filter_map(|route| {
            match rule_of(&route).filter(|rule| unsaid.contains_key(rule)) {
                None => Some(route),
                // One rule is several routes: of all its paths nothing is let through.
                Some(rule) => answered.insert(rule).then(|| not_carried(&route)),
            }
        });
        *routes = kept.collect();
        all.extend(unsaid);
    }
    (configuration, all)
}

fn rule_of(route: &Value) -> Option<RuleId> {
    let labels = &route["metadata"]["filter_metadata"]["bowline"];
    let text = |key: &str| labels[key].as_str();
    let env = EnvName::new(text("env")?).ok()?;
    let app = AppName::new(text("app")?).ok()?;
    Some(RuleId { key: AppKey { env, app }, route: RouteName::new(text("route")?).ok()? })
}

fn not_carried(route: &Value) -> Value {
    let mut matching = route["match"].clone();
    if let Some(fields) = matching.as_object_mut() {
        fields.remove("headers");
    }
    let mut answer = route::answer_not_carried(&matching);
    for label in ["name", "metadata"] {
        answer[label] = route[label].clone();
    }
    answer
}

/// The root of it: which field, and what is wrong with it.
fn why(mut error: &dyn Error) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
