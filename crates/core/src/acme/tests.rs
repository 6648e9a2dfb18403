use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::app::{Access, Limit, PathPrefix, Route, RouteTo, Transfer, sample};
use crate::id::{AppName, EnvName, RouteName, ServiceName};
use crate::route::Challenge;

const DAY: Duration = Duration::from_secs(86_400);
const MINUTE: Duration = Duration::from_secs(60);
const START: Timestamp = Timestamp(1_800_000_000_000);

fn host(name: &str) -> HostName {
    HostName::new(name).unwrap()
}

fn challenge() -> Challenge {
    Challenge::Http { token: "t".to_owned(), answer: "t.k".to_owned() }
}

/// Names, certificates and an edge that answers at once.
#[derive(Debug, Clone)]
struct Scene {
    orders: Orders,
    wanted: BTreeMap<HostName, Want>,
    held: BTreeMap<HostName, Validity>,
    answered: BTreeSet<HostName>,
    now: Timestamp,
}

impl Scene {
    fn new(names: &[&str]) -> Self {
        Self {
            orders: Orders::new(Ledger::default(), Pace::default(), 7),
            wanted: names.iter().map(|name| (host(name), Want::Better)).collect(),
            held: BTreeMap::new(),
            answered: BTreeSet::new(),
            now: START,
        }
    }

    fn look(&mut self) -> Vec<Effect> {
        let world = World { wanted: &self.wanted, held: &self.held, answered: &self.answered };
        self.orders.handle(world, self.now, 0)
    }

    /// The names whose orders begin.
    fn begun(&mut self) -> Vec<String> {
        let begun = self.look().into_iter().filter_map(|effect| match effect {
            Effect::Begin { host, .. } => Some(host.to_string()),
            Effect::Note(_) | Effect::Answer(_) | Effect::Drop(_) | Effect::Forget(_) | Effect::Consult(_) => None,
        });
        begun.collect()
    }

    fn issue(&mut self, name: &str, life: Duration) {
        let validity = Validity { not_before: self.now, not_after: self.now + life };
        self.orders.issued(&host(name), validity, self.now).unwrap();
        self.held.insert(host(name), validity);
    }

    /// When the certificate of this name is to be renewed.
    fn renewal(&self, name: &str) -> Timestamp {
        let held = self.held.get(&host(name)).copied();
        self.orders.report(&host(name), held, self.now).next.unwrap()
    }

    /// The names whose renewal the authority is asked about.
    fn consulted(&mut self) -> Vec<String> {
        let consulted = self.look().into_iter().filter_map(|effect| match effect {
            Effect::Consult(host) => Some(host.to_string()),
            Effect::Note(_) | Effect::Answer(_) | Effect::Drop(_) | Effect::Forget(_) | Effect::Begin { .. } => None,
        });
        consulted.collect()
    }

    fn advise(&mut self, name: &str, said: Said, again: Option<Timestamp>) {
        self.orders.advised(&host(name), Advice { said, again }, self.now);
    }

    fn refuse(&mut self, name: &str, pause: Option<Pause>) {
        self.orders.failed(&host(name), Failure { reason: "no".to_owned(), pause }, self.now);
    }
}

/// The first wait after a failure, with its jitter.
fn is_about_a_minute(until: Option<Timestamp>, since: Timestamp) -> bool {
    until.is_some_and(|until| (MINUTE..=MINUTE * 5 / 4).contains(&until.since(since)))
}

#[test]
fn the_authority_looks_only_after_the_edge_answers() {
    let mut scene = Scene::new(&["a.com"]);
    let effects = scene.look();
    let [Effect::Begin { host: begun, attempt: 0, ledger }] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!((begun, ledger.orders.as_slice(), ledger.names[begun].count), (&host("a.com"), &[START][..], 1));
    assert_eq!(scene.look(), [], "once");
    scene.answered.insert(host("a.com"));
    assert_eq!(scene.look(), [], "nothing was asked for yet");
    scene.answered.clear();
    scene.orders.challenged(&host("a.com"), challenge());
    assert_eq!(scene.orders.challenges(), BTreeMap::from([(host("a.com"), challenge())]));
    assert_eq!(scene.look(), []);
    scene.answered.insert(host("a.com"));
    assert_eq!(scene.look(), [Effect::Answer(host("a.com"))]);
    assert_eq!(scene.look(), []);
    scene.issue("a.com", DAY * 90);
    assert_eq!(scene.orders.challenges(), BTreeMap::new());
    let noted = Ledger { orders: vec![START], ..Ledger::default() };
    assert_eq!(scene.look(), [Effect::Note(noted)], "a success is forgotten but for the account's count");
}

