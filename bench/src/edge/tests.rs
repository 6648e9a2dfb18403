//! Not timed: that each scenario gets the app's answers through Bowline, and that a proxy that does not do its work is not compared.

use std::time::Duration;

use super::scenario::What;
use super::*;
use crate::generator::HOST;
use crate::peer::start_bowline;

/// How long a round is; one before which all connections must have had a whole handshake; and one in which a body of 100 MiB must come through.
const SHORT: Duration = Duration::from_millis(300);
const MIDDLE: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(5);

fn bowline(generator: &mut Generator, routes: usize) -> Peer {
    let peer = start_bowline(&bowline_tests::binary(), &[], generator.upstream().unwrap(), routes).unwrap();
    ready(generator, &peer).unwrap();
    peer
}

#[test]
fn every_scenario_gets_its_answers_through_bowline() {
    let mut generator = Generator::new().unwrap();
    let peer = bowline(&mut generator, 0);
    for scenario in scenario::ALL {
        let mut load = scenario.load(&peer).unwrap();
        load.rate = scenario.is_paced.then_some(200.0);
        let time = match scenario.what {
            What::Upload => LONG,
            What::Connection(Some(_)) => MIDDLE,
            What::Small | What::Connection(None) | What::Streams(_) | What::Download | What::Echo => SHORT,
        };
        let round = generator.run(&load, time).unwrap_or_else(|error| panic!("{}: {error:#}", scenario.name));
        scenario.check(&round).unwrap_or_else(|error| panic!("{}: {error:#}", scenario.name));
        assert!(scenario.amount(&round) > 0.0 && round.requests > 0, "{}: nothing was done", scenario.name);
    }
    peer.stop();
}

#[test]
fn connections_and_routes_are_measured_through_bowline() {
    let mut generator = Generator::new().unwrap();
    let few = bowline(&mut generator, 0);
    for tls in [false, true] {
        let bytes = connections::each(&mut generator, &few, tls, 200).unwrap();
        assert!(bytes < 100_000.0, "{bytes} bytes for a connection");
    }
    let mut many = bowline(&mut generator, 50);
    let figures = routes::compare(&mut generator, &few, &mut many, 50, SHORT).unwrap();
    let changes = figures.changes.unwrap();
    assert!(changes.swap.median() > 0.0 && changes.stall.median() > 0.0);
    many.stop();
    few.stop();
}

/// The app itself lets everyone in, and adds nothing to what it is asked.
#[test]
fn a_proxy_that_does_nothing_is_not_compared() {
    let mut generator = Generator::new().unwrap();
    let upstream = generator.upstream().unwrap();
    let error = proof::prove(&mut generator, upstream).unwrap_err().to_string();
    assert!(error.contains("x-forwarded-for"), "{error}");
}

#[test]
fn who_answers_wrongly_has_no_round() {
    let mut generator = Generator::new().unwrap();
    let peer = bowline(&mut generator, 0);
    for scenario in scenario::ALL.into_iter().filter(|scenario| !scenario.is_paced) {
        let load = scenario.load_at(peer.http, peer.https, "nobody.localhost").unwrap();
        let load = Load { connections: 1, ..load };
        assert!(generator.run(&load, SHORT).is_err(), "{}: a host that nobody serves was answered", scenario.name);
        assert!(
            generator.run(&scenario.load_at(peer.http, peer.https, HOST).unwrap(), SHORT).is_ok(),
            "{}: the next round suffers",
            scenario.name
        );
    }
    peer.stop();
}

#[test]
fn a_scenario_that_is_not_known_is_said() {
    let error = chosen(&["smal".to_owned()]).err().unwrap().to_string();
    assert!(error.contains("`smal`") && error.contains("small"), "{error}");
    let chosen = chosen(&["echo".to_owned(), "routes".to_owned()]).unwrap();
    assert_eq!((chosen.timed.len(), chosen.connections, chosen.routes), (1, false, true));
}
