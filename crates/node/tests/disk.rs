//! A disk that fills: a small one of its own, mounted by root.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[expect(dead_code, reason = "the other tests need more of it")]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use bowline_core::id::ResourceName;
use bowline_core::instance::{DiskPlace, ExitCause, VolumeMount};
use bowline_core::units::Bytes;
use support::{Node, is_root};

const FILLER: &str = "a.web.r1.0.1";
const NEIGHBOUR: &str = "b.web.r1.0.1";
const DISK: u64 = 256 << 20;

/// A file system in a file; gone when dropped.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// With some 120 MiB left. `None`: only root mounts one.
    fn new() -> Option<Self> {
        if !is_root() {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let disk = Self { folder };
        let image = disk.folder.path().join("image");
        fs::create_dir(disk.at()).unwrap();
        fs::File::create(&image).unwrap().set_len(DISK).unwrap();
        let run = |command: &mut Command| assert!(command.status().unwrap().success(), "{command:?}");
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.at()));
        run(Command::new("fallocate").args(["-l", "100MiB"]).arg(disk.at().join("ballast")));
        Some(disk)
    }

    fn at(&self) -> PathBuf {
        self.folder.path().join("disk")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy"]).arg(self.at()).status();
    }
}

fn filler(folder: &str) -> String {
    format!("while :; do head -c 2097152 /dev/zero >> {folder}/x || sleep 1; sleep 0.05; done")
}

/// Without a file system of its own: as where there are no loop devices.
fn unbounded(state: &Path) -> Node {
    Node::with(|config| {
        config.state_dir = state.join("state");
        config.namespaces = false;
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_fills_the_disk_ends_with_that_cause_and_its_neighbour_goes_on() {
    let Some(disk) = SmallDisk::new() else { return };
    let mut node = unbounded(&disk.at());
    node.run(node.spec(NEIGHBOUR, "sleep 600"));
    let (neighbour, ..) = node.running(NEIGHBOUR).await;
    node.run(node.spec(FILLER, &filler("$TMPDIR")));
    assert!(node.running(FILLER).await.2.unenforced.contains(&"disk limit".to_owned()));
    let cause = node.exited(FILLER).await.cause;
    let ExitCause::FilledDisk { bytes, place: DiskPlace::Scratch } = cause else { panic!("{cause:?}") };
    assert!(bytes.0 > 16 << 20, "{bytes}");
    assert_eq!(node.running(NEIGHBOUR).await.0, neighbour);
    // What it wrote goes with it.
    node.order(FILLER, None);
    node.forgotten(FILLER).await;
    let free = nix::sys::statvfs::statvfs(&disk.at()).unwrap();
    assert!(free.blocks_available() * free.fragment_size() > 64 << 20);
    node.order(NEIGHBOUR, None);
    node.forgotten(NEIGHBOUR).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fills_a_volume_is_named_and_the_disk_is_told() {
    let Some(disk) = SmallDisk::new() else { return };
    let mut node = unbounded(&disk.at());
    let name = ResourceName::new("files").unwrap();
    let source = node.config.state_dir.join("volumes/local/a/files");
    let mut spec = node.spec(FILLER, &filler("$BOWLINE_VOLUME_FILES"));
    spec.volumes = vec![VolumeMount { name, source, path: None, size: None }];
    node.run(spec);
    node.running(FILLER).await;
    let seen = node
        .until("it is named", |seen| {
            let disk = seen.disk.clone()?;
            let stopped = seen.instances.values().any(|one| format!("{:?}", one.phase).contains("FilledDisk"));
            (stopped || disk.growing.as_deref() == Some("volume files of local/a")).then_some(disk)
        })
        .await;
    assert!(seen.free < seen.reserve && seen.total < Bytes(DISK), "{seen:?}");
    node.order(FILLER, None);
    node.forgotten(FILLER).await;
}
