//! A certificate of an authority, and the daemon killed after every effect on the way to it.

use bowline_core::acme::{Advice, Effect as Asked, Failure, Said, Window};
use bowline_core::app::{HostName, PlainHttp};
use bowline_core::route::{Certificate, Challenge};
use bowline_core::secret::Secret;

use super::*;
use crate::certs::Leaf;
use crate::certs::acme::{Keep, Report};

const DAY: Duration = Duration::from_secs(86_400);

/// Signs what the edge answers for.
#[derive(Debug, Default)]
pub(super) struct FakeAuthority {
    /// Orders that it was asked for.
    pub(super) orders: usize,
    /// It refuses them.
    pub(super) refuses: bool,
    /// The API's host is its, too.
    pub(super) api: bool,
    /// When it wants certificates to be renewed.
    window: Option<Window>,
    /// Of those that are under way.
    tokens: BTreeMap<HostName, String>,
    issued: usize,
}

fn host() -> HostName {
    HostName::new("shop.example.com").unwrap()
}

impl World {
    pub(super) fn kept_of_authority(&self, vault: &Vault) -> Keep {
        Keep::new(&self.state(), vault.keys(), "https://ca.test/directory")
    }

    /// Until somebody sees the certificate.
    pub(super) fn lacks_certificate(&self) -> bool {
        let served = self.table.as_ref().map(|table| &table.certificates);
        let asks = self.authority.as_ref().is_some_and(|authority| !authority.refuses);
        let routed = self.table.as_ref().is_some_and(|desired| desired.table.sites.contains_key(&host()));
        asks && routed && served.is_some_and(|served| !served.contains_key(&host()))
    }

    pub(super) fn asked_of_authority(&mut self, daemon: &mut Daemon, asked: Asked) {
        let keep = self.kept_of_authority(&daemon.vault);
        let authority = self.authority.as_mut().expect("nobody asks one that is not there");
        let report = match asked {
            Asked::Note(ledger) => return keep.note(&ledger).unwrap(),
            Asked::Begin { host, ledger, .. } => {
                keep.note(&ledger).unwrap();
                authority.orders += 1;
                let token = format!("token-{}", authority.orders);
                authority.tokens.insert(host.clone(), token.clone());
                match authority.refuses {
                    true => Report::Failed(host, Failure { reason: "no".to_owned(), pause: None }),
                    false => Report::Challenged(host, Challenge::Http { answer: format!("{token}.thumb"), token }),
                }
            }
            Asked::Answer(host) => {
                // The authority looks at once.
                let seen = self.table.as_ref().and_then(|table| table.table.challenges.get(&host));
                let token = authority.tokens.remove(&host).expect("it was ordered");
                assert_eq!(
                    seen,
                    Some(&Challenge::Http { answer: format!("{token}.thumb"), token }),
                    "the edge answers"
                );
                authority.issued += 1;
                let chain = format!("chain {}", authority.issued);
                let certificate = Arc::new(Certificate { chain, key: Secret::new("key") });
                let leaf = Leaf { certificate, not_before: self.now.wall, not_after: self.now.wall + DAY * 90 };
                keep.leaf(&host, &leaf).unwrap();
                Report::Issued(host, leaf)
            }
            Asked::Drop(host) => return drop(authority.tokens.remove(&host)),
            Asked::Forget(host) => return keep.forget(&host),
            Asked::Consult(host) => {
                let said = authority.window.map_or(Said::Nothing, Said::Renew);
                Report::Advised(host, Advice { said, again: None })
            }
        };
        self.input(daemon, Input::Acme(report));
    }

    fn chain(&self) -> Option<String> {
        Some(self.table.as_ref()?.certificates.get(&host())?.chain.clone())
    }

    fn orders(&self) -> usize {
        self.authority.as_ref().unwrap().orders
    }

    /// Certificates that the local CA has signed.
    fn made_here(&self) -> usize {
        let entries = std::fs::read_dir(self.state().join("certs")).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "sealed")).count()
    }
}

fn world() -> World {
    let world = World { authority: Some(FakeAuthority::default()), ..World::new() };
    world.write("bowline.toml", &file(""));
    world
}