#[test]
fn names_that_cannot_be_proven_take_no_order_from_a_renewal() {
    let names: Vec<String> = (0..40).map(|number| format!("dead{number}.com")).collect();
    let mut scene = Scene::new(&["a.com"]);
    scene.look();
    scene.issue("a.com", DAY * 90);
    scene.wanted.extend(names.iter().map(|name| (host(name), Want::Better)));
    let until = scene.now + DAY * 61;
    let mut renewed = None;
    while scene.now < until && renewed.is_none() {
        for name in scene.begun() {
            match name.as_str() {
                "a.com" => renewed = Some(scene.now),
                _ => scene.refuse(&name, None),
            }
        }
        scene.now = scene.orders.next_deadline().unwrap().max(Timestamp(scene.now.0 + 1));
    }
    let at = renewed.expect("in its time").since(START);
    assert!((DAY * 57..=DAY * 60 + MINUTE * 60).contains(&at), "{at:?}");
}

#[test]
fn a_certificate_is_renewed_when_two_thirds_of_its_life_are_over() {
    let mut scene = Scene::new(&["a.com"]);
    scene.look();
    scene.issue("a.com", DAY * 90);
    scene.look();
    let at = scene.renewal("a.com");
    let after = at.since(START);
    assert!((DAY * 57..=DAY * 60).contains(&after), "{after:?}");
    scene.now = Timestamp(at.0 - 1);
    assert_eq!(scene.begun(), Vec::<String>::new());
    scene.now = at;
    assert_eq!(scene.begun(), ["a.com"]);
    scene.refuse("a.com", None);
    let report = scene.orders.report(&host("a.com"), scene.held.get(&host("a.com")).copied(), scene.now);
    assert_eq!((report.failure.as_deref(), report.tries, report.stage), (Some("no"), 1, None));
    assert!(is_about_a_minute(report.next, at));
}

#[test]
fn failures_are_waited_with_longer_and_longer_and_a_restart_forgets_none() {
    let mut scene = Scene::new(&["a.com"]);
    let mut waits = Vec::new();
    for restart in [false, true].into_iter().cycle().take(8) {
        let begun = scene.now;
        let effects = scene.look();
        let [Effect::Begin { ledger, .. }] = effects.as_slice() else { panic!("{effects:?}") };
        match restart {
            // The daemon dies before it knows how the order ends.
            true => scene.orders = Orders::new(ledger.clone(), Pace::default(), 9),
            false => scene.refuse("a.com", None),
        }
        scene.look();
        scene.now = scene.orders.next_deadline().unwrap();
        waits.push(scene.now.since(begun).as_secs() / 60);
    }
    for (wait, least) in waits.iter().zip([1, 5, 15, 60, 180, 360, 360, 360]) {
        assert!((least..=least * 5 / 4).contains(wait), "{waits:?}");
    }
}

#[test]
fn three_are_ordered_at_once_those_without_a_certificate_first() {
    let mut scene = Scene::new(&["a.com", "b.com", "c.com", "d.com", "e.com"]);
    let held = |days| Validity { not_before: START, not_after: START + DAY * days };
    scene.held = BTreeMap::from([(host("a.com"), held(3)), (host("b.com"), held(2))]);
    scene.now = START + DAY * 2;
    assert_eq!(scene.begun(), ["c.com", "d.com", "e.com"]);
    assert_eq!(scene.begun(), Vec::<String>::new());
    scene.refuse("c.com", None);
    assert_eq!(scene.begun(), ["b.com"], "what ends first");
    scene.issue("d.com", DAY);
    assert_eq!(scene.begun(), ["a.com"]);
    let taken = scene.orders.ledger.orders.len();
    assert_eq!(taken, 5);
}

