//! The load says how many: up and down, over releases and crashes, and never against what is not known.

use bowline_api::wire::{AppState, ChangeStep, ScaleStatus};
use bowline_core::instance::Observations;
use bowline_core::route::Held;
use bowline_core::scale::Demand;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::*;
use crate::metrics::{self, Dropped, Exposed, VitalsSlot};

pub(super) fn toml(scale: &str, more: &str) -> String {
    format!("app = \"shop\"\n[service.web]\nrun = \"serve\"\nscale = {scale}\n{more}[route.main]\nto = \"web\"\n")
}

pub(super) const BETWEEN: &str = "{ min = 1, max = 6, in_flight = 10 }";
const RESTS: &str = "{ min = 0, max = 3, in_flight = 10 }";

pub(super) fn serving(scale: &str, more: &str) -> (World, Daemon) {
    let mut world = World::new();
    world.edge.demand.insert(web(), Demand::default());
    let mut daemon = world.start();
    world.write("bowline.toml", &toml(scale, more));
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert_eq!(world.running().len(), 1);
    (world, daemon)
}

pub(super) fn web() -> (AppKey, ServiceName) {
    (shop(), ServiceName::new("web").unwrap())
}

/// So many requests in flight, for so many seconds.
pub(super) fn flow(world: &mut World, daemon: &mut Daemon, in_flight: u32, seconds: u32) -> End {
    let mut end = End::Quiet;
    for _ in 0..seconds {
        if let Some(demand) = world.edge.demand.get_mut(&web()) {
            demand.busy += Duration::from_secs(1) * in_flight;
        }
        world.wait_until(daemon, world.now.mono + Duration::from_secs(1));
        end = world.run(daemon);
        if end != End::Quiet {
            break;
        }
    }
    end
}

pub(super) fn scale(world: &mut World, daemon: &mut Daemon) -> ScaleStatus {
    world.status(daemon).apps.remove(0).services.remove(0).scale.unwrap()
}

pub(super) fn events(daemon: &Daemon, kind: &str) -> Vec<String> {
    let all = daemon.store.read(|view| view.events_after(0, 10_000)).unwrap();
    all.into_iter().filter(|event| event.kind == kind).map(|event| event.message).collect()
}

#[test]
fn a_load_ten_times_as_large_is_met_and_given_up_again() {
    let (mut world, mut daemon) = serving(BETWEEN, "");
    flow(&mut world, &mut daemon, 5, 60);
    assert_eq!(world.running().len(), 1);
    flow(&mut world, &mut daemon, 50, 20);
    assert_eq!((world.running().len(), world.served().len()), (5, 5));
    assert!(scale(&mut world, &mut daemon).reason.contains("in flight"));
    let told = events(&daemon, "scale.by_load");
    assert!(told[0].starts_with("web: 1 to ") && told[0].contains("10 each"), "{told:?}");
    flow(&mut world, &mut daemon, 5, 120);
    let status = scale(&mut world, &mut daemon);
    assert_eq!((world.running().len(), status.down_to), (5, Some(1)), "{status:?}");
    flow(&mut world, &mut daemon, 5, 320);
    assert_eq!((world.running().len(), world.outages), (1, 0));
    assert_eq!(world.running(), ["local/shop.web.r1.0.1"], "the first one stays");
}

#[test]
fn bounds_are_said_and_kept() {
    let (mut world, mut daemon) = serving(BETWEEN, "limits = { memory = \"4GiB\" }\n");
    flow(&mut world, &mut daemon, 100, 30);
    assert_eq!(world.running().len(), 2);
    let status = scale(&mut world, &mut daemon);
    assert_eq!((status.bound.as_deref(), status.allowed), (Some("memory"), Some(2)));
    assert_eq!(status.bounded.as_deref(), Some("10 wanted, 2 allowed by memory"));
    let told = events(&daemon, "scale.by_load");
    assert!(told.last().unwrap().contains("2 allowed by memory"), "{told:?}");
}

/// What a scrape reads.
fn scraped(world: &World, daemon: &Daemon) -> String {
    let mut registry = Registry::default();
    let (_, node) = watch::channel(Arc::new(Observations::default()));
    let (_, edge) = watch::channel(Arc::new(world.edge.clone()));
    let vitals = VitalsSlot::default();
    vitals.put(daemon.machine.vitals(world.now));
    let (version, started, exported) = ("1.2.3".to_owned(), world.now.wall, Some(Arc::default()));
    let world =
        metrics::World { version, started, node, edge, vitals, dropped: Dropped::default(), store: None, exported };
    registry.register_collector(Box::new(Exposed(Arc::new(world))));
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    text
}