/// With more of the environment.
fn file(more: &str) -> String {
    let hosts = "[environment.production]\nroute.main.hosts = [\"shop.example.com\"]\n";
    format!("app = \"shop\"\n[service.web]\nrun = \"serve\"\n[route.main]\nto = \"web\"\n{hosts}{more}")
}

fn deploy(world: &mut World, daemon: &mut Daemon) {
    let order = world.order("production");
    world.ask(daemon, Request::Apply(order, None, Scope::default()));
}

/// Time passes, and the daemon looks.
fn later(world: &mut World, daemon: &mut Daemon, time: Duration) {
    world.now.mono = world.now.mono + time;
    world.now.wall = world.now.wall + time;
    world.input(daemon, Input::Tick);
    world.run(daemon);
}

#[test]
fn a_public_name_gets_a_certificate_once_the_edge_answers_for_it_and_it_is_renewed_in_time() {
    let mut world = world();
    let mut daemon = world.start();
    deploy(&mut world, &mut daemon);
    world.run(&mut daemon);
    assert_eq!((world.chain().as_deref(), world.orders()), (Some("chain 1"), 1));
    let site = &world.table.as_ref().unwrap().table.sites[&host()];
    assert_eq!(site.rules[0].transfer.http, PlainHttp::Redirect, "everyone trusts it");
    assert_eq!(world.table.as_ref().unwrap().table.challenges, BTreeMap::new(), "nothing is left of the order");
    drop(daemon);
    let mut daemon = world.start();
    world.run(&mut daemon);
    later(&mut world, &mut daemon, DAY * 55);
    assert_eq!((world.chain().as_deref(), world.orders()), (Some("chain 1"), 1), "it is kept");
    later(&mut world, &mut daemon, DAY * 6);
    assert_eq!((world.chain().as_deref(), world.orders()), (Some("chain 2"), 2));
}

#[test]
fn an_authority_that_refuses_leaves_the_certificate_that_is_there() {
    let mut world = world();
    let mut daemon = world.start();
    deploy(&mut world, &mut daemon);
    world.run(&mut daemon);
    world.authority.as_mut().unwrap().refuses = true;
    for _ in 0..24 {
        later(&mut world, &mut daemon, DAY * 61 / 24);
    }
    let after = world.orders();
    assert!(after > 1, "it is asked");
    assert_eq!(world.chain().as_deref(), Some("chain 1"));
    for _ in 0..240 {
        later(&mut world, &mut daemon, Duration::from_secs(360));
    }
    assert!(world.orders() - after <= 6, "a day of refusals: {} more orders", world.orders() - after);
    later(&mut world, &mut daemon, DAY * 40);
    assert_eq!(world.chain().as_deref(), Some("chain 1"), "out of date, and still better than none");
    let http = |world: &World| world.table.as_ref().unwrap().table.sites[&host()].rules[0].transfer.http;
    assert_eq!(http(&world), PlainHttp::Serve, "nobody is led to it");
    world.authority.as_mut().unwrap().refuses = false;
    later(&mut world, &mut daemon, DAY);
    assert_eq!((world.chain().as_deref(), http(&world)), (Some("chain 2"), PlainHttp::Redirect));
}

#[test]
fn of_an_app_that_cannot_be_read_the_authoritys_certificate_is_served_and_renewed_where_only_an_edge_tells_its_hosts() {
    let mut world = world();
    let mut daemon = world.start();
    deploy(&mut world, &mut daemon);
    world.run(&mut daemon);
    let mut daemon = unreadable(&mut world, daemon, false);
    assert!(world.edge.table.is_none(), "it got a table of this daemon");
    assert_eq!((world.chain().as_deref(), world.orders()), (Some("chain 1"), 1));
    later(&mut world, &mut daemon, DAY * 61);
    assert_eq!((world.chain().as_deref(), world.orders()), (Some("chain 2"), 2));
}

