//! Where the filter listens, and whose that place is.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use super::process::FilterError;

/// How often it is looked whether another one has taken its place.
const LOOK: Duration = Duration::from_secs(1);

/// Of a daemon's: only Envoy's own user asks, who is the filter's, too.
const KEPT_MODE: u32 = 0o600;

/// How a filter has its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// For a daemon, which starts a successor while it runs: made in place of whatever is there, and left behind.
    Kept,
    /// For itself: made where nothing is, or a socket on which nobody listens any more, with these permissions, and taken away at the end.
    Own { mode: u32 },
}

/// Device and number of a file.
type FileId = (u64, u64);

/// A socket that was made here. No other file gets its number as long as its listener is open, which holds on to it.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    id: FileId,
    hold: Hold,
}

impl Socket {
    pub(super) async fn make(path: &Path, hold: Hold) -> Result<(Self, UnixListener), FilterError> {
        let failed = |source| FilterError::Socket { path: path.to_owned(), source };
        let (listener, id) = match hold {
            Hold::Kept => replace(path).map_err(failed)?,
            Hold::Own { mode } => {
                let _turn = turn(path).map_err(failed)?;
                clear(path).await?;
                bind(path, mode).map_err(failed)?
            }
        };
        Ok((Self { path: path.to_owned(), id, hold }, listener))
    }

    /// Returns when the socket there is no longer this one. Nobody else has to say so: whoever started the next one may have been killed meanwhile.
    pub(super) async fn replaced(&self) {
        while self.is_there() {
            tokio::time::sleep(LOOK).await;
        }
    }

    fn is_there(&self) -> bool {
        match id(&self.path) {
            Ok(found) => found == self.id,
            Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        }
    }

    /// It is asked no more. What is not taken away here is no longer listened to, and makes way for the next one.
    pub(super) fn leave(&self) {
        match self.hold {
            Hold::Kept => {}
            Hold::Own { .. } => {
                let left = turn(&self.path).and_then(|_turn| match id(&self.path) {
                    Ok(found) if found == self.id => std::fs::remove_file(&self.path),
                    Ok(_) | Err(_) => Ok(()),
                });
                if let Err(error) = left {
                    tracing::warn!(socket = %self.path.display(), %error, "the socket is left");
                }
            }
        }
    }
}

/// A socket at this path, at once in place of what is there: whoever asks meanwhile finds the one or the other.
fn replace(path: &Path) -> io::Result<(UnixListener, FileId)> {
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let (listener, own) = bind(&new, KEPT_MODE)?;
    std::fs::rename(&new, path)?;
    Ok((listener, own))
}

fn bind(path: &Path, mode: u32) -> io::Result<(UnixListener, FileId)> {
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok((listener, id(path)?))
}

/// Of the file itself, be it a link.
fn id(path: &Path) -> io::Result<FileId> {
    std::fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// A turn in the folder, until it is dropped: of two that start at once, or one that ends meanwhile, none takes the other's socket for one that
/// was left.
fn turn(path: &Path) -> io::Result<File> {
    let folder = File::open(path.parent().unwrap_or(path))?;
    folder.lock()?;
    Ok(folder)
}

/// Takes away a socket that was left there, and nothing else.
async fn clear(path: &Path) -> Result<(), FilterError> {
    let failed = |source| FilterError::Socket { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(file) if !file.file_type().is_socket() => return Err(FilterError::NoSocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    let by = match UnixStream::connect(path).await {
        Ok(stream) => stream.peer_cred().ok().and_then(|of| of.pid()).map(named),
        // It listens, and has more to take than it has taken.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return std::fs::remove_file(path).map_err(failed);
        }
        Err(error) => return Err(failed(error)),
    };
    Err(FilterError::Taken { path: path.to_owned(), by })
}

/// `bowline (pid 12)`
fn named(pid: i32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    match name.trim_end() {
        "" => format!("process {pid}"),
        name => format!("{name} (pid {pid})"),
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{Backlog, listen};

    use super::*;

    const OWN: Hold = Hold::Own { mode: 0o660 };

    async fn refused(path: &Path) -> FilterError {
        Socket::make(path, OWN).await.map(drop).unwrap_err()
    }

    #[tokio::test]
    async fn a_socket_of_its_own_takes_the_place_of_one_that_was_left_and_of_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("uploads.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (first, _first) = Socket::make(&path, OWN).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        let taken = refused(&path).await;
        assert!(taken.to_string().contains(&format!("(pid {}) listens on", std::process::id())), "{taken}");
        assert!(first.is_there());
        std::fs::remove_file(&path).unwrap();
        let (second, _second) = Socket::make(&path, OWN).await.unwrap();
        assert!(!first.is_there() && second.is_there());
        first.leave();
        assert!(second.is_there(), "it is another one's by now");
        second.leave();
        assert!(!path.exists());

        std::fs::write(&path, "somebody's").unwrap();
        assert!(matches!(refused(&path).await, FilterError::NoSocket { .. }));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "somebody's");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("nothing"), &link).unwrap();
        assert!(matches!(refused(&link).await, FilterError::NoSocket { .. }));
        assert!(matches!(refused(&dir.path().join("none/uploads.sock")).await, FilterError::Socket { .. }));
    }

    #[tokio::test]
    async fn one_that_listens_and_hears_nobody_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("uploads.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        listen(&listener, Backlog::new(1).unwrap()).unwrap();
        let mut waiting = Vec::new();
        let full = loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(refused(&path).await.to_string(), format!("another process listens on {}", path.display()));
        drop((listener, waiting));
    }

    #[tokio::test]
    async fn a_daemons_socket_takes_any_place_and_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("upload.sock");
        let (first, _first) = Socket::make(&path, Hold::Kept).await.unwrap();
        let (second, _second) = Socket::make(&path, Hold::Kept).await.unwrap();
        assert!(!first.is_there() && second.is_there());
        second.leave();
        assert!(second.is_there());
    }
}
