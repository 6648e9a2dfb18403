//! Instances that fail what they are asked: left out for a while, but never all of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::SocketAddr;

use support::*;

/// An instance that answers everything with this status.
async fn always(status: u16) -> SocketAddr {
    upstream(move |_, mut talk| async move {
        while let Some(head) = talk.try_head().await {
            talk.body(&head).await;
            talk.say(&format!("HTTP/1.1 {status} It\r\nContent-Length: 0\r\n\r\n")).await;
        }
    })
    .await
}

/// Nobody listens there.
async fn nowhere() -> SocketAddr {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn statuses(edge: &Edge, count: usize) -> Vec<u16> {
    statuses_of(edge, "", count).await
}

async fn statuses_of(edge: &Edge, field: &str, count: usize) -> Vec<u16> {
    let mut talk = edge.connect().await;
    let mut statuses = Vec::new();
    for _ in 0..count {
        talk.say(&format!("GET / HTTP/1.1\r\nHost: a.test\r\n{field}\r\n")).await;
        statuses.push(talk.answer().await.status);
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_looks_at_a_release_has_nobody_left_out() {
    let (good, bad) = (always(200).await, always(500).await);
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[good, bad])).await;
    assert!(statuses_of(&edge, "x-bowline-preview: 1\r\n", 100).await.contains(&500));
    let counted = |seen: &bowline_core::route::EdgeObservation| {
        let all = seen.series.values().flat_map(|series| &series.duration.counts).sum::<u64>();
        all == 100
    };
    let seen = edge.until(counted).await;
    assert!(seen.streaks.is_empty() && seen.left_out_total == 0, "{:?}", seen.streaks);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_with_failures_is_left_out_and_let_in_again() {
    let (good, bad) = (always(200).await, always(500).await);
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[good, bad])).await;
    let failed = statuses(&edge, 100).await.into_iter().filter(|status| *status == 500).count();
    edge.until(|seen| seen.left_out == [instance(1, 1)].into()).await;
    // Those that were on their way before it was looked, at four times a second or when one has failed enough.
    assert!((5..50).contains(&failed), "{failed}");
    assert_eq!(statuses(&edge, 30).await, [200; 30]);
    // Another table with the same instances changes nothing.
    edge.serve(TableBuilder::plain(&[good, bad])).await;
    assert_eq!(statuses(&edge, 30).await, [200; 30]);
    let seen = edge.until(|seen| seen.left_out.is_empty()).await;
    assert_eq!(seen.left_out_total, 1);
    // It has answered nobody since.
    assert!(seen.streaks[&instance(1, 1)] >= 5 && seen.streaks.len() == 1, "{:?}", seen.streaks);
    edge.eventually(|| async { statuses(&edge, 10).await.contains(&500) }).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_answer_is_left_out_while_clients_notice_nothing() {
    let silent = upstream(|_, mut talk| async move { drop(talk.try_head().await) }).await;
    let mut edge = Edge::start().await;
    for bad in [nowhere().await, silent] {
        edge.serve(TableBuilder::plain(&[always(200).await, bad])).await;
        assert_eq!(statuses(&edge, 100).await, [200; 100]);
        edge.until(|seen| seen.left_out == [instance(1, 1)].into()).await;
        // One that takes its place is not it.
        edge.serve(TableBuilder::plain(&[always(200).await])).await;
        edge.until(|seen| seen.left_out.is_empty()).await;
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_everywhere_is_asked_all_the_same() {
    let mut edge = Edge::start().await;
    let all = [always(503).await, always(503).await, always(503).await];
    for (count, left_out) in [(1, 0), (3, 1)] {
        edge.serve(TableBuilder::plain(&all[..count])).await;
        assert_eq!(statuses(&edge, 100).await, [503; 100]);
        edge.until(|seen| seen.left_out.len() == left_out).await;
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_do_wrong_counts_for_nothing() {
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[always(404).await, always(429).await])).await;
    assert!(statuses(&edge, 60).await.iter().all(|status| *status < 500));
    // An upload that is broken off, again and again.
    let reading = upstream(|_, mut talk| async move { drop(talk.rest().await) }).await;
    edge.serve(TableBuilder::plain(&[reading, reading])).await;
    for _ in 0..20 {
        let mut talk = edge.connect().await;
        talk.say("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\nhalf").await;
        drop(talk);
    }
    let gone = |seen: &bowline_core::route::EdgeObservation| {
        seen.series
            .iter()
            .filter(|(key, _)| key.status == 499)
            .map(|(_, s)| s.duration.counts.iter().sum::<u64>())
            .sum::<u64>()
    };
    let seen = edge.until(|seen| gone(seen) == 20).await;
    assert_eq!(seen.left_out_total, 0);
    edge.stop().await;
}