#[test]
fn where_no_authority_is_asked_any_more_its_certificate_is_served_until_it_ends_and_not_renewed() {
    for has_snapshot in [true, false] {
        let mut world = world();
        let mut daemon = world.start();
        deploy(&mut world, &mut daemon);
        world.run(&mut daemon);
        assert_eq!(world.chain().as_deref(), Some("chain 1"));
        drop(daemon);
        world.authority = None;
        if !has_snapshot {
            std::fs::remove_file(world.state().join("edge.snapshot")).unwrap();
        }
        let mut daemon = world.start();
        world.run(&mut daemon);
        let http = |world: &World| world.table.as_ref().unwrap().table.sites[&host()].rules[0].transfer.http;
        for days in [1, 61, 27] {
            later(&mut world, &mut daemon, DAY * days);
            let served = (world.chain(), http(&world), world.made_here());
            assert_eq!(served, (Some("chain 1".to_owned()), PlainHttp::Redirect, 0), "{has_snapshot}");
        }
        let shown = world.status(&mut daemon).apps[0].certificates[0].clone();
        assert_eq!((shown.issuer, shown.renews), (wire::CertificateIssuer::Acme, None));
        assert!(shown.not_after.is_some_and(|end| end > world.now.wall.0));
        later(&mut world, &mut daemon, DAY * 2);
        assert!(world.chain().is_some_and(|chain| chain.contains("BEGIN CERTIFICATE")), "{has_snapshot}");
        assert_eq!(http(&world), PlainHttp::Serve, "clients may not know the CA");
        let shown = world.status(&mut daemon).apps[0].certificates[0].clone();
        assert_eq!(shown.issuer, wire::CertificateIssuer::Local);
    }
}

/// The app as no daemon reads it, and the next daemon; without the snapshot, only an edge tells where it is served.
fn unreadable(world: &mut World, daemon: Daemon, has_snapshot: bool) -> Daemon {
    let key = AppKey { env: EnvName::new("production").unwrap(), ..shop() };
    let stored = daemon.store.commit(move |tx| tx.rewrite("revisions", &key, "spec", "of a later version"));
    world.runtime.block_on(stored).unwrap();
    drop(daemon);
    if !has_snapshot {
        std::fs::remove_file(world.state().join("edge.snapshot")).unwrap();
        world.edge.table = world.table.as_ref().map(|desired| Arc::clone(&desired.table));
    }
    let mut daemon = world.start();
    world.run(&mut daemon);
    daemon
}

#[test]
fn an_app_that_cannot_be_read_and_waits_for_its_first_certificate_gets_none_of_the_local_ca() {
    for has_snapshot in [true, false] {
        let mut world = world();
        world.authority.as_mut().unwrap().refuses = true;
        let mut daemon = world.start();
        deploy(&mut world, &mut daemon);
        world.run(&mut daemon);
        let orders = world.orders();
        let mut daemon = unreadable(&mut world, daemon, has_snapshot);
        later(&mut world, &mut daemon, DAY);
        assert!(world.table.as_ref().unwrap().table.sites.contains_key(&host()), "it is served: {has_snapshot}");
        assert_eq!((world.chain(), world.made_here()), (None, 0), "{has_snapshot}");
        assert_eq!(world.orders(), orders, "it is not known what it wants");
        let notes = world.status(&mut daemon).apps[0].notes.join("; ");
        assert!(notes.contains("shop.example.com had no certificate and gets none meanwhile"), "{notes}");
    }
}

#[test]
fn an_app_that_cannot_be_read_keeps_the_certificate_of_the_local_ca_that_it_had() {
    for has_snapshot in [true, false] {
        let mut world = World { authority: None, ..world() };
        let mut daemon = world.start();
        deploy(&mut world, &mut daemon);
        world.run(&mut daemon);
        let before = world.chain().unwrap();
        world.authority = Some(FakeAuthority::default());
        let mut daemon = unreadable(&mut world, daemon, has_snapshot);
        later(&mut world, &mut daemon, DAY);
        assert_eq!((world.chain(), world.orders()), (Some(before.clone()), 0), "{has_snapshot}");
        later(&mut world, &mut daemon, DAY * 70);
        let renewed = world.chain().unwrap();
        assert!(renewed.contains("BEGIN CERTIFICATE") && renewed != before, "{has_snapshot}");
    }
}

