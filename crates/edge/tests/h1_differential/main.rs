//! What the edge forwards is read by others as it was meant: the HTTP/1.1 machine beside hyper and a real nginx, over messages with the
//! traps that readers are known to disagree about. `fuzz/` looks for more with the same properties.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod agreement;
mod grammar;
mod library;
mod message;
mod nginx;
mod relay;

use std::cell::Cell;

use bowline_edge::h1::Version;
use grammar::Said;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Connections, of each side.
const CASES: u32 = 20_000;
/// The same of those that nginx reads, too, one after the other.
const OVER_SOCKETS: u32 = 10_000;

fn check<S: Strategy>(cases: u32, strategy: &S, property: impl Fn(S::Value)) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) };
    let outcome = TestRunner::new(config).run(strategy, |value| {
        property(value);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn hyper_reads_what_goes_upstream_as_it_was_meant() {
    let (passed, pipelined) = (Cell::new(0), Cell::new(0));
    check(CASES, &(grammar::requests(), 1..60usize), |(Said(bytes), piece)| {
        let through = agreement::requests(&bytes, piece);
        passed.set(passed.get() + u32::from(through > 0));
        pipelined.set(pipelined.get() + u32::from(through > 1));
    });
    assert!(
        passed.get() > CASES / 4 && pipelined.get() > CASES / 20,
        "{passed:?} and {pipelined:?} are too few to say something"
    );
}

#[test]
fn nginx_reads_what_goes_upstream_as_it_was_meant() {
    let nginx = nginx::Nginx::start();
    let passed = Cell::new(0);
    check(OVER_SOCKETS, &grammar::requests(), |Said(bytes)| {
        let relayed = relay::requests(&bytes, usize::MAX);
        if relayed.read.is_empty() {
            return;
        }
        passed.set(passed.get() + 1);
        let ends = relayed.read.iter().all(|request| request.body.whole);
        nginx::agrees(&relayed, &nginx.requests(&relayed.out, ends));
    });
    assert!(passed.get() > OVER_SOCKETS / 4, "{passed:?} are too few to say something");
}

#[test]
fn hyper_reads_what_goes_to_the_client_as_it_was_meant() {
    let passed = Cell::new(0);
    let input = (grammar::responses(), any::<bool>(), any::<bool>(), 1..60usize);
    check(CASES, &input, |(Said(bytes), to_head, old, piece)| {
        let client = if old { Version::Http10 } else { Version::Http11 };
        passed.set(passed.get() + u32::from(agreement::response(&bytes, to_head, client, piece)));
    });
    assert!(passed.get() > CASES / 4, "{passed:?} are too few to say something");
}
