//! A certificate that is not made here: what is said of it, and when it ends.

use bowline_core::app::HostName;

use super::*;

#[test]
fn files_that_hold_no_certificate_are_said_until_they_hold_one() {
    let host = HostName::new("api.test").unwrap();
    let mut world = World::new();
    let mut daemon = world.start();
    daemon.machine.place.api = Some(Arc::new(ApiSite { host: host.clone(), socket: "outer.sock".into() }));
    daemon.machine.place.given = Some(Given { host: host.clone(), certificate: None, refused: None });
    let refused = || fault("the certificate of [api] cannot be used").caused_by("the key is of another one");
    let notes = |world: &mut World, daemon: &mut Daemon, input| {
        world.input(daemon, Input::Renewed(input));
        world.status(daemon).daemon.notes
    };
    let why = "its files hold none that can be served (the key is of another one)";
    let said = notes(&mut world, &mut daemon, Err(refused()));
    assert_eq!(said, [format!("api.test has a certificate of the local CA: {why}")]);
    let leaf = world.ca().issue(std::slice::from_ref(&host), world.now.wall).unwrap();
    assert!(notes(&mut world, &mut daemon, Ok((*leaf.certificate).clone())).is_empty());
    let vitals = daemon.machine.vitals(world.now);
    assert!(vitals.certificates.contains(&(host.to_string(), leaf.not_after)), "{:?}", vitals.certificates);
    let days = leaf.not_after.since(world.now.wall).as_secs() / 86_400;
    let said = notes(&mut world, &mut daemon, Err(refused()));
    assert_eq!(said, [format!("api.test keeps its certificate, which ends in {days} days: {why}")]);
}