#[test]
fn an_authority_is_asked_again_when_it_says_so() {
    let mut scene = Scene::new(&["a.com", "b.com"]);
    assert_eq!(scene.begun(), ["a.com", "b.com"]);
    scene.refuse("a.com", Some(Pause::Name(START + DAY)));
    scene.issue("b.com", MINUTE * 30);
    scene.now = START + (DAY - MINUTE);
    assert_eq!(scene.begun(), ["b.com"], "another name is free");
    scene.refuse("b.com", Some(Pause::All(START + DAY * 2)));
    scene.now = START + (DAY * 2 - MINUTE);
    assert_eq!(scene.begun(), Vec::<String>::new());
    scene.now = START + DAY * 2;
    assert_eq!(scene.begun(), ["b.com", "a.com"], "a renewal first");
    scene.refuse("a.com", Some(Pause::All(START + DAY * 3650)));
    scene.now = START + DAY * 9;
    assert!(scene.begun().contains(&"a.com".to_owned()), "nobody is believed for ever");
}

#[test]
fn an_order_has_an_end_and_goes_with_its_name() {
    let mut scene = Scene::new(&["a.com", "b.com"]);
    scene.look();
    scene.wanted.remove(&host("b.com"));
    assert_eq!(scene.look(), [Effect::Drop(host("b.com"))]);
    let limit = scene.orders.next_deadline().unwrap();
    assert_eq!(limit, START + MINUTE * 10);
    scene.now = limit;
    let effects = scene.look();
    assert_eq!(effects[0], Effect::Drop(host("a.com")));
    let [_, Effect::Begin { attempt: 1, ledger, .. }] = effects.as_slice() else { panic!("{effects:?}") };
    let reason = ledger.names[&host("a.com")].reason.as_deref();
    assert_eq!(reason, Some("it was not over within 10m: the authority takes the order"));
    assert!(ledger.names.contains_key(&host("b.com")), "it may come back in a minute");
    scene.now = START + Pace::WINDOW;
    scene.look();
    assert!(!scene.orders.ledger.names.contains_key(&host("b.com")), "nobody asks for it any more");
}

#[test]
fn what_is_out_of_date_when_it_comes_is_a_failure() {
    let mut scene = Scene::new(&["a.com"]);
    scene.look();
    let past = Validity { not_before: Timestamp(0), not_after: START };
    let reason = scene.orders.issued(&host("a.com"), past, START).unwrap_err();
    assert!(reason.contains("clock"), "{reason}");
    assert_eq!(scene.begun(), Vec::<String>::new());
    assert!(is_about_a_minute(scene.orders.next_deadline(), START));
}

#[test]
fn a_certificate_that_nobody_wants_is_kept_to_its_end() {
    let mut scene = Scene::new(&["a.com"]);
    scene.look();
    scene.issue("a.com", DAY * 90);
    scene.wanted.clear();
    scene.now = START + DAY * 89;
    assert!(!scene.look().contains(&Effect::Forget(host("a.com"))));
    scene.wanted.insert(host("a.com"), Want::Better);
    let mut back = scene.clone();
    back.now = START + DAY * 10;
    assert_eq!(back.begun(), Vec::<String>::new(), "an app that was stopped for a while costs no order");
    scene.wanted.clear();
    scene.now = START + DAY * 90 + Duration::from_millis(1);
    assert_eq!(scene.look(), [Effect::Forget(host("a.com"))]);
}