/// Each family is told of where people look.
pub(super) fn check_documented(metrics: &str) {
    let reference = include_str!("../../../../docs/reference/metrics.md");
    for (name, kind) in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')) {
        let name = if kind == "counter" { format!("`{name}_total`") } else { format!("`{name}`") };
        assert!(reference.contains(&name), "{name} is not in docs/reference/metrics.md");
    }
}

#[test]
fn metrics_say_how_many_are_desired_which_bound_holds_and_who_waits() {
    let (mut world, mut daemon) = serving(BETWEEN, "limits = { memory = \"4GiB\" }\n");
    flow(&mut world, &mut daemon, 100, 30);
    world.edge.demand.get_mut(&web()).unwrap().waiting = 3;
    world.edge.held.insert(web(), Held { total: 9, failed: [("start-timeout".to_owned(), 2)].into() });
    let text = scraped(&world, &daemon);
    let check = |name: &str, more: &str, value: &str| {
        let line = format!("{name}{{app=\"shop\",env=\"local\",service=\"web\"{more}}} {value}");
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    };
    for (name, value) in [("min", "1.0"), ("max", "6.0"), ("desired", "2.0"), ("ready", "2.0")] {
        check(&format!("bowline_scaler_{name}_instances"), "", value);
    }
    check("bowline_scaler_wanted_instances", "", "10.0");
    check("bowline_scaler_allowed_instances", "", "2.0");
    for (bound, holds) in [("min", "0.0"), ("max", "0.0"), ("memory", "1.0"), ("cores", "0.0")] {
        check("bowline_scaler_bound", &format!(",bound=\"{bound}\""), holds);
    }
    check("bowline_held_requests", "", "3.0");
    check("bowline_holds_total", "", "9.0");
    check("bowline_holds_failed_total", ",reason=\"start-timeout\"", "2.0");
    check_documented(&text);
    world.edge.status = EdgeStatus::Lost(fault("the edge died"));
    let text = scraped(&world, &daemon);
    assert!(!text.contains("\nbowline_held_requests{"), "nobody tells who waits now: {text}");
    assert!(text.contains("\nbowline_holds_total{"), "what was counted was: {text}");
}

/// Each time it is ready it dies of what it is asked: it is given company, in steps.
#[test]
fn what_dies_of_its_requests_again_and_again_is_not_left_alone() {
    let (mut world, mut daemon) = serving(RESTS, "");
    let mut died = 0;
    for _ in 0..600 {
        let wanted = usize::from(daemon.machine.apps[&shop()].sets[0].replicas);
        let waiting = if world.served().is_empty() { 25 } else { 0 };
        let demand = world.edge.demand.get_mut(&web()).unwrap();
        (demand.busy, demand.waiting) = (demand.busy + Duration::from_secs(25), waiting);
        wait(&mut world, &mut daemon, 1);
        if wanted == 2 {
            break;
        }
        let at = world.now.wall;
        for seen in world.instances.values_mut().filter(|seen| matches!(seen.phase, Phase::Running { .. })) {
            seen.phase = Phase::Exited(Exit { cause: ExitCause::Code(137), at, last_lines: Vec::new() });
            died += 1;
        }
    }
    assert_eq!(daemon.machine.apps[&shop()].sets[0].replicas, 2, "{died} have died");
    assert!((3..10).contains(&died), "{died}");
    let told = events(&daemon, "scale.by_load");
    assert!(told.last().is_some_and(|told| told.contains("web: 1 to 2 instances: 25 requests wait")), "{told:?}");
}

#[test]
fn a_daemon_that_died_goes_on_with_the_number_and_takes_its_time() {
    let (mut world, mut daemon) = serving(BETWEEN, "");
    flow(&mut world, &mut daemon, 40, 20);
    assert_eq!(world.running().len(), 4);
    drop(daemon);
    let mut daemon = world.start();
    world.run(&mut daemon);
    assert_eq!(world.running().len(), 4);
    flow(&mut world, &mut daemon, 1, 290);
    assert_eq!(world.running().len(), 4, "it has not seen for long enough that fewer are enough");
    flow(&mut world, &mut daemon, 1, 90);
    assert_eq!((world.running().len(), world.outages), (1, 0));
}

