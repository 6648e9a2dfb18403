use std::pin::pin;
use std::task::Poll;

use bowline_core::id::{AppKey, ResourceName};
use bowline_core::units::Bytes;

use super::*;
use crate::NodeConfig;
use crate::disk::image;

/// The app's own: it may pass nowhere to its volumes.
const USER: u32 = 12_345;
const SIZE: u64 = 32 << 20;
const SOON: Duration = Duration::from_secs(30);

/// A node with two volumes that have a size, which nothing uses; what tests mount in it is unmounted when it goes.
struct Node {
    folder: tempfile::TempDir,
    context: Arc<Context>,
}

impl Node {
    /// `None`: the machine gives this user no such volumes.
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let (state, run) = (folder.path().join("state"), folder.path().join("run"));
        let context = Arc::new(Context::new(NodeConfig::new(state, run, "unused".into())));
        let node = Self { folder, context };
        for volume in node.volumes() {
            let lacks = attach_patiently(&node.context, &id(99), &volume, Some(USER)).unwrap();
            fs::write(volume.source.join("x"), "kept").unwrap();
            // As e2fsck would: only root may look into it.
            make_folder(&volume.source.join("lost+found"), 0o700).unwrap();
            node.context.volumes.release(&id(99));
            lacks.is_none().then_some(())?;
        }
        Some(node)
    }

    fn volumes(&self) -> [VolumeMount; 2] {
        ["one", "two"].map(|name| VolumeMount {
            name: ResourceName::new(name).unwrap(),
            source: self.folder.path().join("state/volumes/local/a").join(name),
            path: None,
            size: Some(Bytes(SIZE)),
        })
    }

    fn place(&self) -> PathBuf {
        self.folder.path().join("state/snapshots/local/a/2")
    }

    fn snapshot(&self) -> Snapshot {
        let of = self.volumes().map(|volume| SnapshotOf::Volume { app: app(), volume }).into();
        Snapshot { into: self.place(), release: ReleaseNumber(2), of, uid: Some(USER) }
    }

    /// Whether anything holds a volume, or has it mounted.
    fn is_busy(&self) -> bool {
        let volumes = self.volumes();
        volumes.iter().any(|one| self.context.volumes.is_used(&one.source) || image::is_mounted(&one.source).unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for at in image::mounts_below(self.folder.path()).unwrap().iter().rev() {
            let _ = image::detach(at);
        }
    }
}

fn app() -> AppKey {
    AppKey { env: "local".parse().unwrap(), app: "a".parse().unwrap() }
}

fn id(slot: u16) -> InstanceId {
    let slot = SlotId { key: app(), service: Task::Before.service(), release: ReleaseNumber(1), slot: Slot(slot) };
    InstanceId { slot, incarnation: Incarnation(0) }
}

fn listed(tar: &Path) -> String {
    String::from_utf8(Command::new("tar").arg("-tf").arg(tar).output().unwrap().stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_volumes_that_nothing_uses_each_is_whole() {
    let Some(node) = Node::new() else { return };
    for _ in 0..10 {
        take(&node.context, node.snapshot()).await.unwrap();
        for volume in ["one", "two"] {
            let files = listed(&node.place().join(format!("volume.{volume}.tar")));
            assert!(files.lines().any(|line| line == "./x"), "{volume}: {files}");
        }
        assert!(!node.is_busy(), "it is let go before it is said to be done");
    }
}

/// As soon as it waits for something, and so many milliseconds later.
async fn give_up(node: &Node, after: Option<u64>) {
    let mut taking = pin!(take(&node.context, node.snapshot()));
    match after {
        None => drop(std::future::poll_fn(|context| Poll::Ready(taking.as_mut().poll(context))).await),
        Some(after) => drop(tokio::time::timeout(Duration::from_millis(after), taking).await),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn given_up_at_any_moment_it_leaves_nothing_in_use() {
    let Some(node) = Node::new() else { return };
    for after in std::iter::repeat_n(None, 40).chain((0..40).map(Some)) {
        give_up(&node, after).await;
        let deadline = Instant::now() + SOON;
        while node.is_busy() {
            assert!(Instant::now() < deadline, "given up after {after:?} ms");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!node.place().with_file_name("2~new").exists());
    }
}
