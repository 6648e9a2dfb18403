//! The kept copy of the binary: shims run from it, so that replacing Bowline's binary replaces nothing under them.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bowline_core::id::Digest;
use sha2::{Digest as _, Sha256};

use crate::{layout, procfs};

/// Another command may have made a copy and be about to hand it to the daemon.
const YOUNG: Duration = Duration::from_secs(600);

/// Copies `exe` to `<state>/bin/<digest>/bowline` unless it is there; removes old copies that nothing runs from. Where it is
/// such a copy, that is it.
///
/// # Errors
/// The binary cannot be read, or the copy not be written.
pub fn keep(state: &Path, exe: &Path) -> io::Result<PathBuf> {
    let kept = state.join("bin");
    // Processes name their binary by its real path, whatever links led here.
    if let (Ok(real), Ok(exe)) = (kept.canonicalize(), exe.canonicalize())
        && let Ok(copy) = exe.strip_prefix(real)
    {
        return Ok(kept.join(copy));
    }
    let mut hash = Sha256::new();
    io::copy(&mut fs::File::open(exe)?, &mut HashWriter(&mut hash))?;
    let digest = Digest(hash.finalize().into()).to_string();
    let folder = kept.join(&digest);
    let copy = folder.join("bowline");
    if !copy.exists() {
        layout::make_folder(&folder, 0o755)?;
        let mut fresh = tempfile::NamedTempFile::new_in(&folder)?;
        io::copy(&mut fs::File::open(exe)?, fresh.as_file_mut())?;
        fresh.as_file().set_permissions(fs::Permissions::from_mode(0o755))?;
        fresh.as_file().sync_all()?;
        fresh.persist(&copy).map_err(|error| error.error)?;
    }
    // Whoever asked is about to run it, also one that was kept long ago.
    let _ = fs::File::open(&folder).and_then(|folder| folder.set_modified(SystemTime::now()));
    remove_unused(&kept.canonicalize()?, &digest);
    Ok(copy)
}

struct HashWriter<'h>(&'h mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn remove_unused(kept: &Path, current: &str) {
    let running: Vec<PathBuf> =
        procfs::all_pids().into_iter().filter_map(|pid| fs::read_link(format!("/proc/{pid}/exe")).ok()).collect();
    for entry in fs::read_dir(kept).into_iter().flatten().flatten() {
        let young = || {
            entry
                .metadata()
                .and_then(|about| about.modified())
                .is_ok_and(|at| at.elapsed().is_ok_and(|age| age < YOUNG))
        };
        let used = entry.file_name() == current || running.iter().any(|exe| exe.starts_with(entry.path())) || young();
        if !used && let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::debug!(copy = %entry.path().display(), %error, "an unused copy of the binary stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_kept_by_content_and_an_unused_one_goes() {
        let state = tempfile::tempdir().unwrap();
        let exe = state.path().join("exe");
        fs::write(&exe, "one").unwrap();
        let one = keep(state.path(), &exe).unwrap();
        assert_eq!(keep(state.path(), &exe).unwrap(), one);
        assert_eq!(keep(state.path(), &one).unwrap(), one);
        fs::write(&exe, "two").unwrap();
        let two = keep(state.path(), &exe).unwrap();
        assert_eq!(fs::read(&two).unwrap(), b"two");
        assert!(one.exists() && one != two, "somebody may be about to run it");
        let old = SystemTime::now() - 2 * YOUNG;
        fs::File::open(one.parent().unwrap()).unwrap().set_modified(old).unwrap();
        keep(state.path(), &exe).unwrap();
        assert!(!one.exists() && two.exists());
    }

    #[test]
    fn a_state_that_a_link_leads_to_keeps_what_runs() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let kept = keep(&link, Path::new("/bin/sleep")).unwrap();
        assert_eq!(keep(&link, &kept.canonicalize().unwrap()).unwrap(), kept);
        let mut runs = crate::driver::start::spawn_patiently(std::process::Command::new(&kept).arg("1000")).unwrap();
        let old = SystemTime::now() - 2 * YOUNG;
        fs::File::open(kept.parent().unwrap()).unwrap().set_modified(old).unwrap();
        keep(&link, Path::new("/bin/cat")).unwrap();
        let stays = kept.exists();
        runs.kill().and_then(|()| runs.wait()).unwrap();
        assert!(stays, "a process runs from it");
    }
}
