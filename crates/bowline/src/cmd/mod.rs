//! One file per verb.

mod abort;
mod add;
mod attach;
mod bench;
mod check;
mod completions;
mod console;
mod data;
mod deploy;
mod dial;
mod down;
mod edge;
mod events;
mod exec;
mod follow;
mod image;
mod init;
mod kubernetes;
mod login;
mod logs;
mod maintenance;
mod plan;
mod promote;
mod releases;
mod render;
mod restart;
mod rollback;
mod run;
mod scale;
mod schema;
mod secret;
mod serve;
mod status;
mod token;
mod trust;
mod up;
mod upload_filter;
mod uploads;
mod version;

use std::path::Path;
use std::process::ExitCode;

use bowline_core::app::{Environment, Target as Named};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::env_option;

use crate::args::{self, Cli, Global, Verb};
use crate::paths::Paths;
use crate::target::{NamedBy, Target, word};
use crate::ui::Ui;

pub(crate) fn run(cli: Cli, ui: &Ui) -> Result<ExitCode, Fault> {
    let state = cli.global.state.as_deref();
    let to = cli.global.to.as_deref().map(bowline_spec::parse_target).transpose()?;
    if to.as_ref().is_some_and(|to| *to != Named::Local) && !cli.verb.goes_elsewhere() {
        return Err(Fault::new(FaultKind::Invalid, "this command is for this machine alone")
            .hint("leave out --to, or run it there"));
    }
    if let (Some(Named::Kubernetes { context, namespace }), false) = (&to, cli.verb.reads_a_folder()) {
        let place = kubernetes::Place { context: context.as_deref(), namespace: namespace.as_deref() };
        return kubernetes::run(cli.verb, place, ui);
    }
    let place = || {
        let to = to.as_ref().unwrap_or(&Named::Local);
        Target::new(to, elsewhere(to, state), NamedBy::Command, ui)
    };
    match cli.verb {
        Verb::Init(args) => init::run(&args, ui),
        Verb::Check(args) => check::run(&args, state, ui),
        Verb::Up(args) => client(up::run(args, &Paths::new(state)?, ui)),
        Verb::Down(args::Down { app: Some(app), env }) => client(down::one(&env, &app, &place()?, ui)),
        Verb::Down(_) => client(down::run(&Paths::of_live_to_stop(state)?, ui)),
        Verb::Status(args) => client(status::run(args, &place()?, ui)),
        Verb::Console => client(console::run(&Paths::of_live(state)?, ui)),
        Verb::Releases(args) => client(releases::run(args, &place()?, ui)),
        Verb::Rollback(args) => client(rollback::run(args, &place()?, ui)),
        Verb::Restart(args) => client(restart::run(args, &place()?, ui)),
        Verb::Scale(args) => client(scale::run(args, &place()?, ui)),
        Verb::Promote(args) => client(promote::run(args, &place()?, ui)),
        Verb::Abort(args) => client(abort::run(args, &place()?, ui)),
        Verb::Logs(args) => client(logs::run(args, &place()?, ui)),
        Verb::Events(args) => client(events::run(args, &place()?, ui)),
        Verb::Secret(args) => client(secret::run(args, &place()?, ui)),
        Verb::Login(args) => client(login::run(args, ui)),
        Verb::Token(args) => client(token::run(args, &place()?, ui)),
        Verb::Data(args) => client(data::run(args, &place()?, ui)),
        Verb::Maintenance(args) => client(maintenance::run(args, &place()?, ui)),
        Verb::Exec(args) => exec::run(args, &place()?, ui),
        Verb::Run(args) => run::run(args, &place()?, ui),
        Verb::Bench(args) => client(bench::run(args, &Paths::new(state)?, ui)),
        Verb::Render(what) => render::run(what, ui),
        Verb::Image(what) => client(image::run(what, state, ui)),
        Verb::Add(args) => add::run(args, ui),
        Verb::Uploads(args) => uploads::run(&args, ui),
        Verb::Trust(args) => trust::run(args, &Paths::new(state)?, ui),
        Verb::Schema(args) => schema::run(&args, ui),
        Verb::Completions { shell } => completions::run(shell, ui),
        Verb::Version => version::run(ui),
        Verb::Plan(args) => client(plan::run(args, (to.as_ref(), state), &said(&cli.global), ui)),
        Verb::Deploy(args) => client(deploy::run(args, (to.as_ref(), state), ui)),
        Verb::Dial => client(dial::run(&Paths::of_live(state)?)),
        Verb::Serve(args) => serve::run(args, state, ui),
        Verb::Edge(args) => edge::run(args),
        Verb::UploadFilter(args) => upload_filter::run(args),
    }
}

/// Where an app of this environment is, and who says so.
fn of_environment<'a>(to: Option<&'a Named>, environment: &'a Environment) -> (&'a Named, NamedBy) {
    match (to, &environment.server) {
        (Some(to), _) => (to, NamedBy::Command),
        (None, Some(server)) => (server, NamedBy::Folder),
        (None, None) => (&Named::Local, NamedBy::Command),
    }
}

/// The state that is meant: what the environment names is this machine's.
fn elsewhere<'a>(to: &Named, state: Option<&'a Path>) -> Option<&'a Path> {
    state.filter(|_| *to == Named::Local || args::says_state())
}

/// What was said for every verb and leads to the same daemon again; what the environment says, it says the next time, too.
fn said(global: &Global) -> Vec<String> {
    let state = global.state.as_ref().filter(|_| args::says_state());
    let state = state.map(|state| ["--state".to_owned(), state.display().to_string()]);
    let to = global.to.as_ref().map(|to| ["--to".to_owned(), to.clone()]);
    state.into_iter().chain(to).flatten().collect()
}

/// Runs a verb that talks to the daemon: one thread is enough.
fn client(verb: impl Future<Output = Result<ExitCode, Fault>>) -> Result<ExitCode, Fault> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Fault::new(FaultKind::Failed, "the runtime cannot be started").source(&e))?
        .block_on(verb)
}

/// As a command names an app, to be copied.
fn command_words(app: &str, env: &str) -> String {
    format!("{}{}", word(app), env_option(&word(env)))
}
