//! Making one artifact: copy, look, virtual environment, commands, seal.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bowline_core::app::{Origin, Service};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::ServiceName;
use bowline_core::release::BuildPhase;
use tokio::process::Command;
use tokio::time::Instant;

use super::artifact::{self, APP, Facts, Held, PARTS, Seal};
use super::command::{CommandError, Host, passed_on};
use super::detect::{self, Plan, Serve, Step, Tool};
use super::interpreter::Interpreter;
use super::place::{self, Temporary};
use super::serve::{GUNICORN, Served, Server, UVICORN};
use super::source::{Source, SourceError};
use super::target::{self, Choice, Interface};
use super::{Build, BuildConfig, Setback, blocking, failure, state_fault};
use crate::walk;

/// A tool that does not say its version within this is not asked again.
const TOOL_LIMIT: Duration = Duration::from_secs(10);

/// Everything that was decided about one artifact.
pub(super) struct Job<'b> {
    pub build: &'b Build<'b>,
    pub name: &'b ServiceName,
    pub service: &'b Service,
    pub source: Arc<Source>,
    pub plan: Plan,
    /// Of the file's `env`, those that the build is given.
    pub variables: BTreeMap<String, String>,
    pub interpreter: Option<Interpreter>,
    pub runtime: Option<String>,
}

