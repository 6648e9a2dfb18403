//! A disk that is full, and writes that fail: said clearly, nothing acknowledged is lost, and it works again after.

use std::process::Command;

use super::crash::respawn;
use super::*;

const FULL: &str = "BOWLINE_TEST_STORE_FULL";
const LIMITED: &str = "BOWLINE_TEST_STORE_LIMITED";

/// Commits until an error comes. Returns it and how many commits went well.
fn commit_until_refused(store: &Store) -> (usize, StoreError) {
    let text = "x".repeat(20_000);
    for n in 0..10_000 {
        if let Err(error) = append(store, &text) {
            return (n, error);
        }
    }
    panic!("there is room for 200 MB");
}

/// The child, in a mount namespace of its own.
fn fill_a_small_disk(dir: &Path) {
    let options = Some("size=2m");
    nix::mount::mount(Some("none"), dir, Some("tmpfs"), nix::mount::MsFlags::empty(), options).unwrap();
    let filler = dir.join("filler");
    std::fs::write(&filler, vec![1; 700_000]).unwrap();
    let store = open(dir).unwrap();
    let (before, error) = commit_until_refused(&store);
    assert!(matches!(error, StoreError::DiskFull), "{error:?}");
    assert!(before > 10, "{before} commits on an empty disk");
    let (more, error) = commit_until_refused(&store);
    assert!(matches!(error, StoreError::DiskFull), "{error:?}");
    let before = before + more;
    assert_eq!(messages(&store).len(), before, "what is there can be read");
    std::fs::remove_file(filler).unwrap();
    append(&store, "after").unwrap();
    store.verify().unwrap();
    drop(store);
    let store = open(dir).unwrap();
    assert_eq!((store.opening(), messages(&store).len()), (Opening::Clean, before + 1));
    println!("survived");
}

/// The child, whose files may not grow beyond a limit: writes fail otherwise than on a full disk.
fn write_against_a_limit(dir: &Path) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let store = open(dir).unwrap();
    let (before, error) = commit_until_refused(&store);
    assert!(matches!(error, StoreError::Sqlite(_) | StoreError::DiskFull), "{error:?}");
    assert_eq!(messages(&store).len(), before, "what is there can be read");
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
    append(&store, "after").unwrap();
    store.verify().unwrap();
    drop(store);
    assert_eq!(messages(&open(dir).unwrap()).len(), before + 1);
    println!("survived");
}

fn check(wrapper: &[&str], test: &str, variable: &str) {
    let dir = tempfile::tempdir().unwrap();
    let output = respawn(wrapper, test, variable, dir.path()).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("survived"), "{}: {said}", output.status);
}

#[test]
fn a_full_disk_loses_nothing() {
    if let Some(dir) = std::env::var_os(FULL) {
        return fill_a_small_disk(Path::new(&dir));
    }
    // As root a mount namespace is enough; an ordinary user needs to be root of a user namespace, too.
    let unshare = if nix::unistd::geteuid().is_root() { "-m" } else { "-Urm" };
    if !Command::new("unshare").args([unshare, "true"]).status().is_ok_and(|status| status.success()) {
        println!("skipped: this machine allows no mount namespace");
        return;
    }
    check(&["unshare", unshare, "--"], "store::tests::space::a_full_disk_loses_nothing", FULL);
}

#[test]
fn failed_writes_lose_nothing() {
    if let Some(dir) = std::env::var_os(LIMITED) {
        return write_against_a_limit(Path::new(&dir));
    }
    // The shell ignores the signal of the limit, and what it runs inherits that. Blocks of 512 or 1024 bytes.
    let shell = ["sh", "-c", "trap '' XFSZ; ulimit -S -f 1500; exec \"$@\"", "sh"];
    check(&shell, "store::tests::space::failed_writes_lose_nothing", LIMITED);
}