#[test]
fn only_single_names_of_servers_want_an_authority() {
    let key = |env: &str| AppKey { env: EnvName::new(env).unwrap(), app: AppName::new("shop").unwrap() };
    let route = |host_name: &str, tls| Route {
        hosts: vec![host(host_name)],
        path: PathPrefix::root(),
        strip: false,
        to: RouteTo::Service(ServiceName::new("web").unwrap()),
        tls,
        access: Access::default(),
        limit: Limit::default(),
        upload: None,
        transfer: Transfer::default(),
    };
    let mut app = sample::app("shop", &["web"]);
    let routes = [
        ("auto", route("a.example.com", Tls::Auto)),
        ("wild", route("*.example.com", Tls::Auto)),
        ("intern", route("shop.internal", Tls::Auto)),
        ("asked", route("db.internal", Tls::Acme)),
        ("own", route("b.example.com", Tls::Local)),
        ("off", route("c.example.com", Tls::Off)),
    ];
    app.routes = routes.into_iter().map(|(name, route)| (RouteName::new(name).unwrap(), route)).collect();
    let (production, local) = (key("production"), key("local"));
    let wanted = BTreeMap::from([(host("a.example.com"), Want::Better), (host("db.internal"), Want::Only)]);
    assert_eq!(names([(&production, &app)]), wanted);
    let mut strict = route("a.example.com", Tls::Acme);
    strict.path = PathPrefix::new("/pay").unwrap();
    app.routes.insert(RouteName::new("strict").unwrap(), strict);
    assert_eq!(names([(&production, &app)])[&host("a.example.com")], Want::Only, "one route says so");
    assert_eq!(names([(&local, &app)]), [].into());
}

#[test]
fn standard_ports_come_first() {
    let check = |http: Option<u16>, https: Option<u16>, only, expected: &[Method]| {
        let address = |port: u16| SocketAddr::from(([0, 0, 0, 0], port));
        assert_eq!(methods(http.map(address), https.map(address), only), expected, "{http:?} {https:?}");
    };
    use Method::{Http01, TlsAlpn01};
    check(Some(80), Some(443), None, &[Http01, TlsAlpn01]);
    check(Some(8080), Some(443), None, &[TlsAlpn01, Http01]);
    check(Some(8080), Some(8443), None, &[Http01, TlsAlpn01]);
    check(Some(80), None, None, &[Http01]);
    check(Some(80), Some(443), Some(TlsAlpn01), &[TlsAlpn01]);
    check(Some(80), None, Some(TlsAlpn01), &[]);
}

#[test]
fn an_authority_is_asked_when_to_renew_and_a_time_of_its_window_is_drawn() {
    let mut scene = Scene::new(&["a.com"]);
    scene.look();
    scene.issue("a.com", DAY * 90);
    assert_eq!(scene.consulted(), Vec::<String>::new(), "not of what has just come");
    scene.now = START + MINUTE * 360;
    assert_eq!(scene.consulted(), ["a.com"]);
    assert_eq!(scene.consulted(), Vec::<String>::new(), "the question is under way");
    let window = Window { start: START + DAY * 20, end: START + DAY * 22 };
    scene.advise("a.com", Said::Renew(window), Some(scene.now + MINUTE * 90));
    let at = scene.renewal("a.com");
    assert!((window.start..window.end).contains(&at), "{at:?}");
    scene.look();
    assert_eq!(scene.orders.next_deadline(), Some(scene.now + MINUTE * 90), "it is asked when it says");
    scene.now = scene.now + MINUTE * 90;
    assert_eq!(scene.consulted(), ["a.com"]);
    scene.advise("a.com", Said::NoAnswer, None);
    assert_eq!(scene.renewal("a.com"), at, "what it has said goes on");
    scene.now = at;
    assert_eq!(scene.begun(), ["a.com"]);
    scene.issue("a.com", DAY * 90);
    let after = scene.renewal("a.com").since(scene.now);
    assert!((DAY * 57..=DAY * 60).contains(&after), "the window was the certificate's before: {after:?}");
}

#[test]
fn what_an_authority_says_of_renewal_is_believed_within_bounds() {
    let mut scene = Scene::new(&["a.com"]);
    scene.look();
    scene.issue("a.com", DAY * 90);
    let usual = scene.renewal("a.com");
    let mut advised = |said, again: Option<Timestamp>| {
        scene.now = scene.now + DAY;
        assert_eq!(scene.consulted(), ["a.com"]);
        scene.advise("a.com", said, again);
        let at = scene.renewal("a.com");
        let begun = scene.begun();
        (at, scene.orders.next_deadline().unwrap().since(scene.now), (scene.now, begun))
    };
    let window = |start, end| Said::Renew(Window { start: START + DAY * start, end: START + DAY * end });
    let (at, wait, _) = advised(window(80, 91), Some(Timestamp(0)));
    assert_eq!((at, wait), (usual, MINUTE), "nobody waits until there is none, or asks without end");
    let (at, wait, _) = advised(window(30, 30), Some(START + DAY * 3650));
    assert_eq!((at, wait), (usual, DAY), "it is no window, and nobody is left alone for years");
    let (at, _, (now, begun)) = advised(window(0, 1), None);
    assert_eq!((at, begun), (now, vec!["a.com".to_owned()]), "at once");
    scene.issue("a.com", DAY * 90);
    scene.now = scene.now + MINUTE * 361;
    assert_eq!(scene.consulted(), ["a.com"]);
    scene.advise("a.com", Said::Renew(Window { start: Timestamp(0), end: Timestamp(1) }), None);
    assert_eq!(scene.begun(), Vec::<String>::new(), "not again within a day");
}