impl Job<'_> {
    /// The lock is shared with the threads that write: should this future be dropped, it is let go when the last of
    /// them has ended.
    pub(super) async fn make(&self, held: &Arc<Held>) -> Result<Seal, Setback> {
        let build = self.build;
        missing_packages(self.name, &self.service.packages).await?;
        let folder = self.copy(held).await?;
        let temporary = Temporary::make(&build.config.state_dir, build.uid)?;
        let host = place::host(self, &folder, &temporary)?;

        build.phase(self.name, BuildPhase::Detect).await;
        let mut detected = self.plan.notes.clone();
        for note in &self.plan.notes {
            build.note(self.name, note).await;
        }
        let choice = match self.plan.serve {
            Serve::Python => {
                let choice = self.target(&host).await?;
                build.note(self.name, &choice.note).await;
                detected.push(choice.note.clone());
                Some(choice)
            }
            Serve::AsWritten | Serve::Run(_) | Serve::Files { .. } => None,
        };

        build.phase(self.name, BuildPhase::Build).await;
        if let Some(python) = &self.interpreter {
            let text = format!("python {} at {}", python.version, python.executable.display());
            build.note(self.name, &text).await;
            detected.push(text);
            let venv = folder.join("venv");
            let venv = venv.to_str().ok_or_else(|| not_text(&folder))?;
            self.command(&host, &python.executable, &["-I", "-m", "venv", venv], "python -m venv").await?;
        }
        for step in &self.plan.steps {
            self.step(&host, step).await?;
        }
        let served = self.served(&host, &folder, choice, &mut detected).await?;

        build.phase(self.name, BuildPhase::Seal).await;
        let facts = self.facts(served, detected);
        let (artifacts, held) = (build.artifacts.clone(), Arc::clone(held));
        let sealed = blocking(move |_| artifacts.seal(facts, &held)).await;
        let (seal, left_out) = sealed.map_err(|e| self.unsealed(&e))?;
        for path in left_out {
            let path = path.strip_prefix(&folder).unwrap_or(&path).display();
            build
                .note(self.name, &format!("{path} is a socket, pipe or device that the build left: it is left out"))
                .await;
        }
        Ok(seal)
    }

    fn unsealed(&self, error: &io::Error) -> Fault {
        if error.kind() != io::ErrorKind::InvalidData {
            return state_fault(&self.build.config.state_dir, error);
        }
        let message = format!("what the build of service {} left cannot be sealed", self.name);
        Fault::new(FaultKind::Failed, message).source(error)
    }

    fn facts(&self, served: Served, detected: Vec<String>) -> Facts {
        let Plan { steps, env, bins, .. } = &self.plan;
        let says = matches!(
            &self.service.origin,
            Origin::Folder { build: Some(_), .. } | Origin::Static { build: Some(_), .. }
        );
        let plain = !says && !steps.is_empty() && steps.iter().all(Step::is_plain);
        let build = plain.then(|| steps.iter().map(|step| step.script.as_str()).collect::<Vec<_>>().join(" && "));
        Facts {
            served,
            runtime: self.runtime.clone(),
            venv: self.interpreter.is_some(),
            env: env.clone(),
            bins: bins.clone(),
            build,
            detected,
        }
    }

    async fn copy(&self, held: &Arc<Held>) -> Result<PathBuf, Setback> {
        let (artifacts, source) = (self.build.artifacts.clone(), Arc::clone(&self.source));
        let (held, uid, has_venv) = (Arc::clone(held), self.build.uid, self.interpreter.is_some());
        let copied = blocking(move |cancel| {
            let state = |e| CopyError::State(e);
            artifacts.start(&held).map_err(state)?;
            let folder = held.folder.clone();
            // The build is given these, and not the folder that they lie in: it cannot put anything in their place.
            for part in PARTS.into_iter().filter(|part| *part == APP || has_venv) {
                artifact::make_folder(&folder.join(part), 0o755).map_err(state)?;
            }
            source.copy(&folder.join(APP), cancel).map_err(CopyError::Source)?;
            for part in PARTS.map(|part| folder.join(part)).iter().filter(|part| part.is_dir()) {
                uid.map_or(Ok(()), |uid| artifact::give(part, uid)).map_err(state)?;
            }
            Ok(folder)
        });
        copied.await.map_err(|error| match error {
            // Gone while it was copied is changed, too.
            CopyError::Source(e @ (SourceError::Changed(_) | SourceError::File(..))) => Setback::Changed(e),
            CopyError::Source(e) => Setback::Failed(e.into()),
            CopyError::State(e) => Setback::Failed(state_fault(&self.build.config.state_dir, &e)),
        })
    }

    async fn target(&self, host: &Host) -> Result<Choice, Fault> {
        let python = self.interpreter.as_ref().expect("a Python application has an interpreter");
        let files = target::candidates(&self.source);
        if files.is_empty() {
            return target::choose(self.name, &[]);
        }
        let mut args = vec!["-I", "-c", target::SCRIPT];
        args.extend(files.iter().map(String::as_str));
        let answer = host.ask(&python.executable, &args).await;
        let answer = answer.map_err(|e| self.failed("reading the source", e))?;
        let looked = target::parse(&answer).map_err(|e| {
            Fault::new(FaultKind::Failed, format!("the source of service {} could not be read", self.name)).source(&e)
        })?;
        target::choose(self.name, &looked)
    }

    async fn step(&self, host: &Host, step: &Step) -> Result<(), Fault> {
        self.build.note(self.name, &format!("$ {}", step.shown)).await;
        self.command(host, Path::new("/bin/sh"), &["-c", &step.script], &step.shown).await
    }

    async fn command(&self, host: &Host, program: &Path, args: &[&str], shown: &str) -> Result<(), Fault> {
        host.run(program, args).await.map_err(|e| self.failed(shown, e))
    }

    fn failed(&self, shown: &str, error: CommandError) -> Fault {
        let hidden = |program: &str| self.build.hidden(program);
        failure::fault(self.name, shown, self.build.request.time_limit, error, &hidden)
    }

    /// What serves it, now that everything is installed.
    async fn served(
        &self,
        host: &Host,
        folder: &Path,
        choice: Option<Choice>,
        detected: &mut Vec<String>,
    ) -> Result<Served, Fault> {
        match (&self.plan.serve, choice) {
            (Serve::AsWritten, _) | (Serve::Python, None) => Ok(Served::AsWritten),
            (Serve::Run(command), _) => Ok(Served::Run(command.0.clone())),
            (Serve::Files { dir, fallback }, _) => {
                detect::served_folder(self.name, &folder.join("app"), dir, !self.plan.steps.is_empty())?;
                Ok(Served::Files { dir: dir.clone(), fallback: fallback.clone() })
            }
            (Serve::Python, Some(choice)) => {
                let bin = folder.join("venv/bin");
                let (own, added, package) = servers(choice.interface);
                if let Some((_, server)) = own.iter().find(|(program, _)| bin.join(program).is_file()) {
                    return Ok(Served::Python { server: *server, target: choice.target });
                }
                let text = format!("no server among its packages → {package} is added");
                self.build.note(self.name, &text).await;
                detected.push(text);
                self.step(host, &Step::plain(format!("pip install '{package}'"))).await?;
                Ok(Served::Python { server: added, target: choice.target })
            }
        }
    }
}

enum CopyError {
    Source(SourceError),
    State(io::Error),
}

/// The programs that serve this kind of application, by preference; and what is added where there is none of them.
fn servers(interface: Interface) -> (&'static [(&'static str, Server)], Server, &'static str) {
    match interface {
        Interface::Wsgi | Interface::Dash => {
            (&[("gunicorn", Server::Gunicorn), ("waitress-serve", Server::Waitress)], Server::Gunicorn, GUNICORN)
        }
        Interface::Asgi => {
            (&[("uvicorn", Server::Uvicorn), ("hypercorn", Server::Hypercorn)], Server::Uvicorn, UVICORN)
        }
    }
}

