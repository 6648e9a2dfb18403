//! Whether what leads to an app is taken up by who runs the edge: what the controllers of routes and of certificates say of them.

use std::time::Duration;

use serde_json::Value;

use crate::look::text;

/// A controller that is there says something within this.
const TAKEN: Duration = Duration::from_secs(2);
/// What is not so yet may be so within this; a certificate takes minutes, which nobody is kept waiting for.
const SETTLED: Duration = Duration::from_secs(10);

/// How it is with one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Leads {
    Well,
    /// No controller has said anything of it.
    Untaken,
    /// What is said against it.
    Not(String),
}

/// Kinds of which a controller says whether they lead somewhere.
pub(crate) fn is_looked_at(kind: &str) -> bool {
    ["HTTPRoute", "Certificate"].contains(&kind)
}

pub(crate) fn leads(now: &Value) -> Leads {
    match text(&now["kind"]) {
        "HTTPRoute" => route(now),
        "Certificate" => certificate(now),
        _ => Leads::Well,
    }
}

impl Leads {
    /// For how long it may become another. `is_same`: it was there before, and nothing of it has changed.
    pub(crate) fn patience(&self, is_same: bool) -> Duration {
        match self {
            Self::Untaken if !is_same => TAKEN,
            Self::Not(_) if !is_same => SETTLED,
            Self::Well | Self::Untaken | Self::Not(_) => Duration::ZERO,
        }
    }

    /// What is waited on meanwhile.
    pub(crate) fn waits(&self) -> String {
        match self {
            Self::Well | Self::Untaken => "its controller to take it up".to_owned(),
            Self::Not(said) => format!("its controller: {said}"),
        }
    }

    /// `None`: there is nothing to say.
    pub(crate) fn said(self, kind: &str) -> Option<String> {
        let [by, not] = match kind {
            "Certificate" => ["the issuer of certificates", "it is not issued yet"],
            _ => ["the controller of its Gateway", "it leads nowhere yet"],
        };
        match self {
            Self::Well => None,
            Self::Untaken => Some(format!("nobody has taken it up: {by} says nothing of it")),
            Self::Not(said) => Some(format!("{not}: {said}")),
        }
    }
}

/// By each Gateway that it attaches to: `Accepted`, and `ResolvedRefs` (`RouteParentStatus` of the Gateway API).
fn route(now: &Value) -> Leads {
    let said: Vec<&Value> = now["status"]["parents"].as_array().into_iter().flatten().collect();
    let parents = now["spec"]["parentRefs"].as_array().into_iter().flatten();
    let each = parents.map(|parent| {
        let its = said.iter().filter(|one| is_same_parent(&one["parentRef"], parent));
        // One controller has it, and another may have said that it is none of its business.
        its.map(|one| attached(one, &now["metadata"]["generation"])).reduce(better).unwrap_or(Leads::Untaken)
    });
    each.reduce(worse).unwrap_or(Leads::Well)
}

/// What is left out is said by defaults, which a controller may have filled in.
fn is_same_parent(one: &Value, other: &Value) -> bool {
    ["name", "namespace", "sectionName"].iter().all(|key| match (key, &one[key], &other[key]) {
        (&"namespace", Value::Null, _) | (&"namespace", _, Value::Null) => true,
        (_, one, other) => one == other,
    })
}

fn attached(parent: &Value, generation: &Value) -> Leads {
    let all = &parent["conditions"];
    match (condition(all, "Accepted", generation), condition(all, "ResolvedRefs", generation)) {
        (Said::Nothing, _) => Leads::Untaken,
        // What it says then may be of what was accepted before.
        (Said::Older, _) | (_, Said::Older) => older(),
        (Said::Against(said), _) | (Said::So, Said::Against(said)) => Leads::Not(said),
        (Said::So, Said::So | Said::Nothing) => Leads::Well,
    }
}

/// By `Ready`, and by why it was not issued where that has failed.
fn certificate(now: &Value) -> Leads {
    let (all, generation) = (&now["status"]["conditions"], &now["metadata"]["generation"]);
    match condition(all, "Ready", generation) {
        Said::So => Leads::Well,
        Said::Nothing => Leads::Untaken,
        Said::Older => older(),
        Said::Against(said) => {
            let failed = all.as_array().and_then(|all| {
                all.iter().find(|one| one["type"] == "Issuing" && one["status"] == "False" && one["reason"] == "Failed")
            });
            Leads::Not(failed.map_or(said, words))
        }
    }
}

fn older() -> Leads {
    Leads::Not("what is new of it is not taken up".to_owned())
}

/// What a condition says.
enum Said {
    Nothing,
    So,
    Against(String),
    /// Of an older generation.
    Older,
}

fn condition(all: &Value, kind: &str, generation: &Value) -> Said {
    let Some(one) = all.as_array().and_then(|all| all.iter().find(|one| one["type"] == kind)) else {
        return Said::Nothing;
    };
    let is_older = one["observedGeneration"].as_i64().is_some_and(|seen| Some(seen) < generation.as_i64());
    match (is_older, &one["status"]) {
        (true, _) => Said::Older,
        (false, status) if status == "True" => Said::So,
        (false, _) => Said::Against(words(one)),
    }
}