/// Crashed after any effect: the number is the old or the new one, and the load is met either way.
#[test]
fn a_crash_after_any_effect_ends_where_no_crash_ends() {
    for effects in 0.. {
        let (mut world, mut daemon) = serving(BETWEEN, "");
        daemon.effects_left = Some(effects);
        let crashed = flow(&mut world, &mut daemon, 30, 20) == End::Crashed;
        drop(daemon);
        let mut daemon = world.start();
        assert_eq!(world.run(&mut daemon), End::Quiet, "after {effects} effects");
        flow(&mut world, &mut daemon, 30, 20);
        let running = world.running();
        assert_eq!((running.len(), world.outages), (3, 0), "after {effects} effects");
        assert_eq!(world.served(), running, "after {effects} effects");
        if !crashed {
            assert!(effects > 4);
            break;
        }
    }
}

#[test]
fn a_release_has_as_many_as_run_and_a_number_by_hand_is_refused() {
    let (mut world, mut daemon) = serving(BETWEEN, "");
    flow(&mut world, &mut daemon, 40, 20);
    world.source = 2;
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { release: 2, .. })), "{:?}", world.last_end());
    assert_eq!((world.running().len(), world.outages), (4, 0), "{:?}", world.running());
    assert!(world.running().iter().all(|id| id.contains(".r2.")));
    let machine = Machine { memory: Bytes(8 << 30), cores: 4 };
    let request = Request::Scale { key: shop(), service: None, replicas: 2, machine, by_uid: None };
    let ticket = world.ask(&mut daemon, request);
    world.run(&mut daemon);
    let fault = world.refusal(ticket);
    assert!(fault.message.contains("between 1 and 6"), "{fault:?}");
    world.write("bowline.toml", &toml("2", ""));
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert_eq!(world.running().len(), 2, "the file says one number");
    assert_eq!(world.status(&mut daemon).apps[0].services[0].scale, None);
}

#[test]
fn processor_time_counts_per_release() {
    let (mut world, mut daemon) = serving("{ min = 1, max = 6, cpu = \"50%\" }", "");
    let mut burn = |world: &mut World, cores: u64, seconds: u32| {
        for _ in 0..seconds {
            let lives = world.running().len() as u64;
            for seen in world.instances.values_mut() {
                seen.usage.cpu_us += cores * 1_000_000 / lives;
            }
            flow(world, &mut daemon, 0, 1);
        }
    };
    burn(&mut world, 2, 60);
    assert_eq!(world.running().len(), 4);
    burn(&mut world, 0, 400);
    assert_eq!(world.running().len(), 1);
}

/// One that starts may use all that it may for as long as that takes: more of them would be asked for because of it.
#[test]
fn a_start_is_no_load() {
    let (mut world, mut daemon) = serving("{ min = 1, max = 6, cpu = \"50%\" }", "");
    let mut burn = |world: &mut World, starts: bool, seconds: u32| {
        for _ in 0..seconds {
            for (id, seen) in &mut world.instances {
                let share = if starts && !id.to_string().contains(".r1.0.") { 100 } else { 65 };
                seen.usage.cpu_us += share * 10_000;
            }
            world.wait_until(&mut daemon, world.now.mono + Duration::from_secs(1));
            follow(world, &mut daemon);
        }
    };
    world.behaviour = Behaviour::NeverHealthy;
    burn(&mut world, true, 25);
    assert_eq!(world.running().len(), 2, "{:?}", world.running());
}

/// What follows from an input, while no time passes.
pub(super) fn follow(world: &mut World, daemon: &mut Daemon) {
    loop {
        while let Some(effect) = daemon.queue.pop_front() {
            world.carry_out(daemon, effect);
        }
        if !world.show(daemon) {
            break;
        }
    }
}

