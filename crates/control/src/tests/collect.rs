//! Which artifacts are kept.

use super::*;

/// The builds whose artifacts the last collection keeps.
fn kept(world: &World) -> Vec<u8> {
    let keep = world.kept.as_ref().expect("something was collected");
    let number = |root: &PathBuf| root.file_name()?.to_str()?.parse().ok();
    let artifacts = keep.roots.iter().filter(|path| path.components().any(|part| part.as_os_str() == "artifacts"));
    let mut numbers: Vec<u8> = artifacts.filter_map(number).collect();
    assert!(keep.releases.iter().all(|(key, _)| *key == shop()), "{keep:?}");
    numbers.sort_unstable();
    numbers
}

fn release(world: &mut World, daemon: &mut Daemon, source: u8) {
    world.source = source;
    world.apply(daemon);
    world.run(daemon);
}

#[test]
fn old_artifacts_go_and_recent_ones_stay_over_a_restart() {
    let mut world = World::new();
    let mut daemon = world.start();
    (1..=7).for_each(|source| release(&mut world, &mut daemon, source));
    assert_eq!(kept(&world), [3, 4, 5, 6, 7]);

    drop(daemon);
    world.kept = None;
    let mut daemon = world.start();
    world.run(&mut daemon);
    assert_eq!(kept(&world), [3, 4, 5, 6, 7], "a start looks, too");

    // Back to an older one: it is a new release, and what it was made of stays.
    release(&mut world, &mut daemon, 3);
    assert_eq!(kept(&world), [3, 4, 5, 6, 7]);
    assert_eq!(world.running(), ["local/shop.web.r8.0.1"]);
}

#[test]
fn what_an_instance_runs_from_is_kept_however_old_it_is() {
    let mut world = World::new();
    let mut daemon = world.start();
    release(&mut world, &mut daemon, 1);
    world.stubborn = true;
    (2..=8).for_each(|source| release(&mut world, &mut daemon, source));
    assert!(world.running().len() > 1, "{:?}", world.running());
    assert!(kept(&world).contains(&1), "{:?}", kept(&world));
}

#[test]
fn the_stable_release_is_kept_however_many_fail_after_it() {
    let mut world = World::new();
    let mut daemon = world.start();
    release(&mut world, &mut daemon, 1);
    world.behaviour = Behaviour::Exits;
    (2..=8).for_each(|source| release(&mut world, &mut daemon, source));
    drop(daemon);
    let mut daemon = world.start();
    world.run(&mut daemon);
    assert_eq!(kept(&world), [1, 2, 4, 5, 6, 7, 8], "and the first after it");
}

/// However often it was tried to get past what goes wrong, there is a way back.
#[test]
fn what_served_before_is_kept_however_many_fail_after_it() {
    let mut world = World::new();
    let mut daemon = world.start();
    (1..=6).for_each(|source| release(&mut world, &mut daemon, source));
    world.behaviour = Behaviour::Exits;
    (7..=14).for_each(|source| release(&mut world, &mut daemon, source));
    let all = [2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14];
    assert_eq!(kept(&world), all);
    drop(daemon);
    world.kept = None;
    let mut daemon = world.start();
    world.run(&mut daemon);
    assert_eq!(kept(&world), all);
}

#[test]
fn nothing_is_removed_while_something_is_built() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.apply(&mut daemon);
    let mut building = false;
    while let Some(effect) = daemon.queue.pop_front() {
        building |= matches!(effect, Effect::Build(..));
        assert!(!building || !matches!(effect, Effect::Collect(_)), "a build is in no release yet");
        if building {
            world.show(&mut daemon);
            continue;
        }
        world.carry_out(&mut daemon, effect);
    }
    assert!(building && world.kept.is_none());
}

/// What cannot be gone back to is not known any more either, and its number is never given out again.
#[test]
fn releases_that_are_not_kept_are_forgotten() {
    let mut world = World::new();
    let mut daemon = world.start();
    (1..=7).for_each(|source| release(&mut world, &mut daemon, source));
    let numbers = |daemon: &Daemon| -> Vec<u32> {
        daemon.store.read(|view| view.revisions(&shop())).unwrap().iter().map(|row| row.number.0).collect()
    };
    assert_eq!(numbers(&daemon), [3, 4, 5, 6, 7]);
    drop(daemon);
    let mut daemon = world.start();
    world.run(&mut daemon);
    release(&mut world, &mut daemon, 8);
    assert_eq!(numbers(&daemon), [4, 5, 6, 7, 8]);
}
