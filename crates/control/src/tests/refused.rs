//! What an edge does not take of an app is said with the end of its change, and for as long as it is so.

use super::*;

#[test]
fn what_the_edge_refuses_of_an_app_is_told_with_its_release_and_shown() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.edge.faults = [(shop(), fault("Envoy refused routes of local/shop").caused_by("no such filter"))].into();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    let said = "Envoy refused routes of local/shop: no such filter";
    let is_told = |(_, step): &(u64, ChangeStep)| matches!(step, ChangeStep::Note { text, .. } if text == said);
    assert!(world.told.iter().any(is_told), "{:?}", world.told);
    let is_shown = |world: &mut World, daemon: &mut Daemon| {
        let notes = world.status(daemon).apps.remove(0).notes;
        notes.iter().any(|note| note == said)
    };
    assert!(is_shown(&mut world, &mut daemon));
    world.edge.faults.clear();
    world.run(&mut daemon);
    assert!(!is_shown(&mut world, &mut daemon));
}