#[test]
fn a_daemon_that_starts_again_and_again_asks_for_no_renewal_at_each_start() {
    let names: Vec<String> = (0..50).map(|n| format!("n{n}.example.com")).collect();
    let mut scene = Scene::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let held = Validity { not_before: START, not_after: START + DAY * 90 };
    scene.held = names.iter().map(|name| (host(name), held)).collect();
    assert!(scene.consulted().len() <= 3);
    let mut asked = BTreeSet::new();
    while scene.now < START + MINUTE * 60 {
        for name in scene.consulted() {
            scene.advise(&name, Said::Nothing, None);
            assert!(asked.insert(name), "once");
        }
        scene.now = scene.now + Duration::from_secs(10);
    }
    assert_eq!(asked.len(), 50, "all within an hour, at most three at once");
}

#[test]
fn a_ledger_that_is_lost_stands_for_one_that_is_full() {
    let mut scene = Scene::new(&["a.com"]);
    scene.orders = Orders::after_loss(Pace::default(), START, 7);
    let [Effect::Note(noted)] = &scene.look()[..] else { panic!("it is to be durable at once") };
    assert_eq!(noted.paused, START + Pace::WINDOW);
    assert_eq!(scene.orders.next_deadline(), Some(START + Pace::WINDOW));
    scene.now = START + Pace::WINDOW;
    assert_eq!(scene.begun(), ["a.com"]);
}

#[test]
fn a_clock_that_is_set_back_gives_no_more_orders() {
    let names: Vec<String> = (0..300).map(|n| format!("n{n}.example.com")).collect();
    let mut scene = Scene::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let all = |scene: &mut Scene| {
        let mut count = 0;
        loop {
            let begun = scene.begun();
            count += begun.len();
            begun.iter().for_each(|name| scene.issue(name, DAY * 90));
            if begun.is_empty() {
                return count;
            }
        }
    };
    assert_eq!(all(&mut scene), 250);
    // By an hour, and by more than an order counts.
    for back in [MINUTE * 60, Pace::WINDOW * 2, DAY * 400] {
        let mut scene = scene.clone();
        scene.now = scene.now - back;
        assert_eq!(all(&mut scene), 0, "what was ordered in the time that comes again: {back:?}");
        scene.now = scene.now + Pace::WINDOW - Duration::from_millis(1);
        assert_eq!(all(&mut scene), 0, "{back:?}");
        scene.now = scene.now + Duration::from_millis(1);
        assert_eq!(all(&mut scene), 50, "nobody waits until the clock has caught up: {back:?}");
    }
}

#[test]
fn a_clock_that_is_set_back_lets_no_name_be_tried_sooner() {
    let mut scene = Scene::new(&["a.com", "b.com"]);
    assert_eq!(scene.begun(), ["a.com", "b.com"]);
    scene.now = scene.now + MINUTE;
    scene.refuse("a.com", Some(Pause::Name(scene.now + DAY * 2)));
    scene.now = scene.now - DAY * 30;
    // The authority's word after that is of the clock as it is now.
    scene.refuse("b.com", Some(Pause::All(scene.now + DAY * 3)));
    let set = scene.now;
    let effects = scene.look();
    let [Effect::Note(ledger)] = effects.as_slice() else { panic!("what moved is noted: {effects:?}") };
    scene.orders = Orders::new(ledger.clone(), Pace::default(), 7);
    scene.now = set + DAY * 3 - MINUTE;
    assert_eq!(scene.begun(), Vec::<String>::new());
    scene.now = set + DAY * 3;
    assert_eq!(scene.begun(), ["a.com", "b.com"]);
}

