//! Whether artifacts can still be run as they were built: before somebody goes back to them.
//!
//! Architecture invariant: nothing is built, fetched or changed, and nothing of an artifact is run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::Digest;
use bowline_core::release::Artifact;

use super::artifact::{Artifacts, Known};
use super::detect::Tool;
use super::summary::Damage;
use super::{BuildConfig, blocking, interpreter, recipe, state_fault};

/// What a release folder needs of the machine is named in it by this variable.
const VENV: &str = "VIRTUAL_ENV";

/// Says whether all of them are whole, and the interpreters that they were built for are here.
///
/// # Errors
/// [`FaultKind::Refused`]: the first that is gone, or was changed, or whose interpreter is not here any more.
pub async fn check(artifacts: Vec<Artifact>, config: &BuildConfig) -> Result<(), Fault> {
    let known = Artifacts::open(&config.state_dir).map_err(|e| state_fault(&config.state_dir, &e))?;
    let places: BTreeSet<(Digest, PathBuf)> = artifacts.iter().map(|a| (a.digest, a.root.clone())).collect();
    for (digest, root) in places {
        let known = known.clone();
        blocking(move |_| is_whole(&known, digest, &root)).await?;
    }
    let mut asked: BTreeSet<(String, Option<String>)> = BTreeSet::new();
    for artifact in artifacts {
        // A command that runs nothing needs no interpreter either.
        let Some(runtime) = artifact.runtime.filter(|_| artifact.run.is_some()) else { continue };
        let venv = artifact.env.get(VENV).cloned();
        if asked.insert((runtime.clone(), venv.clone())) {
            is_here(&runtime, venv.as_deref(), config).await.map_err(|fault| without(&runtime, fault))?;
        }
    }
    Ok(())
}

fn is_whole(artifacts: &Artifacts, digest: Digest, root: &Path) -> Result<(), Fault> {
    let refused = |cause: String| {
        Fault::new(FaultKind::Refused, format!("what was built, {}, is not there as it was", digest.short()))
            .caused_by(cause)
            .hint("bring out the source of that release again with `bowline up`: it is built anew")
    };
    let damaged = |damage: Damage| refused(format!("below {}, {damage}", root.display()));
    match artifacts.look_up(digest) {
        Known::Absent => Err(refused(format!("{} was removed", root.display()))),
        Known::Damaged(damage) => Err(damaged(damage)),
        Known::Whole(seal) if root.starts_with(artifacts.folder(digest, &seal)) => Ok(()),
        Known::Whole(_) => Err(refused(format!("{} was changed, and built again beside itself", root.display()))),
    }
}

/// By the part of its version that decides whether what was built runs: patches come with the machine's updates.
async fn is_here(runtime: &str, venv: Option<&str>, config: &BuildConfig) -> Result<(), Fault> {
    let (name, version) = runtime.split_once(' ').unwrap_or((runtime, ""));
    match name {
        // What they make needs them no more.
        "go" | "rust" => Ok(()),
        "python" => {
            if let Some(venv) = venv {
                leads_somewhere(&Path::new(venv).join("bin/python"))?;
            }
            let wanted = interpreter::Wanted::parse(series(version, 2)).unwrap_or_default();
            interpreter::find_on(config, wanted).await.map(drop)
        }
        tool => {
            let parts = if tool == "node" { 1 } else { 2 };
            let version = series(version, parts).to_owned();
            let tool = Tool { name: tool.to_owned(), version, at_run: true };
            let is_root = nix::unistd::geteuid().is_root();
            recipe::verify_tool(config, config.run_path(is_root), &tool).await.map(drop)
        }
    }
}

/// The first parts of a version.
fn series(version: &str, parts: usize) -> &str {
    let end = version.match_indices('.').nth(parts - 1).map_or(version.len(), |(at, _)| at);
    &version[..end]
}

/// A virtual environment's interpreter is a link to the machine's. It is looked at, never run: the build made it.
fn leads_somewhere(link: &Path) -> Result<(), Fault> {
    let found = std::fs::metadata(link).is_ok_and(|found| found.is_file());
    let to = std::fs::read_link(link).unwrap_or_else(|_| link.to_owned());
    match found {
        true => Ok(()),
        false => Err(Fault::new(FaultKind::Failed, format!("{} is not there any more", to.display()))),
    }
}

fn without(runtime: &str, why: Fault) -> Fault {
    let fault = Fault::new(FaultKind::Refused, format!("it was built for {runtime}, which this machine has no more"));
    let fault = fault.caused_by(why.message);
    let fault = why.causes.into_iter().fold(fault, Fault::caused_by);
    let install = format!("install {} again", series(runtime, 2));
    fault.hint(why.hint.unwrap_or(install))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_no_other_interpreter() {
        let check = |version, parts, expected| assert_eq!(series(version, parts), expected);
        check("3.11.2", 2, "3.11");
        check("20.11.1", 1, "20");
        check("20", 1, "20");
        check("3", 2, "3");
        check("", 1, "");
    }

    fn config(state: &Path) -> BuildConfig {
        BuildConfig {
            state_dir: state.to_owned(),
            run_dir: state.join("run"),
            exe: PathBuf::from("/nonexistent"),
            environment: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
            namespaces: false,
        }
    }

    #[tokio::test]
    async fn the_interpreter_must_be_of_the_same_series() {
        let state = tempfile::tempdir().unwrap();
        let config = config(state.path());
        let here = interpreter::find_on(&config, interpreter::Wanted::default()).await.unwrap();
        let patched = format!("python {}.99", series(&here.version, 2));
        for (runtime, expected) in [(patched.as_str(), true), ("python 2.6.1", false), ("go 1.1", true)] {
            assert_eq!(is_here(runtime, None, &config).await.is_ok(), expected, "{runtime}");
        }
        let venv = state.path().join("venv");
        std::fs::create_dir_all(venv.join("bin")).unwrap();
        std::os::unix::fs::symlink("/usr/bin/python2.6", venv.join("bin/python")).unwrap();
        let gone = is_here(&patched, venv.to_str(), &config).await.unwrap_err();
        assert!(gone.message.contains("/usr/bin/python2.6"), "{gone:?}");
    }

    #[tokio::test]
    async fn what_was_never_built_here_is_refused() {
        let state = tempfile::tempdir().unwrap();
        let artifact = Artifact {
            digest: Digest([7; 32]),
            root: state.path().join("artifacts/7/app"),
            run: None,
            fallback: None,
            env: std::collections::BTreeMap::new(),
            runtime: Some("python 2.6.1".into()),
            detected: Vec::new(),
            cached: true,
        };
        let fault = check(vec![artifact], &config(state.path())).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Refused);
        assert!(fault.causes[0].contains("was removed") && fault.hint.is_some(), "{fault:?}");
    }
}