#[test]
fn a_certificate_is_renewed_in_the_authoritys_own_time() {
    let mut world = world();
    let mut daemon = world.start();
    deploy(&mut world, &mut daemon);
    world.run(&mut daemon);
    let at = |days| world.now.wall + DAY * days;
    world.authority.as_mut().unwrap().window = Some(Window { start: at(10), end: at(12) });
    later(&mut world, &mut daemon, DAY);
    later(&mut world, &mut daemon, DAY * 8);
    assert_eq!((world.chain().as_deref(), world.orders()), (Some("chain 1"), 1));
    later(&mut world, &mut daemon, DAY * 3);
    assert_eq!((world.chain().as_deref(), world.orders()), (Some("chain 2"), 2));
}

#[test]
fn the_local_cas_certificate_of_a_name_goes_on_until_the_authoritys_is_there() {
    let mut world = World { authority: None, ..world() };
    let mut daemon = world.start();
    deploy(&mut world, &mut daemon);
    world.run(&mut daemon);
    let before = world.chain().unwrap();
    assert!(before.contains("BEGIN CERTIFICATE"));
    // A daemon comes that asks an authority, which refuses; and another one after it.
    world.authority = Some(FakeAuthority { refuses: true, ..FakeAuthority::default() });
    for _ in 0..2 {
        drop(daemon);
        daemon = world.start();
        world.run(&mut daemon);
        later(&mut world, &mut daemon, DAY);
        assert_eq!(world.chain().as_ref(), Some(&before), "what clients saw a minute ago");
    }
    let shown = world.status(&mut daemon).apps[0].certificates[0].clone();
    assert_eq!((shown.issuer, shown.failure.as_deref()), (wire::CertificateIssuer::Local, Some("no")));
    later(&mut world, &mut daemon, DAY * 70);
    let renewed = world.chain().unwrap();
    assert!(renewed.contains("BEGIN CERTIFICATE") && renewed != before, "it is renewed as long as it is served");
    world.authority.as_mut().unwrap().refuses = false;
    later(&mut world, &mut daemon, DAY);
    assert_eq!(world.chain().as_deref(), Some("chain 1"));
    // A route that wants an authority's or none has none meanwhile.
    let mut strict = World { authority: None, ..self::world() };
    let mut daemon = strict.start();
    deploy(&mut strict, &mut daemon);
    strict.run(&mut daemon);
    drop(daemon);
    strict.authority = Some(FakeAuthority { refuses: true, ..FakeAuthority::default() });
    strict.write("bowline.toml", &file("route.main.tls = \"acme\"\n"));
    let mut daemon = strict.start();
    deploy(&mut strict, &mut daemon);
    strict.run(&mut daemon);
    assert_eq!(strict.chain(), None);
}

#[test]
fn the_apis_host_is_an_authoritys_where_the_settings_say_so_and_its_certificate_is_not_in_files() {
    let api = || HostName::new("api.example.com").unwrap();
    let start = |asks: bool, given: Option<Given>| {
        let mut world = world();
        world.api = Some(Arc::new(ApiSite { host: api(), socket: "outer.sock".into() }));
        world.given = given;
        world.authority.as_mut().unwrap().api = asks;
        let mut daemon = world.start();
        world.run(&mut daemon);
        later(&mut world, &mut daemon, DAY);
        let shown = world.status(&mut daemon).edge.certificate.unwrap().issuer;
        let served = world.table.as_ref().unwrap();
        assert!(Arc::ptr_eq(served.table.api.as_ref().unwrap(), world.api.as_ref().unwrap()), "it is shared");
        let chain = served.certificates[&api()].chain.clone();
        (world.orders(), shown, chain.contains("BEGIN CERTIFICATE"))
    };
    use wire::CertificateIssuer::{Acme, Given as File, Local};
    assert_eq!(start(true, None), (1, Acme, false));
    assert_eq!(start(false, None), (0, Local, true));
    // Files hold no good certificate, and there was none before: the host is not given to an authority all the same.
    let refused = Given { host: api(), certificate: None, refused: Some(fault("no PEM")) };
    assert_eq!(start(true, Some(refused.clone())), (0, Local, true));
    let certificate = Some(Arc::new(Certificate { chain: "of a file".to_owned(), key: Secret::new("key") }));
    assert_eq!(start(true, Some(Given { certificate, ..refused })), (0, File, false));
}

