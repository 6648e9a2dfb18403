//! One file per verb.

mod attach;
mod check;
mod completions;
mod console;
mod data;
mod down;
mod edge;
mod events;
mod exec;
mod init;
mod logs;
mod maintenance;
mod run;
mod schema;
mod secret;
mod serve;
mod status;
mod trust;
mod up;
mod version;

use std::process::ExitCode;

use bowline_core::fault::{Fault, FaultKind};

use crate::args::{Cli, Verb};
use crate::paths::Paths;
use crate::ui::Ui;

pub(crate) fn run(cli: Cli, ui: &Ui) -> Result<ExitCode, Fault> {
    let state = cli.global.state.as_deref();
    match cli.verb {
        Verb::Init(args) => init::run(&args, ui),
        Verb::Check(args) => check::run(&args, ui),
        Verb::Up(args) => client(up::run(args, &Paths::new(state)?, ui)),
        Verb::Down => client(down::run(&Paths::of_live_to_stop(state)?, ui)),
        Verb::Status(args) => client(status::run(args, &Paths::of_live(state)?, ui)),
        Verb::Console => client(console::run(&Paths::of_live(state)?, ui)),
        Verb::Logs(args) => client(logs::run(args, &Paths::of_live(state)?, ui)),
        Verb::Events(args) => client(events::run(args, &Paths::of_live(state)?, ui)),
        Verb::Secret(args) => client(secret::run(args, &Paths::of_live(state)?, ui)),
        Verb::Data(args) => client(data::run(args, &Paths::of_live(state)?, ui)),
        Verb::Maintenance(args) => client(maintenance::run(args, &Paths::of_live(state)?, ui)),
        Verb::Exec(args) => exec::run(args, &Paths::of_live(state)?, ui),
        Verb::Run(args) => run::run(args, &Paths::of_live(state)?, ui),
        Verb::Trust(args) => trust::run(args, &Paths::new(state)?, ui),
        Verb::Schema(args) => schema::run(&args, ui),
        Verb::Completions { shell } => completions::run(shell, ui),
        Verb::Version => version::run(ui),
        Verb::Serve(args) => serve::run(args, &Paths::new(state)?),
        Verb::Edge(args) => edge::run(args),
    }
}

/// Runs a verb that talks to the daemon: one thread is enough.
fn client(verb: impl Future<Output = Result<ExitCode, Fault>>) -> Result<ExitCode, Fault> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Fault::new(FaultKind::Failed, "the runtime cannot be started").source(&e))?
        .block_on(verb)
}
