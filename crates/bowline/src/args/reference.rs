//! `docs/reference/cli.md`: every verb and flag, from the grammar that reads them.

use std::fmt::Write;

use clap::{Arg, Command, CommandFactory};

use super::Cli;

const HEAD: &str = "# The command line: every verb and flag

<!-- Generated from crates/bowline/src/args.rs. `BOWLINE_RENEW=1 cargo test -p bowline reference` writes it anew. -->

Output on a terminal is for reading; through a pipe it is plain; with `--json` each answer is one JSON object per line,
of the shapes in [the API](api.md). `up --json` prints objects told apart by `kind`: `step`, `ready`, `log`, `stopped`.
`exec` and `run` print objects with `kind`: `stdout` and `stderr` with the bytes as `base64`, and last how it ended,
`SessionEnd`. `bench` prints the shape of [its own page](bench.md). `serve` prints one object when it is ready: `pid`, `state`,
`http`, `https`, `admin`, and `api` where there is one; with `--install`: `unit`, `binary`, `changed`, `next`; with `--upgrade`: `version`, `was`, `pid`, `edge`,
`changed`. `uploads` prints one when it listens: `pid`, `socket`. `deploy` prints objects told apart by `kind`: `sent`, then `step`s and `ready`, or with `--detach` `accepted`. `plan --to kubernetes`
prints one: `app`, `env`, `target`, `hash`, `protected`, `outcome` (`release`, `put_right`, `unchanged`), `release`, `serves`, `images`, `changes` (`kind`, `name`, `becomes`, `fields`), `notes`.
Errors read `error:`, `caused by:`, `hint:` on standard error; with `--json` they are an object `{\"fault\": …}`.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | it failed, or was rolled back |
| 2 | the command or the file is wrong |
| 3 | refused: by a guard, by a role, or because somebody else holds it |
| 4 | unreachable: no daemon, cluster or registry answers |
| 130 | interrupted |

`exec` and `run` end with the code of their command: 128 and the number of the signal that ended it (or this client), 127 if there
is no such program, 126 if it cannot be executed. Codes of their own are those above.

| variable | meaning |
|---|---|
| `BOWLINE_STATE` | the state folder, where `--state` does not say it |
| `BOWLINE_TOKEN` | the token for `--to https://…`; goes before the one that `login` has kept; never sent to a `server` that only a folder names |
| `BOWLINE_CA` | a PEM file of authorities that are believed for `https://` targets, in the place of the machine's |
| `BOWLINE_SSH` | the program for `ssh://` targets, where it is another than `ssh` |
| `BOWLINE_LOG` | what the daemon and the edge log, as `tracing` filters: `info`, `bowline_control=debug` |
| `KUBECONFIG` | of `--to kubernetes`: which clusters there are |
| `HTTPS_PROXY`, `NO_PROXY` | of `--to kubernetes`, where the kubeconfig has no `proxy-url` |
| `DOCKER_HOST` | the engine of `--runtime docker`: `unix:///…` |
| `DOCKER_CONFIG` | where logins to registries are kept, as Docker keeps them |
| `SOURCE_DATE_EPOCH` | of `image build`: what `created` says |
| `NOTIFY_SOCKET`, `WATCHDOG_USEC` | of `serve`: where READY, RELOADING, STOPPING and WATCHDOG are said, as to systemd |
| `NO_COLOR` | no colours |
";

fn page() -> String {
    let mut root = Cli::command().disable_help_flag(true).disable_help_subcommand(true).disable_version_flag(true);
    root.build();
    let mut page = HEAD.to_owned();
    page.push_str("\n## Everywhere\n");
    table(&mut page, root.get_arguments().collect());
    verbs(&mut page, &root, "bowline");
    page
}

fn verbs(page: &mut String, parent: &Command, name: &str) {
    for verb in parent.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = format!("{name} {}", verb.get_name());
        let about = verb.get_long_about().or(verb.get_about()).map(ToString::to_string).unwrap_or_default();
        let own: Vec<&Arg> = verb.get_arguments().filter(|arg| !arg.is_global_set()).collect();
        let word = |arg: &&&Arg| if arg.is_last_set() { format!(" -- {arg}") } else { format!(" {arg}") };
        let words: String = own.iter().filter(|arg| arg.is_positional()).map(|arg| word(&arg)).collect();
        write!(page, "\n## `{name}{words}`\n\n{about}\n").expect("a String takes it");
        table(page, own);
        verbs(page, verb, &name);
    }
}

fn table(page: &mut String, args: Vec<&Arg>) {
    let shown = |arg: &&Arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version");
    let mut rows = args.into_iter().filter(shown).peekable();
    if rows.peek().is_none() {
        return;
    }
    page.push_str("\n| | | default |\n|---|---|---|\n");
    for arg in rows {
        let short = arg.get_short().filter(|_| !arg.is_positional()).map(|c| format!("`-{c}`, ")).unwrap_or_default();
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let default: Vec<_> = arg.get_default_values().iter().map(|v| format!("`{}`", v.to_string_lossy())).collect();
        // Booleans are off unless said.
        let default = if arg.get_action().takes_values() { default.join(" ") } else { String::new() };
        writeln!(
            page,
            "| {short}`{}` | {} | {default} |",
            arg.to_string().replace('|', "\\|"),
            help.replace('|', "\\|")
        )
        .expect("a String takes it");
    }
}

#[test]
fn the_reference_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/cli.md");
    let page = page();
    if std::env::var_os("BOWLINE_RENEW").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(page == written, "docs/reference/cli.md: not current; `make reference` writes it anew");
}
