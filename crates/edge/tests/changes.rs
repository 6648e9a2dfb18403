//! An edge is told all that it is to serve once, and from then on what has changed; whatever is lost in between, it serves the whole.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::os::fd::AsFd;
use std::sync::Arc;

use bowline_core::id::Generation;
use bowline_core::route::{Changes, EdgeDesired, EdgeStatus, Table};
use bowline_edge::link;
use bowline_edge::wire::{ChangesFrame, Channel, DesiredFrame, FromEdge, PROTOCOL, ToEdge};
use support::*;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// What a scripted edge was told to serve.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Whole { generation: u64, hosts: Vec<String> },
    Changes { base: u64, generation: u64, hosts: Vec<String>, gone: Vec<String> },
}

impl Told {
    fn whole(frame: &DesiredFrame) -> Self {
        let table = frame.parse().unwrap().table;
        Self::Whole { generation: table.generation.0, hosts: table.sites.keys().map(ToString::to_string).collect() }
    }

    fn changes(frame: &ChangesFrame) -> Self {
        let Changes { base, part, gone } = frame.parse().unwrap();
        Self::Changes {
            base: base.0,
            generation: part.table.generation.0,
            hosts: part.table.sites.keys().map(ToString::to_string).collect(),
            gone: gone.sites.iter().map(ToString::to_string).collect(),
        }
    }
}

fn whole(generation: u64, hosts: &[&str]) -> Told {
    Told::Whole { generation, hosts: hosts.iter().map(|host| (*host).to_owned()).collect() }
}

fn changes(base: u64, generation: u64, hosts: &[&str], gone: &[&str]) -> Told {
    let names = |all: &[&str]| all.iter().map(|host| (*host).to_owned()).collect();
    Told::Changes { base, generation, hosts: names(hosts), gone: names(gone) }
}

/// A daemon's link, and the edge that it finds: what it tells that comes out, and what is put in is answered.
struct Scripted {
    handle: link::Handle,
    told: mpsc::Receiver<Told>,
    answers: mpsc::Sender<FromEdge>,
    _dir: Folder,
}

impl Scripted {
    async fn new(takes_changes: bool) -> Self {
        let dir = Folder::new();
        let control = tokio::net::UnixListener::bind(dir.path().join("edge.sock")).unwrap();
        let (tell, told) = mpsc::channel(16);
        let (answers, outgoing) = mpsc::channel(16);
        tokio::spawn(scripted(control, takes_changes, tell, outgoing));
        let mut handle = link::spawn(config(dir.path()));
        until(&mut handle, |seen| seen.status == EdgeStatus::Connected).await;
        Self { handle, told, answers, _dir: dir }
    }

    fn serve(&self, generation: u64, hosts: &[&str]) {
        let table = hosts.iter().fold(TableBuilder::default(), |table, host| table.site(host, Vec::new()));
        self.handle.desired.send(desired(generation, table)).unwrap();
    }

    async fn is_told(&mut self, expected: Told) {
        let told = tokio::time::timeout(PATIENCE, self.told.recv()).await.expect("it was told nothing in time");
        assert_eq!(told, Some(expected));
    }
}

async fn scripted(
    control: tokio::net::UnixListener,
    takes_changes: bool,
    tell: mpsc::Sender<Told>,
    mut answers: mpsc::Receiver<FromEdge>,
) {
    let bind = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (http, https) = (bind(), bind());
    let mut channel = Channel::new(control.accept().await.unwrap().0);
    loop {
        let frame = tokio::select! {
            frame = channel.receive::<ToEdge>() => frame.unwrap(),
            answer = answers.recv() => match answer {
                Some(answer) => {
                    channel.send(&answer, &[]).await.unwrap();
                    continue;
                }
                None => return,
            },
        };
        match frame {
            Some((ToEdge::Hello { .. }, _)) => {
                let hello = FromEdge::Hello {
                    protocol: PROTOCOL,
                    pid: std::process::id(),
                    http: http.local_addr().ok(),
                    https: https.local_addr().ok(),
                    serving: None,
                    changes: takes_changes,
                };
                channel.send(&hello, &[]).await.unwrap();
            }
            Some((ToEdge::Listeners, _)) => {
                let fds = [control.as_fd(), http.as_fd(), https.as_fd()];
                channel.send(&FromEdge::Listeners { http: true, https: true }, &fds).await.unwrap();
            }
            Some((ToEdge::Desired(frame), _)) => tell.send(Told::whole(&frame)).await.unwrap(),
            Some((ToEdge::Changes(frame), _)) => tell.send(Told::changes(&frame)).await.unwrap(),
            Some((ToEdge::Retire | ToEdge::Shutdown { .. }, _)) | None => return,
        }
    }
}

