//! The filter's process: a socket that it makes itself, and an exit when it is told to.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;

use super::ASKED_AT_ONCE;
use super::service::UploadFilter;
use super::socket::{Hold, Socket};

/// How long bodies may go on after it was told to end.
const TERM_LIMIT: Duration = Duration::from_secs(10);

/// Threads that judge. One does some hundred MB a second.
const MAX_THREADS: usize = 4;

/// What is on its way from Envoy of one body, and of all on a connection: it does not read on from a client whose body is not taken.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// What a filter is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterArgs {
    /// Made here.
    pub socket: PathBuf,
    pub hold: Hold,
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
    #[error("{} is there, and is no socket", path.display())]
    NoSocket { path: PathBuf },
    /// `by`: its name and number, where they are known.
    #[error("{} listens on {}", by.as_deref().unwrap_or("another process"), path.display())]
    Taken { path: PathBuf, by: Option<String> },
    #[error("the socket {} was taken away", path.display())]
    Lost { path: PathBuf },
    #[error("Envoy cannot be heard any more")]
    Served(#[source] tonic::transport::Error),
}

/// Runs until TERM or INT, and then for as long as a body that is being judged takes, at most 10 s. `ready` is called when it listens.
///
/// One that a daemon keeps does so without haste when another one has taken its place on the socket, or nobody can find it there any more; SIGHUP
/// and the parent's death are nothing to it. To one that has a socket of its own that is an error, and a second TERM or INT ends it at once.
///
/// # Errors
/// It cannot run, or not go on.
pub fn run(args: &FilterArgs, ready: impl FnOnce()) -> Result<(), FilterError> {
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MAX_THREADS));
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(threads).enable_all().build().map_err(FilterError::Thread)?;
    let result = runtime.block_on(serve(args, ready));
    // What is left of bodies is cut with the connections.
    runtime.shutdown_background();
    result
}

async fn serve(args: &FilterArgs, ready: impl FnOnce()) -> Result<(), FilterError> {
    let mut stops = Stops::catch(args.hold)?;
    let (socket, listener) = Socket::make(&args.socket, args.hold).await?;
    tracing::info!(socket = %args.socket.display(), "uploads are judged");
    ready();
    let (leave, left) = oneshot::channel::<()>();
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(ASKED_AT_ONCE)
        // A client that breaks off many uploads at once is no reason to end those of others.
        .http2_max_pending_accept_reset_streams(Some(ASKED_AT_ONCE as usize))
        .add_service(UploadFilter::default())
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move { drop(left.await) });
    let mut server = std::pin::pin!(server);
    let end = tokio::select! {
        served = &mut server => return served.map_err(FilterError::Served),
        () = stops.next() => End::Told,
        () = socket.replaced() => End::Replaced,
    };
    tracing::info!("no more uploads are taken");
    socket.leave();
    drop(leave);
    let mut finished = std::pin::pin!(async { server.await.map_err(FilterError::Served) });
    match args.hold {
        Hold::Kept => {
            if let End::Replaced = end {
                // It has as long as what it judges takes, unless it is told to end.
                tokio::select! {
                    served = &mut finished => return served,
                    () = stops.next() => {}
                }
            }
            tokio::time::timeout(TERM_LIMIT, finished).await.unwrap_or(Ok(()))
        }
        Hold::Own { .. } => {
            tokio::select! {
                served = tokio::time::timeout(TERM_LIMIT, finished) => served.unwrap_or(Ok(()))?,
                () = stops.next() => {}
            }
            match end {
                End::Told => Ok(()),
                End::Replaced => Err(FilterError::Lost { path: args.socket.clone() }),
            }
        }
    }
}

/// Why no more is taken.
#[derive(Debug, Clone, Copy)]
enum End {
    Told,
    Replaced,
}

/// What tells it to end. Caught from the beginning.
struct Stops {
    terminate: Signal,
    interrupt: Signal,
    /// Never listened to: that it is caught keeps it from ending one that a daemon keeps.
    _hangup: Option<Signal>,
}

impl Stops {
    fn catch(hold: Hold) -> Result<Self, FilterError> {
        let caught = |kind| signal(kind).map_err(FilterError::Thread);
        let hangup = match hold {
            Hold::Kept => Some(caught(SignalKind::hangup())?),
            Hold::Own { .. } => None,
        };
        let (terminate, interrupt) = (caught(SignalKind::terminate())?, caught(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, _hangup: hangup })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
