//! A disk that does not answer, as a file server that is away or a dying SSD: it holds up who asks for its files, and nobody else.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bowline_core::route::{Action, Rule};
use bowline_edge::link;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use support::{Edge, Folder, PATIENCE, TableBuilder, config, files, rule};

/// Mounted here, and served by nobody, or by a thread, until it is dropped; then all that waits for it fails.
struct Hanging {
    at: PathBuf,
    ended: Arc<AtomicBool>,
    _server: Option<File>,
}

impl Hanging {
    /// `None`: only root may mount it, where the kernel has FUSE.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let server =
            OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open("/dev/fuse").ok()?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        mount(Some("hanging"), at, Some("fuse"), MsFlags::empty(), Some(options.as_str())).ok()?;
        Some(Self { at: at.to_path_buf(), ended: Arc::default(), _server: Some(server) })
    }

    /// There is `a.txt`, and whoever asks for it is answered, but whoever asks for this.
    fn served(at: &Path, unanswered: u32) -> Option<Self> {
        let mut hanging = Self::mount(at)?;
        let (mut server, ended) = (hanging._server.take()?, Arc::clone(&hanging.ended));
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while !ended.load(Ordering::Relaxed) {
                let mut polled = [PollFd::new(server.as_fd(), PollFlags::POLLIN)];
                if poll(&mut polled, PollTimeout::from(20_u8)).unwrap() == 0 {
                    continue;
                }
                let length = match server.read(&mut buffer) {
                    Ok(length) => length,
                    Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => break,
                    Err(_) => continue,
                };
                // As long as a disk takes.
                std::thread::sleep(Duration::from_millis(1));
                if let Some(answer) = fuse::answer(&buffer[..length], unanswered) {
                    // Who was interrupted wants none.
                    let _ = server.write(&answer);
                }
            }
        });
        Some(hanging)
    }
}

/// As much of the protocol as one file needs (`linux/fuse.h`).
mod fuse {
    const SIZE: u64 = 300_001;
    pub(super) const NOTHING: u32 = 0;
    pub(super) const OPEN: u32 = 14;
    /// `FLUSH`: whoever closes it waits.
    pub(super) const CLOSE: u32 = 25;
    const ENOENT: i32 = 2;
    const ENOSYS: i32 = 38;

    pub(super) fn contents() -> Vec<u8> {
        (0..SIZE).map(|at| (at % 251) as u8).collect()
    }

    fn number(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn attributes(node: u64) -> Vec<u8> {
        let (mode, size) = if node == 1 { (0o40755, 0) } else { (0o100_644, SIZE) };
        let mut out: Vec<u8> = [node, size, 0, 0, 0, 0].iter().flat_map(|field| field.to_le_bytes()).collect();
        out.extend(words(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0]));
        out
    }

