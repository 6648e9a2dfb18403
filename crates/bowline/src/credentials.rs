//! The tokens that this user has, by the daemon that each is for: `$XDG_CONFIG_HOME/bowline/tokens.json`, the user's alone.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bowline_api::{Awaited, Client, Https, HttpsError};
use bowline_core::fault::{Fault, FaultKind};
use serde::{Deserialize, Serialize};

use crate::paths;
use crate::target::NamedBy;
use crate::ui::{Tone, Ui};

/// Goes before the file.
pub(crate) const TOKEN_VARIABLE: &str = "BOWLINE_TOKEN";
/// Authorities in the place of the machine's; goes before what is remembered.
const CA_VARIABLE: &str = "BOWLINE_CA";

/// One daemon's.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) token: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("ca", &self.ca).finish_non_exhaustive()
    }
}

type Tokens = BTreeMap<String, Kept>;

/// A client of this daemon, with the token that is at hand.
///
/// # Errors
/// There is none, the file is not the user's alone, or a token that does not say for which daemon it is would go where a folder
/// says: whoever may change the folder would have it.
pub(crate) fn client(url: &str, by: NamedBy, ui: Ui) -> Result<Client, Fault> {
    let name = name(url);
    let kept = read(&file()?)?.remove(&name);
    let said = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty());
    let token = match said(TOKEN_VARIABLE) {
        Some(_) if by == NamedBy::Folder => {
            return Err(Fault::new(FaultKind::Refused, format!("{TOKEN_VARIABLE} is not sent where a folder says"))
                .caused_by(format!("its bowline.toml names {name}, and the variable names no server"))
                .hint(format!("if it is meant for that one: --to {name}, or bowline login {name}")));
        }
        Some(token) => Some(
            token
                .into_string()
                .map_err(|_| Fault::new(FaultKind::Invalid, format!("{TOKEN_VARIABLE} holds what no token does")))?,
        ),
        None => kept.as_ref().map(|kept| kept.token.clone()),
    };
    let token = token.ok_or_else(|| {
        Fault::new(FaultKind::Refused, format!("there is no token for {name}")).hint(format!(
            "bowline login {name}, or set {TOKEN_VARIABLE}; an admin of it makes tokens: bowline token create"
        ))
    })?;
    let ca = said(CA_VARIABLE).map(PathBuf::from).or(kept.and_then(|kept| kept.ca));
    Ok(Client::https(way(&name, ca.as_deref(), token.trim())?, move |awaited| said_to_wait(awaited, ui)))
}

/// A daemon elsewhere is away for a moment, or has too much to do.
pub(crate) fn said_to_wait(awaited: Awaited, ui: Ui) {
    let words = match awaited {
        Awaited::Daemon => "the daemon is away: it is waited for",
        Awaited::Turn => "the daemon is busy: it is waited for",
    };
    ui.aside(format!("  {}", ui.paint(Tone::Warning, words)));
}

pub(crate) fn way(url: &str, ca: Option<&Path>, token: &str) -> Result<Https, Fault> {
    Https::new(url, ca, token).map_err(|error| {
        let fault = Fault::new(FaultKind::Invalid, format!("{url} cannot be asked")).source(&error);
        match error {
            HttpsError::Address(_) => fault.hint("write https://HOST or https://HOST:PORT"),
            HttpsError::NoBundle => fault.hint(format!("install ca-certificates, or say {CA_VARIABLE}=FILE")),
            HttpsError::Read { .. } | HttpsError::NoAuthority(_) => {
                fault.hint("name a PEM file with the CA's certificate")
            }
            HttpsError::Token | HttpsError::LongToken => fault.hint("a token starts with bowline_ and has no blanks"),
        }
    })
}

/// One name for one daemon.
pub(crate) fn name(url: &str) -> String {
    let name = url.trim_end_matches('/').to_ascii_lowercase();
    name.strip_suffix(":443").map_or(name.clone(), str::to_owned)
}

/// Keeps a token for a daemon, in the place of another one; returns where.
pub(crate) fn keep(url: &str, kept: Kept) -> Result<PathBuf, Fault> {
    let path = file()?;
    put(&path, name(url), kept)?;
    Ok(path)
}

