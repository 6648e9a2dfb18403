//! Requests of services that scale by their load: counted while they are in flight, and held where no instance runs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use bowline_core::id::ServiceName;
use bowline_core::route::{Action, EdgeObservation, Flow, Split};
use bowline_core::scale::Demand;
use bowline_core::units::Weight;
use support::*;

fn scaled(flow: Flow) -> Action {
    let splits = vec![Split { pool: pool(1), weight: Weight::ALL }];
    Action::Forward { service: ServiceName::new("web").unwrap(), splits, judged: false, flow }
}

fn table(flow: Flow, timeout: Duration) -> TableBuilder {
    let mut rule = rule("/", scaled(flow));
    rule.timeout = timeout;
    TableBuilder::default().site("a.test", vec![rule])
}

fn demand(seen: &EdgeObservation) -> Option<Demand> {
    seen.demand.get(&(key(), ServiceName::new("web").unwrap())).copied()
}

const LONG: Duration = Duration::from_secs(10);

fn refused(answer: &Answer, code: &str) {
    assert_eq!((answer.status, answer.header("x-bowline-error")), (503, Some(code)), "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_held_until_there_is_an_instance() {
    let mut edge = Edge::start().await;
    edge.serve(table(Flow::Held, LONG).pool(1, &[])).await;
    let seen = edge.until(|seen| demand(seen).is_some()).await;
    assert_eq!(demand(&seen).unwrap().waiting, 0);
    let mut talk = edge.connect().await;
    talk.say("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\nfirst").await;
    let seen = edge.until(|seen| demand(seen).is_some_and(|demand| demand.waiting == 1)).await;
    assert!(seen.outstanding.is_empty(), "{seen:?}");
    let address = upstream(|_, mut talk| async move {
        let head = talk.try_head().await.unwrap();
        let body = talk.body(&head).await;
        talk.say(&ok(std::str::from_utf8(&body).unwrap())).await;
    })
    .await;
    edge.serve(table(Flow::Held, LONG).pool(1, &[address])).await;
    talk.say("last").await;
    let answer = talk.answer().await;
    assert_eq!((answer.status, answer.text()), (200, "firstlast"));
    let seen = edge.until(|seen| demand(seen).is_some_and(|demand| demand.waiting == 0)).await;
    assert!(demand(&seen).unwrap().busy > Duration::ZERO);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_bounded_in_time_and_number() {
    let mut edge = Edge::with_workers(1).await;
    edge.serve(table(Flow::Held, Duration::from_millis(300)).pool(1, &[])).await;
    refused(&edge.get("a.test", "/").await, "start-timeout");
    edge.serve(table(Flow::Held, LONG).pool(1, &[])).await;
    let mut held = Vec::new();
    for _ in 0..128 {
        let mut talk = edge.connect().await;
        talk.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        held.push(talk);
    }
    edge.until(|seen| demand(seen).is_some_and(|demand| demand.waiting == 128)).await;
    refused(&edge.get("a.test", "/").await, "too-many-wait");
    let address = answering("here").await;
    edge.serve(table(Flow::Held, LONG).pool(1, &[address])).await;
    for mut talk in held {
        assert_eq!(talk.answer().await.status, 200);
    }
    edge.serve(table(Flow::Counted, LONG).pool(1, &[])).await;
    refused(&edge.get("a.test", "/").await, "no-ready-instance");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_in_flight_is_added_up() {
    const EACH: Duration = Duration::from_millis(250);
    let address = upstream(|_, mut talk| async move {
        while talk.try_head().await.is_some() {
            tokio::time::sleep(EACH).await;
            talk.say(&ok("slow")).await;
        }
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(table(Flow::Counted, LONG).pool(1, &[address])).await;
    let (one, two) = tokio::join!(edge.get("a.test", "/"), edge.get("a.test", "/"));
    assert_eq!((one.status, two.status), (200, 200));
    let seen = edge.until(|seen| demand(seen).is_some_and(|demand| demand.busy >= EACH * 2)).await;
    assert!(demand(&seen).unwrap().busy < EACH * 12, "{seen:?}");
    edge.serve(TableBuilder::plain(&[address])).await;
    edge.until(|seen| demand(seen).is_none()).await;
    edge.stop().await;
}
