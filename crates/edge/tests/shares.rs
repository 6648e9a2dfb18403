//! Two releases beside each other, of which a rollout goes by what they answer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bowline_core::id::ServiceName;
use bowline_core::route::{Action, EdgeObservation, Flow, Split};
use bowline_core::units::{Share, Weight};
use support::*;
use tokio::sync::Notify;

/// Shares by release, judged.
fn shares(of: &[(u32, u8)]) -> Action {
    let split = |(release, percent): &(u32, u8)| Split { pool: pool(*release), weight: Weight::new(*percent).unwrap() };
    let service = ServiceName::new("web").unwrap();
    Action::Forward { service, splits: of.iter().map(split).collect(), judged: true, flow: Flow::Uncounted }
}

fn beside(of: &[(u32, u8, &[SocketAddr])]) -> TableBuilder {
    let action = shares(&of.iter().map(|(release, percent, _)| (*release, *percent)).collect::<Vec<_>>());
    let table = TableBuilder::default().site("a.test", vec![rule("/", action)]);
    of.iter().fold(table, |table, (release, _, addresses)| table.pool(*release, addresses))
}

fn nobody() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Requests and failures of a release.
fn counted(seen: &EdgeObservation, release: u32) -> (u64, u64) {
    seen.traffic.get(&pool(release)).map_or((0, 0), |seen| (seen.counters.requests, seen.counters.failures))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_another_release_made_good_counts_against_the_one_that_failed_it() {
    let alive = answering("alive").await;
    let mut edge = Edge::start().await;
    edge.serve(beside(&[(1, 50, &[alive]), (2, 50, &[nobody()])])).await;
    for _ in 0..40 {
        assert_eq!(edge.get("a.test", "/").await.text(), "alive");
    }
    let seen = edge.until(|seen| counted(seen, 1).0 == 40).await;
    let (tries, failed) = counted(&seen, 2);
    assert!(tries > 0 && failed == tries, "{tries} {failed}");
    assert_eq!(counted(&seen, 1).1, 0);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_a_release_says_nothing_for_or_against_it() {
    let (one, two) = (answering("one").await, nobody());
    let mut edge = Edge::start().await;
    edge.serve(beside(&[(1, 100, &[one]), (2, 0, &[two])])).await;
    let mut talk = edge.connect().await;
    talk.say("GET / HTTP/1.1\r\nHost: a.test\r\nX-Bowline-Preview: 2\r\n\r\n").await;
    assert_eq!(talk.answer().await.status, 502);
    assert_eq!(edge.get("a.test", "/").await.text(), "one");
    let seen = edge.until(|seen| counted(seen, 1).0 == 1).await;
    assert_eq!(counted(&seen, 2), (0, 0));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_comes_between_two_tries_may_have_fewer_releases() {
    let (asked, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let shared = (Arc::clone(&asked), Arc::clone(&go));
    let closing = upstream(move |_, mut talk| {
        let (asked, go) = (Arc::clone(&shared.0), Arc::clone(&shared.1));
        async move {
            talk.try_head().await;
            asked.notify_one();
            go.notified().await;
        }
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(beside(&[(1, 50, &[]), (2, 50, &[closing])])).await;
    let mut talk = edge.connect().await;
    talk.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    asked.notified().await;
    edge.serve(beside(&[(1, 100, &[])])).await;
    go.notify_one();
    let answer = talk.answer().await;
    assert_eq!((answer.status, answer.header("x-bowline-error")), (503, Some("no-ready-instance")));
    edge.until(|seen| seen.series.keys().any(|key| key.status == 503 && key.release.is_none())).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_given_once_and_kept_as_the_shares_move() {
    let (one, two) = (answering("one").await, answering("two").await);
    let mut edge = Edge::start().await;
    edge.serve(beside(&[(1, 50, &[one]), (2, 50, &[two])])).await;
    let ask = async |cookie: &str| {
        let mut talk = edge.connect().await;
        talk.say(&format!("GET / HTTP/1.1\r\nHost: a.test\r\nCookie: a=1; {cookie}\r\n\r\n")).await;
        talk.answer().await
    };
    for garbage in ["", "bowline-release=", "bowline-release=100", "bowline-release=-1", "bowline-release=7-baseline"] {
        let answer = ask(garbage).await;
        let cookie = answer.header("set-cookie").unwrap().to_owned();
        assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{cookie}");
        let (again, place) = (answer.text().to_owned(), cookie.split(';').next().unwrap().to_owned());
        for _ in 0..5 {
            let answer = ask(&place).await;
            assert_eq!((answer.text(), answer.header("set-cookie")), (&*again, None), "{place}");
        }
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookie_of_a_place_is_secure_where_its_browser_came_over_https() {
    let app = answering("ok").await;
    let mut edge = Edge::start().await;
    let table = || beside(&[(1, 50, &[app]), (2, 50, &[app])]);
    let is_secure = async |edge: &Edge, said: &str| {
        let mut talk = edge.connect().await;
        talk.say(&format!("GET / HTTP/1.1\r\nHost: a.test\r\n{said}\r\n")).await;
        talk.answer().await.header("set-cookie").unwrap().ends_with("; Secure")
    };
    edge.serve(table()).await;
    assert!(!is_secure(&edge, "X-Forwarded-Proto: https\r\n").await, "anyone may say so");
    edge.serve(table().trusting(&["127.0.0.0/8"])).await;
    assert!(is_secure(&edge, "X-Forwarded-Proto: https\r\n").await);
    assert!(is_secure(&edge, "Forwarded: for=192.0.2.1;proto=https\r\n").await);
    assert!(!is_secure(&edge, "X-Forwarded-Proto: http\r\n").await);
    assert!(!is_secure(&edge, "").await);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookie_of_a_place_stands_beside_those_of_the_app() {
    let app = upstream(|_, mut talk| async move {
        while talk.try_head().await.is_some() {
            let cookies = "Set-Cookie: session=1; HttpOnly\r\nSet-Cookie: theme=dark\r\n";
            talk.say(&format!("HTTP/1.1 200 OK\r\n{cookies}Content-Length: 2\r\n\r\nok")).await;
        }
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(beside(&[(1, 50, &[app]), (2, 50, &[app])])).await;
    let answer = edge.get("a.test", "/").await;
    let set: Vec<&str> = answer
        .head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"))
        .map(|(_, value)| value.split('=').next().unwrap())
        .collect();
    assert_eq!(set, ["session", "theme", "bowline-release"]);
    edge.stop().await;
}

/// What a client or an instance takes that is slow here.
const SLOW: Duration = Duration::from_millis(600);

/// The longest of the times that release 1 took for so many requests.
async fn slowest(edge: &mut Edge, requests: u64) -> Duration {
    let seen = edge.until(|seen| counted(seen, 1).0 == requests).await;
    seen.traffic[&pool(1)].counters.latency.quantile(Share::WHOLE).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_slow_makes_no_release_slow() {
    let address = upstream(|_, mut talk| async move {
        while let Some(head) = talk.try_head().await {
            talk.body(&head).await;
            if head.starts_with("GET /slow") {
                tokio::time::sleep(SLOW).await;
            }
            // More than sockets and buffers between the two take.
            talk.say(&ok(&"x".repeat(16 << 20))).await;
        }
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(beside(&[(1, 100, &[address])])).await;
    let mut talk = edge.connect().await;
    talk.say("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\na").await;
    tokio::time::sleep(SLOW).await;
    talk.say("b").await;
    let head = talk.try_head().await.unwrap();
    tokio::time::sleep(SLOW).await;
    talk.body(&head).await;
    assert!(slowest(&mut edge, 1).await < SLOW, "the client was slow");
    assert_eq!(edge.get("a.test", "/slow").await.status, 200);
    assert!(slowest(&mut edge, 2).await >= SLOW, "the instance was");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_cut_is_a_failure_of_the_release() {
    let cutting = upstream(|_, mut talk| async move {
        talk.try_head().await;
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(beside(&[(1, 100, &[cutting])])).await;
    let mut talk = edge.connect().await;
    talk.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    // What had come of it may be lost with the reset that says that it is cut.
    talk.rest().await;
    let seen = edge.until(|seen| counted(seen, 1).0 == 1).await;
    assert_eq!(counted(&seen, 1), (1, 1));
    edge.stop().await;
}
