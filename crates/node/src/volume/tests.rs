use std::path::Path;

use super::*;

fn mount(folder: &Path, size: Option<u64>) -> VolumeMount {
    let name = ResourceName::new("files").unwrap();
    VolumeMount { name, source: folder.to_owned(), path: None, size: size.map(Bytes) }
}

fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

/// A state folder; what tests mount in it is unmounted when it goes.
struct State {
    folder: tempfile::TempDir,
    volumes: Volumes,
}

impl State {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let volumes = Volumes::new(folder.path().join("volumes"));
        Self { folder, volumes }
    }

    fn files(&self) -> PathBuf {
        self.folder.path().join("volumes/local/a/files")
    }

    fn attach(&self, who: &str, size: Option<u64>) -> Result<Option<String>, VolumeError> {
        let mut tries = 500;
        loop {
            match self.volumes.attach(&id(who), &mount(&self.files(), size), Some(12_345)) {
                // A process that another test is just forking has a copy of the lock until it is another program.
                Err(VolumeError::Busy) if tries > 0 => tries -= 1,
                other => return other,
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    fn mounted(&self) -> bool {
        image::is_mounted(&self.files()).unwrap()
    }

    fn observed(&self) -> Option<VolumeObservation> {
        self.volumes.observe().into_values().next()
    }

    /// What the next daemon would know: nothing.
    fn crash(&mut self) {
        self.volumes = Volumes::new(self.folder.path().join("volumes"));
    }
}

impl Drop for State {
    fn drop(&mut self) {
        for at in image::mounts_below(self.folder.path()).unwrap().iter().rev() {
            let _ = image::detach(at);
        }
    }
}

const ONE: &str = "local/a.web.r1.0.1";
const TWO: &str = "local/a.web.r2.0.1";
const SIZE: u64 = 32 << 20;

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn a_volume_is_made_once_and_its_content_stays() {
    let state = State::new();
    let folder = state.files();
    ensure(&folder, None).unwrap();
    fs::write(folder.join("x"), "kept").unwrap();
    ensure(&folder, None).unwrap();
    assert_eq!(fs::read_to_string(folder.join("x")).unwrap(), "kept");
    assert_eq!(folder.metadata().unwrap().mode() & 0o777, 0o700);
    assert_eq!(folder.parent().unwrap().metadata().unwrap().mode() & 0o777, 0o711);
}

#[test]
fn what_an_ordinary_user_cannot_enforce_is_said() {
    if is_root() {
        return;
    }
    let state = State::new();
    assert_eq!(state.attach(ONE, Some(SIZE)).unwrap().as_deref(), Some("size of volume files"));
    assert_eq!(state.attach(TWO, None).unwrap(), None);
}

#[test]
fn a_volume_with_a_size_holds_no_more_is_reserved_and_goes_with_its_last_user() {
    if !is_root() {
        return;
    }
    let mut state = State::new();
    assert_eq!(state.attach(ONE, Some(SIZE)).unwrap(), None);
    assert_eq!(state.attach(TWO, Some(SIZE)).unwrap(), None);
    let meta = state.files().metadata().unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o777), (12_345, 0o700));
    assert_eq!(fs::read_dir(state.files()).unwrap().count(), 0, "nothing is in it that the app did not put there");
    let image = state.files().with_extension("img").metadata().unwrap();
    assert!(image.blocks() * 512 >= SIZE, "{}", image.blocks());
    let full = fs::write(state.files().join("x"), vec![7; SIZE as usize]).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    fs::write(state.files().join("x"), "kept").unwrap();
    let seen = state.observed().unwrap();
    assert_eq!(seen.size, Some(Bytes(SIZE)));
    assert!(seen.used.is_some_and(|used| used.0 < SIZE));

    state.volumes.release(&id(ONE));
    assert!(state.mounted());
    state.volumes.release(&id(TWO));
    assert!(!state.mounted());
    // A file that forgets the size does not forget the data.
    assert_eq!(state.attach(ONE, None).unwrap(), None);
    assert_eq!(fs::read_to_string(state.files().join("x")).unwrap(), "kept");

    state.crash();
    state.volumes.settle([(id(ONE), vec![state.files()])].into_iter());
    assert!(state.mounted(), "its user lives");
    state.crash();
    state.volumes.settle(std::iter::empty());
    assert!(!state.mounted(), "nobody uses it");
}

#[test]
fn a_volume_grows_and_never_shrinks() {
    if !is_root() {
        return;
    }
    let state = State::new();
    state.attach(ONE, Some(SIZE)).unwrap();
    fs::write(state.files().join("x"), "kept").unwrap();
    // While it is in use only some machines can; the others say so, and do it when nothing uses it.
    match state.attach(TWO, Some(2 * SIZE)).unwrap().as_deref() {
        None => {}
        said => assert_eq!(said, Some("size of volume files (32MiB until nothing uses it)")),
    }
    state.volumes.release(&id(ONE));
    state.volumes.release(&id(TWO));
    assert_eq!(state.attach(TWO, Some(2 * SIZE)).unwrap(), None);
    fs::write(state.files().join("y"), vec![7; SIZE as usize + (8 << 20)]).unwrap();
    state.volumes.release(&id(TWO));
    let said = state.attach(ONE, Some(SIZE)).unwrap();
    assert_eq!(said.as_deref(), Some("size of volume files (64MiB, it is never shrunk)"));
    assert_eq!(fs::read_to_string(state.files().join("x")).unwrap(), "kept");
}

