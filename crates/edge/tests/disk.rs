//! A disk that does not answer, as a file server that is away or a dying SSD: it holds up who asks for its files, and nobody else.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bowline_core::route::{Action, Rule};
use bowline_edge::link;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use support::{Edge, Folder, PATIENCE, TableBuilder, config, files, rule};

/// Mounted here, and served by nobody until it is dropped; then all that waits for it fails.
struct Hanging {
    at: PathBuf,
    _server: File,
}

impl Hanging {
    /// `None`: only root may mount it, where the kernel has FUSE.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let server = OpenOptions::new().read(true).write(true).open("/dev/fuse").ok()?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        mount(Some("hanging"), at, Some("fuse"), MsFlags::empty(), Some(options.as_str())).ok()?;
        Some(Self { at: at.to_path_buf(), _server: server })
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
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
