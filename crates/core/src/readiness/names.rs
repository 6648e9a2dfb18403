//! Rules about public names, as the machine sees them that is to serve them.

use std::net::IpAddr;

use super::{Facts, Finding, Fix, NameSeen, Place, Rule, Severity};
use crate::app::HostName;

pub(super) fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    facts.names.iter().filter_map(|(host, seen)| finding(facts, host, seen)).collect()
}

fn finding(facts: &Facts<'_>, host: &HostName, seen: &NameSeen) -> Option<Finding> {
    let (rule, what, todo) = match seen {
        NameSeen::Unresolved(why) => (
            Rule::NameElsewhere,
            format!("{host} leads nowhere: {why}"),
            format!("have whoever keeps the domain add a record for {host} that leads to this machine"),
        ),
        NameSeen::Elsewhere { addresses, own } => (
            Rule::NameElsewhere,
            format!("{host} leads to {}, and not to this machine", list(addresses)),
            format!("have its record lead to {}", list(own)),
        ),
        NameSeen::Closed(ports) => (
            Rule::PortClosed,
            format!(
                "nothing answers for {host} on port {}",
                ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" and ")
            ),
            "start `bowline serve`, or look at what else should listen there".to_owned(),
        ),
        NameSeen::Here => return None,
    };
    let at = facts.app.routes.iter().find(|(_, route)| route.hosts.contains(host));
    let at = at.map_or("route".to_owned(), |(name, _)| format!("route.{name}.hosts"));
    let fix = Fix { todo: Some(todo), ..Fix::default() };
    Some(Finding { rule, severity: Severity::Warning, at: Place::Key(at), what, fix })
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::app::sample;

    #[test]
    fn a_name_that_leads_elsewhere_or_to_a_closed_door_is_said_with_what_to_do() {
        let host = HostName::new("shop.example.com").unwrap();
        let address = |text: &str| vec![text.parse().unwrap()];
        let check = |seen, expected: Option<(&str, &str)>| {
            let mut app = sample::app("shop", &["web"]);
            for route in app.routes.values_mut() {
                route.hosts = vec![host.clone()];
            }
            let (started, names) = (BTreeMap::new(), BTreeMap::from([(host.clone(), seen)]));
            let facts = Facts { app: &app, started: &started, sightings: &[], settings: &[], names: &names };
            let found = findings(&facts);
            let found: Vec<_> = found.iter().map(|one| (one.rule.id(), one.what.as_str())).collect();
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        };
        check(NameSeen::Here, None);
        check(
            NameSeen::Unresolved("no such name".to_owned()),
            Some(("name-elsewhere", "shop.example.com leads nowhere: no such name")),
        );
        check(
            NameSeen::Elsewhere { addresses: address("192.0.2.1"), own: address("2001:db8::1") },
            Some(("name-elsewhere", "shop.example.com leads to 192.0.2.1, and not to this machine")),
        );
        check(
            NameSeen::Closed(vec![80, 443]),
            Some(("port-closed", "nothing answers for shop.example.com on port 80 and 443")),
        );
    }
}
