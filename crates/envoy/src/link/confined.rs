//! Routes that Envoy refuses, kept from all others: those of plain HTTP are one resource for all hosts, and one host's would hold up everyone's.
//!
//! A host whose routes are refused stays as it was in the table that Envoy has taken last, until its site is another one. Where nobody says
//! which of several hosts it is, half of them are told at a time. Of an Envoy that was found nobody knows what it had taken: of the hosts without
//! HTTPS it is told all but one, each in turn, so that it lets go of none that it serves well.
//!
//! An Envoy that cannot listen for plain HTTP asks for no routes of it but while a challenge is answered over TLS: it has neither taken nor
//! refused those.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bowline_core::app::HostName;
use bowline_core::route::{EdgeDesired, Site, SiteTls, Table};

use crate::delta::{Kind, Refused};

/// The routes of plain HTTP, and before a host those of HTTPS.
pub(super) const PLAIN: &str = "http";
pub(super) const SECURE: &str = "https/";

/// Hosts of an Envoy that was found that are left out in turn. With more of them all routes of plain HTTP stay as they are.
const MAX_TURNS: usize = 256;

#[derive(Debug)]
pub(super) struct Confined {
    /// Whose routes Envoy has taken last: all of them, or those of HTTPS alone where it asked for no plain ones; `None`: nobody knows.
    taken: Option<Arc<Table>>,
    /// Those that are still to be left out of what an Envoy is told that was found; the last one is.
    turns: Option<Vec<HostName>>,
    /// Sites that it does not take, and why.
    refused: BTreeMap<HostName, (Arc<Site>, String)>,
    /// Groups of hosts of which any may be refused. They wait until Envoy has taken all others.
    doubtful: Vec<BTreeSet<HostName>>,
}

/// What is to be done about what Envoy has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// [`Confined::table`] has another table to be told.
    Tell,
    Nothing,
}

impl Confined {
    /// Of an Envoy that has nothing yet, or of one that was found.
    pub(super) fn new(is_found: bool) -> Self {
        let taken = (!is_found).then(Arc::default);
        Self { taken, turns: None, refused: BTreeMap::new(), doubtful: Vec::new() }
    }

    /// The table as Envoy is to be told it.
    pub(super) fn table(&mut self, wanted: &Arc<EdgeDesired>) -> Arc<EdgeDesired> {
        let sites = &wanted.table.sites;
        self.refused.retain(|host, (site, _)| sites.get(host) == Some(site));
        for group in &mut self.doubtful {
            group.retain(|host| sites.contains_key(host));
        }
        self.doubtful.retain(|group| !group.is_empty());
        let turn = self.turns.iter().filter_map(|turns| turns.last());
        let held: BTreeSet<&HostName> = self.refused.keys().chain(self.doubtful.iter().flatten()).chain(turn).collect();
        if held.is_empty() {
            return Arc::clone(wanted);
        }
        let mut table = Table::clone(&wanted.table);
        for host in held {
            match self.taken.as_ref().and_then(|taken| taken.sites.get(host)) {
                Some(site) => drop(table.sites.insert(host.clone(), Arc::clone(site))),
                None => drop(table.sites.remove(host)),
            }
        }
        Arc::new(EdgeDesired { table: Arc::new(table), certificates: Arc::clone(&wanted.certificates) })
    }