pub(super) fn not_text(path: &Path) -> Fault {
    Fault::new(FaultKind::Failed, format!("the state folder's path {} is not UTF-8", path.display()))
        .hint("choose another folder with --state")
}

/// Temporary folders that a crash left.
pub(super) fn remove_temporary(state_dir: &Path) -> io::Result<()> {
    walk::remove_tree(&place::temporary(&state_dir.join("cache")))
}

/// Asks dpkg, where there is one, for the packages that the file says the build needs.
async fn missing_packages(name: &ServiceName, packages: &[String]) -> Result<(), Fault> {
    let mut missing = Vec::new();
    for package in packages {
        let asked = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Abbrev}", "--", package]).output().await;
        match asked {
            Ok(output) if output.stdout.starts_with(b"ii") => {}
            Ok(_) => missing.push(package.as_str()),
            Err(error) => {
                return Err(Fault::new(FaultKind::Failed, format!("service.{name}.packages cannot be checked"))
                    .caused_by("this machine has no dpkg-query")
                    .source(&error)
                    .hint("install what it names with this system's own means and remove the key here"));
            }
        }
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Fault::new(
            FaultKind::Failed,
            format!("service {name} needs system packages that are not installed: {}", missing.join(", ")),
        )
        .hint(format!("apt install {}", missing.join(" ")))),
    }
}

/// The version of a tool as `runtime` names it: `node 20.11.1`.
///
/// `path`: where it is looked for.
pub(super) async fn verify_tool(config: &BuildConfig, path: String, tool: &Tool) -> Result<String, Fault> {
    let Tool { name, version: wanted, .. } = tool;
    let program = if name == "rust" { "rustc" } else { name };
    let args: &[&str] = if name == "go" { &["version"] } else { &["--version"] };
    let mut env = passed_on(&config.environment);
    env.extend([("PATH".to_owned(), path)]);
    env.extend(config.environment.get("HOME").map(|home| ("HOME".to_owned(), home.clone())));
    let shown = format!("{name} {wanted}");
    let shown = shown.trim();
    let fault = |cause: String| {
        let install =
            failure::package_of(program).map_or_else(|| format!("install {shown}"), |p| format!("apt install {p}"));
        Fault::new(FaultKind::Failed, format!("no usable {shown} on this machine"))
            .caused_by(cause)
            .hint(format!("{install} where every user can run it, such as /usr/local, or change `runtime`"))
    };
    let found = std::env::split_paths(&env["PATH"]).map(|f| f.join(program)).find(|p| p.is_file());
    let program = found.ok_or_else(|| {
        let own = std::env::split_paths(config.own_path()).map(|f| f.join(program)).find(|p| p.is_file());
        fault(match own {
            Some(path) => format!("{} is closed to other users, as instances are", path.display()),
            None => format!("no {program} on PATH"),
        })
    })?;
    let output = Command::new(&program).args(args).env_clear().envs(&env).current_dir("/").kill_on_drop(true).output();
    let output = tokio::time::timeout_at(Instant::now() + TOOL_LIMIT, output).await;
    let output = output.map_err(|_| fault(format!("{} does not answer", program.display())))?;
    let output = output.map_err(|e| fault(format!("{} cannot be run: {e}", program.display())))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let version = first_version(&text).ok_or_else(|| fault(format!("{} says no version", program.display())))?;
    let mut parts = version.split('.');
    match wanted.split('.').filter(|w| !w.is_empty()).all(|w| parts.next() == Some(w)) {
        true => Ok(format!("{name} {version}")),
        false => Err(fault(format!("{} is {version}", program.display()))),
    }
}

/// The first word like `20.11.1`, a letter or two before it left aside (`v20`, `go1.22`).
fn first_version(text: &str) -> Option<&str> {
    text.split(|c: char| c.is_whitespace() || matches!(c, ',' | '(' | ')'))
        .map(|word| word.trim_start_matches(|c: char| c.is_ascii_alphabetic()))
        .map(|word| word.split(|c: char| !(c.is_ascii_digit() || c == '.')).next().unwrap_or(""))
        .map(|word| word.trim_end_matches('.'))
        .find(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_tools_say() {
        let check = |text, expected| assert_eq!(first_version(text), expected, "{text}");
        check("v20.11.1\n", Some("20.11.1"));
        check("go version go1.22.3 linux/amd64", Some("1.22.3"));
        check("ruby 3.1.2p20 (2022-04-12 revision 4491b711a5)", Some("3.1.2"));
        check("PHP 8.2.7 (cli)", Some("8.2.7"));
        check("nothing here", None);
    }
}