#[test]
fn a_release_that_is_watched_may_have_more_and_keeps_what_it_has() {
    let mut world = World::new();
    let key = AppKey { env: EnvName::new("production").unwrap(), ..shop() };
    world.edge.demand.insert((key.clone(), web().1), Demand::default());
    let mut daemon = world.start();
    let flow = |world: &mut World, daemon: &mut Daemon, in_flight: u32, seconds: u32| {
        for _ in 0..seconds {
            world.edge.demand.values_mut().for_each(|demand| demand.busy += Duration::from_secs(1) * in_flight);
            world.wait_until(daemon, world.now.mono + Duration::from_secs(1));
            follow(world, daemon);
        }
    };
    let bring_out = |world: &mut World, daemon: &mut Daemon, source: u8| {
        world.source = source;
        let order = world.order("production");
        world.ask(daemon, Request::Apply(order, None, Scope::default()));
    };
    let host = "to = \"web\"\nhosts = [\"shop.localhost\"]\ntls = \"local\"\n[rollout]\nwatch = \"10m\"\n";
    world.write("bowline.toml", &toml(BETWEEN, "").replace("to = \"web\"\n", host));
    bring_out(&mut world, &mut daemon, 2);
    flow(&mut world, &mut daemon, 5, 700);
    assert!(daemon.machine.apps[&key].change.is_none());
    bring_out(&mut world, &mut daemon, 3);
    flow(&mut world, &mut daemon, 5, 60);
    assert!(daemon.machine.apps[&key].watching().is_some());
    flow(&mut world, &mut daemon, 30, 20);
    assert_eq!(world.served().len(), 3, "{:?}", world.served());
    flow(&mut world, &mut daemon, 1, 450);
    assert!(daemon.machine.apps[&key].watching().is_some());
    assert_eq!(world.served().len(), 3, "nothing is taken from it");
    flow(&mut world, &mut daemon, 1, 400);
    assert!(daemon.machine.apps[&key].change.is_none());
    assert_eq!((world.running().len(), world.outages), (1, 0), "{:?}", world.running());
}

#[test]
fn what_is_not_known_takes_nothing_away() {
    let (mut world, mut daemon) = serving(BETWEEN, "");
    flow(&mut world, &mut daemon, 40, 20);
    world.edge.status = EdgeStatus::Lost(fault("the edge died"));
    flow(&mut world, &mut daemon, 0, 800);
    assert_eq!(world.running().len(), 4);
    assert_eq!(scale(&mut world, &mut daemon).signal, "unknown");
}

#[test]
fn a_store_that_refuses_delays_a_number_and_loses_none() {
    let (mut world, mut daemon) = serving(BETWEEN, "");
    flow(&mut world, &mut daemon, 5, 10);
    world.refuse_writes = 1;
    flow(&mut world, &mut daemon, 30, 20);
    assert_eq!((world.refuse_writes, world.running().len()), (0, 3));
}

#[test]
fn what_nobody_asks_for_rests_and_whoever_asks_wakes_it() {
    let (mut world, mut daemon) = serving(RESTS, "");
    flow(&mut world, &mut daemon, 0, 340);
    assert_eq!(world.running().len(), 1);
    flow(&mut world, &mut daemon, 0, 40);
    let rests = |world: &mut World, daemon: &mut Daemon| {
        let app = world.status(daemon).apps.remove(0);
        assert_eq!((world.running().len(), app.state, app.services[0].wanted), (0, AppState::Ready, 0));
    };
    rests(&mut world, &mut daemon);
    drop(daemon);
    let mut daemon = world.start();
    world.run(&mut daemon);
    rests(&mut world, &mut daemon);
    world.edge.demand.get_mut(&web()).unwrap().waiting = 2;
    world.run(&mut daemon);
    assert_eq!(world.served().len(), 1, "at once");
    assert!(events(&daemon, "scale.by_load").last().unwrap().contains("2 requests wait"));
    world.edge.demand.get_mut(&web()).unwrap().waiting = 0;
    flow(&mut world, &mut daemon, 1, 100);
    assert_eq!(world.running().len(), 1);
}

#[test]
fn what_rests_is_woken_while_its_next_release_is_built() {
    let (mut world, mut daemon) = serving(RESTS, "");
    flow(&mut world, &mut daemon, 0, 400);
    world.edge.demand.get_mut(&web()).unwrap().waiting = 1;
    world.source = 2;
    world.apply(&mut daemon);
    let mut build = None;
    for _ in 0..100 {
        match daemon.queue.pop_front() {
            Some(effect @ Effect::Build(..)) => build = Some(effect),
            Some(effect) => drop(world.carry_out(&mut daemon, effect)),
            None => drop(world.show(&mut daemon)),
        }
    }
    assert_eq!(world.served(), ["local/shop.web.r1.0.2"]);
    let outages = world.outages;
    world.edge.demand.get_mut(&web()).unwrap().waiting = 0;
    daemon.queue.push_back(build.expect("a build"));
    world.run(&mut daemon);
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { release: 2, .. })), "{:?}", world.last_end());
    assert_eq!((world.served().len(), world.outages), (1, outages));
}