    /// Envoy has all that it was `told` but what it refuses, and what it has not asked for; of routes it has these.
    pub(super) fn settled(&mut self, told: &EdgeDesired, refused: &Refused, has: &BTreeSet<String>) -> Next {
        let routes = refused.iter().filter(|((kind, _), _)| *kind == Kind::Routes);
        let routes: BTreeMap<&str, &String> = routes.map(|((_, name), why)| (name.as_str(), why)).collect();
        let asks = has.contains(PLAIN) || routes.contains_key(PLAIN);
        let Some(taken) = &self.taken else {
            if asks {
                return self.take_all(told, routes.contains_key(PLAIN));
            }
            return if self.turns.take().is_some() { Next::Tell } else { Next::Nothing };
        };
        let taken = &taken.sites;
        let changed: Vec<_> = told.table.sites.iter().filter(|(host, site)| taken.get(*host) != Some(*site)).collect();
        let own = changed.iter().filter_map(|(host, site)| {
            let why = routes.get(format!("{SECURE}{host}").as_str())?;
            Some(((*host).clone(), (Arc::clone(site), (*why).clone())))
        });
        let own: BTreeMap<_, _> = own.collect();
        if !own.is_empty() {
            self.refused.extend(own);
            return Next::Tell;
        }
        if !asks {
            self.take_secure(told, has);
            // Nobody answers any more which of them is refused.
            return if std::mem::take(&mut self.doubtful).is_empty() { Next::Nothing } else { Next::Tell };
        }
        // What is refused of HTTPS for long, as since a certificate is another one, is one host's own: the plain routes of all are taken.
        let Some(why) = routes.get(PLAIN) else { return self.take_all(told, false) };
        match changed.as_slice() {
            [] => return Next::Nothing,
            [(host, site)] => drop(self.refused.insert((*host).clone(), (Arc::clone(site), (*why).clone()))),
            several => {
                let half = several.iter().take(several.len() / 2);
                self.doubtful.push(half.map(|(host, _)| (*host).clone()).collect());
            }
        }
        Next::Tell
    }

    /// Envoy has taken the plain routes of all hosts, or nobody knows yet what it has.
    fn take_all(&mut self, told: &EdgeDesired, is_refused: bool) -> Next {
        if is_refused {
            // Without a host Envoy would let go of its HTTPS, too, which does not wait for the routes of plain HTTP.
            let plain = told.table.sites.iter().filter(|(_, site)| site.tls == SiteTls::Off);
            match &mut self.turns {
                None => self.turns = Some(plain.map(|(host, _)| host.clone()).take(MAX_TURNS).collect()),
                Some(turns) => drop(turns.pop()),
            }
            return if self.turns.as_ref().is_some_and(|turns| !turns.is_empty()) { Next::Tell } else { Next::Nothing };
        }
        // It may have been taken for another reason than that it lacks this one.
        let left_out = self.turns.take().and_then(|mut turns| turns.pop());
        self.doubtful.extend(left_out.map(|host| BTreeSet::from([host])));
        self.taken = Some(Arc::clone(&told.table));
        if self.doubtful.pop().is_some() { Next::Tell } else { Next::Nothing }
    }

    /// Envoy asks for no plain routes. A site that it has over HTTPS is taken as it is; of all others nobody knows.
    fn take_secure(&mut self, told: &EdgeDesired, has: &BTreeSet<String>) {
        let Some(taken) = &mut self.taken else { return };
        let told = &told.table.sites;
        let is_new = |host: &HostName, site: &Arc<Site>| {
            taken.sites.get(host) != Some(site) && has.contains(&format!("{SECURE}{host}"))
        };
        let new: Vec<_> = told.iter().filter(|(host, site)| is_new(host, site)).collect();
        if new.is_empty() && taken.sites.keys().all(|host| told.contains_key(host)) {
            return;
        }
        let sites = &mut Arc::make_mut(taken).sites;
        sites.retain(|host, _| told.contains_key(host));
        sites.extend(new.into_iter().map(|(host, site)| (host.clone(), Arc::clone(site))));
    }

    /// It is being found out what of the table that was asked for last is refused.
    pub(super) fn is_finding_out(&self) -> bool {
        self.turns.is_some() || !self.doubtful.is_empty()
    }

    /// Hosts whose routes are refused, and why.
    pub(super) fn refused(&self) -> impl Iterator<Item = (&HostName, &str)> {
        self.refused.iter().map(|(host, (_, why))| (host, why.as_str()))
    }

    /// Whether Envoy has taken a site of this host before, which it goes on with where another one is refused.
    pub(super) fn is_served(&self, host: &HostName) -> bool {
        self.taken.as_ref().is_some_and(|taken| taken.sites.contains_key(host))
    }
}

