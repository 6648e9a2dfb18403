//! What the machine has room for: of one that scales, and of what is kept warm beside a release that is watched.

use bowline_core::scale::Demand;

use super::scaling::{BETWEEN, events, flow, scale, serving, toml, wait, web};
use super::*;

#[test]
fn cores_bound_what_scales_and_it_is_said() {
    let (mut world, mut daemon) = serving(BETWEEN, "limits = { cpu = 1.5 }\n");
    flow(&mut world, &mut daemon, 100, 30);
    assert_eq!(world.running().len(), 2, "4 cores are two of 1.5");
    let status = scale(&mut world, &mut daemon);
    assert_eq!((status.bound.as_deref(), status.allowed), (Some("cores"), Some(2)));
    assert_eq!(status.bounded.as_deref(), Some("10 wanted, 2 allowed by cores"));
    let told = events(&daemon, "scale.by_load");
    assert!(told.last().unwrap().contains("2 allowed by cores"), "{told:?}");
}

/// Both rush at once: what one is to have, the other does not get.
#[test]
fn two_apps_share_the_cores() {
    let (mut world, mut daemon) = serving(BETWEEN, "limits = { cpu = 1.5 }\n");
    let mall = AppKey { app: AppName::new("mall").unwrap(), ..shop() };
    world.edge.demand.insert((mall.clone(), web().1), Demand::default());
    world.write("bowline.toml", &toml(BETWEEN, "limits = { cpu = 1 }\n").replace("\"shop\"", "\"mall\""));
    world.apply(&mut daemon);
    world.run(&mut daemon);
    let rush = |world: &mut World, daemon: &mut Daemon| {
        for _ in 0..30 {
            world.edge.demand.values_mut().for_each(|demand| demand.busy += Duration::from_secs(100));
            world.wait_until(daemon, world.now.mono + Duration::from_secs(1));
            world.run(daemon);
        }
        let of = |app: &str| world.running().iter().filter(|id| id.starts_with(&format!("local/{app}."))).count();
        (of("mall"), of("shop"))
    };
    let (of_mall, of_shop) = rush(&mut world, &mut daemon);
    let (taken, least) = (of_mall * 1000 + of_shop * 1500, 4000 - 1500 + 1);
    assert!((least..=4000).contains(&taken), "{of_mall} of 1 core and {of_shop} of 1.5");
    for app in world.status(&mut daemon).apps {
        assert_eq!(app.services[0].scale.as_ref().unwrap().bound.as_deref(), Some("cores"), "{app:?}");
    }
    world.stop(&mut daemon);
    world.run(&mut daemon);
    assert_eq!(rush(&mut world, &mut daemon), (4, 0), "what the other had is free");
    assert_eq!(daemon.machine.apps[&mall].sets[0].replicas, 4);
}

fn production() -> AppKey {
    AppKey { env: EnvName::new("production").unwrap(), ..shop() }
}

/// Two releases of two instances each, the second promoted by hand and watched. `each` is what an instance uses.
fn promoted(limits: &str, each: Bytes) -> (World, Daemon) {
    let mut world = World::new();
    let mut daemon = world.start();
    let host = "to = \"web\"\nhosts = [\"shop.localhost\"]\ntls = \"local\"\n\
                [rollout]\nstrategy = \"canary\"\nsteps = [\"50% for 1m\"]\nwatch = \"10m\"\n";
    world.write("bowline.toml", &toml("2", limits).replace("to = \"web\"\n", host));
    for source in [2, 3] {
        world.source = source;
        let order = world.order("production");
        world.ask(&mut daemon, Request::Apply(order, None, Scope::default()));
        wait(&mut world, &mut daemon, 30);
        world.instances.values_mut().for_each(|seen| seen.usage.memory = each);
        wait(&mut world, &mut daemon, 1);
    }
    world.ask(&mut daemon, Request::Promote { key: production(), by_uid: None });
    wait(&mut world, &mut daemon, 30);
    assert!(daemon.machine.apps[&production()].watching().is_some());
    (world, daemon)
}

/// How many of either release run.
fn both(world: &World) -> (usize, usize) {
    let of = |release: &str| world.running().iter().filter(|id| id.contains(release)).count();
    (of(".r1."), of(".r2."))
}

/// Asked, the world goes on to the end of the watch.
fn waits(world: &mut World, daemon: &mut Daemon) -> String {
    let change = world.status(daemon).apps.remove(0).change;
    format!("{:?}", change.expect("it is watched").waits_on)
}

const NOT_WARM: &str = "instances are not kept warm";

/// `limits` and what is used; whether both fit into 8 GiB.
#[track_caller]
fn check_warm(limits: &str, each: u64, fits: bool) {
    let (mut world, mut daemon) = promoted(limits, Bytes(each));
    let left = if fits { 2 } else { 0 };
    assert_eq!((both(&world), world.outages), ((left, 2), 0), "{limits} {each}");
    let told = events(&daemon, "rollout.watch");
    assert_eq!(told.last().is_some_and(|told| told.contains("are not kept warm (memory)")), !fits, "{told:?}");
    let waits = waits(&mut world, &mut daemon);
    assert_eq!(waits.contains(NOT_WARM), !fits, "{waits}");
}

#[test]
fn what_served_before_is_kept_warm_if_both_fit() {
    check_warm("limits = { memory = \"2GiB\" }\n", 0, true);
    check_warm("limits = { memory = \"2049MiB\" }\n", 0, false);
    check_warm("", 2 << 30, true);
    check_warm("", (2 << 30) + 1, false);
    check_warm("", 0, true);
}

/// The next daemon starts nothing of it, and a rollback does.
#[test]
fn what_is_not_kept_warm_is_started_anew_by_a_rollback() {
    let (mut world, daemon) = promoted("limits = { memory = \"3GiB\" }\n", Bytes(0));
    drop(daemon);
    let mut daemon = world.start();
    wait(&mut world, &mut daemon, 30);
    assert_eq!((both(&world), world.outages), ((0, 2), 0));
    assert!(daemon.machine.apps[&production()].rolling().unwrap().machine.is_cold());
    world.ask(&mut daemon, Request::Abort { key: production(), by_uid: None });
    wait(&mut world, &mut daemon, 30);
    assert!(daemon.machine.apps[&production()].change.is_none());
    assert_eq!((both(&world), world.outages), ((2, 0), 0), "{:?}", world.running());
}