/// A deadline that is over and stays is a loop that never rests.
#[test]
fn what_cannot_be_looked_at_is_not_due() {
    let (mut world, mut daemon) = serving(RESTS, "");
    let rests = |world: &World, daemon: &Daemon| daemon.machine.next_scaling().is_none_or(|next| next > world.now.mono);
    flow(&mut world, &mut daemon, 0, 400);
    assert!(rests(&world, &daemon));
    world.refuse_writes = 1;
    world.edge.demand.get_mut(&web()).unwrap().waiting = 1;
    world.wait_until(&mut daemon, world.now.mono + Duration::from_secs(3));
    follow(&mut world, &mut daemon);
    assert!(rests(&world, &daemon) && world.served().is_empty(), "the store has refused it");
    flow(&mut world, &mut daemon, 0, 3);
    assert_eq!(world.served().len(), 1, "with the next look");
    world.stop(&mut daemon);
    world.wait_until(&mut daemon, world.now.mono + Duration::from_secs(3));
    assert!(rests(&world, &daemon));
    world.run(&mut daemon);
    assert!(daemon.machine.apps[&shop()].scalers.is_empty());
}

#[test]
fn two_that_rush_at_once_share_what_is_left() {
    let mut world = World::new();
    let api = ServiceName::new("api").unwrap();
    let idle = Demand::default();
    world.edge.demand.extend([(web(), idle), ((shop(), api), idle)]);
    let mut daemon = world.start();
    let limits = "limits = { memory = \"2GiB\" }\n";
    let other = format!("[service.api]\nrun = \"serve\"\nscale = {BETWEEN}\n{limits}");
    let route = "[route.api]\npath = \"/api\"\nto = \"api\"\n";
    world.write("bowline.toml", &format!("{}{other}{route}", toml(BETWEEN, limits)));
    world.apply(&mut daemon);
    world.run(&mut daemon);
    for _ in 0..30 {
        world.edge.demand.values_mut().for_each(|demand| demand.busy += Duration::from_secs(1) * 50);
        world.wait_until(&mut daemon, world.now.mono + Duration::from_secs(1));
        world.run(&mut daemon);
    }
    assert_eq!(world.running().len(), 4, "8 GiB are four of 2 GiB: {:?}", world.running());
}

#[test]
fn a_release_of_what_rests_shows_that_it_starts() {
    let (mut world, mut daemon) = serving(RESTS, "");
    flow(&mut world, &mut daemon, 0, 400);
    assert_eq!(world.running().len(), 0);
    world.source = 2;
    world.behaviour = Behaviour::Exits;
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert!(matches!(world.last_end(), Some(ChangeStep::Failed { .. })), "{:?}", world.last_end());
    assert!(world.running().iter().all(|id| id.contains(".r1.")), "{:?}", world.running());
    world.behaviour = Behaviour::Good;
    flow(&mut world, &mut daemon, 0, 400);
    assert_eq!(world.running().len(), 0, "what it has woken rests again");
    world.source = 3;
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { .. })), "{:?}", world.last_end());
    assert_eq!(world.running().len(), 1);
    flow(&mut world, &mut daemon, 0, 400);
    assert_eq!(world.running().len(), 0);
}

/// What is to run before a release may take long: whoever asks meanwhile is answered by the one that serves.
#[test]
fn what_rests_is_woken_while_its_next_release_waits_to_begin() {
    let (mut world, mut daemon) = serving(RESTS, "");
    flow(&mut world, &mut daemon, 0, 400);
    assert_eq!(world.running().len(), 0);
    (world.source, world.jobs) = (2, JobBehaviour::Stay);
    world.write("bowline.toml", &format!("{}[release]\nbefore = \"migrate\"\n", toml(RESTS, "")));
    world.apply(&mut daemon);
    world.edge.demand.get_mut(&web()).unwrap().waiting = 1;
    wait(&mut world, &mut daemon, 3);
    assert!(daemon.machine.apps[&shop()].preparing().is_some(), "{:?}", world.last_end());
    assert_eq!(world.served(), ["local/shop.web.r1.0.2"]);
    drop(daemon);
    let mut daemon = world.start();
    wait(&mut world, &mut daemon, 3);
    assert!(daemon.machine.apps[&shop()].preparing().is_some(), "{:?}", world.last_end());
    assert_eq!(world.served(), ["local/shop.web.r1.0.2"], "the next daemon lets it run");
    let outages = world.outages;
    world.edge.demand.get_mut(&web()).unwrap().waiting = 0;
    world.finish_run(1);
    wait(&mut world, &mut daemon, 3);
    assert!(matches!(world.last_end(), Some(ChangeStep::Failed { .. })), "{:?}", world.last_end());
    assert_eq!((world.served().len(), world.outages), (1, outages), "nor does the end of the release take it away");
    flow(&mut world, &mut daemon, 0, 400);
    assert_eq!(world.running().len(), 0, "it rests again: {:?}", world.running());
}

