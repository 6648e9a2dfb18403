//! A disk that one app fills: a small one of its own, so that the machine's is not.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bowline_tests::client::curl;
use bowline_tests::load::Load;
use bowline_tests::machine::Process;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, text, wait};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// A file system in a file, mounted; gone when dropped.
pub(crate) struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    const BYTES: u64 = 2 << 30;

    /// As root, who may mount one.
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("bowline-disk-").tempdir().expect("a folder of a test");
        bowline_tests::set_mode(dir.path(), 0o711);
        let (image, at) = (dir.path().join("image"), dir.path().join("disk"));
        std::fs::create_dir(&at).expect("a folder of a test");
        std::fs::File::create(&image).and_then(|file| file.set_len(Self::BYTES)).expect("a file of a test");
        for command in [
            Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image),
            Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at),
        ] {
            let output = command.output().expect("a tool of every Debian");
            assert!(output.status.success(), "this machine mounts no file: {}", text(&output));
        }
        Self { dir }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("disk/state")
    }

    /// Whatever writes to it waits until this is dropped.
    pub(crate) fn freeze(&self) -> Frozen {
        let frozen = Frozen(self.dir.path().join("disk"));
        let output =
            Command::new("fsfreeze").arg("--freeze").arg(&frozen.0).output().expect("fsfreeze is of util-linux");
        assert!(output.status.success(), "this machine freezes no disk: {}", text(&output));
        frozen
    }
}

pub(crate) struct Frozen(PathBuf);

impl Drop for Frozen {
    fn drop(&mut self) {
        let output = Command::new("fsfreeze").arg("--unfreeze").arg(&self.0).output();
        assert!(output.is_ok_and(|output| output.status.success()) || std::thread::panicking(), "it stays frozen");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.dir.path().join("disk")).output();
    }
}

/// Fields are dropped in their order: the daemon ends before its disk goes.
struct Scene {
    attacker: Up,
    neighbour: Up,
    bowline: Bowline,
    disk: SmallDisk,
}

impl Scene {
    fn set(test: &str, volumes: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let disk = SmallDisk::new();
        let bowline = Bowline::with_state(disk.state());
        let neighbour = bowline.app(&format!("{test}-neighbour"), "plain");
        let attacker = bowline.app(&format!("{test}-attacker"), "attacker");
        let toml = std::fs::read_to_string(attacker.join("bowline.toml")).expect("a fixture");
        std::fs::write(attacker.join("bowline.toml"), toml.replace("[volume.files]", volumes)).expect("a test's file");
        let neighbour = Up::start(&bowline, &neighbour, SOON);
        let attacker = Up::start(&bowline, &attacker, SOON);
        Some(Self { attacker, neighbour, bowline, disk })
    }

    fn ask(&self, attempt: &str, arguments: &Value) -> Value {
        let asked = json!({ "attempt": attempt, "arguments": arguments }).to_string();
        let answer = curl(&self.bowline.ca(), &self.attacker.https(), &["--data", &asked]);
        serde_json::from_slice(&answer.body).unwrap_or(Value::Null)
    }

    /// Free for ordinary users.
    fn free(&self) -> u64 {
        let found = nix::sys::statvfs::statvfs(&self.disk.state()).expect("a mounted disk");
        found.blocks_available() as u64 * found.fragment_size() as u64
    }

    fn app(&self, name: &str) -> Value {
        let status = self.bowline.status();
        let apps = status["apps"].as_array().expect("apps");
        apps.iter().find(|app| app["app"].as_str().is_some_and(|app| app.ends_with(name))).expect("it is known").clone()
    }

    fn neighbour_pid(&self) -> u64 {
        self.app("neighbour")["services"][0]["instances"][0]["pid"].as_u64().expect("it runs")
    }
}

#[test]
fn an_app_that_fills_all_it_has_leaves_the_machine_its_reserve() {
    let Some(scene) = Scene::set("disk-full", "[volume.files]\nsize = \"64MiB\"") else { return };
    let instance = scene.app("attacker")["services"][0]["instances"][0].clone();
    assert_eq!(instance["cage"], "full", "{instance}");
    let load = Load::start(&scene.neighbour.https(), "/", &scene.bowline.ca());
    let share = SmallDisk::BYTES / 8;
    for (attempt, folder, most) in [
        // Memory, which it must give back for the others.
        ("disk_bomb", "/tmp", 192 * MIB),
        ("disk_bomb", "/dev/shm", 192 * MIB),
        ("fill", "$TMPDIR", share),
        ("fill", "$BOWLINE_VOLUME_FILES", 64 * MIB),
    ] {
        let told = scene.ask(attempt, &json!([folder]));
        assert_eq!(told["told"]["why"], "No space left on device", "{folder}: {told}");
        let bytes = told["told"]["bytes"].as_u64().expect("it wrote");
        assert!(bytes <= most && bytes >= most / 2, "{folder}: {bytes} of {most}");
    }
    // Its layer is where its temporary folder is, and as full.
    let told = scene.ask("fill", &json!(["."]));
    assert_eq!(told["told"]["why"], "No space left on device", "{told}");
    assert!(scene.free() >= SmallDisk::BYTES / 20, "{} are left", scene.free());
    load.more();
    let value = scene.bowline.folder("values").join("value");
    std::fs::write(&value, "kept").expect("a test's file");
    let value = value.to_str().expect("UTF-8");
    let stored = scene.bowline.run(&["secret", "set", "disk-full-neighbour", "late", "--file", value]);
    assert!(stored.status.success(), "the store takes it: {}", text(&stored));
    let seen = scene.app("attacker")["volumes"][0].clone();
    assert_eq!((&seen["name"], &seen["size_bytes"]), (&json!("files"), &json!(64 * MIB)), "{seen}");
    load.stop().expect_no_failure("while everything was filled beside it");
    // Nothing of it outlives it.
    let state = scene.bowline.state();
    assert!(scene.bowline.run(&["down"]).status.success());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let state = state.to_str().expect("UTF-8");
    assert!(!mounts.lines().any(|line| line.split(' ').nth(4).is_some_and(|at| at.starts_with(state))), "{mounts}");
}

