//! What Envoy does not do of what it is told, said to people: whose it is, and why.

use std::collections::{BTreeMap, BTreeSet};

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::AppKey;
use bowline_core::route::{Pool, PoolId, RuleId, Table};

use super::confined::{Confined, SECURE};
use crate::delta::{Kind, Refused};
use crate::resources::cluster_name;

const AS_BEFORE: &str =
    "it serves on what it had before; the release before can be brought back with `bowline rollback`";

/// All that is known of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Troubles<'a> {
    pub(super) table: &'a Table,
    pub(super) draining: &'a BTreeMap<PoolId, Pool>,
    pub(super) refused: &'a Refused,
    pub(super) confined: &'a Confined,
    /// Rules that answer 503, and why.
    pub(super) left_out: &'a BTreeMap<RuleId, String>,
    /// Resources that could not be told, and why.
    pub(super) kept: &'a [Fault],
}

impl Troubles<'_> {
    /// Of the edge as a whole, and of each app whose it is.
    pub(super) fn faults(self) -> (Option<Fault>, BTreeMap<AppKey, Fault>) {
        let refused = self.refused.iter().map(|((kind, name), why)| self.refused(*kind, name, why));
        let confined = self.confined.refused().map(|(host, why)| {
            let apps = self.apps_of(host.as_str());
            let fault = Fault::new(FaultKind::Failed, format!("Envoy refused routes{}", of(&apps, host.as_str())));
            (
                apps,
                fault.caused_by(why).hint(format!("{host} is served as it was before, as long as that release runs")),
            )
        });
        let left_out = self.left_out.iter().map(|(rule, why)| {
            let fault = format!("Envoy cannot do what route {} of {} asks for: it answers 503", rule.route, rule.key);
            (BTreeSet::from([rule.key.clone()]), Fault::new(FaultKind::Failed, fault).caused_by(why))
        });
        let kept = self.kept.iter().map(|fault| (BTreeSet::new(), fault.clone()));
        let (mut edge, mut apps) = (None::<Fault>, BTreeMap::new());
        for (whose, fault) in refused.chain(confined).chain(left_out).chain(kept) {
            for app in whose {
                apps.entry(app).or_insert_with(|| fault.clone());
            }
            edge = Some(match edge {
                None => fault,
                Some(first) => first.caused_by(format!("and: {fault}")),
            });
        }
        (edge, apps)
    }

    fn refused(self, kind: Kind, name: &str, why: &str) -> (BTreeSet<AppKey>, Fault) {
        let apps = match kind {
            Kind::Cluster | Kind::Endpoints => self.app_of(name).into_iter().collect(),
            Kind::Secret => self.apps_of(name.strip_prefix("acme/").unwrap_or(name)),
            Kind::Routes => name.strip_prefix(SECURE).map_or_else(BTreeSet::new, |host| self.apps_of(host)),
            Kind::Listener => BTreeSet::new(),
        };
        let fault = Fault::new(FaultKind::Failed, format!("Envoy refused {}{}", kind.what(), of(&apps, name)));
        let hint = match kind {
            Kind::Listener => "it is told again until it takes it: is the address free, and may Envoy's user bind it?",
            Kind::Cluster | Kind::Endpoints | Kind::Secret | Kind::Routes => AS_BEFORE,
        };
        (apps, fault.caused_by(why).hint(hint))
    }

    fn app_of(self, cluster: &str) -> Option<AppKey> {
        let mut pools = self.table.pools.keys().chain(self.draining.keys());
        pools.find(|pool| cluster_name(pool) == cluster).map(|pool| pool.key.clone())
    }

    fn apps_of(self, host: &str) -> BTreeSet<AppKey> {
        let sites = self.table.sites.iter().filter(|(name, _)| name.as_str() == host);
        sites.flat_map(|(_, site)| &site.rules).map(|rule| rule.id.key.clone()).collect()
    }
}

