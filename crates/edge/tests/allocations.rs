//! A plain request takes no memory of its own: what it needs was given back by those before it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bowline_core::id::Generation;
use bowline_core::route::{Credentials, EdgeDesired, Gate, Proof, Table};
use bowline_edge::EdgeArgs;
use bowline_edge::wire::{Channel, DesiredFrame, FromEdge, PROTOCOL, ToEdge};
use sha2::{Digest, Sha256};
use support::*;
use tokio::net::{TcpStream, UnixStream};

const CONNECTIONS: u64 = 4;

/// Requests that fill what is kept, and those that are counted.
const FIRST: u64 = 400;
const COUNTED: u64 = 2_000;

/// Reports and ticks allocate, too: of so many requests one may.
const RARE: u64 = 20;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Known once it is: a thread is named after it has begun.
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

/// The system's; counts what the edge's one worker asks for.
struct Counting;

fn count() {
    let is_worker = IS_WORKER.try_with(|known| {
        known.set(known.get() || name().starts_with(b"edge-0\0"));
        known.get()
    });
    if is_worker.unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

/// This thread's; allocates nothing.
#[expect(unsafe_code, reason = "the kernel writes the name where it is told to")]
fn name() -> [u8; 16] {
    let mut name = [0; 16];
    // SAFETY: it writes at most 16 bytes, its NUL included.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name
}

#[expect(unsafe_code, reason = "an allocator is one by contract")]
// SAFETY: all of it is the system's, asked for the same.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(place, layout) }
    }
}

/// What most requests bring, and the token that the route wants.
const REQUEST: &str = "GET /items/7?page=2 HTTP/1.1\r\nHost: a.test\r\nUser-Agent: tests\r\nAccept: */*\r\n\
    Accept-Encoding: gzip\r\nX-Auth-Token: s3cret\r\nCookie: a=b; c=d\r\n\r\n";

fn guarded(address: std::net::SocketAddr) -> EdgeDesired {
    let salt = [7; 16];
    let digest = Sha256::new().chain_update(salt).chain_update("s3cret").finalize().into();
    let credentials = Credentials { salt, digests: BTreeSet::from([digest]) };
    let mut rule = rule("/", forward(1));
    rule.policies.auth = Some(Gate { proof: Proof::Header("x-auth-token".to_owned()), credentials });
    let table = TableBuilder::default().site("a.test", vec![rule]).pool(1, &[address]).into_table();
    EdgeDesired { table: Arc::new(Table { generation: Generation(1), ..table }), ..EdgeDesired::default() }
}

async fn ask(connections: &mut [Talk<TcpStream>], times: u64) {
    for at in 0..times {
        let talk = &mut connections[usize::try_from(at % CONNECTIONS).unwrap()];
        talk.say(REQUEST).await;
        assert_eq!(talk.answer().await.text(), "here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_request_allocates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edge.sock");
    let control = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let http = listener.local_addr().unwrap();
    let args = EdgeArgs {
        control_fd: control.into_raw_fd(),
        http_fd: Some(listener.into_raw_fd()),
        https_fd: None,
        log_dir: dir.path().to_owned(),
        workers: 1,
        successor: false,
    };
    let edge = std::thread::spawn(move || bowline_edge::run(&args));
    let mut daemon = Channel::new(UnixStream::connect(&path).await.unwrap());
    daemon.send(&ToEdge::Hello { protocol: PROTOCOL }, &[]).await.unwrap();
    let desired = guarded(answering("here").await);
    daemon.send(&ToEdge::Desired(Box::new(DesiredFrame::from(&desired))), &[]).await.unwrap();
    while !matches!(daemon.receive::<FromEdge>().await.unwrap().unwrap().0, FromEdge::Serving { .. }) {}

    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Talk::new(TcpStream::connect(http).await.unwrap()));
    }
    ask(&mut connections, FIRST).await;
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    assert!(before > 0, "the worker is counted");
    ask(&mut connections, COUNTED).await;
    let allocated = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert!(allocated * RARE <= COUNTED, "{allocated} allocations for {COUNTED} requests");

    daemon.send(&ToEdge::Shutdown { limit_ms: 1_000 }, &[]).await.unwrap();
    edge.join().unwrap().unwrap();
}