    /// `None`: it is not to be answered.
    pub(super) fn answer(asked: &[u8], unanswered: u32) -> Option<Vec<u8>> {
        let opcode = u32::from_le_bytes(asked[4..8].try_into().unwrap());
        let (unique, node, body) = (&asked[8..16], number(asked, 16), &asked[40..]);
        let (error, body) = match opcode {
            _ if opcode == unanswered => return None,
            // LOOKUP
            1 if body == b"a.txt\0" => {
                let mut out = words(&[2, 0, 0, 0, 600, 0, 600, 0, 0, 0]);
                out.extend(attributes(2));
                (0, out)
            }
            1 => (-ENOENT, Vec::new()),
            // FORGET, INTERRUPT, BATCH_FORGET
            2 | 36 | 42 => return None,
            // GETATTR
            3 => (0, [words(&[600, 0, 0, 0]), attributes(node)].concat()),
            OPEN => (0, vec![0; 16]),
            // READ
            15 => {
                let from = number(body, 8).min(SIZE) as usize;
                let size = u32::from_le_bytes(body[16..20].try_into().unwrap()) as usize;
                let contents = contents();
                (0, contents[from..contents.len().min(from + size)].to_vec())
            }
            // RELEASE
            18 => (0, Vec::new()),
            CLOSE => (0, Vec::new()),
            // INIT
            26 => (0, words(&[7, 31, 128 << 10, 0, 0, 4096, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
            _ => (-ENOSYS, Vec::new()),
        };
        let length = u32::try_from(16 + body.len()).unwrap();
        Some([&length.to_le_bytes()[..], &i32::to_le_bytes(error), unique, &body].concat())
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_does_not_answer_holds_up_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let (hung, local) = (folder.path().join("hung"), folder.path().join("local"));
    let Some(hanging) = Hanging::mount(&hung) else { return };
    std::fs::create_dir(&local).unwrap();
    std::fs::write(local.join("a.txt"), "a file").unwrap();
    let mut edge = Edge::with_workers(1).await;
    let hasty = |root: &Path| Rule { timeout: Duration::from_millis(300), ..rule("/", files(root, None)) };
    let table = TableBuilder::default()
        .site("hung.test", vec![hasty(&hung.join("site"))])
        .site("local.test", vec![rule("/", files(&local, None))])
        .site("deny.test", vec![rule("/", Action::Deny)]);
    edge.serve(table).await;
    let (waits, others) = tokio::join!(edge.get("hung.test", "/a.txt"), async {
        (edge.get("deny.test", "/").await.status, edge.get("local.test", "/a.txt").await.status)
    });
    assert_eq!((waits.status, waits.header("x-bowline-error")), (504, Some("disk-timeout")));
    assert_eq!(others, (403, 200));
    // All threads hang, and those that ask then do not wait.
    let refused = async {
        loop {
            let answer = edge.get("hung.test", "/a.txt").await;
            match answer.header("x-bowline-error") {
                Some("disk-timeout") => {}
                other => break (answer.status, other.map(str::to_owned)),
            }
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refused).await.expect("its threads are without number");
    assert_eq!(refused, (503, Some("disk-busy".to_owned())));
    assert_eq!(edge.get("deny.test", "/").await.status, 403);
    drop(hanging);
    edge.eventually(|| async { edge.get("local.test", "/a.txt").await.text() == "a file" }).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_a_slow_disk_with_many_others_gets_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_served) = Hanging::served(&folder.path().join("slow"), fuse::NOTHING) else { return };
    let mut edge = Edge::with_workers(1).await;
    let table = TableBuilder::default().site("slow.test", vec![rule("/", files(&folder.path().join("slow"), None))]);
    edge.serve(table).await;
    let edge = Arc::new(edge);
    let many = (0..150).map(|_| {
        let edge = Arc::clone(&edge);
        tokio::spawn(async move { edge.get("slow.test", "/a.txt").await })
    });
    let contents = fuse::contents();
    for answer in many.collect::<Vec<_>>() {
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.body == contents), (200, true), "{}", answer.head);
    }
    let Ok(edge) = Arc::try_unwrap(edge) else { panic!("all have ended") };
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_end_hangs_holds_up_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let Some(hanging) = Hanging::served(&folder.path().join("hung"), fuse::CLOSE) else { return };
    let mut edge = Edge::with_workers(1).await;
    let table = TableBuilder::default()
        .site("hung.test", vec![rule("/", files(&folder.path().join("hung"), None))])
        .site("deny.test", vec![rule("/", Action::Deny)]);
    edge.serve(table).await;
    let whole = edge.get("hung.test", "/a.txt").await;
    assert_eq!((whole.status, whole.body == fuse::contents()), (200, true));
    assert_eq!(edge.get("deny.test", "/").await.status, 403);
    for (field, status) in [("If-None-Match: *", 304), ("Range: bytes=400000-", 416)] {
        let mut talk = edge.connect().await;
        talk.say(&format!("GET /a.txt HTTP/1.1\r\nHost: hung.test\r\n{field}\r\n\r\n")).await;
        assert!(talk.try_head().await.unwrap().starts_with(&format!("HTTP/1.1 {status} ")));
        assert_eq!(edge.get("deny.test", "/").await.status, 403);
    }
    drop(hanging);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_may_be_mounted_over_a_folder_that_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("local");
    std::fs::create_dir(&local).unwrap();
    std::fs::write(local.join("a.txt"), "a file").unwrap();
    let mut edge = Edge::with_workers(1).await;
    let hasty = Rule { timeout: Duration::from_millis(300), ..rule("/", files(&local, None)) };
    let table = TableBuilder::default().site("a.test", vec![hasty]).site("deny.test", vec![rule("/", Action::Deny)]);
    edge.serve(table).await;
    assert_eq!(edge.get("a.test", "/a.txt").await.text(), "a file");
    let Some(hanging) = Hanging::served(&local, fuse::OPEN) else { return };
    for _ in 0..2 {
        // From the second on, memory knows the name.
        assert_eq!(edge.get("a.test", "/a.txt").await.status, 504);
        assert_eq!(edge.get("deny.test", "/").await.status, 403);
    }
    drop(hanging);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_ends_though_its_disk_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let hung = folder.path().join("hung");
    let Some(_hanging) = Hanging::mount(&hung) else { return };
    let mut edge = Edge::with_workers(1).await;
    let hasty = Rule { timeout: Duration::from_millis(300), ..rule("/", files(&hung.join("site"), None)) };
    edge.serve(TableBuilder::default().site("hung.test", vec![hasty])).await;
    assert_eq!(edge.get("hung.test", "/a.txt").await.status, 504);
    let end = edge.handle.shutdown.edge(2 * PATIENCE);
    tokio::time::timeout(PATIENCE, end).await.expect("it waits for its disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_ends_though_its_log_hangs() {
    let folder = Folder::new();
    let logs = folder.path().join("logs");
    std::fs::create_dir_all(&logs).unwrap();
    // Whoever opens it to write waits for a reader, and none comes.
    nix::unistd::mkfifo(&logs.join("access.log"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut edge = Edge::connected(link::spawn(config(folder.path())), folder).await;
    edge.serve(TableBuilder::default()).await;
    assert_eq!(edge.get("absent.test", "/").await.status, 404);
    // Long before whoever has started it would kill it.
    let end = edge.handle.shutdown.edge(2 * PATIENCE);
    tokio::time::timeout(PATIENCE, end).await.expect("it waits for its log");
}
