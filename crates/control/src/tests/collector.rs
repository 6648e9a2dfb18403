//! A collector that does not take what it is sent is told of once.

use super::scaling::events;
use super::*;
use crate::otlp::{Health, Signal};

#[test]
fn a_collector_that_does_not_answer_is_said_once_and_so_is_its_return() {
    let mut world = World::new();
    let mut daemon = world.start();
    let silent = || Health::Silent("http://c:4318 cannot be reached".to_owned());
    let mut tell = |signal: Signal, health: Health| {
        world.input(&mut daemon, Input::Collector(signal, health));
        let notes = world.status(&mut daemon).daemon.notes;
        world.run(&mut daemon);
        (notes, events(&daemon, "otlp.silent").len(), events(&daemon, "otlp.answers").len())
    };
    let one = "the collector does not answer, logs wait: http://c:4318 cannot be reached";
    assert_eq!(tell(Signal::Logs, silent()), (vec![one.to_owned()], 1, 0));
    let two = "the collector does not answer, metrics, logs wait: http://c:4318 cannot be reached";
    assert_eq!(tell(Signal::Metrics, silent()), (vec![two.to_owned()], 1, 0));
    assert_eq!(tell(Signal::Logs, Health::Takes).1, 1);
    assert_eq!(tell(Signal::Metrics, Health::Takes), (Vec::new(), 1, 1));
    let refuses = Health::Refuses("http://c:4318 answers 401 Unauthorized".to_owned());
    let why = "the collector refuses traces: http://c:4318 answers 401 Unauthorized";
    assert_eq!(tell(Signal::Traces, refuses), (vec![why.to_owned()], 2, 1));
    // Each for its own reason, and for the one that it has now.
    let both = format!("the collector does not answer, metrics wait: http://c:4318 cannot be reached; {why}");
    assert_eq!(tell(Signal::Metrics, silent()), (vec![both], 2, 1));
    assert_eq!(tell(Signal::Metrics, Health::Takes), (vec![why.to_owned()], 2, 1));
    let unsent = Health::Unsent("/etc/otlp.headers cannot be read".to_owned());
    let why = "nothing is sent to the collector, traces wait: /etc/otlp.headers cannot be read";
    assert_eq!(tell(Signal::Traces, unsent), (vec![why.to_owned()], 2, 1));
}
