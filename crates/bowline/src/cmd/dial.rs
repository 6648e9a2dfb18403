use std::process::ExitCode;

use bowline_core::fault::{Fault, FaultKind};
use tokio::io::{self, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::paths::Paths;
use crate::session::Session;

/// Connects its standard input and output to the daemon's socket, for a command on another machine.
pub(super) async fn run(paths: &Paths) -> Result<ExitCode, Fault> {
    // One that died is brought back as for any command.
    drop(Session::join(paths).await?);
    let unreachable =
        |error: &io::Error| Fault::new(FaultKind::Unreachable, "the daemon cannot be reached").source(error);
    let stream = UnixStream::connect(paths.api_socket()).await.map_err(|error| unreachable(&error))?;
    let (mut from, mut to) = stream.into_split();
    let sent = async {
        io::copy(&mut io::stdin(), &mut to).await?;
        to.shutdown().await
    };
    let received = async {
        let mut stdout = io::stdout();
        io::copy(&mut from, &mut stdout).await?;
        stdout.flush().await
    };
    // The daemon has the last word; whoever asked may still be silent then.
    let done = tokio::select! {
        done = received => done,
        Err(error) = sent => Err(error),
    };
    // Standard input is read by a thread that nothing interrupts.
    std::process::exit(match done {
        Ok(()) => 0,
        Err(_) => i32::from(FaultKind::Unreachable.exit_code()),
    })
}