#[test]
fn of_too_many_names_that_fail_those_are_remembered_that_failed_last() {
    const NAMES: usize = Ledger::MOST_NAMES + 76;
    let names: Vec<String> = (0..NAMES).map(|n| format!("n{n}.example.com")).collect();
    let mut scene = Scene::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut tried: BTreeMap<String, Timestamp> = BTreeMap::new();
    // Chance may pass over a name for some time, and for no longer.
    for _ in 0..20 * NAMES {
        for name in scene.begun() {
            let before = tried.insert(name.clone(), scene.now);
            assert!(before.is_none_or(|at| scene.now.since(at) >= MINUTE), "{name} is asked for again at once");
            scene.refuse(&name, None);
        }
        assert!(scene.orders.ledger.names.len() <= Ledger::MOST_NAMES);
        if tried.len() == NAMES {
            break;
        }
        scene.now = scene.orders.next_deadline().unwrap().max(Timestamp(scene.now.0 + 1));
    }
    assert_eq!((tried.len(), scene.orders.ledger.names.len()), (NAMES, Ledger::MOST_NAMES));
    let oldest = scene.orders.ledger.names.values().map(|tries| tries.last).min().unwrap();
    let kept = |(name, at): (&String, &Timestamp)| *at <= oldest || scene.orders.ledger.names.contains_key(&host(name));
    assert!(tried.iter().all(kept));
    // A renewal still comes before those.
    scene.wanted.insert(host("a.com"), Want::Better);
    scene.held.insert(host("a.com"), Validity { not_before: Timestamp(START.0 - 1), not_after: scene.now });
    scene.now = scene.now + Pace::WINDOW;
    assert_eq!(scene.begun()[0], "a.com");
}

/// What happens next in a run of chance.
#[derive(Debug, Clone)]
enum Step {
    /// So many minutes pass.
    Pass(u64),
    /// The clock is set back by so many.
    Back(u64),
    /// The order of the so-manieth name under way goes on, or fails, maybe with a word of when to come back.
    Go(usize),
    Fail(usize, Option<u64>),
    /// The daemon dies; the next one has what was noted.
    Die,
    /// A name is wanted, or not any more.
    Want(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = prop_oneof![
        4 => (1..90u64).prop_map(Step::Pass),
        1 => (1..900u64).prop_map(Step::Back),
        4 => any::<prop::sample::Index>().prop_map(|i| Step::Go(i.index(8))),
        4 => (0..8usize, prop::option::of(1..300u64)).prop_map(|(i, pause)| Step::Fail(i, pause)),
        2 => Just(Step::Die),
        1 => (0..8usize).prop_map(Step::Want),
    ];
    prop::collection::vec(one, 1..160)
}

/// The rim's part: what is noted is durable; orders of a daemon that dies die with it.
struct Run {
    scene: Scene,
    /// How far the clock was set back in all.
    back: Duration,
    noted: Ledger,
    /// Those under way, and whether the authority looks.
    under_way: BTreeMap<HostName, bool>,
    /// And when, had nobody touched the clock.
    begun: Vec<(HostName, Timestamp)>,
    succeeded: BTreeSet<(HostName, Timestamp)>,
}

impl Run {
    fn look(&mut self) {
        for effect in self.scene.look() {
            match effect {
                Effect::Note(ledger) => self.noted = ledger,
                Effect::Begin { host, ledger, .. } => {
                    assert!(self.scene.wanted.contains_key(&host), "{host} is wanted by nobody");
                    self.noted = ledger;
                    self.begun.push((host.clone(), self.scene.now + self.back));
                    assert_eq!(self.under_way.insert(host, false), None, "one order at a time of a name");
                }
                Effect::Answer(host) => {
                    assert!(self.scene.answered.contains(&host), "the edge does not answer");
                    assert_eq!(self.under_way.insert(host, true), Some(false), "it is told once");
                }
                Effect::Drop(host) => drop(self.under_way.remove(&host)),
                Effect::Forget(host) => drop(self.scene.held.remove(&host)),
                // At once, it says, whenever it is asked.
                Effect::Consult(host) => {
                    let window = Window { start: Timestamp(0), end: Timestamp(1) };
                    let advice = Advice { said: Said::Renew(window), again: None };
                    self.scene.orders.advised(&host, advice, self.scene.now);
                }
            }
        }
        assert!(self.under_way.len() <= Pace::default().at_once, "too many at once");
        self.scene.answered = self.scene.orders.challenges().into_keys().collect();
    }