/// While other services of it are replaced, what rests is heard as well.
#[test]
fn what_rests_is_woken_while_another_service_restarts() {
    let mut world = World::new();
    world.edge.demand.insert(web(), Demand::default());
    let mut daemon = world.start();
    let other = "[service.worker]\nrun = \"serve\"\nscale = 1\n";
    world.write("bowline.toml", &format!("{}{other}", toml(RESTS, "")));
    world.apply(&mut daemon);
    flow(&mut world, &mut daemon, 0, 400);
    assert_eq!(world.running().len(), 1);
    world.behaviour = Behaviour::NeverHealthy;
    world.ask(&mut daemon, Request::Restart { key: shop(), service: Some("worker".into()), by_uid: None });
    world.edge.demand.get_mut(&web()).unwrap().waiting = 1;
    wait(&mut world, &mut daemon, 3);
    assert!(daemon.machine.apps[&shop()].rounding().is_some());
    assert!(world.running().iter().any(|id| id.starts_with("local/shop.web.r1.0.")), "{:?}", world.running());
}

const API: &str = "[service.api]\nrun = \"serve\"\nscale = { min = 0, max = 3, in_flight = 10 }\n";

/// `web`, one of it, and `api`, which rests.
fn beside_one_that_rests(web_scale: &str) -> (World, Daemon, (AppKey, ServiceName)) {
    let (mut world, api) = (World::new(), (shop(), ServiceName::new("api").unwrap()));
    world.edge.demand.insert(api.clone(), Demand::default());
    let mut daemon = world.start();
    let route = "[route.api]\npath = \"/api\"\nto = \"api\"\n";
    world.write("bowline.toml", &format!("{}{API}{route}", toml(web_scale, "")));
    world.apply(&mut daemon);
    flow(&mut world, &mut daemon, 0, 400);
    assert_eq!(world.running(), ["local/shop.web.r1.0.1"]);
    (world, daemon, api)
}

/// Its place in the store is one in the plan that it began with: with other numbers the same move is another one.
#[test]
fn a_restart_goes_on_where_it_was_though_another_service_was_woken_meanwhile() {
    let (mut world, mut daemon, api) = beside_one_that_rests("1");
    world.ask(&mut daemon, Request::Restart { key: shop(), service: None, by_uid: None });
    let moves = |daemon: &Daemon| {
        let row = daemon.store.read(|view| view.rollout(&shop())).unwrap();
        row.is_some_and(|row| row.state.contains("\"move 1\""))
    };
    while !moves(&daemon) {
        match daemon.queue.pop_front() {
            Some(effect) => drop(world.carry_out(&mut daemon, effect)),
            None => assert!(world.show(&mut daemon), "it gets to its second move"),
        }
    }
    world.behaviour = Behaviour::NeverHealthy;
    world.edge.demand.get_mut(&api).unwrap().waiting = 1;
    wait(&mut world, &mut daemon, 3);
    let scales = daemon.store.read(|view| view.scales(&shop())).unwrap();
    assert_eq!(scales[&api.1].to, 1, "it is woken");
    assert_eq!(world.served(), ["local/shop.web.r1.1.1"], "the one more, while the other is replaced");
    drop(daemon);
    let mut daemon = world.start();
    wait(&mut world, &mut daemon, 3);
    assert_eq!(world.served(), ["local/shop.web.r1.1.1"]);
    recover(&mut world);
    wait(&mut world, &mut daemon, 3);
    world.edge.demand.get_mut(&api).unwrap().waiting = 0;
    world.run(&mut daemon);
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { release: 1, .. })), "{:?}", world.last_end());
    assert_eq!(world.served(), ["local/shop.api.r1.0.2", "local/shop.web.r1.0.2"]);
}

/// All that runs passes its health from now on.
fn recover(world: &mut World) {
    world.behaviour = Behaviour::Good;
    for seen in world.instances.values_mut().filter(|seen| matches!(seen.phase, Phase::Running { .. })) {
        seen.health = HealthState::Passing { since: world.now.wall };
    }
}

