//! A certificate that is not made here: what is said of it, and when it ends.

use bowline_core::app::HostName;
use bowline_core::route::ApiSite;

use super::*;

#[test]
fn files_that_hold_no_certificate_are_said_until_they_hold_one() {
    let host = HostName::new("api.test").unwrap();
    let mut world = World::new();
    let mut daemon = world.start();
    daemon.machine.place.api = Some(ApiSite { host: host.clone(), socket: "outer.sock".into() });
    let refused = || fault("the certificate of [api] cannot be used").caused_by("the key is of another one");
    let notes = |world: &mut World, daemon: &mut Daemon, input| {
        world.input(daemon, Input::Renewed(input));
        world.status(daemon).daemon.notes
    };
    let why = "its files hold none that can be served (the key is of another one)";
    let said = notes(&mut world, &mut daemon, Err(refused()));
    assert_eq!(said, [format!("api.test has a certificate of the local CA: {why}")]);
    let ca = LocalCa::open_or_create(&world.dir.path().join("ca"), world.now.wall).unwrap();
    let leaf = ca.issue(std::slice::from_ref(&host), world.now.wall).unwrap();
    assert!(notes(&mut world, &mut daemon, Ok(leaf.certificate)).is_empty());
    let vitals = daemon.machine.vitals(world.now);
    assert!(vitals.certificates.contains(&(host.to_string(), leaf.not_after)), "{:?}", vitals.certificates);
    let days = leaf.not_after.since(world.now.wall).as_secs() / 86_400;
    let said = notes(&mut world, &mut daemon, Err(refused()));
    assert_eq!(said, [format!("api.test keeps its certificate, which ends in {days} days: {why}")]);
}
