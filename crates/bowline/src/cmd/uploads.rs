//! `bowline uploads`: the process that judges uploads for an Envoy which no daemon keeps.

use std::process::ExitCode;

use bowline_core::fault::{Fault, FaultKind};
use bowline_envoy::{FilterArgs, FilterError, Hold};
use serde::Serialize;

use crate::args::Uploads;
use crate::notify::Notify;
use crate::ui::Ui;

#[derive(Debug, Serialize)]
struct Listening {
    pid: u32,
    socket: String,
}

/// In the foreground, until it is told to end.
pub(super) fn run(args: &Uploads, ui: &Ui) -> Result<ExitCode, Fault> {
    crate::log::for_people();
    let notify = Notify::from_env();
    let listening = Listening { pid: std::process::id(), socket: args.socket.display().to_string() };
    let ready = || {
        ui.object(&listening);
        notify.ready("uploads are judged");
    };
    let filter = FilterArgs { socket: args.socket.clone(), hold: Hold::Own { mode: args.mode } };
    bowline_envoy::judge_uploads(&filter, ready).map_err(|error| fault(&error))?;
    Ok(ExitCode::SUCCESS)
}

fn fault(error: &FilterError) -> Fault {
    let (kind, hint) = match error {
        FilterError::Taken { .. } => (FaultKind::Refused, "end that one first, or say another path: --socket PATH"),
        FilterError::NoSocket { .. } => (FaultKind::Invalid, "say a path where nothing is: --socket PATH"),
        FilterError::Socket { .. } => (
            FaultKind::Invalid,
            "say a path in a folder that is there, that you may write to, and that Envoy may enter: --socket PATH",
        ),
        FilterError::Lost { .. } => (FaultKind::Failed, "start it again, in a folder where nobody clears up"),
        FilterError::Thread(_) | FilterError::Served(_) => (FaultKind::Failed, "start it again"),
    };
    Fault::new(kind, "uploads cannot be judged").source(error).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_is_another_ones_is_refused_and_a_wrong_path_is_the_commands_fault() {
        let path = std::path::PathBuf::from("/run/uploads.sock");
        let check = |error: FilterError, code: u8, causes: &[&str]| {
            let fault = fault(&error);
            assert_eq!(
                (fault.kind.exit_code(), fault.causes.iter().map(String::as_str).collect()),
                (code, causes.to_vec())
            );
            assert!(fault.hint.is_some());
        };
        let holder = Some("bowline (pid 7)".to_owned());
        check(
            FilterError::Taken { path: path.clone(), by: holder },
            3,
            &["bowline (pid 7) listens on /run/uploads.sock"],
        );
        check(
            FilterError::Taken { path: path.clone(), by: None },
            3,
            &["another process listens on /run/uploads.sock"],
        );
        check(FilterError::NoSocket { path: path.clone() }, 2, &["/run/uploads.sock is there, and is no socket"]);
        let source = std::io::Error::other("why");
        check(FilterError::Socket { path, source }, 2, &["the socket /run/uploads.sock cannot be made", "why"]);
    }
}