#[test]
fn a_volume_without_a_size_that_fills_the_disk_is_named_and_others_go_on() {
    let Some(scene) = Scene::set("disk-open", "[volume.open]") else { return };
    let before = scene.neighbour_pid();
    let load = Load::start(&scene.neighbour.https(), "/", &scene.bowline.ca());
    scene.ask("fill", &json!(["$BOWLINE_VOLUME_OPEN"]));
    wait("it is named", SOON, || {
        let growing = scene.bowline.status()["daemon"]["disk"]["growing"].clone();
        let stopped = text(&scene.bowline.run(&["events"])).contains("it filled the disk");
        (growing == "volume open of local/disk-open-attacker" || stopped).then_some(())
    });
    load.more();
    assert_eq!(scene.neighbour_pid(), before);
    load.stop().expect_no_failure("while the disk was filled");
    assert!(Process { pid: scene.bowline.daemon() }.runs());
}

/// As long as an engine of another test may hold what it has copied.
const LET_GO: Duration = Duration::from_secs(180);

/// Whether a loop device has this file.
fn is_attached(image: &Path) -> bool {
    let devices = std::fs::read_dir("/sys/block").expect("devices").flatten();
    let mut files = devices.filter_map(|device| std::fs::read_to_string(device.path().join("loop/backing_file")).ok());
    files.any(|file| Path::new(file.trim_end()) == image)
}

#[test]
fn a_size_that_is_made_smaller_is_refused_and_a_larger_one_is_given() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let bowline = Bowline::new();
    let folder = bowline.app("disk-size", "attacker");
    let toml = std::fs::read_to_string(folder.join("bowline.toml")).expect("a fixture");
    let write = |size: &str| {
        let toml = toml
            .replace("cage   = \"required\"\n", "")
            .replace("[volume.files]", &format!("[volume.files]\nsize = \"{size}\""));
        std::fs::write(folder.join("bowline.toml"), toml).expect("a test's file");
    };
    write("64MiB");
    let up = Up::start(&bowline, &folder, SOON);
    let ask = |up: &Up, attempt: &str, file: &str| {
        let asked = json!({ "attempt": attempt, "arguments": [file] }).to_string();
        curl(&bowline.ca(), &up.https(), &["--data", &asked]).json()
    };
    assert_eq!(ask(&up, "fill", "$BOWLINE_VOLUME_FILES")["told"]["why"], "No space left on device");
    write("32MiB");
    let dir = folder.to_str().expect("UTF-8");
    let said = bowline.fails(&["up", dir, "--detach", "--http", "0", "--https", "0", "--admin", "0"], 3);
    assert!(said.contains("cannot be shrunk to 32MiB") && said.contains("size = \"64MiB\""), "{said}");
    write("128MiB");
    drop(up);
    let image = bowline.state().join("volumes/local/disk-size/files.img");
    assert!(is_attached(&image), "it is mounted");
    assert!(bowline.run(&["down"]).status.success());
    // Whatever of this machine has made a mount namespace meanwhile has it in there as well, until that goes; where the kernel
    // grows nothing that is mounted, it would stay as it is.
    wait("no mount namespace holds it", LET_GO, || (!is_attached(&image)).then_some(()));
    let up = Up::start(&bowline, &folder, SOON);
    let status = bowline.status();
    assert_eq!(status["apps"][0]["volumes"][0]["size_bytes"], 128 * MIB, "{}", status["apps"][0]);
    let bomb = bowline.state().join("volumes/local/disk-size/files/bomb");
    assert!(bomb.metadata().is_ok_and(|meta| meta.len() > 32 * MIB), "its data are there");
    assert_eq!(ask(&up, "fill", "$BOWLINE_VOLUME_FILES")["told"]["why"], "No space left on device");
    assert!(bomb.metadata().is_ok_and(|meta| meta.len() > 64 * MIB), "and it may hold more");
}

/// What a build would keep mounted could be neither removed nor filled anew while it goes on.
#[test]
fn a_build_holds_no_volume_of_others() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let bowline = Bowline::new();
    let folder = bowline.app("disk-held", "plain");
    let toml = "[service.web]\nrun = \"python3 server.py\"\nhealth = { path = \"/health\" }\n[volume.files]\nsize = \"64MiB\"\n";
    std::fs::write(folder.join("bowline.toml"), toml).expect("a test's file");
    let _up = Up::start(&bowline, &folder, SOON);
    let volume = bowline.state().join("volumes/local/disk-held/files").display().to_string();
    let seen = std::fs::read_to_string(format!("/proc/{}/mountinfo", bowline.daemon())).expect("the daemon runs");
    assert!(seen.contains(&volume), "the machine has it mounted: {seen}");

    let site = bowline.folder("disk-holder");
    let toml =
        "[service.web]\nbuild = \"mkdir out; cat /proc/self/mountinfo > out/index.html\"\nstatic = { dir = \"out\" }\n";
    std::fs::write(site.join("bowline.toml"), toml).expect("a test's file");
    let built = Up::start(&bowline, &site, SOON);
    let page = curl(&bowline.ca(), &built.https(), &[]).text();
    assert!(page.contains(" / ") && !page.contains(&volume), "{page}");
}