/// The store takes nothing from now on until it is given `kept`, in order; time stands.
fn keep_back(world: &mut World, daemon: &mut Daemon, kept: &mut VecDeque<Effect>) {
    loop {
        while let Some(effect) = daemon.queue.pop_front() {
            if matches!(effect, Effect::Store(..)) {
                kept.push_back(effect);
            } else {
                let _ = world.carry_out(daemon, effect);
            }
        }
        if !world.show(daemon) {
            return;
        }
    }
}

fn give_back(world: &mut World, daemon: &mut Daemon, kept: VecDeque<Effect>) {
    for effect in kept {
        world.carry_out(daemon, effect);
    }
    follow(world, daemon);
}

fn stored_number(daemon: &Daemon, (key, service): &(AppKey, ServiceName)) -> Option<u16> {
    Some(daemon.store.read(|view| view.scales(key)).unwrap().get(service)?.to)
}

/// The end of a round stores what was said by hand, and with it what it knows of all other numbers.
#[test]
fn a_number_that_is_being_stored_outlives_the_end_of_a_round() {
    let (mut world, mut daemon, api) = beside_one_that_rests("1");
    world.behaviour = Behaviour::NeverHealthy;
    let machine = Machine { memory: Bytes(8 << 30), cores: 4 };
    let request = Request::Scale { key: shop(), service: Some("web".into()), replicas: 2, machine, by_uid: None };
    world.ask(&mut daemon, request);
    wait(&mut world, &mut daemon, 3);
    assert!(daemon.machine.apps[&shop()].rounding().is_some());
    world.edge.demand.get_mut(&api).unwrap().waiting = 1;
    let mut kept = VecDeque::new();
    keep_back(&mut world, &mut daemon, &mut kept);
    assert!(daemon.machine.apps[&shop()].rescaling, "that it is woken is being stored");
    recover(&mut world);
    keep_back(&mut world, &mut daemon, &mut kept);
    give_back(&mut world, &mut daemon, kept);
    wait(&mut world, &mut daemon, 1);
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { release: 1, .. })), "{:?}", world.last_end());
    let web = (shop(), web().1);
    assert_eq!((stored_number(&daemon, &api), stored_number(&daemon, &web)), (Some(1), Some(2)));
}

/// A number that is being stored is known when a round begins, or the round takes it away again.
#[test]
fn a_round_begins_with_the_number_that_is_being_stored() {
    let (mut world, mut daemon) = serving(BETWEEN, "");
    flow(&mut world, &mut daemon, 5, 60);
    let mut kept = VecDeque::new();
    for _ in 0..20 {
        world.edge.demand.get_mut(&web()).unwrap().busy += Duration::from_secs(50);
        world.wait_until(&mut daemon, world.now.mono + Duration::from_secs(1));
        keep_back(&mut world, &mut daemon, &mut kept);
        if daemon.machine.apps[&shop()].rescaling {
            break;
        }
    }
    assert!(daemon.machine.apps[&shop()].rescaling, "more are being stored");
    world.ask(&mut daemon, Request::Restart { key: shop(), service: None, by_uid: None });
    keep_back(&mut world, &mut daemon, &mut kept);
    give_back(&mut world, &mut daemon, kept);
    let stored = usize::from(stored_number(&daemon, &web()).unwrap());
    world.run(&mut daemon);
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { release: 1, .. })), "{:?}", world.last_end());
    assert!(stored > 1 && world.running().len() == stored, "{stored}: {:?}", world.running());
    assert!(world.running().iter().all(|id| !id.ends_with(".1")), "{:?}", world.running());
}

