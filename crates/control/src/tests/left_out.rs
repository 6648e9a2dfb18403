//! Instances that the edge leaves out for a while: it is said, and nothing else is done about it.

use super::*;

fn events(daemon: &Daemon, kind: &str) -> Vec<String> {
    let all = daemon.store.read(|view| view.events_after(0, 10_000)).unwrap();
    all.into_iter().filter(|event| event.kind == kind).map(|event| event.message).collect()
}

#[test]
fn whom_the_edge_leaves_out_is_named_and_left_alone() {
    let mut world = World::new();
    let toml = "app = \"shop\"\n[service.web]\nrun = \"serve\"\nscale = 2\n[route.main]\nto = \"web\"\n";
    world.write("bowline.toml", toml);
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    let served = world.served();
    let waits = |world: &mut World, daemon: &mut Daemon| {
        let service = world.status(daemon).apps.remove(0).services.remove(0);
        service.instances.into_iter().map(|one| (one.state, one.waits_on)).collect::<Vec<_>>()
    };
    let ready = || ("ready".to_owned(), None);
    assert_eq!(waits(&mut world, &mut daemon), [ready(), ready()]);

    world.edge.left_out = [served[1].parse().unwrap()].into();
    world.run(&mut daemon);
    let out = "gets no requests for a while: 5 in a row have failed";
    assert_eq!(waits(&mut world, &mut daemon), [ready(), ("ready".to_owned(), Some(out.to_owned()))]);
    assert_eq!(events(&daemon, "instance.left_out"), [format!("{} {out}", served[1])]);
    assert_eq!(world.served(), served, "the edge decides by itself");

    world.edge.left_out.clear();
    world.run(&mut daemon);
    assert_eq!(waits(&mut world, &mut daemon), [ready(), ready()]);
    assert_eq!(events(&daemon, "instance.let_in"), [format!("{} gets requests again", served[1])]);

    // One that has gone since comes back to nothing.
    world.edge.left_out = [served[1].parse().unwrap()].into();
    world.run(&mut daemon);
    world.stop(&mut daemon);
    world.run(&mut daemon);
    world.edge.left_out.clear();
    world.run(&mut daemon);
    assert_eq!(events(&daemon, "instance.let_in").len(), 1);
}
