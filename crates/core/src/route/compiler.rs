//! Tables, each made of the one before: an app's part of it anew only where what that is made of is another.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::claim::{Claim, Conflict};
use super::compile::{Placed, Serving, placed};
use super::{Credentials, Maintenance, Pool, PoolId, Rule, Site, SiteTls, Table};
use crate::app::{App, HostName};
use crate::id::{AppKey, Generation, RouteName, ServiceName};
use crate::rollout::Set;

/// The table. `apps` by the time they claimed their hosts; `files` are the folders of static services, `endpoints`
/// comes from `Slots::endpoints`. Pools that no rule leads to are left out.
pub fn compile(
    generation: Generation,
    apps: &[Serving<'_>],
    endpoints: &BTreeMap<PoolId, Pool>,
    files: &BTreeMap<PoolId, PathBuf>,
) -> Result<Table, Conflict> {
    Compiler::default().compile(generation, apps, endpoints, files)
}

/// The same again and again. Sites and pools that have not changed are those of the table before.
#[derive(Debug, Clone, Default)]
pub struct Compiler {
    apps: BTreeMap<AppKey, Made>,
    trusted: BTreeSet<HostName>,
    files: BTreeMap<PoolId, PathBuf>,
    sites: BTreeMap<HostName, Arc<Site>>,
    /// Of each of their rules, whether it has its host reached over HTTPS.
    secure: BTreeMap<HostName, Vec<bool>>,
    pools: BTreeMap<PoolId, Arc<Pool>>,
    /// How many splits lead to each of them.
    led: BTreeMap<PoolId, u32>,
}

/// Of what the part of an app was made.
#[derive(Debug, Clone)]
struct Made {
    app: Arc<App>,
    sets: Vec<Set>,
    credentials: BTreeMap<RouteName, Credentials>,
    maintenance: Option<Maintenance>,
    judged: BTreeSet<ServiceName>,
    /// On which it has rules.
    hosts: BTreeSet<HostName>,
}

impl Made {
    fn of(app: &Serving<'_>) -> Self {
        Self {
            app: Arc::clone(app.app),
            sets: app.sets.to_vec(),
            credentials: app.credentials.clone(),
            maintenance: app.maintenance.cloned(),
            judged: app.judged.clone(),
            hosts: BTreeSet::new(),
        }
    }

    fn is_of(&self, app: &Serving<'_>) -> bool {
        let Self { app: made_of, sets, credentials, maintenance, judged, hosts: _ } = self;
        let same_app = Arc::ptr_eq(made_of, app.app) || made_of == app.app;
        let same_rest = sets == app.sets && judged == app.judged && maintenance.as_ref() == app.maintenance;
        same_app && same_rest && credentials == app.credentials
    }
}

impl Compiler {
    /// As [`compile`].
    ///
    /// # Errors
    /// Two routes claim one place.
    pub fn compile(
        &mut self,
        generation: Generation,
        apps: &[Serving<'_>],
        endpoints: &BTreeMap<PoolId, Pool>,
        files: &BTreeMap<PoolId, PathBuf>,
    ) -> Result<Table, Conflict> {
        if self.take(apps, files).is_err() {
            // Who came first is told by making all of it in their order.
            *self = Self::default();
            if let Err(conflict) = self.take(apps, files) {
                *self = Self::default();
                return Err(conflict);
            }
        }
        self.take_pools(endpoints);
        Ok(Table { generation, sites: self.sites.clone(), pools: self.pools.clone(), ..Table::default() })
    }

    fn take(&mut self, apps: &[Serving<'_>], files: &BTreeMap<PoolId, PathBuf>) -> Result<(), Conflict> {
        let mut stale = self.known_otherwise(apps, files);
        let there: BTreeSet<&AppKey> = apps.iter().map(|app| app.key).collect();
        stale.extend(self.apps.keys().filter(|key| !there.contains(key)).cloned());
        let is_stale = |app: &Serving<'_>| self.apps.get(app.key).is_none_or(|made| !made.is_of(app));
        stale.extend(apps.iter().filter(|app| is_stale(app)).map(|app| app.key.clone()));
        for key in &stale {
            self.forget(key);
        }
        for app in apps.iter().filter(|app| stale.contains(app.key)) {
            let mut made = Made::of(app);
            for Placed { host, is_secure, rule } in placed(*app, files) {
                made.hosts.insert(host.clone());
                self.place(host, is_secure, rule)?;
            }
            self.apps.insert(app.key.clone(), made);
        }
        Ok(())
    }

    /// Apps of which something is known that is said of all together.
    fn known_otherwise(&mut self, apps: &[Serving<'_>], files: &BTreeMap<PoolId, PathBuf>) -> BTreeSet<AppKey> {
        let mut stale = BTreeSet::new();
        if let Some(trusted) = apps.first().map(|app| app.trusted).filter(|trusted| **trusted != self.trusted) {
            let sites = self.trusted.symmetric_difference(trusted).filter_map(|host| self.sites.get(host));
            stale.extend(sites.flat_map(|site| &site.rules).map(|rule| rule.id.key.clone()));
            self.trusted.clone_from(trusted);
        }
        if self.files != *files {
            let differs = |id: &&PoolId| self.files.get(*id) != files.get(*id);
            stale.extend(self.files.keys().chain(files.keys()).filter(differs).map(|id| id.key.clone()));
            self.files.clone_from(files);
        }
        stale
    }

    fn forget(&mut self, key: &AppKey) {
        let Some(made) = self.apps.remove(key) else { return };
        for host in made.hosts {
            let (Entry::Occupied(mut site), Entry::Occupied(mut secure)) =
                (self.sites.entry(host.clone()), self.secure.entry(host))
            else {
                continue;
            };
            let place = Arc::make_mut(site.get_mut());
            for pool in place.rules.iter().filter(|rule| rule.id.key == *key).flat_map(|rule| rule.action.splits()) {
                if let Some(count) = self.led.get_mut(&pool.pool) {
                    *count -= 1;
                }
            }
            let mut kept = place.rules.iter().map(|rule| rule.id.key != *key).collect::<Vec<_>>().into_iter();
            secure.get_mut().retain(|_| kept.next().unwrap_or(false));
            place.rules.retain(|rule| rule.id.key != *key);
            place.tls = tls(secure.get());
            if place.rules.is_empty() {
                site.remove();
                secure.remove();
            }
        }
    }

    /// Adds a rule, where none is in its place.
    fn place(&mut self, host: HostName, is_secure: bool, rule: Rule) -> Result<(), Conflict> {
        let secure = self.secure.entry(host.clone()).or_default();
        let new = || Arc::new(Site { tls: SiteTls::Off, rules: Vec::new() });
        let site = Arc::make_mut(self.sites.entry(host.clone()).or_insert_with(new));
        let order = |rule: &Rule| (Reverse(rule.prefix.as_str().len()), rule.prefix.clone());
        let wanted = order(&rule);
        let at = match site.rules.binary_search_by(|other| order(other).cmp(&wanted)) {
            Err(at) => at,
            Ok(at) => {
                let claim = |rule: &Rule| {
                    let (key, route) = (rule.id.key.clone(), rule.id.route.clone());
                    Box::new(Claim { host: host.clone(), path: rule.prefix.clone(), key, route })
                };
                return Err(Conflict { wanted: claim(&rule), holder: claim(&site.rules[at]) });
            }
        };
        for split in rule.action.splits() {
            *self.led.entry(split.pool.clone()).or_default() += 1;
        }
        site.rules.insert(at, rule);
        secure.insert(at, is_secure);
        site.tls = tls(secure);
        Ok(())
    }

    fn take_pools(&mut self, endpoints: &BTreeMap<PoolId, Pool>) {
        self.led.retain(|_, count| *count > 0);
        self.pools.retain(|id, _| self.led.contains_key(id));
        let nothing = Pool::default();
        for id in self.led.keys() {
            let served = endpoints.get(id).unwrap_or(&nothing);
            if self.pools.get(id).is_none_or(|known| **known != *served) {
                self.pools.insert(id.clone(), Arc::new(served.clone()));
            }
        }
    }
}

fn tls(secure: &[bool]) -> SiteTls {
    if secure.contains(&true) { SiteTls::Both } else { SiteTls::Off }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::app::{Access, Limit, Origin, PathPrefix, Route, RouteTo, StaticFiles, Tls, Transfer, sample};
    use crate::id::ReleaseNumber;
    use crate::rollout::steady;
    use crate::route::Cohort;

    /// One app: its routes (hosts, path, whether over HTTPS), its release, whether it is in maintenance, whether `docs` is a folder.
    type Drawn = (Vec<(Vec<usize>, usize, bool)>, u32, bool, bool);

    const HOSTS: [&str; 4] = ["a.example.com", "b.example.com", "c.example.com", "d.example.com"];
    const NAMES: [&str; 3] = ["shop", "board", "docs"];

    fn host(at: usize) -> HostName {
        HostName::new(HOSTS[at]).unwrap()
    }

    fn app(name: &str, (routes, _, _, is_folder): &Drawn) -> Arc<App> {
        let mut app = sample::app(name, &["web"]);
        if *is_folder {
            let files = StaticFiles { dir: "dist".into(), fallback: None, cache: std::time::Duration::from_secs(60) };
            let web = app.services.get_mut("web").unwrap();
            web.origin = Origin::Static { dir: ".".into(), build: None, files };
        }
        let route = |(hosts, path, secure): &(Vec<usize>, usize, bool)| Route {
            hosts: hosts.iter().map(|at| host(*at)).collect(),
            path: PathPrefix::new(["/", "/x", "/y"][*path]).unwrap(),
            strip: false,
            to: RouteTo::Service(ServiceName::new("web").unwrap()),
            tls: if *secure { Tls::Auto } else { Tls::Off },
            access: Access::default(),
            limit: Limit::default(),
            upload: None,
            transfer: Transfer::default(),
        };
        let named = |(at, drawn): (usize, &_)| (RouteName::new(&format!("r{at}")).unwrap(), route(drawn));
        app.routes = routes.iter().enumerate().map(named).collect();
        Arc::new(app)
    }

    fn drawn() -> impl Strategy<Value = Drawn> {
        let route = (prop::collection::vec(0..HOSTS.len(), 0..3), 0_usize..3, any::<bool>());
        (prop::collection::vec(route, 0..3), 1_u32..3, any::<bool>(), any::<bool>())
    }

    proptest! {
        #[test]
        fn what_is_made_of_the_one_before_is_what_is_made_anew(
            worlds in prop::collection::vec(
                (
                    prop::collection::btree_map(0..NAMES.len(), drawn(), 0..4),
                    prop::collection::btree_set(0..HOSTS.len(), 0..3),
                    prop::collection::btree_map((0..NAMES.len(), 1_u32..3), 0_u16..2, 0..4),
                    any::<bool>(),
                ),
                1..6,
            ),
        ) {
            let (mut compiler, nothing, none) = (Compiler::default(), BTreeSet::new(), BTreeMap::new());
            let maintenance = Maintenance::default();
            for (generation, (apps, trusted, ready, turned)) in (1..).zip(worlds) {
                let trusted: BTreeSet<_> = trusted.into_iter().map(host).collect();
                let key = |at: usize| sample::key("beta", NAMES[at]);
                let pool = |at: usize, release| {
                    let service = ServiceName::new("web").unwrap();
                    PoolId { key: key(at), service, release: ReleaseNumber(release), cohort: Cohort::Whole }
                };
                let endpoint = |((at, release), slot): (&(usize, u32), &u16)| {
                    let id = format!("beta/{}.web.r{release}.{slot}.1", NAMES[*at]).parse().unwrap();
                    let endpoints = [(id, std::net::SocketAddr::from(([127, 0, 0, 1], 4000)))].into();
                    (pool(*at, *release), Pool { endpoints, ..Pool::default() })
                };
                let endpoints: BTreeMap<_, _> = ready.iter().map(endpoint).collect();
                let files = ready.keys().map(|(at, release)| (pool(*at, *release), PathBuf::from("/srv"))).collect();
                let made = apps.iter().map(|(at, drawn)| {
                    let app = app(NAMES[*at], drawn);
                    let sets = steady(&app, ReleaseNumber(drawn.1), &BTreeMap::new());
                    (key(*at), app, sets, drawn.2)
                });
                let mut made: Vec<_> = made.collect();
                if turned {
                    made.reverse();
                }
                let serving = made.iter().map(|(key, app, sets, is_closed)| Serving {
                    key,
                    app,
                    sets,
                    credentials: &none,
                    maintenance: is_closed.then_some(&maintenance),
                    judged: &nothing,
                    trusted: &trusted,
                });
                let serving: Vec<_> = serving.collect();
                let one = compiler.compile(Generation(generation), &serving, &endpoints, &files);
                prop_assert_eq!(one, compile(Generation(generation), &serving, &endpoints, &files));
            }
        }
    }

    #[test]
    fn what_has_not_changed_is_that_of_the_table_before() {
        let (nothing, none, trusted) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        let key = |name: &str| sample::key("beta", name);
        let (shop, board) = (key("shop"), key("board"));
        let mut compiler = Compiler::default();
        let mut table = |shops: &Drawn, release: u32| {
            let apps = [
                (&shop, app("shop", shops), ReleaseNumber(1)),
                (&board, app("board", &(vec![(vec![1], 0, true)], 1, false, false)), ReleaseNumber(release)),
            ];
            let sets = apps.each_ref().map(|(_, app, release)| steady(app, *release, &BTreeMap::new()));
            let serving = apps.iter().zip(&sets).map(|((key, app, _), sets)| Serving {
                key,
                app,
                sets,
                credentials: &none,
                maintenance: None,
                judged: &nothing,
                trusted: &trusted,
            });
            compiler.compile(Generation(1), &serving.collect::<Vec<_>>(), &BTreeMap::new(), &BTreeMap::new()).unwrap()
        };
        let first = table(&(vec![(vec![0, 2], 0, true)], 1, false, false), 1);
        let second = table(&(vec![(vec![0, 2], 0, true)], 1, false, false), 2);
        let shared = |host| Arc::ptr_eq(&first.sites[&host], &second.sites[&host]);
        assert_eq!([0, 1, 2].map(|at| shared(host(at))), [true, false, true]);
        assert_eq!(second.pools.len(), 2, "nothing leads to the release before");
    }
}