/// Those whose it is, else what it is called.
fn of(apps: &BTreeSet<AppKey>, name: &str) -> String {
    match apps.is_empty() {
        true => format!(" (`{name}`)"),
        false => format!(" of {}", apps.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use bowline_core::app::{BodyLimit, HostName, PathPrefix};
    use bowline_core::id::{AppName, EnvName, ReleaseNumber, RouteName, ServiceName};
    use bowline_core::route::{Action, Cohort, EdgeDesired, Policies, Rule, Site, SiteTls, Transfer};
    use bowline_core::units::Bytes;

    fn key(app: &str) -> AppKey {
        AppKey { env: EnvName::new("local").unwrap(), app: AppName::new(app).unwrap() }
    }

    fn rule(app: &str) -> Rule {
        Rule {
            id: RuleId { key: key(app), route: RouteName::new("main").unwrap() },
            prefix: PathPrefix::root(),
            strip: false,
            action: Action::Deny,
            policies: Policies::default(),
            body: BodyLimit(Bytes(1)),
            timeout: std::time::Duration::from_secs(1),
            idle: std::time::Duration::from_secs(1),
            transfer: Transfer::default(),
        }
    }

    fn table() -> Table {
        let site = |app: &str| Arc::new(Site { tls: SiteTls::Both, rules: vec![rule(app)] });
        let host = |app: &str| (HostName::new(&format!("{app}.localhost")).unwrap(), site(app));
        let (service, cohort) = (ServiceName::new("web").unwrap(), Cohort::Whole);
        let pool = PoolId { key: key("board"), service, release: ReleaseNumber(1), cohort };
        let pools = BTreeMap::from([(pool, Arc::default())]);
        Table { sites: [host("shop"), host("board")].into(), pools, ..Table::default() }
    }

    fn faults(refused: &[(Kind, &str)], confined: &Confined, left_out: &[&str]) -> (Option<Fault>, Vec<String>) {
        let refused = refused.iter().map(|(kind, name)| ((*kind, (*name).to_owned()), "why".to_owned())).collect();
        let left_out = left_out.iter().map(|app| (rule(app).id, "why".to_owned())).collect();
        let (table, draining) = (table(), BTreeMap::new());
        let troubles = Troubles {
            table: &table,
            draining: &draining,
            refused: &refused,
            confined,
            left_out: &left_out,
            kept: &[],
        };
        let (edge, apps) = troubles.faults();
        (edge, apps.into_iter().map(|(app, fault)| format!("{app}: {fault}")).collect())
    }

    #[test]
    fn whose_it_is_is_said() {
        let check = |kind, name: &str, said: &str, whose: &[&str]| {
            let (edge, apps) = faults(&[(kind, name)], &Confined::new(false), &[]);
            let edge = edge.unwrap();
            assert_eq!((edge.message.as_str(), edge.causes.as_slice()), (said, &["why".to_owned()][..]));
            assert_eq!(apps, whose.iter().map(|app| format!("{app}: {said}")).collect::<Vec<_>>());
        };
        let board = ["local/board"];
        check(Kind::Cluster, "local/board.web.r1", "Envoy refused a cluster of local/board", &board);
        check(Kind::Secret, "board.localhost", "Envoy refused a certificate of local/board", &board);
        check(Kind::Secret, "acme/board.localhost", "Envoy refused a certificate of local/board", &board);
        check(Kind::Routes, "https/board.localhost", "Envoy refused routes of local/board", &board);
        check(Kind::Routes, "http", "Envoy refused routes (`http`)", &[]);
        check(Kind::Listener, "https", "Envoy refused a listener (`https`)", &[]);
    }

    #[test]
    fn each_app_is_told_its_own_and_the_edge_has_all() {
        let mut confined = Confined::new(false);
        let told = EdgeDesired { table: Arc::new(table()), ..EdgeDesired::default() };
        let refused = [((Kind::Routes, "https/shop.localhost".to_owned()), "why".to_owned())].into();
        confined.settled(&told, &refused);
        let (edge, apps) = faults(&[], &confined, &["board"]);
        let left_out = "Envoy cannot do what route main of local/board asks for: it answers 503";
        assert_eq!(apps, [format!("local/board: {left_out}"), "local/shop: Envoy refused routes of local/shop".into()]);
        assert_eq!(edge.unwrap().causes, ["why".to_owned(), format!("and: {left_out}")]);
        assert_eq!(faults(&[], &Confined::new(false), &[]), (None, Vec::new()));
    }
}
