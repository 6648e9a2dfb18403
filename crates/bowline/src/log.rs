//! What the daemon and the edge say of themselves, on standard error.

use std::fs::{self, File, Permissions};
use std::io::{self, IsTerminal, Stderr, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// A file of standard error that has grown to this is put aside.
const LARGE: u64 = 10 << 20;

/// One JSON object per line. Standard error is a file that was opened for this process: it is put aside when it has grown, and the one
/// before it goes.
pub(crate) fn to_own_file() {
    let json = tracing_subscriber::fmt().json().flatten_event(true);
    json.with_env_filter(filter()).with_writer(OwnFile::of_stderr()).init();
}

/// For people on a terminal, else one JSON object per line, to whatever standard error is.
pub(crate) fn for_people() {
    let log = tracing_subscriber::fmt().with_env_filter(filter());
    match io::stderr().is_terminal() {
        true => log.compact().with_writer(io::stderr).init(),
        false => log.json().flatten_event(true).with_writer(io::stderr).init(),
    }
}

fn filter() -> EnvFilter {
    EnvFilter::try_from_env("BOWLINE_LOG").unwrap_or_else(|_| EnvFilter::new("info"))
}

/// Standard error, which is a file that grows.
#[derive(Debug)]
struct OwnFile {
    /// Until it is looked at.
    left: Mutex<u64>,
}

impl OwnFile {
    fn of_stderr() -> Self {
        let size = rustix::fs::fstat(io::stderr()).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
        Self { left: Mutex::new(LARGE.saturating_sub(size)) }
    }

    /// Before so many bytes are written. What fails here is tried again after as many as before: a log that grows is better than none.
    fn grow(&self, bytes: usize) {
        let mut left = self.left.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *left = left.saturating_sub(u64::try_from(bytes).unwrap_or(u64::MAX));
        if *left == 0 {
            *left = LARGE;
            if let Ok(file) = own_path(io::stderr().as_fd()).and_then(|path| begin_anew(&path)) {
                // The one that is open stays if this fails.
                let _ = nix::unistd::dup2_stderr(file);
            }
        }
    }
}

impl<'a> MakeWriter<'a> for OwnFile {
    type Writer = Grown<'a>;

    fn make_writer(&'a self) -> Grown<'a> {
        Grown { file: self, out: io::stderr() }
    }
}

struct Grown<'a> {
    file: &'a OwnFile,
    out: Stderr,
}

impl Write for Grown<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.grow(bytes.len());
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Where an open file lies, if it is still the one of that name, and a log: what a successor has put aside is left alone.
fn own_path(open: impl AsFd) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd;
    let path = fs::read_link(format!("/proc/self/fd/{}", open.as_fd().as_raw_fd()))?;
    let (seen, own) = (fs::symlink_metadata(&path)?, rustix::fs::fstat(open)?);
    let is_own = seen.is_file() && (seen.dev(), seen.ino()) == (own.st_dev, own.st_ino);
    match is_own && path.extension().is_some_and(|extension| extension == "log") {
        true => Ok(path),
        false => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Opens a log to append to it; a large one is put aside first, in the place of the one before.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    match fs::symlink_metadata(path) {
        Ok(log) if log.len() > LARGE => begin_anew(path),
        Ok(_) | Err(_) => append(path, 0o600),
    }
}

/// With the mode of the one that is put aside, whatever the process takes from its files: whoever was let in to read it stays so. Opened before
/// anything is moved: where there is no room for another, the one that is there goes on.
fn begin_anew(path: &Path) -> io::Result<File> {
    let mode = fs::symlink_metadata(path)?.mode() & 0o777;
    let new = path.with_extension("log.new");
    let file = append(&new, mode)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    fs::rename(path, path.with_extension("log.1"))?;
    fs::rename(&new, path)?;
    Ok(file)
}

fn append(path: &Path, mode: u32) -> io::Result<File> {
    File::options().create(true).append(true).mode(mode).custom_flags(libc::O_NOFOLLOW).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_begun_anew_with_its_mode_and_one_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.log");
        for text in ["first", "second"] {
            let mut log = append(&path, 0o640).unwrap();
            // More than the mask of any process leaves.
            log.set_permissions(Permissions::from_mode(0o666)).unwrap();
            log.write_all(text.as_bytes()).unwrap();
            assert_eq!(own_path(&log).unwrap(), path);
            drop(begin_anew(&own_path(&log).unwrap()).unwrap());
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o666);
            assert!(own_path(&log).is_err(), "it is put aside already");
        }
        assert_eq!(fs::read_to_string(folder.path().join("edge.log.1")).unwrap(), "second");
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }

    #[test]
    fn what_is_no_log_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let other = append(&folder.path().join("mine.txt"), 0o600).unwrap();
        assert!(own_path(&other).is_err());
        assert!(own_path(File::open("/dev/null").unwrap()).is_err());
    }

    #[test]
    fn a_large_log_is_put_aside_when_it_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.log");
        File::create(&path).unwrap().set_len(LARGE + 1).unwrap();
        assert_eq!(open(&path).unwrap().metadata().unwrap().len(), 0);
        assert_eq!(fs::metadata(folder.path().join("daemon.log.1")).unwrap().len(), LARGE + 1);
    }
}