    fn step(&mut self, step: &Step) {
        let nth = |run: &Self, n: usize| run.under_way.keys().nth(n % run.under_way.len().max(1)).cloned();
        let minutes = |count: u64| MINUTE * u32::try_from(count).unwrap();
        match step {
            Step::Pass(count) => self.scene.now = self.scene.now + minutes(*count),
            Step::Back(count) => {
                (self.scene.now, self.back) = (self.scene.now - minutes(*count), self.back + minutes(*count));
            }
            Step::Go(n) => {
                let Some(host) = nth(self, *n) else { return };
                match self.under_way[&host] {
                    false => self.scene.orders.challenged(&host, challenge()),
                    true => {
                        self.under_way.remove(&host);
                        let begun = self.begun.iter().rev().find(|(name, _)| *name == host).unwrap().1;
                        self.succeeded.insert((host.clone(), begun));
                        self.scene.issue(host.as_str(), DAY);
                    }
                }
            }
            Step::Fail(n, pause) => {
                let Some(host) = nth(self, *n) else { return };
                self.under_way.remove(&host);
                let until = pause.map(|count| self.scene.now + minutes(count));
                self.scene.refuse(host.as_str(), until.map(Pause::Name));
            }
            Step::Die => {
                self.scene.orders = Orders::new(self.noted.clone(), Pace::default(), 3);
                self.under_way.clear();
            }
            Step::Want(n) => {
                let name = host(&format!("n{n}.example.com"));
                if self.scene.wanted.remove(&name).is_none() {
                    self.scene.wanted.insert(name, Want::Better);
                }
            }
        }
    }

    /// Orders of one name in an hour that gave no certificate, and all orders in three.
    fn check(&self) {
        for (at, (host, when)) in self.begun.iter().enumerate() {
            let before = || self.begun[..=at].iter();
            let of_host = before().filter(|(name, then)| name == host && when.since(*then) < Duration::from_secs(3600));
            let failed = of_host.filter(|order| !self.succeeded.contains(*order)).count();
            assert!(failed <= 4, "{host}: {failed} failures within an hour");
            let all = before().filter(|(_, then)| when.since(*then) < Pace::WINDOW).count();
            assert!(all <= Pace::default().orders, "{all} orders within three hours");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn no_run_of_chance_asks_too_much_and_every_name_gets_its_certificate_in_the_end(steps in steps()) {
        let scene = Scene::new(&["n0.example.com", "n1.example.com", "n2.example.com", "n3.example.com"]);
        let mut run = Run {
            scene, back: Duration::ZERO, noted: Ledger::default(), under_way: BTreeMap::new(), begun: Vec::new(),
            succeeded: BTreeSet::new(),
        };
        for step in &steps {
            run.look();
            run.step(step);
        }
        run.look();
        run.check();
        // From now on all goes well: a certificate comes within the longest wait of each name.
        for _ in 0..400 {
            run.step(&Step::Go(0));
            run.look();
            run.step(&Step::Pass(2));
            run.look();
        }
        let missing: Vec<_> = run.scene.wanted.keys().filter(|host| !run.scene.held.contains_key(*host)).collect();
        prop_assert!(missing.is_empty(), "{missing:?}");
        run.check();
    }
}

#[test]
fn the_account_has_a_limit_of_its_own() {
    let names: Vec<String> = (0..300).map(|n| format!("n{n}.example.com")).collect();
    let mut scene = Scene::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut count = 0;
    loop {
        let begun = scene.begun();
        if begun.is_empty() {
            break;
        }
        count += begun.len();
        begun.iter().for_each(|name| scene.issue(name, DAY * 90));
    }
    assert_eq!(count, 250);
    assert_eq!(scene.orders.next_deadline(), Some(START + Pace::WINDOW));
    scene.now = START + Pace::WINDOW;
    assert_eq!(scene.begun().len(), 3);
}