#[cfg(test)]
mod tests {
    use bowline_core::id::Generation;

    use super::*;

    /// An Envoy that refuses plain sites of these hosts.
    struct Picky {
        confined: Confined,
        refuses: &'static [&'static str],
        told: usize,
        /// Of all that it has taken, how many hosts the smallest had.
        fewest: usize,
    }

    fn desired(hosts: &[(&str, SiteTls)]) -> Arc<EdgeDesired> {
        let site = |tls| Arc::new(Site { tls, rules: Vec::new() });
        let sites = hosts.iter().map(|(host, tls)| (HostName::new(host).unwrap(), site(*tls))).collect();
        let table = Table { generation: Generation(1), sites, ..Table::default() };
        Arc::new(EdgeDesired { table: Arc::new(table), ..EdgeDesired::default() })
    }

    impl Picky {
        /// Tells it until it rests: which hosts are served, with `+` in front those that are plain.
        fn tell(&mut self, wanted: &Arc<EdgeDesired>) -> String {
            loop {
                let told = self.confined.table(wanted);
                self.told += 1;
                let refuses = self.refuses;
                let is_bad =
                    |host: &HostName, site: &Site| refuses.contains(&host.as_str()) && site.tls == SiteTls::Off;
                let is_refused = told.table.sites.iter().any(|(host, site)| is_bad(host, site));
                if !is_refused {
                    self.fewest = self.fewest.min(told.table.sites.len());
                }
                let refused = is_refused.then(|| ((Kind::Routes, PLAIN.to_owned()), "why".to_owned()));
                if settled(&mut self.confined, &told, &refused.into_iter().collect()) == Next::Nothing {
                    let text = |(host, site): (&HostName, &Arc<Site>)| match site.tls {
                        SiteTls::Off => format!("+{host}"),
                        SiteTls::Both => host.to_string(),
                    };
                    return told.table.sites.iter().map(text).collect::<Vec<_>>().join(" ");
                }
            }
        }

        fn refused(&self) -> String {
            self.confined.refused().map(|(host, why)| format!("{host}: {why}")).collect::<Vec<_>>().join(", ")
        }
    }

    /// An Envoy that asks for all routes has those that it does not refuse.
    fn settled(confined: &mut Confined, told: &EdgeDesired, refused: &Refused) -> Next {
        let secure = told.table.sites.iter().filter(|(_, site)| site.tls == SiteTls::Both);
        let all = secure.map(|(host, _)| format!("{SECURE}{host}")).chain([PLAIN.to_owned()]);
        let has = all.filter(|name| !refused.contains_key(&(Kind::Routes, name.clone()))).collect();
        confined.settled(told, refused, &has)
    }

    fn picky(refuses: &'static [&'static str]) -> Picky {
        Picky { confined: Confined::new(false), refuses, told: 0, fewest: usize::MAX }
    }

    const NAMES: [&str; 6] = ["a.test", "b.test", "c.test", "d.test", "e.test", "f.test"];

    #[test]
    fn a_host_that_is_refused_stays_as_it_was_and_all_others_change() {
        let mut envoy = picky(&["c.test"]);
        let before = desired(&NAMES.map(|name| (name, SiteTls::Both)));
        assert_eq!(envoy.tell(&before), "a.test b.test c.test d.test e.test f.test");
        let after = desired(&NAMES.map(|name| (name, SiteTls::Off)));
        assert_eq!(envoy.tell(&after), "+a.test +b.test c.test +d.test +e.test +f.test");
        assert_eq!(envoy.refused(), "c.test: why");
        assert!(envoy.told <= 1 + 8, "{} times", envoy.told);
        assert_eq!(envoy.tell(&before), "a.test b.test c.test d.test e.test f.test", "and back");
        assert_eq!(envoy.refused(), "");
    }

    #[test]
    fn several_are_found_among_all_that_a_new_envoy_is_told() {
        let mut envoy = picky(&["a.test", "f.test"]);
        let all = desired(&NAMES.map(|name| (name, SiteTls::Off)));
        assert_eq!(envoy.tell(&all), "+b.test +c.test +d.test +e.test");
        assert_eq!(envoy.refused(), "a.test: why, f.test: why");
        let told = envoy.told;
        assert_eq!(envoy.tell(&all), "+b.test +c.test +d.test +e.test");
        assert_eq!(envoy.told, told + 1, "it is not tried again as it is");
    }

    #[test]
    fn one_that_was_found_lets_go_of_nothing_but_what_it_refuses() {
        let mut envoy = Picky { confined: Confined::new(true), ..picky(&["c.test"]) };
        let all = desired(&NAMES.map(|name| (name, SiteTls::Off)));
        assert_eq!(envoy.tell(&all), "+a.test +b.test +d.test +e.test +f.test");
        assert_eq!((envoy.refused().as_str(), envoy.fewest), ("c.test: why", NAMES.len() - 1));

        let mut envoy = Picky { confined: Confined::new(true), ..picky(&["c.test", "d.test"]) };
        envoy.tell(&all);
        assert_eq!((envoy.refused().as_str(), envoy.fewest), ("", usize::MAX), "it goes on with all that it has");
        let good = desired(&NAMES.map(|name| (name, SiteTls::Both)));
        assert_eq!(envoy.tell(&good).split(' ').count(), NAMES.len());
        assert_eq!(envoy.tell(&all), "+a.test +b.test c.test d.test +e.test +f.test", "by now it is known what it has");
    }

    #[test]
    fn routes_of_https_say_whose_they_are() {
        let mut confined = Confined::new(false);
        let all = desired(&NAMES.map(|name| (name, SiteTls::Both)));
        let refused = [PLAIN, "https/d.test"].map(|name| ((Kind::Routes, name.to_owned()), "why".to_owned()));
        assert_eq!(settled(&mut confined, &all, &refused.into()), Next::Tell);
        assert_eq!(confined.refused().map(|(host, _)| host.as_str()).collect::<Vec<_>>(), ["d.test"]);
        let told = confined.table(&all);
        assert_eq!(told.table.sites.len(), 5);
        assert_eq!(settled(&mut confined, &told, &Refused::new()), Next::Nothing);
    }

    #[test]
    fn what_nobody_has_changed_is_not_told_without_end() {
        let mut confined = Confined::new(false);
        let all = desired(&[("a.test", SiteTls::Both)]);
        assert_eq!(settled(&mut confined, &all, &Refused::new()), Next::Nothing);
        let refused: Refused = [((Kind::Routes, PLAIN.to_owned()), "why".to_owned())].into();
        assert_eq!(settled(&mut confined, &all, &refused), Next::Nothing);
    }

    /// As since a certificate's key is another one.
    #[test]
    fn what_is_refused_of_https_for_long_keeps_no_other_host_from_being_found() {
        let before = [("a.localhost", SiteTls::Off), ("x.localhost", SiteTls::Both)];
        let after = [&before[..], &[("bad.localhost", SiteTls::Off), ("good.localhost", SiteTls::Off)]].concat();
        for is_found in [true, false] {
            let mut confined = Confined::new(is_found);
            let tell = |confined: &mut Confined, wanted: &Arc<EdgeDesired>| loop {
                let told = confined.table(wanted);
                let is_bad = told.table.sites.contains_key(&HostName::new("bad.localhost").unwrap());
                let names = ["https/x.localhost", PLAIN].into_iter().take(if is_bad { 2 } else { 1 });
                let refused = names.map(|name| ((Kind::Routes, name.to_owned()), "why".to_owned())).collect();
                if settled(confined, &told, &refused) == Next::Nothing {
                    return told.table.sites.keys().map(ToString::to_string).collect::<Vec<_>>();
                }
            };
            tell(&mut confined, &desired(&before));
            let told = tell(&mut confined, &desired(&after));
            assert!(
                told.contains(&"good.localhost".to_owned()) && !told.contains(&"bad.localhost".to_owned()),
                "{told:?}"
            );
            assert!(confined.refused().any(|(host, _)| host.as_str() == "bad.localhost"));
            assert!(!confined.is_finding_out());
        }
    }

    /// An Envoy that cannot listen for plain HTTP has the routes of HTTPS alone.
    fn settled_unheard(confined: &mut Confined, told: &EdgeDesired, refused: &[&str]) -> Next {
        let listener = ((Kind::Listener, PLAIN.to_owned()), "address in use".to_owned());
        let routes = refused.iter().map(|host| ((Kind::Routes, format!("{SECURE}{host}")), "why".to_owned()));
        let secure = told
            .table
            .sites
            .iter()
            .filter(|(host, site)| site.tls == SiteTls::Both && !refused.contains(&host.as_str()));
        let has = secure.map(|(host, _)| format!("{SECURE}{host}")).collect();
        confined.settled(told, &routes.chain([listener]).collect(), &has)
    }

    #[test]
    fn plain_routes_that_were_not_asked_for_are_not_taken() {
        for is_found in [false, true] {
            let mut envoy = Picky { confined: Confined::new(is_found), ..picky(&["c.test"]) };
            let all = desired(&NAMES.map(|name| (name, SiteTls::Off)));
            assert_eq!(settled_unheard(&mut envoy.confined, &all, &[]), Next::Nothing);
            assert!(!envoy.confined.is_finding_out());
            // Now it listens, and says what it has of them.
            assert_eq!(envoy.tell(&all), "+a.test +b.test +d.test +e.test +f.test");
            assert_eq!(envoy.refused(), "c.test: why", "{is_found}");
        }
    }

    #[test]
    fn a_search_ends_where_plain_routes_are_asked_for_no_more() {
        let mut envoy = picky(&["c.test"]);
        let all = desired(&NAMES.map(|name| (name, SiteTls::Off)));
        let refused = [((Kind::Routes, PLAIN.to_owned()), "why".to_owned())].into();
        assert_eq!(envoy.confined.settled(&all, &refused, &BTreeSet::new()), Next::Tell);
        assert!(envoy.confined.is_finding_out());
        assert_eq!(settled_unheard(&mut envoy.confined, &all, &[]), Next::Tell);
        assert!(!envoy.confined.is_finding_out());
        assert_eq!(envoy.confined.table(&all).table, all.table);
        assert_eq!(settled_unheard(&mut envoy.confined, &all, &[]), Next::Nothing);
    }

    #[test]
    fn what_is_served_over_https_alone_stays_as_it_was_too() {
        let site = |app: &str| Site { tls: SiteTls::Both, rules: vec![super::super::faults::tests::rule(app)] };
        let told = |sites: &[(&str, &str)]| {
            let sites = sites.iter().map(|(host, app)| (HostName::new(host).unwrap(), Arc::new(site(app)))).collect();
            Arc::new(EdgeDesired { table: Arc::new(Table { sites, ..Table::default() }), ..EdgeDesired::default() })
        };
        let mut confined = Confined::new(false);
        let before = told(&[("a.test", "old"), ("b.test", "old")]);
        assert_eq!(settled_unheard(&mut confined, &before, &[]), Next::Nothing);
        // Whatever becomes of what has not changed.
        assert_eq!(settled_unheard(&mut confined, &before, &["b.test"]), Next::Nothing);
        let after = told(&[("a.test", "new"), ("b.test", "old")]);
        assert_eq!(settled_unheard(&mut confined, &after, &["a.test", "b.test"]), Next::Tell);
        assert_eq!(confined.table(&after).table, before.table);
        assert_eq!(confined.refused().map(|(host, _)| host.as_str()).collect::<Vec<_>>(), ["a.test"]);
        // One that went is not what another one goes back to.
        assert_eq!(settled_unheard(&mut confined, &told(&[("b.test", "old")]), &[]), Next::Nothing);
        assert!(!confined.is_served(&HostName::new("a.test").unwrap()));
        assert!(confined.is_served(&HostName::new("b.test").unwrap()));
    }
}
