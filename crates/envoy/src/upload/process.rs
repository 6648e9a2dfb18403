//! The filter's process: a socket that it makes itself, and an exit when it is told to.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;

use super::ASKED_AT_ONCE;
use super::service::UploadFilter;

/// How long bodies may go on after SIGTERM.
const TERM_LIMIT: Duration = Duration::from_secs(10);

/// Threads that judge. One does some hundred MB a second.
const MAX_THREADS: usize = 4;

/// What is on its way from Envoy of one body, and of all on a connection: it does not read on from a client whose body is not taken.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// How often it is looked whether another one has taken its place.
const LOOK: Duration = Duration::from_secs(1);

/// Only Envoy's own user asks.
const SOCKET_MODE: u32 = 0o600;

/// What `bowline upload-filter` is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterArgs {
    /// Made here, in place of one that was left.
    pub socket: PathBuf,
}

/// Why the filter cannot run.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("a thread cannot be started")]
    Thread(#[source] io::Error),
    #[error("the socket {} cannot be made", path.display())]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("Envoy cannot be heard any more")]
    Served(#[source] tonic::transport::Error),
}

/// Runs until SIGTERM, and then for as long as a body that is being judged takes, at most 10 s; so it does, without haste, when another one has taken
/// its place on the socket, or nobody can find it there any more. SIGHUP and the parent's death are nothing.
///
/// # Errors
/// It cannot run, or not go on.
pub fn run(args: &FilterArgs) -> Result<(), FilterError> {
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MAX_THREADS));
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(threads).enable_all().build().map_err(FilterError::Thread)?;
    let result = runtime.block_on(serve(&args.socket));
    // What is left of bodies is cut with the connections.
    runtime.shutdown_background();
    result
}

async fn serve(path: &Path) -> Result<(), FilterError> {
    let catch = |kind| signal(kind).map_err(FilterError::Thread);
    let mut hangup = catch(SignalKind::hangup())?;
    let mut terminate = catch(SignalKind::terminate())?;
    let (listener, own) = bind(path).map_err(|source| FilterError::Socket { path: path.to_owned(), source })?;
    tracing::info!(socket = %path.display(), "uploads are judged");
    let (leave, left) = oneshot::channel::<()>();
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(ASKED_AT_ONCE)
        // A client that breaks off many uploads at once is no reason to end those of others.
        .http2_max_pending_accept_reset_streams(Some(ASKED_AT_ONCE as usize))
        .add_service(UploadFilter::default())
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move { drop(left.await) });
    let (mut server, mut replaced) = (std::pin::pin!(server), std::pin::pin!(replaced(path, own)));
    let limit = loop {
        tokio::select! {
            served = &mut server => return served.map_err(FilterError::Served),
            _ = terminate.recv() => break Some(TERM_LIMIT),
            () = &mut replaced => break None,
            _ = hangup.recv() => {}
        }
    };
    tracing::info!("no more uploads are taken");
    drop(leave);
    let limit = match limit {
        Some(limit) => limit,
        // It has as long as what it judges takes, unless it is told to end.
        None => tokio::select! {
            served = &mut server => return served.map_err(FilterError::Served),
            _ = terminate.recv() => TERM_LIMIT,
        },
    };
    tokio::time::timeout(limit, server).await.unwrap_or(Ok(())).map_err(FilterError::Served)
}

/// Device and number of a file.
type FileId = (u64, u64);

/// A socket at this path, at once in place of what is there: whoever asks meanwhile finds the one or the other.
fn bind(path: &Path) -> io::Result<(UnixListener, FileId)> {
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&new)?;
    std::fs::set_permissions(&new, Permissions::from_mode(SOCKET_MODE))?;
    let own = id(&new)?;
    std::fs::rename(&new, path)?;
    Ok((listener, own))
}

fn id(path: &Path) -> io::Result<FileId> {
    std::fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Returns when the socket there is no longer this one. Nobody else has to say so: whoever started the next one may have been killed meanwhile.
async fn replaced(path: &Path, own: FileId) {
    let is_own = |found: io::Result<FileId>| match found {
        Ok(found) => found == own,
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    };
    while is_own(id(path)) {
        tokio::time::sleep(LOOK).await;
    }
}