fn words(condition: &Value) -> String {
    let both = [text(&condition["reason"]), text(&condition["message"])];
    both.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ")
}

fn better(one: Leads, other: Leads) -> Leads {
    match (&one, &other) {
        (Leads::Well, _) | (Leads::Not(_), Leads::Untaken | Leads::Not(_)) => one,
        (Leads::Untaken, _) | (Leads::Not(_), Leads::Well) => other,
    }
}

fn worse(one: Leads, other: Leads) -> Leads {
    match (&one, &other) {
        (Leads::Not(_), _) | (Leads::Untaken, Leads::Well | Leads::Untaken) => one,
        (Leads::Well, _) | (Leads::Untaken, Leads::Not(_)) => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn condition(kind: &str, status: &str, reason: &str, seen: i64) -> Value {
        json!({ "type": kind, "status": status, "reason": reason, "message": "the controller's words", "observedGeneration": seen })
    }

    #[test]
    fn a_route_leads_somewhere_when_its_gateway_says_so() {
        let parent = |conditions: &[Value]| json!({ "parentRef": { "name": "public", "namespace": "infra", "sectionName": "https" }, "conditions": conditions });
        let check = |parents: &[Value], expected: Leads| {
            let refs = json!([{ "name": "public", "namespace": "infra", "sectionName": "https" }]);
            let now = json!({
                "kind": "HTTPRoute", "metadata": { "generation": 2 },
                "spec": { "parentRefs": refs }, "status": { "parents": parents },
            });
            assert_eq!(leads(&now), expected, "{parents:?}");
        };
        let not = |said: &str| Leads::Not(format!("{said}: the controller's words"));
        let accepted = |seen| condition("Accepted", "True", "Accepted", seen);
        let resolved = condition("ResolvedRefs", "True", "ResolvedRefs", 2);
        check(&[], Leads::Untaken);
        check(&[parent(&[])], Leads::Untaken);
        check(&[parent(&[accepted(2), resolved.clone()])], Leads::Well);
        check(&[parent(&[accepted(2)])], Leads::Well);
        check(&[parent(&[accepted(1), resolved.clone()])], older());
        let host = || condition("Accepted", "False", "NoMatchingListenerHostname", 2);
        check(&[parent(&[host(), resolved.clone()])], not("NoMatchingListenerHostname"));
        let backend = condition("ResolvedRefs", "False", "BackendNotFound", 2);
        check(&[parent(&[accepted(2), backend])], not("BackendNotFound"));
        // Another controller's word, and that of another Gateway.
        check(&[parent(&[host()]), parent(&[accepted(2), resolved])], Leads::Well);
        let mut other = parent(&[accepted(2)]);
        other["parentRef"]["name"] = "internal".into();
        check(&[other], Leads::Untaken);
        let mut filled = parent(&[accepted(2)]);
        filled["parentRef"].as_object_mut().unwrap().remove("namespace");
        check(&[filled], Leads::Well);
    }

    #[test]
    fn a_certificate_is_there_when_its_issuer_says_so() {
        let check = |conditions: &[Value], expected: Leads| {
            let status = json!({ "conditions": conditions });
            let now = json!({ "kind": "Certificate", "metadata": { "generation": 2 }, "status": status });
            assert_eq!(leads(&now), expected, "{conditions:?}");
        };
        check(&[], Leads::Untaken);
        check(&[condition("Ready", "True", "Ready", 2)], Leads::Well);
        check(&[condition("Ready", "True", "Ready", 1)], older());
        let not = |said: &str| Leads::Not(format!("{said}: the controller's words"));
        let missing = condition("Ready", "False", "DoesNotExist", 2);
        let issuing = |status: &str, reason: &str| condition("Issuing", status, reason, 2);
        check(&[missing.clone(), issuing("True", "DoesNotExist")], not("DoesNotExist"));
        check(&[missing, issuing("False", "Failed")], not("Failed"));
    }

    #[test]
    fn what_nobody_takes_up_keeps_nobody_waiting() {
        let seconds = |leads: &Leads, is_same| leads.patience(is_same).as_secs();
        let not = Leads::Not("why".to_owned());
        assert_eq!([&Leads::Well, &Leads::Untaken, &not].map(|leads| seconds(leads, false)), [0, 2, 10]);
        assert_eq!([&Leads::Well, &Leads::Untaken, &not].map(|leads| seconds(leads, true)), [0, 0, 0]);
        let said = |leads: Leads| leads.said("HTTPRoute");
        assert_eq!(said(Leads::Well), None);
        assert_eq!(said(not).as_deref(), Some("it leads nowhere yet: why"));
        let untaken = "nobody has taken it up: the controller of its Gateway says nothing of it";
        assert_eq!(said(Leads::Untaken).as_deref(), Some(untaken));
    }
}