/// What others put in at the same time stays: one after the other reads and writes.
fn put(path: &Path, name: String, kept: Kept) -> Result<(), Fault> {
    let unwritten = |error: io::Error| {
        Fault::new(FaultKind::Failed, format!("{} cannot be written", path.display())).source(&error)
    };
    let folder = path.parent().expect("a file lies in a folder");
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unwritten)?;
    let folder = File::open(folder).map_err(unwritten)?;
    // Held until it is closed.
    folder.lock().map_err(unwritten)?;
    let mut tokens = read(path)?;
    tokens.insert(name, kept);
    write(path, &tokens).and_then(|()| folder.sync_all()).map_err(unwritten)
}

fn file() -> Result<PathBuf, Fault> {
    Ok(paths::config()?.join("tokens.json"))
}

fn read(path: &Path) -> Result<Tokens, Fault> {
    let unread = |error: &dyn std::error::Error| {
        Fault::new(FaultKind::Invalid, format!("{} cannot be read", path.display()))
            .source(error)
            .hint("remove it, and log in again")
    };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Tokens::new()),
        Err(error) => return Err(unread(&error)),
    };
    let meta = file.metadata().map_err(|error| unread(&error))?;
    let me = nix::unistd::geteuid().as_raw();
    if meta.mode() & 0o077 != 0 || meta.uid() != me {
        return Err(Fault::new(FaultKind::Refused, format!("{} is not yours alone", path.display()))
            .caused_by(format!("its mode is {:o}, and its owner uid {}", meta.mode() & 0o777, meta.uid()))
            .hint(format!("whoever could read it has its tokens: revoke them, then chmod 600 {}", path.display())));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|error| unread(&error))?;
    serde_json::from_str(&text).map_err(|error| unread(&error))
}

/// In the place of the file before, whole or not at all.
fn write(path: &Path, tokens: &Tokens) -> io::Result<()> {
    let random = getrandom::u64().map_err(io::Error::other)?;
    let new = path.with_extension(format!("json.{random:016x}"));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let mut fill = || {
        serde_json::to_writer_pretty(&mut file, tokens)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    // What could not be written is not left lying around: it holds tokens.
    fill().inspect_err(|_| drop(std::fs::remove_file(&new)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn one_daemon_has_one_name() {
        let check = |url: &str, expected: &str| assert_eq!(name(url), expected);
        check("https://B.example.com/", "https://b.example.com");
        check("https://b.example.com:443", "https://b.example.com");
        check("https://b.example.com:8443/", "https://b.example.com:8443");
    }

    #[test]
    fn tokens_are_kept_for_their_user_alone_and_not_read_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bowline/tokens.json");
        assert!(read(&path).unwrap().is_empty());
        let kept = Kept { token: "bowline_x".to_owned(), ca: None };
        let name = "https://b.example.com".to_owned();
        put(&path, name.clone(), kept.clone()).unwrap();
        put(&path, name.clone(), kept.clone()).unwrap();
        let tokens = Tokens::from([(name, kept.clone())]);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(read(&path).unwrap(), tokens);
        assert!(!format!("{kept:?}").contains("bowline_x"));
        for mode in [0o640, 0o604, 0o620] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&path).unwrap_err().kind, FaultKind::Refused, "{mode:o}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "{").unwrap();
        assert_eq!(read(&path).unwrap_err().kind, FaultKind::Invalid);
    }

    #[test]
    fn tokens_that_are_kept_at_once_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bowline/tokens.json");
        let names: Vec<String> = (0..16).map(|n| format!("https://{n}.example.com")).collect();
        std::thread::scope(|scope| {
            for name in &names {
                let kept = Kept { token: "bowline_x".to_owned(), ca: None };
                scope.spawn(|| put(&path, name.clone(), kept).unwrap());
            }
        });
        assert_eq!(read(&path).unwrap().len(), names.len());
        let left = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "nothing else is left there");
    }

    #[test]
    fn what_is_too_long_for_a_token_is_refused_before_it_is_sent() {
        let token = "x".repeat(bowline_api::MAX_TOKEN + 1);
        let fault = way("https://b.example.com", None, &token).unwrap_err();
        assert!(fault.causes[0].contains("more than 256 bytes"), "{fault:?}");
    }
}
