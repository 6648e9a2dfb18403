//! `bowline add`: a real server as a service of this app, behind a route of the edge.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bowline_core::app::App;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::EnvName;
use bowline_core::route::LOCAL;
use bowline_spec::Defaults;
use serde::Serialize;

use super::{command_words, render};
use crate::args::Add;
use crate::file;
use crate::ui::{Tone, Ui};
use bowline_render::monitoring::service::{Added, Server};

/// Of a folder that is an app of its own.
const HEAD: &str = "# Servers that watch the apps of a machine: `bowline add`.\n";

#[derive(Debug, Serialize)]
struct Answer {
    app: String,
    files: Vec<String>,
    /// Whether its program is on this machine.
    installed: bool,
    next: Vec<String>,
}

pub(super) fn run(args: Add, ui: &Ui) -> Result<ExitCode, Fault> {
    let server = args.server;
    if args.remote_write.is_some() && server != Server::Prometheus {
        return Err(Fault::new(FaultKind::Invalid, format!("{} writes no samples elsewhere", server.name()))
            .hint("`--remote-write` goes with `bowline add prometheus`"));
    }
    std::fs::create_dir_all(&args.dir).map_err(|error| {
        Fault::new(FaultKind::Invalid, format!("{} cannot be made", args.dir.display())).source(&error)
    })?;
    let dir = file::folder(&args.dir, "add")?;
    let env = EnvName::new(LOCAL).expect("`local` is a name");
    let (before, text) = existing(&dir, &env, server, ui)?;
    let added = Added {
        server,
        port: args.port.unwrap_or(server.port()),
        remote_write: args.remote_write.map(|url| (url, args.remote_write_secret)),
        prometheus: port_of(&before, Server::Prometheus),
    };
    let text = format!("{}{}", text.trim_end_matches('\n').to_owned() + "\n", added.tables());
    let app = parsed(&dir, &text, &env)?;
    let files = added.files();
    if let Some(path) = files.iter().map(|one| dir.join(&one.path)).find(|path| path.symlink_metadata().is_ok()) {
        return Err(Fault::new(FaultKind::Refused, format!("{} is there already", path.display()))
            .hint("put it aside: what is there is not overwritten"));
    }
    for one in &files {
        render::write(&dir, one)?;
    }
    // Last: until then the app is what it was.
    let path = dir.join(file::NAME);
    file::replace(&path, &text)
        .map_err(|e| Fault::new(FaultKind::Failed, format!("{} cannot be written", path.display())).source(&e))?;
    let written = files.iter().map(|one| dir.join(&one.path)).chain([path]).map(|path| path.display().to_string());
    let installed = is_installed(server);
    let next = next(server, &app, &dir, added.remote_write.and_then(|(_, secret)| secret));
    show(&Answer { app: app.name.to_string(), files: written.collect(), installed, next }, server, ui);
    Ok(ExitCode::SUCCESS)
}

/// The app before, and the text of its file; of an empty folder, one that is begun.
fn existing(dir: &Path, env: &EnvName, server: Server, ui: &Ui) -> Result<(App, String), Fault> {
    let read = file::read(dir, env, ui)?;
    let Some((_, text)) = read.written else {
        let is_empty = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
        return match is_empty {
            true => Ok((read.app, HEAD.to_owned())),
            false => Err(Fault::new(FaultKind::Refused, format!("{} has no {}", dir.display(), file::NAME))
                .caused_by("with one that names a service, the folder would not be detected any more")
                .hint("`bowline init` writes one; or say a folder of its own: bowline add NAME monitoring")),
        };
    };
    let name = server.name();
    let has = [
        ("service", read.app.services.keys().any(|one| one.as_str() == name)),
        ("volume", read.app.volumes.keys().any(|one| one.as_str() == name)),
        ("route", read.app.routes.keys().any(|one| one.as_str() == name)),
    ];
    match has.iter().find(|(_, has)| *has) {
        Some((kind, _)) => Err(Fault::new(
            FaultKind::Refused,
            format!("{} of {} has [{kind}.{name}] already", file::NAME, read.app.name),
        )
        .hint("change it there; or take its tables out, and add it again")),
        None => Ok((read.app, text)),
    }
}

/// It is read back before anything is written.
fn parsed(dir: &Path, text: &str, env: &EnvName) -> Result<App, Fault> {
    let defaults = Defaults { folder_name: file::folder_name(dir), procfile: bowline_control::read_procfile(dir)? };
    let parsed = bowline_spec::parse(text, file::NAME, env, &defaults);
    parsed.map(|parsed| parsed.app).map_err(|diagnostics| {
        Fault::new(FaultKind::Invalid, format!("it cannot be added to {} of {}", file::NAME, dir.display()))
            .caused_by("with what would be written at its end, the file is not accepted")
            .detail(diagnostics.render(false))
            .hint("nothing was written; say a folder of its own: bowline add NAME monitoring")
    })
}

fn port_of(app: &App, server: Server) -> u16 {
    let service = app.services.iter().find(|(name, _)| name.as_str() == server.name());
    service.and_then(|(_, service)| service.fixed_port).map_or(server.port(), |port| port.get())
}

/// Looked for as the instance will: in the folders of the system, whatever this shell's are.
fn is_installed(server: Server) -> bool {
    const FOLDERS: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];
    let runs =
        |path: PathBuf| std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    server.programs().iter().any(|program| FOLDERS.iter().any(|folder| runs(Path::new(folder).join(program))))
}

/// What is to be said before it serves.
fn next(server: Server, app: &App, dir: &Path, token: Option<String>) -> Vec<String> {
    let words = command_words(app.name.as_str(), LOCAL);
    let own = server.secrets().iter().map(|(name, _)| (*name).to_owned());
    let set = own.chain(token).map(|name| format!("bowline secret set {words} {name}"));
    let shown = dir.display().to_string();
    set.chain([format!("bowline up {}", crate::target::word(&shown))]).collect()
}

fn show(answer: &Answer, server: Server, ui: &Ui) {
    ui.object(answer);
    answer.files.iter().for_each(|path| ui.say(format!("  wrote {}", ui.paint(Tone::Good, path))));
    if !answer.installed {
        let name = ui.paint(Tone::Warning, format!("there is no {} on this machine", server.name()));
        ui.say(format!("  {name}: {}", server.how_to_install()));
    }
    for (name, what) in server.secrets() {
        ui.say(format!("  the secret {} holds {what}", ui.paint(Tone::Strong, name)));
    }
    for command in &answer.next {
        ui.say(format!("    {} {command}", ui.paint(Tone::Link, "$")));
    }
}
