//! Requests of services that scale by their load: counted while they are in flight, and held where no instance runs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use bowline_core::id::ServiceName;
use bowline_core::route::{Action, EdgeObservation, Flow, Split};
use bowline_core::scale::Demand;
use bowline_core::units::Weight;
use support::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

fn scaled(flow: Flow) -> Action {
    let splits = vec![Split { pool: pool(1), weight: Weight::ALL }];
    Action::Forward { service: ServiceName::new("web").unwrap(), splits, judged: false, flow }
}

fn table(flow: Flow, timeout: Duration) -> TableBuilder {
    let mut rule = rule("/", scaled(flow));
    rule.timeout = timeout;
    TableBuilder::default().site("a.test", vec![rule]).trusting(&["127.0.0.0/8"])
}

/// A request that a trusted proxy brings for this client.
async fn asking(edge: &Edge, client: &str) -> Talk<TcpStream> {
    let mut talk = edge.connect().await;
    talk.say(&format!("GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: {client}\r\n\r\n")).await;
    talk
}

async fn waiting(edge: &mut Edge, requests: u32) {
    edge.until(|seen| demand(seen).is_some_and(|demand| demand.waiting == requests)).await;
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

/// A service that rested was woken by its next release, of which the new instances are ready first.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_without_a_share_answers_nobody_while_what_has_one_starts() {
    let (old, new) = (answering("old").await, answering("new").await);
    let beside = |old: &[SocketAddr]| {
        let split = |(release, percent)| Split { pool: pool(release), weight: Weight::new(percent).unwrap() };
        let (service, splits) = (ServiceName::new("web").unwrap(), [(1, 100), (2, 0)].map(split).to_vec());
        let action = Action::Forward { service, splits, judged: true, flow: Flow::Held };
        TableBuilder::default().site("a.test", vec![rule("/", action)]).pool(1, old).pool(2, &[new])
    };
    let mut edge = Edge::start().await;
    edge.serve(beside(&[])).await;
    let mut talk = edge.connect().await;
    talk.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    waiting(&mut edge, 1).await;
    let mut look = edge.connect().await;
    look.say("GET / HTTP/1.1\r\nHost: a.test\r\nX-Bowline-Preview: 2\r\n\r\n").await;
    assert_eq!(look.answer().await.text(), "new", "whoever asks for it gets it");
    edge.serve(beside(&[old])).await;
    assert_eq!(talk.answer().await.text(), "old");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_bounded_in_time_and_number() {
    let mut edge = Edge::with_workers(1).await;
    edge.serve(table(Flow::Held, Duration::from_millis(300)).pool(1, &[])).await;
    refused(&edge.get("a.test", "/").await, "start-timeout");
    edge.serve(table(Flow::Held, LONG).pool(1, &[])).await;
    let mut held = Vec::new();
    for client in 0..4 {
        for _ in 0..32 {
            held.push(asking(&edge, &format!("192.0.2.{client}")).await);
        }
    }
    edge.until(|seen| demand(seen).is_some_and(|demand| demand.waiting == 128)).await;
    refused(&asking(&edge, "192.0.2.9").await.answer().await, "too-many-wait");
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
async fn one_client_has_a_part_of_the_places_and_leaves_the_others_theirs() {
    let mut edge = Edge::with_workers(1).await;
    edge.serve(table(Flow::Held, LONG).pool(1, &[])).await;
    let mut held = Vec::new();
    for n in 0..32 {
        // An IPv6 network of 2^64 is one client.
        held.push(asking(&edge, &format!("2001:db8::{n:x}")).await);
    }
    waiting(&mut edge, 32).await;
    let more = asking(&edge, "2001:db8::ffff").await.answer().await;
    assert_eq!((more.status, more.header("x-bowline-error")), (429, Some("too-many-at-once")), "{more:?}");
    held.push(asking(&edge, "2001:db8:0:1::1").await);
    waiting(&mut edge, 33).await;
    drop(held.remove(0));
    waiting(&mut edge, 32).await;
    held.push(asking(&edge, "2001:db8::ffff").await);
    waiting(&mut edge, 33).await;
    let address = answering("here").await;
    edge.serve(table(Flow::Held, LONG).pool(1, &[address])).await;
    for mut talk in held {
        assert_eq!(talk.answer().await.status, 200);
    }
    edge.stop().await;
}

/// An IPv6 site has as many networks as it likes: together they have half of the places.
#[tokio::test(flavor = "multi_thread")]
async fn the_networks_of_one_site_leave_others_half_of_the_places() {
    let mut edge = Edge::with_workers(1).await;
    edge.serve(table(Flow::Held, LONG).pool(1, &[])).await;
    let mut held = Vec::new();
    for n in 0..64 {
        held.push(asking(&edge, &format!("2001:db8:0:{:x}::{n:x}", n / 20)).await);
    }
    waiting(&mut edge, 64).await;
    let more = asking(&edge, "2001:db8:0:ffff::1").await.answer().await;
    assert_eq!((more.status, more.header("x-bowline-error")), (429, Some("too-many-at-once")), "{more:?}");
    held.push(asking(&edge, "2001:db8:1::1").await);
    held.push(asking(&edge, "192.0.2.1").await);
    waiting(&mut edge, 66).await;
    let address = answering("here").await;
    edge.serve(table(Flow::Held, LONG).pool(1, &[address])).await;
    for mut talk in held {
        assert_eq!(talk.answer().await.status, 200);
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_closes_gives_the_place_back_at_once() {
    let mut edge = Edge::with_workers(1).await;
    // Longer than this test waits for anything.
    edge.serve(table(Flow::Held, Duration::from_secs(60)).pool(1, &[])).await;
    let (closed, mut half_closed) = (asking(&edge, "192.0.2.1").await, asking(&edge, "192.0.2.2").await);
    let _stays = asking(&edge, "192.0.2.3").await;
    waiting(&mut edge, 3).await;
    drop(closed);
    waiting(&mut edge, 2).await;
    half_closed.stream.shutdown().await.unwrap();
    waiting(&mut edge, 1).await;
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
