//! What the edge and its daemon survive: swaps under load, drains, deaths of either.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/h2c.rs"]
mod h2c_instance;
mod support;
#[path = "support/tls.rs"]
mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bowline_core::route::EdgeStatus;
use bowline_edge::link;
use h2c_instance::speaking;
use support::*;
use tls::*;

fn table_of(seen: &bowline_core::route::EdgeObservation) -> Option<usize> {
    seen.table.as_ref().map(|table| table.sites.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_found_tells_what_it_serves_until_it_is_told() {
    let address = answering("here").await;
    let mut first = Edge::start().await;
    assert_eq!(table_of(&first.handle.observed.borrow()), None, "one that serves nothing has nothing to tell");
    first.serve(TableBuilder::plain(&[address])).await;
    assert_eq!(table_of(&first.handle.observed.borrow()), None);
    let Edge { handle, dir, .. } = first;
    drop(handle);
    let mut second = Edge::connected(link::spawn(config(dir.path())), dir).await;
    let seen = second.until(|seen| seen.table.is_some()).await;
    let table = seen.table.as_ref().unwrap();
    assert_eq!(Some(table.generation), seen.serving);
    assert_eq!(table.pools[&pool(1)].endpoints[&instance(1, 0)], address);
    assert_eq!(table.sites.len(), 1);
    second.go_on_from(seen.serving);
    second.serve(TableBuilder::plain(&[address])).await;
    second.until(|seen| seen.table.is_none()).await;
    second.stop().await;
}

/// Requests on kept connections until told to stop; returns how many were answered with 200, and the first that was
/// not.
fn load(http: std::net::SocketAddr, stop: &Arc<AtomicBool>, served: &Arc<AtomicUsize>) -> tokio::task::JoinHandle<()> {
    let (stop, served) = (Arc::clone(stop), Arc::clone(served));
    tokio::spawn(async move {
        let mut talk = Talk::new(tokio::net::TcpStream::connect(http).await.unwrap());
        while !stop.load(Ordering::Relaxed) {
            talk.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
            let answer = talk.answer().await;
            assert_eq!(answer.status, 200, "{answer:?}");
            served.fetch_add(1, Ordering::Relaxed);
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_swapped_under_load_without_a_failed_request() {
    let addresses = [answering("a").await, answering("b").await, answering("c").await];
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&addresses)).await;
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let loads: Vec<_> = (0..8).map(|_| load(edge.http, &stop, &served)).collect();
    for round in 0..60 {
        edge.serve(TableBuilder::plain(&addresses[..1 + round % 3])).await;
    }
    stop.store(true, Ordering::Relaxed);
    for load in loads {
        load.await.unwrap();
    }
    assert!(served.load(Ordering::Relaxed) > 100, "there was hardly any load");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_left_is_told_to_be_done_when_its_last_request_ends() {
    let release = Arc::new(tokio::sync::Notify::new());
    let released = Arc::clone(&release);
    let slow = upstream(move |_, mut talk| {
        let released = Arc::clone(&released);
        async move {
            talk.try_head().await;
            released.notified().await;
            talk.say(&ok("late")).await;
        }
    })
    .await;
    let other = answering("other").await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[slow])).await;
    let mut talk = edge.connect().await;
    talk.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    edge.until(|seen| seen.outstanding.get(&instance(1, 0)) == Some(&1)).await;
    edge.serve(TableBuilder::default().site("a.test", vec![rule("/", forward(2))]).pool(2, &[other])).await;
    assert_eq!(edge.get("a.test", "/").await.text(), "other");
    let seen = edge.until(|_| true).await;
    assert_eq!(seen.outstanding.get(&instance(1, 0)), Some(&1), "still under way");
    release.notify_one();
    assert_eq!(talk.answer().await.text(), "late");
    edge.until(|seen| !seen.outstanding.contains_key(&instance(1, 0))).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_is_under_way_and_closes_the_rest() {
    let release = Arc::new(tokio::sync::Notify::new());
    let released = Arc::clone(&release);
    let slow = upstream(move |_, mut talk| {
        let released = Arc::clone(&released);
        async move {
            talk.try_head().await;
            released.notified().await;
            talk.say(&ok("late")).await;
        }
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[slow])).await;
    let mut busy = edge.connect().await;
    busy.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    edge.until(|seen| !seen.outstanding.is_empty()).await;
    let mut idle = edge.connect().await;
    idle.say("GET / HTTP/1.1\r\nHost: none.test\r\n\r\n").await;
    assert_eq!(idle.answer().await.status, 404);
    let shutdown = edge.handle.shutdown.clone();
    let gone = tokio::spawn(async move { shutdown.edge(Duration::from_secs(10)).await });
    assert_eq!(idle.rest().await, b"", "an idle connection is closed");
    release.notify_one();
    let last = busy.answer().await;
    assert_eq!((last.text(), last.header("connection")), ("late", Some("close")));
    gone.await.unwrap();
    assert!(tokio::net::TcpStream::connect(edge.http).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_killed_comes_back_on_the_same_sockets() {
    let address = answering("here").await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[address])).await;
    let first = edge.handle.observed.borrow().clone();
    for _ in 0..2 {
        let pid = edge.handle.observed.borrow().pid;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
        // Connections wait in the socket's queue meanwhile; none is refused.
        assert_eq!(edge.get("a.test", "/").await.text(), "here");
        edge.until(|seen| seen.pid != pid && seen.serving == first.serving).await;
    }
    let seen = edge.until(|seen| seen.status == EdgeStatus::Connected).await;
    assert_eq!((seen.http, seen.https), (first.http, first.https));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_comes_back_finds_the_edge_and_what_it_serves() {
    let address = answering("here").await;
    let mut edge = Edge::start().await;
    let generation = edge.serve(TableBuilder::plain(&[address])).await;
    let pid = edge.handle.observed.borrow().pid;
    let Edge { handle, dir, http, https, .. } = edge;
    // The daemon is gone without a word.
    drop(handle);

    let mut second = Edge::connected(link::spawn(config(dir.path())), dir).await;
    let seen = second.until(|seen| seen.serving == Some(generation)).await;
    assert_eq!((seen.pid, second.http, second.https), (pid, http, https));
    assert_eq!(second.get("a.test", "/").await.text(), "here");
    // An older desired state is refused; the newer one goes on.
    let old = bowline_core::route::EdgeDesired::default();
    second.handle.desired.send(Arc::new(old)).unwrap();
    assert_eq!(second.get("a.test", "/").await.text(), "here");
    // It is restarted with the sockets that were taken over.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGKILL).unwrap();
    let back = second.until(|seen| seen.pid != pid && seen.status == EdgeStatus::Connected).await;
    assert_eq!((back.http, back.https), (Some(http), Some(https)));
    second.stop().await;
}

/// The same edge, started from another path: another binary, as a link sees it.
fn other_binary(edge: &Edge, name: &str) -> link::LinkConfig {
    let exe = edge.dir.path().join(name);
    std::fs::copy(config(edge.dir.path()).exe, &exe).unwrap();
    link::LinkConfig { exe, http: edge.http, https: Some(edge.https), ..config(edge.dir.path()) }
}

/// A daemon of another binary comes, and replaces the edge. Returns it, and the process of the edge before.
async fn renewed(edge: Edge, name: &str) -> (Edge, u32) {
    let before = edge.handle.observed.borrow().clone();
    let config = other_binary(&edge, name);
    let Edge { handle, dir, .. } = edge;
    let desired = handle.desired.borrow().clone();
    drop(handle);
    let mut next = Edge::connected(link::spawn(config), dir).await;
    assert_eq!(next.handle.observed.borrow().pid, before.pid, "until it is told to, it leaves the edge alone");
    next.handle.desired.send(desired).unwrap();
    next.handle.renew.send_replace(true);
    let seen = next.until(|seen| seen.pid != before.pid && seen.serving == before.serving).await;
    assert_eq!((seen.http, seen.https), (before.http, before.https));
    next.go_on_from(before.serving);
    (next, before.pid)
}

fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_of_another_binary_is_replaced_under_load() {
    let address = answering("here").await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[address])).await;
    let mut idle = edge.connect().await;
    for (round, name) in ["second", "third"].into_iter().enumerate() {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let http = edge.http;
        let loads: Vec<_> = (0..4).map(|_| new_connections(http, &stop, &served)).collect();
        let (next, before) = renewed(edge, name).await;
        edge = next;
        edge.eventually(|| async { served.load(Ordering::Relaxed) > 50 }).await;
        stop.store(true, Ordering::Relaxed);
        for load in loads {
            load.await.unwrap();
        }
        if round == 0 {
            // Who was connected to the first edge is answered by it, until it says that this answer is the last.
            loop {
                idle.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
                let answer = idle.answer().await;
                assert_eq!(answer.text(), "here");
                if answer.header("connection") == Some("close") {
                    break;
                }
            }
        }
        let line = format!("/proc/{before}/cmdline");
        edge.eventually(|| async { std::fs::read(&line).unwrap_or_default().is_empty() }).await;
    }
    edge.stop().await;
}

/// Requests, each on a connection of its own, until told to stop.
fn new_connections(
    http: std::net::SocketAddr,
    stop: &Arc<AtomicBool>,
    served: &Arc<AtomicUsize>,
) -> tokio::task::JoinHandle<()> {
    let (stop, served) = (Arc::clone(stop), Arc::clone(served));
    tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            let mut talk = Talk::new(tokio::net::TcpStream::connect(http).await.unwrap());
            talk.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
            assert_eq!(talk.answer().await.status, 200);
            served.fetch_add(1, Ordering::Relaxed);
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_retires_is_kept_up_to_date_and_counts_until_its_last_request_ends() {
    let release = Arc::new(tokio::sync::Notify::new());
    let released = Arc::clone(&release);
    let slow = upstream(move |_, mut talk| {
        let released = Arc::clone(&released);
        async move {
            talk.try_head().await;
            released.notified().await;
            talk.say(&ok("late")).await;
        }
    })
    .await;
    let other = answering("other").await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[slow])).await;
    let mut busy = edge.connect().await;
    busy.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    let mut idle = edge.connect().await;
    edge.until(|seen| seen.outstanding.get(&instance(1, 0)) == Some(&1) && seen.connections_open == 2).await;
    let (mut edge, _) = renewed(edge, "second").await;
    let seen = edge.until(|_| true).await;
    assert_eq!(seen.outstanding.get(&instance(1, 0)), Some(&1), "its request is still under way");
    edge.serve(TableBuilder::default().site("a.test", vec![rule("/", forward(2))]).pool(2, &[other])).await;
    idle.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(idle.answer().await.text(), "other", "the edge that retires serves the new table, too");
    release.notify_one();
    assert_eq!(busy.answer().await.text(), "late");
    edge.until(|seen| seen.outstanding.is_empty()).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_outlives_the_swap_and_is_told_before_it_is_closed() {
    let echo = upstream(|_, mut talk| async move {
        talk.try_head().await;
        talk.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        // Bytes are given back as they are.
        while let Some(byte) = talk.stream_byte().await {
            tokio::io::AsyncWriteExt::write_all(&mut talk.stream, &[byte]).await.unwrap();
        }
    })
    .await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[echo])).await;
    let mut socket = edge.connect().await;
    socket.say("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(socket.answer().await.status, 101);
    let (edge, before) = renewed(edge, "second").await;
    tokio::io::AsyncWriteExt::write_all(&mut socket.stream, &[0x89, 0]).await.unwrap();
    assert_eq!(socket.exactly(2).await, [0x89, 0], "it goes on through the edge before");
    signal(before, nix::sys::signal::Signal::SIGTERM);
    // Close, two bytes: 1001 (RFC 6455, 5.5.1).
    assert_eq!(socket.rest().await, [0x88, 2, 0x03, 0xe9]);
    edge.stop().await;
}

/// An edge of a release that is yet to come: of all that it understands, only what never changes is known here.
async fn foreign(control: tokio::net::UnixListener, http: std::net::TcpListener, https: std::net::TcpListener) {
    use bowline_edge::wire::{Channel, FromEdge, ToEdge};
    use std::os::fd::AsFd;
    let mut channel = Channel::new(control.accept().await.unwrap().0);
    let hello = FromEdge::Hello {
        protocol: u32::MAX,
        pid: std::process::id(),
        http: http.local_addr().ok(),
        https: https.local_addr().ok(),
        serving: Some(7),
        changes: true,
    };
    assert!(matches!(channel.receive().await.unwrap().unwrap().0, ToEdge::Hello { .. }));
    channel.send(&hello, &[]).await.unwrap();
    assert!(matches!(channel.receive().await.unwrap().unwrap().0, ToEdge::Listeners));
    let fds = [control.as_fd(), http.as_fd(), https.as_fd()];
    channel.send(&FromEdge::Listeners { http: true, https: true }, &fds).await.unwrap();
    assert!(matches!(channel.receive().await.unwrap().unwrap().0, ToEdge::Retire));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_of_another_protocol_is_replaced_on_its_sockets() {
    let address = answering("here").await;
    let dir = Folder::new();
    let control = tokio::net::UnixListener::bind(dir.path().join("edge.sock")).unwrap();
    let bind = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (http, https) = (bind(), bind());
    let addresses = (http.local_addr().unwrap(), https.local_addr().unwrap());
    let before = tokio::spawn(foreign(control, http, https));
    let mut edge = Edge::connected(link::spawn(config(dir.path())), dir).await;
    before.await.unwrap();
    assert_eq!((edge.http, edge.https), addresses);
    edge.serve(TableBuilder::plain(&[address])).await;
    assert_eq!(edge.get("a.test", "/").await.text(), "here");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_does_not_serve_leaves_the_edge_before() {
    let address = answering("here").await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[address])).await;
    let pid = edge.handle.observed.borrow().pid;
    let (exe, started) = (edge.dir.path().join("broken"), edge.dir.path().join("started"));
    std::fs::write(&exe, format!("#!/bin/sh\necho once >> {}\nexit 3\n", started.display())).unwrap();
    std::fs::set_permissions(&exe, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let broken = link::LinkConfig { exe, http: edge.http, https: Some(edge.https), ..config(edge.dir.path()) };
    let Edge { handle, dir, .. } = edge;
    let desired = handle.desired.borrow().clone();
    drop(handle);
    let edge = Edge::connected(link::spawn(broken), dir).await;
    edge.handle.desired.send(desired).unwrap();
    edge.handle.renew.send_replace(true);
    let next = edge.dir.path().join("edge.next.sock");
    edge.eventually(|| async { started.exists() && !next.exists() }).await;
    assert_eq!(edge.get("a.test", "/").await.text(), "here");
    assert_eq!(edge.handle.observed.borrow().pid, pid);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_whose_control_socket_is_gone_is_replaced_on_its_ports() {
    let address = answering("here").await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[address])).await;
    let pid = edge.handle.observed.borrow().pid;
    let Edge { handle, dir, http, https, .. } = edge;
    drop(handle);
    std::fs::remove_file(dir.path().join("edge.sock")).unwrap();

    let config = link::LinkConfig { http, https: Some(https), ..config(dir.path()) };
    let mut second = Edge::connected(link::spawn(config), dir).await;
    second.serve(TableBuilder::plain(&[address])).await;
    assert_ne!(second.handle.observed.borrow().pid, pid);
    assert_eq!((second.http, second.https), (http, https));
    assert_eq!(second.get("a.test", "/").await.text(), "here");
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_and_a_missing_binary_are_faults_that_say_so() {
    let check = |change: Box<dyn FnOnce(&mut link::LinkConfig)>, expected: String| async move {
        let dir = Folder::new();
        let mut config = config(dir.path());
        change(&mut config);
        let mut handle = link::spawn(config);
        let seen = until(&mut handle, |seen| matches!(seen.status, EdgeStatus::Lost(_))).await;
        let EdgeStatus::Lost(fault) = &seen.status else { unreachable!() };
        let text = format!("{} {:?} {:?}", fault.message, fault.causes, fault.detail);
        assert!(text.contains(&expected), "{text}");
        handle.shutdown.edge(Duration::ZERO).await;
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let holder = format!("held by process 1 (whoever holds {})", address.port());
    check(Box::new(move |config| config.http = address), holder).await;
    check(Box::new(|config| config.exe = "/nonexistent".into()), "cannot be started from /nonexistent".into()).await;
    check(Box::new(|config| config.exe = "/bin/false".into()), "ended as soon as it was started".into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_without_descriptors_pauses_and_goes_on() {
    let address = answering("here").await;
    let mut edge = Edge::start().await;
    edge.serve(TableBuilder::plain(&[address])).await;
    let pid = edge.handle.observed.borrow().pid;
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let limit = format!("--nofile={0}:{0}", open + 8);
    let limited = std::process::Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status().unwrap();
    assert!(limited.success());
    // Who has had an answer and is idle makes room for who comes.
    let mut idle = edge.connect().await;
    idle.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(idle.answer().await.text(), "here");
    let mut held = Vec::new();
    for _ in 0..30 {
        held.push(edge.connect().await);
    }
    edge.until(|seen| seen.connections_open >= 6).await;
    assert_eq!(idle.rest().await, b"", "it is closed");
    // The rest waits in the socket's queue; as some leave, it gets its turn.
    let mut last = held.pop().unwrap();
    last.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    drop(held);
    assert_eq!(last.answer().await.text(), "here");
    assert_eq!(edge.handle.observed.borrow().pid, pid);
    edge.stop().await;
}

/// Leaves the edge no descriptor: whatever it opens next, it has to close something first.
fn exhaust(edge: &Edge) {
    let pid = edge.handle.observed.borrow().pid;
    let first_free = || -> usize {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let open: Vec<String> = open.map(|entry| entry.file_name().into_string().unwrap()).collect();
        (0..).find(|number| !open.contains(&number.to_string())).unwrap()
    };
    // One that it had open for a moment is free when the limit holds.
    loop {
        let limit = first_free();
        let option = format!("--nofile={limit}:");
        let limited = std::process::Command::new("prlimit").args(["--pid", &pid.to_string(), &option]).status();
        assert!(limited.unwrap().success());
        if first_free() == limit {
            return;
        }
    }
}

/// Answers when so many requests are there, and keeps its connections. Returns how many of them are open.
async fn gathering(count: usize, body: &'static str) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let (open, all) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Barrier::new(count)));
    let counted = Arc::clone(&open);
    let address = upstream(move |_, mut talk| {
        let (open, all) = (Arc::clone(&counted), Arc::clone(&all));
        async move {
            open.fetch_add(1, Ordering::Relaxed);
            while talk.try_head().await.is_some() {
                all.wait().await;
                let kept = format!("Keep-Alive: timeout=60\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                talk.say(&format!("HTTP/1.1 200 OK\r\n{kept}")).await;
            }
            open.fetch_sub(1, Ordering::Relaxed);
        }
    })
    .await;
    (address, open)
}

/// Asks for this on each of the connections at once.
async fn ask_all(clients: &mut [Talk<tokio::net::TcpStream>], host: &str, path: &str, expected: &str) {
    for client in &mut *clients {
        client.say(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    }
    for client in clients {
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text()), (200, expected), "{answer:?}");
    }
}

async fn connected(edge: &Edge, count: usize) -> Vec<Talk<tokio::net::TcpStream>> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(edge.connect().await);
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_finds_no_descriptor_takes_those_of_connections_that_are_only_kept() {
    const KEPT: usize = 40;
    const GIVEN_UP: usize = 32;
    let (several, _) = gathering(3, "other").await;
    let shared = speaking(|_, _, _, mut respond| async move {
        let mut send = respond.send_response(http::Response::new(()), false).unwrap();
        send.send_data("shared".into(), true).unwrap();
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("page.txt"), "a file").unwrap();
    for (host, asking, expected) in [("b.test", 3, "other"), ("c.test", 8, "shared"), ("d.test", 1, "a file")] {
        let (kept, open) = gathering(KEPT, "here").await;
        let table = TableBuilder::plain(&[kept])
            .site("b.test", vec![rule("/", forward(2))])
            .pool(2, &[several])
            .site("c.test", vec![rule("/", forward(3))])
            .pool(3, &[shared])
            .h2c(3)
            .site("d.test", vec![rule("/", files(folder.path(), None))]);
        let mut edge = Edge::with_workers(1).await;
        edge.serve(table).await;
        let mut clients = connected(&edge, KEPT).await;
        ask_all(&mut clients, "a.test", "/", "here").await;
        exhaust(&edge);
        ask_all(&mut clients[..asking], host, "/page.txt", expected).await;
        edge.eventually(|| async { open.load(Ordering::Relaxed) == KEPT - GIVEN_UP }).await;
        // Who uses theirs keeps them, whatever was given up.
        ask_all(&mut clients[KEPT - 3..], "b.test", "/", "other").await;
        assert_eq!(open.load(Ordering::Relaxed), KEPT - GIVEN_UP, "{host}");
        edge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_finds_no_descriptor_where_none_is_kept_takes_those_of_clients_that_rest() {
    let address = answering("here").await;
    let mut edge = Edge::with_workers(1).await;
    edge.serve(TableBuilder::plain(&[address])).await;
    let mut clients = connected(&edge, 8).await;
    let mut asking = clients.pop().unwrap();
    // They have had an answer, from nobody's instance.
    for client in &mut clients {
        client.say("GET / HTTP/1.1\r\nHost: none.test\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 404);
    }
    exhaust(&edge);
    ask_all(std::slice::from_mut(&mut asking), "a.test", "/", "here").await;
    for mut client in clients {
        assert_eq!(client.rest().await, b"", "it rests, and is closed");
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_finds_room_for_all_that_it_opens() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("page.txt"), "a file").unwrap();
    let (kept, open) = gathering(1, "here").await;
    let mut edge = Edge::with_workers(1).await;
    let files = vec![rule("/", files(folder.path(), None))];
    edge.serve(TableBuilder::plain(&[kept]).site("d.test", files)).await;
    let mut clients = connected(&edge, 8).await;
    let mut asking = clients.pop().unwrap();
    ask_all(&mut clients[..1], "a.test", "/", "here").await;
    exhaust(&edge);
    // The one that is kept leaves room for its folder alone.
    ask_all(std::slice::from_mut(&mut asking), "d.test", "/page.txt", "a file").await;
    edge.eventually(|| async { open.load(Ordering::Relaxed) == 0 }).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_http2_that_rest_make_room() {
    let address = answering("here").await;
    let ca = authority(&["a.test", "none.test"]);
    let mut edge = Edge::with_workers(1).await;
    edge.serve_with(TableBuilder::plain(&[address]), ca.certificates.clone()).await;
    let mut asking = edge.connect().await;
    let mut resting = Vec::new();
    for _ in 0..4 {
        let stream = handshake(&edge, &ca, "none.test", "h2").await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        let running = tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let request = http::Request::get("https://none.test/").body(()).unwrap();
        assert_eq!(client.send_request(request, true).unwrap().0.await.unwrap().status(), 404);
        resting.push((client, running));
    }
    exhaust(&edge);
    ask_all(std::slice::from_mut(&mut asking), "a.test", "/", "here").await;
    for (_, running) in resting {
        tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap().unwrap();
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_http2_that_rests_is_given_up_before_clients_are() {
    let address = answering("here").await;
    let shared = speaking(|_, _, _, mut respond| async move {
        let mut send = respond.send_response(http::Response::new(()), false).unwrap();
        send.send_data("shared".into(), true).unwrap();
    })
    .await;
    let mut edge = Edge::with_workers(1).await;
    let table = TableBuilder::plain(&[address]).site("c.test", vec![rule("/", forward(3))]).pool(3, &[shared]).h2c(3);
    edge.serve(table).await;
    let mut clients = connected(&edge, 4).await;
    ask_all(&mut clients[..1], "c.test", "/", "shared").await;
    let ask_nobody = async |clients: &mut [Talk<tokio::net::TcpStream>]| {
        for client in clients {
            client.say("GET / HTTP/1.1\r\nHost: none.test\r\n\r\n").await;
            assert_eq!(client.answer().await.status, 404);
        }
    };
    ask_nobody(&mut clients).await;
    exhaust(&edge);
    ask_all(&mut clients[..1], "a.test", "/", "here").await;
    ask_nobody(&mut clients).await;
    edge.stop().await;
}

/// Only root can give a process another user: as anyone else there is nothing to see.
#[tokio::test(flavor = "multi_thread")]
async fn a_root_daemon_s_edge_runs_as_its_own_user_and_is_found_again() {
    const NOBODY: u32 = 65_534;
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let address = answering("here").await;
    let dir = Folder::new();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(dir.path(), open).unwrap();
    // The build folder may be closed to other users: the edge runs from a copy, as it does in an installation.
    let exe = dir.path().join("bowline-edge-alone");
    std::fs::copy(config(dir.path()).exe, &exe).unwrap();
    let as_nobody = |dir: &std::path::Path| link::LinkConfig { uid: Some(NOBODY), exe: exe.clone(), ..config(dir) };
    let first = as_nobody(dir.path());
    let mut edge = Edge::connected(link::spawn(first), dir).await;
    let generation = edge.serve(TableBuilder::plain(&[address])).await;
    assert_eq!(edge.get("a.test", "/").await.text(), "here");
    let seen = edge.until(|seen| seen.private_bytes > 0).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", seen.pid)).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let ids = [NOBODY.to_string(), NOBODY.to_string(), NOBODY.to_string(), NOBODY.to_string()].join("\t");
    assert_eq!((field("Uid:"), field("Gid:")), (ids.clone(), ids));
    assert_eq!((field("Groups:").as_str(), field("CapEff:").as_str()), ("", "0000000000000000"));
    let log = edge.dir.path().join("logs/access.log");
    edge.eventually(|| async { log.metadata().is_ok_and(|log| log.len() > 0) }).await;

    let Edge { handle, dir, .. } = edge;
    drop(handle);
    let again = as_nobody(dir.path());
    let mut edge = Edge::connected(link::spawn(again), dir).await;
    let back = edge.until(|seen| seen.serving == Some(generation)).await;
    assert_eq!(back.pid, seen.pid);
    edge.stop().await;
}