fn desired(generation: u64, table: TableBuilder) -> Arc<EdgeDesired> {
    let table = Table { generation: Generation(generation), ..table.into_table() };
    Arc::new(EdgeDesired { table: Arc::new(table), ..EdgeDesired::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_is_told_what_has_changed_and_the_whole_when_it_wants_it() {
    let mut edge = Scripted::new(true).await;
    edge.serve(1, &["a.test", "b.test"]);
    edge.is_told(whole(1, &["a.test", "b.test"])).await;
    // Whether it has acknowledged that nobody waits for: its answer may be lost.
    edge.serve(2, &["a.test", "c.test"]);
    edge.is_told(changes(1, 2, &["c.test"], &["b.test"])).await;
    edge.serve(3, &["a.test", "c.test", "d.test"]);
    edge.is_told(changes(2, 3, &["d.test"], &[])).await;
    edge.answers.send(FromEdge::WantsWhole { generation: 3 }).await.unwrap();
    edge.is_told(whole(3, &["a.test", "c.test", "d.test"])).await;
    edge.serve(4, &["a.test"]);
    edge.is_told(changes(3, 4, &[], &["c.test", "d.test"])).await;
    // What it refuses it does not have: whatever comes next is whole.
    edge.answers.send(FromEdge::Refused { generation: 4, reason: "a test".to_owned() }).await.unwrap();
    edge.answers.send(FromEdge::Observation(Box::default())).await.unwrap();
    edge.handle.observed.changed().await.unwrap();
    edge.serve(5, &["e.test"]);
    edge.is_told(whole(5, &["e.test"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_of_before_that_takes_no_changes_is_told_the_whole_each_time() {
    let mut edge = Scripted::new(false).await;
    edge.serve(1, &["a.test"]);
    edge.is_told(whole(1, &["a.test"])).await;
    edge.serve(2, &["a.test", "b.test"]);
    edge.is_told(whole(2, &["a.test", "b.test"])).await;
}

/// A daemon's connection to an edge, by hand.
struct Daemon(Channel);

impl Daemon {
    async fn of(edge: &Edge) -> Self {
        let mut channel = Channel::new(UnixStream::connect(edge.dir.path().join("edge.sock")).await.unwrap());
        channel.send(&ToEdge::Hello { protocol: PROTOCOL }, &[]).await.unwrap();
        let hello = channel.receive::<FromEdge>().await.unwrap().unwrap().0;
        assert!(matches!(hello, FromEdge::Hello { changes: true, .. }));
        Self(channel)
    }

    /// Tells it the whole, and what comes of that.
    async fn whole(&mut self, desired: &EdgeDesired) -> String {
        self.ask(&ToEdge::Desired(Box::new(DesiredFrame::from(desired)))).await
    }

    async fn change(&mut self, before: &EdgeDesired, after: &EdgeDesired) -> String {
        self.ask(&ToEdge::Changes(Box::new(ChangesFrame::from(&Changes::between(before, after))))).await
    }

    async fn ask(&mut self, frame: &ToEdge) -> String {
        self.0.send(frame, &[]).await.unwrap();
        loop {
            match self.0.receive::<FromEdge>().await.unwrap().unwrap().0 {
                FromEdge::Serving { generation } => return format!("serves {generation}"),
                FromEdge::WantsWhole { .. } => return "wants the whole".to_owned(),
                FromEdge::Refused { reason, .. } => return format!("refuses: {reason}"),
                FromEdge::Observation(_) => {}
                other @ (FromEdge::Hello { .. } | FromEdge::Listeners { .. }) => panic!("another answer: {other:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_taken_of_what_is_held_and_was_told_on_the_same_connection() {
    let address = answering("here").await;
    let edge = Edge::start().await;
    let table = |generation, host| {
        let hosts = TableBuilder::plain(&[address]).site(host, vec![rule("/", forward(1))]);
        desired(generation, hosts)
    };
    let (one, two, three, four) = (table(1, "b.test"), table(2, "c.test"), table(3, "d.test"), table(4, "e.test"));
    let (mut first, mut second) = (Daemon::of(&edge).await, Daemon::of(&edge).await);
    assert_eq!(first.change(&one, &two).await, "wants the whole", "it has nothing yet");
    assert_eq!(first.whole(&one).await, "serves 1");
    assert_eq!(first.change(&one, &two).await, "serves 2");
    assert_eq!(edge.get("b.test", "/").await.status, 404);
    for host in ["a.test", "c.test"] {
        assert_eq!(edge.get(host, "/").await.text(), "here", "{host}");
    }
    assert_eq!(first.change(&one, &three).await, "wants the whole", "it holds 2");
    assert_eq!(second.change(&two, &three).await, "wants the whole", "another one has told it 2");
    assert_eq!(edge.get("d.test", "/").await.status, 404, "nothing of that was taken");
    assert_eq!(second.whole(&three).await, "serves 3");
    assert_eq!(first.change(&two, &four).await, "wants the whole", "meanwhile it holds 3");
    assert_eq!(second.change(&three, &one).await, "refuses: generation 1 is older than 3, which is served");
    assert_eq!(second.change(&three, &four).await, "serves 4");
    assert_eq!(edge.get("e.test", "/").await.text(), "here");
    assert_eq!(edge.get("d.test", "/").await.status, 404);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_of_both_dies_between_two_changes_the_whole_is_served() {
    let address = answering("here").await;
    let table = |hosts: &[&str]| {
        hosts.iter().fold(TableBuilder::plain(&[address]), |t, host| t.site(host, vec![rule("/", forward(1))]))
    };
    let mut edge = Edge::start().await;
    edge.serve(table(&["b.test"])).await;
    edge.serve(table(&["b.test", "c.test"])).await;
    let pid = edge.handle.observed.borrow().pid;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGKILL).unwrap();
    // Before the next one is there, or is told anything.
    edge.serve(table(&["b.test", "d.test"])).await;
    assert_ne!(edge.handle.observed.borrow().pid, pid);
    for (host, status) in [("a.test", 200), ("b.test", 200), ("c.test", 404), ("d.test", 200)] {
        assert_eq!(edge.get(host, "/").await.status, status, "{host}");
    }
    let served = edge.serve(table(&["d.test", "e.test"])).await;
    let Edge { handle, dir, .. } = edge;
    drop(handle);
    let mut edge = Edge::connected(link::spawn(config(dir.path())), dir).await;
    edge.go_on_from(Some(served));
    edge.serve(table(&["e.test", "f.test"])).await;
    edge.serve(table(&["f.test", "g.test"])).await;
    for (host, status) in [("a.test", 200), ("d.test", 404), ("e.test", 404), ("f.test", 200), ("g.test", 200)] {
        assert_eq!(edge.get(host, "/").await.status, status, "{host}");
    }
    edge.stop().await;
}