/// Owners, links and times, not only bytes.
fn old_data(state: &State) {
    ensure(&state.files(), Some(12_345)).unwrap();
    fs::create_dir(state.files().join("deep")).unwrap();
    fs::write(state.files().join("deep/x"), "kept").unwrap();
    std::os::unix::fs::symlink("deep/x", state.files().join("link")).unwrap();
    chown(state.files().join("deep/x"), Some(12_345), Some(12_345)).unwrap();
}

fn check_old_data(state: &State) {
    assert_eq!(fs::read_to_string(state.files().join("link")).unwrap(), "kept");
    assert_eq!(state.files().join("deep/x").metadata().unwrap().uid(), 12_345);
}

#[test]
fn data_of_a_folder_move_into_a_file_system_when_nothing_uses_them() {
    if !is_root() {
        return;
    }
    let state = State::new();
    old_data(&state);
    assert_eq!(state.attach(ONE, None).unwrap(), None);
    let said = state.attach(TWO, Some(SIZE)).unwrap();
    assert_eq!(said.as_deref(), Some("size of volume files (until nothing uses it)"));
    state.volumes.release(&id(ONE));
    state.volumes.release(&id(TWO));
    assert_eq!(state.attach(TWO, Some(SIZE)).unwrap(), None);
    assert!(state.mounted());
    check_old_data(&state);
    let beside = fs::read_dir(state.files().parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
    let beside: BTreeSet<_> = beside.collect();
    assert_eq!(beside, ["files", "files.img", "files.lock"].map(Into::into).into());
}

#[test]
fn data_that_are_too_much_for_the_size_stay_where_they_are() {
    if !is_root() {
        return;
    }
    let state = State::new();
    old_data(&state);
    fs::write(state.files().join("large"), vec![7; SIZE as usize]).unwrap();
    let error = state.attach(ONE, Some(SIZE)).unwrap_err();
    assert!(error.to_string().starts_with("its folder holds 32.0 MiB, too much for a size of 32.0 MiB"), "{error}");
    check_old_data(&state);
    assert_eq!(state.attach(ONE, None).unwrap(), None, "nothing has changed");
}

/// Each place where a crash may leave it.
#[test]
fn a_move_that_was_cut_short_loses_nothing() {
    if !is_root() {
        return;
    }
    let paths = |state: &State| Home::of(&state.files());
    let moved_aside = |state: &State| {
        old_data(state);
        fs::rename(state.files(), paths(state).plain).unwrap();
    };
    let half_made = |state: &State| {
        moved_aside(state);
        fs::write(paths(state).fresh, "half of a file system").unwrap();
        fs::create_dir(paths(state).filling).unwrap();
    };
    let not_mounted = |state: &State| {
        old_data(state);
        state.attach(ONE, Some(SIZE)).unwrap();
        state.volumes.release(&id(ONE));
    };
    let not_removed = |state: &State| {
        not_mounted(state);
        fs::create_dir(paths(state).plain).unwrap();
        fs::write(paths(state).plain.join("x"), "of before").unwrap();
        fs::remove_dir(state.files()).unwrap();
    };
    let cases: [&dyn Fn(&State); 4] = [&moved_aside, &half_made, &not_mounted, &not_removed];
    for (number, crash) in cases.iter().enumerate() {
        let mut state = State::new();
        crash(&state);
        state.crash();
        assert_eq!(state.attach(TWO, Some(SIZE)).unwrap(), None, "{number}");
        check_old_data(&state);
        assert!(!paths(&state).plain.exists() && !paths(&state).fresh.exists(), "{number}");
    }
}

#[test]
fn files_that_a_mount_would_hide_are_named() {
    if !is_root() {
        return;
    }
    let state = State::new();
    state.attach(ONE, Some(SIZE)).unwrap();
    state.volumes.release(&id(ONE));
    fs::write(state.files().join("put-here-by-hand"), "").unwrap();
    assert!(matches!(state.attach(ONE, Some(SIZE)), Err(VolumeError::Hidden { .. })));
}

#[test]
fn more_than_the_disk_has_is_refused_at_once() {
    if !is_root() {
        return;
    }
    let state = State::new();
    let error = state.attach(ONE, Some(1 << 50)).unwrap_err();
    assert!(error.to_string().starts_with("1024.0 TiB cannot be reserved: "), "{error}");
    assert_eq!(fs::read_dir(state.files().parent().unwrap()).unwrap().count(), 2, "the folder and the lock");
}

#[test]
fn a_path_is_followed_as_far_as_it_is_there() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().canonicalize().unwrap();
    std::os::unix::fs::symlink(&root, root.join("link")).unwrap();
    let check = |path: &str, expected: &str| assert_eq!(real(&root.join(path)), root.join(expected), "{path}");
    check("link/a/b", "a/b");
    check("a", "a");
    assert_eq!(real(&root.join("link")), root);
}