/// Whoever ends a watch ends it with the numbers that it has come to.
#[test]
fn a_number_that_is_being_stored_outlives_a_promotion_and_an_abort() {
    for promotes in [true, false] {
        let mut world = World::new();
        let of = (AppKey { env: EnvName::new("production").unwrap(), ..shop() }, web().1);
        world.edge.demand.insert(of.clone(), Demand::default());
        let mut daemon = world.start();
        let host = "to = \"web\"\nhosts = [\"shop.localhost\"]\ntls = \"local\"\n[rollout]\nwatch = \"10m\"\n";
        world.write("bowline.toml", &toml(RESTS, "").replace("to = \"web\"\n", host));
        for (source, seconds) in [(2, 1_200), (3, 30)] {
            world.source = source;
            let order = world.order("production");
            world.ask(&mut daemon, Request::Apply(order, None, Scope::default()));
            wait(&mut world, &mut daemon, seconds);
        }
        assert!(daemon.machine.apps[&of.0].watching().is_some());
        assert_eq!(stored_number(&daemon, &of), Some(0), "it rested until the release woke it");
        let mut kept = VecDeque::new();
        for _ in 0..20 {
            world.edge.demand.get_mut(&of).unwrap().busy += Duration::from_secs(25);
            world.wait_until(&mut daemon, world.now.mono + Duration::from_secs(1));
            keep_back(&mut world, &mut daemon, &mut kept);
            if daemon.machine.apps[&of.0].rescaling {
                break;
            }
        }
        assert!(daemon.machine.apps[&of.0].rescaling, "more are being stored");
        let key = of.0.clone();
        world.ask(
            &mut daemon,
            match promotes {
                true => Request::Promote { key, by_uid: None },
                false => Request::Abort { key, by_uid: None },
            },
        );
        keep_back(&mut world, &mut daemon, &mut kept);
        give_back(&mut world, &mut daemon, kept);
        let stored = stored_number(&daemon, &of);
        assert!(stored.is_some_and(|number| number > 1), "promotes: {promotes}, {stored:?}");
        wait(&mut world, &mut daemon, 3);
        assert_eq!(stored_number(&daemon, &of), stored, "promotes: {promotes}");
    }
}

/// So many seconds, and no more: what waits for longer is not waited for.
pub(super) fn wait(world: &mut World, daemon: &mut Daemon, seconds: u32) {
    for _ in 0..seconds {
        follow(world, daemon);
        world.wait_until(daemon, world.now.mono + Duration::from_secs(1));
        follow(world, daemon);
    }
}

/// A crash takes no time from a watch, and none to it either.
#[test]
fn a_watch_lasts_as_long_as_the_file_says_whatever_dies() {
    let mut world = World::new();
    let key = AppKey { env: EnvName::new("production").unwrap(), ..shop() };
    let mut daemon = world.start();
    let host = "to = \"web\"\nhosts = [\"shop.localhost\"]\ntls = \"local\"\n[rollout]\nwatch = \"10m\"\n";
    world.write("bowline.toml", &toml("1", "").replace("to = \"web\"\n", host));
    for source in [2, 3] {
        world.source = source;
        let order = world.order("production");
        world.ask(&mut daemon, Request::Apply(order, None, Scope::default()));
        wait(&mut world, &mut daemon, 60);
    }
    assert!(daemon.machine.apps[&key].watching().is_some());
    wait(&mut world, &mut daemon, 300);
    drop(daemon);
    // Nobody watches meanwhile.
    world.now = Now { mono: world.now.mono + Duration::from_secs(900), ..world.now };
    let mut daemon = world.start();
    wait(&mut world, &mut daemon, 230);
    assert!(daemon.machine.apps[&key].watching().is_some(), "the time in which nobody watched does not count");
    wait(&mut world, &mut daemon, 80);
    assert!(daemon.machine.apps[&key].change.is_none(), "the time in which somebody did is not asked for again");
}

/// A daemon that ends in order takes no time from a watch at all.
#[test]
fn a_watch_goes_on_to_the_second_after_an_upgrade() {
    let mut world = World { mode: Mode::Server, ..World::new() };
    let key = AppKey { env: EnvName::new("production").unwrap(), ..shop() };
    let mut daemon = world.start();
    let host = "to = \"web\"\nhosts = [\"shop.localhost\"]\ntls = \"local\"\n[rollout]\nwatch = \"10m\"\n";
    world.write("bowline.toml", &toml("1", "").replace("to = \"web\"\n", host));
    for source in [2, 3] {
        world.source = source;
        let order = world.order("production");
        world.ask(&mut daemon, Request::Apply(order, None, Scope::default()));
        wait(&mut world, &mut daemon, 60);
    }
    let rolling = daemon.machine.apps[&key].rolling().unwrap();
    let spent = (world.now.wall.0 - rolling.course.told(&rolling.machine).now.since) / 1000;
    // Just before it would be stored by itself.
    wait(&mut world, &mut daemon, u32::try_from(329 - spent).unwrap());
    world.ask(&mut daemon, Request::HandOver(Digest([7; 32])));
    follow(&mut world, &mut daemon);
    drop(daemon);
    let mut daemon = world.start();
    wait(&mut world, &mut daemon, 260);
    assert!(daemon.machine.apps[&key].watching().is_some());
    wait(&mut world, &mut daemon, 15);
    assert!(daemon.machine.apps[&key].change.is_none(), "{:?}", daemon.machine.apps[&key].rolling());
}