#[test]
fn whenever_a_daemon_is_told_to_end_the_local_ca_signs_for_no_public_name() {
    const MANY: usize = 400;
    for effects in 0..MANY {
        let mut world = World { mode: Mode::Server, slow_store: true, ..world() };
        let mut daemon = world.start();
        world.run(&mut daemon);
        daemon.effects_left = Some(effects);
        deploy(&mut world, &mut daemon);
        let is_over = world.run(&mut daemon) != End::Crashed;
        daemon.effects_left = None;
        world.input(&mut daemon, Input::Terminate);
        assert_eq!(world.run(&mut daemon), End::Exited(Ended::LeftRunning), "after {effects} effects");
        assert_eq!(world.made_here(), 0, "after {effects} effects");
        if is_over {
            return assert!(effects > 10, "only {effects} effects");
        }
    }
    panic!("more than {MANY} effects");
}

#[test]
fn a_ledger_that_does_not_open_pauses_orders_once() {
    let mut world = world();
    let mut daemon = world.start();
    deploy(&mut world, &mut daemon);
    world.run(&mut daemon);
    drop(daemon);
    let folder = std::fs::read_dir(world.state().join("certs/acme")).unwrap().next().unwrap().unwrap().path();
    for entry in std::fs::read_dir(folder).unwrap() {
        std::fs::write(entry.unwrap().path(), "no seal").unwrap();
    }
    let lost = world.now.wall;
    // The next daemon has what the one before has noted.
    for _ in 0..2 {
        let mut daemon = world.start();
        world.run(&mut daemon);
        assert_eq!(world.orders(), 1);
    }
    let mut daemon = world.start();
    world.run(&mut daemon);
    later(&mut world, &mut daemon, Duration::from_secs(3 * 3600));
    assert!(world.now.wall.since(lost) < Duration::from_secs(6 * 3600));
    assert_eq!((world.orders(), world.chain().as_deref()), (2, Some("chain 2")));
    let events = daemon.store.read(|view| view.last_events(None, 1_000)).unwrap();
    assert_eq!(events.iter().filter(|event| event.kind == "certificate.paused").count(), 1);
}

#[test]
fn a_daemon_that_dies_after_any_effect_ends_with_a_certificate_and_asks_no_more_than_one_that_lives() {
    const MANY: usize = 400;
    for effects in 0..MANY {
        let mut world = world();
        let mut daemon = world.start();
        world.run(&mut daemon);
        daemon.effects_left = Some(effects);
        deploy(&mut world, &mut daemon);
        let crashed = world.run(&mut daemon) == End::Crashed;
        drop(daemon);
        let (before, at) = (world.orders(), world.now.wall);
        world.authority.as_mut().unwrap().tokens.clear();
        let mut daemon = world.start();
        world.run(&mut daemon);
        if world.status(&mut daemon).apps.is_empty() || world.running().is_empty() {
            deploy(&mut world, &mut daemon);
            world.run(&mut daemon);
        }
        assert!(world.chain().is_some(), "after {effects} effects");
        assert!(world.orders() <= 2, "after {effects} effects: {} orders", world.orders());
        if before == 1 && world.orders() == 2 {
            assert!(world.now.wall.since(at) >= Duration::from_secs(59), "the second waits its turn, after {effects}");
        }
        if !crashed {
            return assert!(effects > 10, "only {effects} effects");
        }
    }
    panic!("more than {MANY} effects");
}

#[test]
fn without_an_authority_the_local_ca_signs_and_what_must_be_proven_is_refused() {
    let mut world = World { authority: None, ..world() };
    let mut daemon = world.start();
    deploy(&mut world, &mut daemon);
    world.run(&mut daemon);
    assert!(world.chain().is_some_and(|chain| chain.contains("BEGIN CERTIFICATE")));
    let site = &world.table.as_ref().unwrap().table.sites[&host()];
    assert_eq!(site.rules[0].transfer.http, PlainHttp::Serve, "clients may not know the CA");
    world.write("bowline.toml", &file("route.main.tls = \"acme\"\n"));
    let order = world.order("production");
    let ticket = world.ask(&mut daemon, Request::Apply(order, None, Scope::default()));
    world.run(&mut daemon);
    let refusal = world.refusal(ticket);
    assert_eq!(refusal.message, "shop.example.com of production/shop has no certificate to be had");
    assert_eq!(daemon.machine.apps.len(), 1);
}
