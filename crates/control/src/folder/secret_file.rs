//! `[secret.NAME] source = "file:PATH"`: what the file holds when the folder is applied.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bowline_api::wire::MAX_SECRET;
use bowline_core::app::{App, SecretSource};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, SecretName};
use bowline_core::release::wanted_secrets;
use bowline_core::secret::{Secret, without_line_end};

use super::small_file::read_small;

/// Room for the end of a line, which is not part of a value.
const LINE_END: usize = 2;

/// Why a file gives no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is a link that the user with uid {0} made, who could let it lead anywhere")]
    OthersLink(u32),
    #[error("it lies in Bowline's own state")]
    State,
    #[error("it is empty")]
    Empty,
    #[error("it has more than {MAX_SECRET} bytes")]
    TooLarge,
}

/// The secrets of files that the app asks for. `state`: the daemon's, from which no app is given anything.
///
/// # Errors
/// The first that cannot be had, by its key.
pub(super) fn read_all(app: &App, state: &Path) -> Result<BTreeMap<SecretName, Secret>, Fault> {
    let mut values = BTreeMap::new();
    for name in wanted_secrets(app) {
        let Some(SecretSource::File(path)) = app.secrets.get(&name) else { continue };
        let value = read(Path::new(path), state).map_err(|error| unread(app, &name, path, &error))?;
        values.insert(name, value);
    }
    Ok(values)
}

fn unread(app: &App, name: &SecretName, path: &str, error: &SecretFileError) -> Fault {
    let key = AppKey { env: app.environment.name.clone(), app: app.name.clone() };
    Fault::new(FaultKind::Invalid, format!("secret.{name}.source cannot be read"))
        .caused_by(format!("{path}: {error}"))
        .hint(format!(
            "put the value into a file that the user of the daemon may read, or take `source` out and set it: {}",
            key.command("secret set", name.as_str())
        ))
}

/// What a daemon would take of the file of a `source`, for a command that asks none.
///
/// # Errors
/// It cannot be had.
pub fn read_secret_file(path: &Path) -> Result<Secret, SecretFileError> {
    value(&resolved(path)?)
}

fn read(path: &Path, state: &Path) -> Result<Secret, SecretFileError> {
    let real = resolved(path)?;
    if real.starts_with(fs::canonicalize(state)?) {
        return Err(SecretFileError::State);
    }
    value(&real)
}

fn value(real: &Path) -> Result<Secret, SecretFileError> {
    let bytes = without_line_end(read_small(real, (MAX_SECRET + LINE_END) as u64)?);
    match bytes.len() {
        0 => Err(SecretFileError::Empty),
        1..=MAX_SECRET => Ok(Secret::new(bytes)),
        _ => Err(SecretFileError::TooLarge),
    }
}

/// Where the file really is. Mounted secrets are links of root's; one that somebody else made is not followed, since a
/// daemon that is root may read more than who made it.
fn resolved(path: &Path) -> Result<PathBuf, SecretFileError> {
    let meta = fs::symlink_metadata(path)?;
    let trusted = [0, nix::unistd::geteuid().as_raw()].contains(&meta.uid());
    match meta.is_symlink() && !trusted {
        true => Err(SecretFileError::OthersLink(meta.uid())),
        false => Ok(fs::canonicalize(path)?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_secret_is_a_small_regular_file_that_is_not_bowlines_own() {
        let dir = tempfile::tempdir().unwrap();
        let (state, outside) = (dir.path().join("state"), dir.path().join("outside"));
        [&state, &outside].into_iter().for_each(|dir| fs::create_dir(dir).unwrap());
        let write = |path: PathBuf, content: &[u8]| {
            fs::write(&path, content).unwrap();
            path
        };
        let check = |path: &Path, expected: Result<&str, &str>| match (read(path, &state), expected) {
            (Ok(secret), Ok(value)) => assert_eq!(secret.expose(), value.as_bytes()),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
            (other, expected) => panic!("{path:?}: {other:?}, not {expected:?}"),
        };
        check(&write(outside.join("plain"), b"s3cret"), Ok("s3cret"));
        check(&write(outside.join("line"), b"s3cret\r\n"), Ok("s3cret"));
        check(&write(outside.join("lines"), b"a\nb\n\n"), Ok("a\nb\n"));
        check(&write(outside.join("empty"), b"\n"), Err("empty"));
        check(&write(outside.join("large"), &vec![b'x'; MAX_SECRET + 1]), Err("more than 65536 bytes"));
        check(&outside, Err("folder"));
        check(&outside.join("none"), Err("No such file"));
        let pipe = outside.join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        check(&pipe, Err("named pipe"));
        let key = write(state.join("master.key"), b"canary");
        check(&key, Err("Bowline's own state"));
        let (good, bad) = (outside.join("good"), outside.join("bad"));
        symlink(outside.join("plain"), &good).unwrap();
        symlink(&key, &bad).unwrap();
        check(&good, Ok("s3cret"));
        check(&bad, Err("Bowline's own state"));
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::lchown(&good, Some(1_234), None).unwrap();
            check(&good, Err("uid 1234"));
        }
    }
}
