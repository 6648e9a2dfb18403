//! What Envoy does not do of what it is told, said to people: whose it is, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bowline_core::app::HostName;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::AppKey;
use bowline_core::route::{EdgeDesired, Part, Pool, PoolId, Refusal, RuleId, Site, SiteTls};

use super::confined::{Confined, SECURE};
use crate::delta::{Kind, Refused};
use crate::resources::{HTTPS, cluster_name};

const AS_BEFORE: &str =
    "it serves on what it had before; the release before can be brought back with `bowline rollback`";

/// A resource that Envoy cannot be told, and why: it stays as it was.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) fault: Fault,
}

/// All that is known of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Troubles<'a> {
    pub(super) desired: &'a EdgeDesired,
    /// It is told to listen for HTTPS.
    pub(super) has_https: bool,
    pub(super) draining: &'a BTreeMap<PoolId, Pool>,
    pub(super) confined: &'a Confined,
    /// Rules that answer 503, and why.
    pub(super) left_out: &'a BTreeMap<RuleId, String>,
    pub(super) kept: &'a [Kept],
}

impl Troubles<'_> {
    /// What Envoy refuses of a model, each by itself.
    pub(super) fn refused(self, refused: &Refused) -> Vec<Refusal> {
        refused.iter().map(|((kind, name), why)| self.one(*kind, name, why)).collect()
    }

    /// What is not told, or not as it is wanted.
    pub(super) fn missing(self) -> Vec<Refusal> {
        let confined = self.confined.refused().map(|(host, why)| {
            let apps = self.apps_of(host.as_str());
            let fault = Fault::new(FaultKind::Failed, format!("Envoy refused routes{}", of(&apps, host.as_str())));
            let fault = self.routes_on(host).into_iter().fold(fault, Fault::caused_by).caused_by(why);
            let fault = fault.hint(match self.confined.is_served(host) {
                true => format!("{host} is served as it was before, as long as that release runs"),
                false => format!("nobody is led to {host} before its routes are other ones"),
            });
            Refusal { apps, part: Part::Host(host.clone()), fault }
        });
        let left_out = self.left_out.iter().map(|(rule, why)| {
            let fault = format!("Envoy cannot do what route {} of {} asks for: it answers 503", rule.route, rule.key);
            let fault = Fault::new(FaultKind::Failed, fault).caused_by(why);
            Refusal { apps: BTreeSet::from([rule.key.clone()]), part: Part::Route(rule.clone()), fault }
        });
        let kept = self.kept.iter().map(|Kept { kind, name, fault }| {
            let (apps, part) = self.whose(*kind, name);
            Refusal { apps, part, fault: fault.clone() }
        });
        confined.chain(left_out).chain(kept).collect()
    }

    fn one(self, kind: Kind, name: &str, why: &str) -> Refusal {
        let (apps, part) = self.whose(kind, name);
        // It is of everybody who has a host there.
        let of = if kind == Kind::Listener { of(&BTreeSet::new(), name) } else { of(&apps, name) };
        let fault = Fault::new(FaultKind::Failed, format!("Envoy refused {}{of}", kind.what()));
        let hint = match kind {
            Kind::Listener => "it is told again until it takes it: is the address free, and may Envoy's user bind it?",
            Kind::Cluster | Kind::Endpoints | Kind::Secret | Kind::Routes => AS_BEFORE,
        };
        Refusal { apps, part, fault: fault.caused_by(why).hint(hint) }
    }

    /// Whose resource that is, and of what.
    fn whose(self, kind: Kind, name: &str) -> (BTreeSet<AppKey>, Part) {
        let of_host = |name: &str, part: fn(HostName) -> Part| {
            let host = self.desired.table.sites.keys().find(|host| host.as_str() == name).cloned();
            (self.apps_of(name), host.map_or(Part::Other, part))
        };
        match kind {
            Kind::Cluster | Kind::Endpoints => match self.pool_of(name) {
                Some(pool) => (BTreeSet::from([pool.key.clone()]), Part::Pool(pool.clone())),
                None => (BTreeSet::new(), Part::Other),
            },
            Kind::Secret => of_host(name.strip_prefix("acme/").unwrap_or(name), Part::Certificate),
            Kind::Routes => match name.strip_prefix(SECURE) {
                Some(host) => of_host(host, Part::Host),
                None => (BTreeSet::new(), Part::Routes),
            },
            Kind::Listener => {
                // A host with a certificate is reached over HTTPS, whatever becomes of plain HTTP.
                let is_secure = |host: &HostName, site: &Site| {
                    self.has_https && site.tls == SiteTls::Both && self.desired.certificates.contains_key(host)
                };
                let sites = self.desired.table.sites.iter();
                let there = sites.filter(|(host, site)| is_secure(host, site) == (name == HTTPS));
                (apps_on(there.map(|(_, site)| site)), Part::Listener)
            }
        }
    }

    fn pool_of(&self, cluster: &str) -> Option<&PoolId> {
        self.desired.table.pools.keys().chain(self.draining.keys()).find(|pool| cluster_name(pool) == cluster)
    }

    fn apps_of(&self, host: &str) -> BTreeSet<AppKey> {
        apps_on(self.desired.table.sites.iter().filter(|(name, _)| name.as_str() == host).map(|(_, site)| site))
    }

    /// What an app's file calls them.
    fn routes_on(&self, host: &HostName) -> Option<String> {
        let names = self.desired.table.sites.get(host)?.rules.iter().map(|rule| rule.id.route.as_str());
        let names: BTreeSet<&str> = names.collect();
        let names: Vec<&str> = names.into_iter().collect();
        let what = if names.len() == 1 { "route" } else { "one of the routes" };
        (!names.is_empty()).then(|| format!("{what} {} on {host}", names.join(", ")))
    }
}

/// All of them as one fault of the edge.
pub(super) fn together(all: &[Refusal]) -> Option<Fault> {
    let mut faults = all.iter().map(|refusal| &refusal.fault);
    let first = faults.next()?.clone();
    Some(faults.fold(first, |edge, fault| edge.caused_by(format!("and: {fault}"))))
}

fn apps_on<'a>(sites: impl Iterator<Item = &'a Arc<Site>>) -> BTreeSet<AppKey> {
    sites.flat_map(|site| &site.rules).map(|rule| rule.id.key.clone()).collect()
}

/// Those whose it is, else what it is called.
fn of(apps: &BTreeSet<AppKey>, name: &str) -> String {
    match apps.is_empty() {
        true => format!(" (`{name}`)"),
        false => format!(" of {}", apps.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::confined::PLAIN;
    use super::*;

    use bowline_core::app::{BodyLimit, PathPrefix};
    use bowline_core::id::{AppName, EnvName, ReleaseNumber, RouteName, ServiceName};
    use bowline_core::route::{Action, Certificate, Cohort, Policies, Rule, Table, Transfer};
    use bowline_core::secret::Secret;
    use bowline_core::units::Bytes;

    fn key(app: &str) -> AppKey {
        AppKey { env: EnvName::new("local").unwrap(), app: AppName::new(app).unwrap() }
    }

    pub(in super::super) fn rule(app: &str) -> Rule {
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
        let (plain, of_plain) = host("plain");
        let plain = (plain, Arc::new(Site { tls: SiteTls::Off, ..Site::clone(&of_plain) }));
        let (service, cohort) = (ServiceName::new("web").unwrap(), Cohort::Whole);
        let pool = PoolId { key: key("board"), service, release: ReleaseNumber(1), cohort };
        let pools = BTreeMap::from([(pool, Arc::default())]);
        Table { sites: [host("shop"), host("board"), host("bare"), plain].into(), pools, ..Table::default() }
    }

    /// All but `bare` have a certificate.
    fn desired() -> EdgeDesired {
        let certificate = || Arc::new(Certificate { chain: String::new(), key: Secret::new(String::new()) });
        let hosts = ["shop.localhost", "board.localhost", "plain.localhost"].map(|host| HostName::new(host).unwrap());
        let certificates = hosts.into_iter().map(|host| (host, certificate())).collect();
        EdgeDesired { table: Arc::new(table()), certificates: Arc::new(certificates) }
    }

    fn faults(refused: &[(Kind, &str)], confined: &Confined, left_out: &[&str]) -> (Option<Fault>, Vec<String>) {
        let refused = refused.iter().map(|(kind, name)| ((*kind, (*name).to_owned()), "why".to_owned())).collect();
        let left_out = left_out.iter().map(|app| (rule(app).id, "why".to_owned())).collect();
        let (desired, draining) = (desired(), BTreeMap::new());
        let (desired, draining, left_out) = (&desired, &draining, &left_out);
        let troubles = Troubles { desired, has_https: true, draining, confined, left_out, kept: &[] };
        let all = [troubles.refused(&refused), troubles.missing()].concat();
        let each = |refusal: Refusal| refusal.apps.into_iter().map(move |app| format!("{app}: {}", refusal.fault));
        (together(&all), all.into_iter().flat_map(each).collect())
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
        let both = ["local/board", "local/shop"];
        check(Kind::Listener, "https", "Envoy refused a listener (`https`)", &both);
        check(Kind::Listener, "http", "Envoy refused a listener (`http`)", &["local/bare", "local/plain"]);
    }

    #[test]
    fn each_app_is_told_its_own_and_the_edge_has_all() {
        let mut confined = Confined::new(false);
        let told = desired();
        let refused = [((Kind::Routes, "https/shop.localhost".to_owned()), "why".to_owned())].into();
        let plain = || BTreeSet::from([PLAIN.to_owned()]);
        confined.settled(&told, &refused, &plain());
        let (edge, apps) = faults(&[], &confined, &["board"]);
        let hint = |edge: &Option<Fault>| edge.as_ref().and_then(|fault| fault.hint.clone()).unwrap();
        assert_eq!(hint(&edge), "nobody is led to shop.localhost before its routes are other ones");
        let left_out = "Envoy cannot do what route main of local/board asks for: it answers 503";
        assert_eq!(apps, ["local/shop: Envoy refused routes of local/shop".into(), format!("local/board: {left_out}")]);
        let causes = ["route main on shop.localhost".to_owned(), "why".to_owned(), format!("and: {left_out}")];
        assert_eq!(edge.unwrap().causes, causes);
        assert_eq!(faults(&[], &Confined::new(false), &[]), (None, Vec::new()));

        // What was taken before goes on.
        let mut confined = Confined::new(false);
        let mut before = told.clone();
        Arc::make_mut(&mut before.table).sites.values_mut().for_each(|site| Arc::make_mut(site).rules.clear());
        confined.settled(&before, &Refused::new(), &plain());
        confined.settled(&told, &refused, &plain());
        let (edge, _) = faults(&[], &confined, &[]);
        assert_eq!(hint(&edge), "shop.localhost is served as it was before, as long as that release runs");
    }
}
