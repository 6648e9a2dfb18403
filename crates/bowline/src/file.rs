//! The `bowline.toml` of a folder, read where the command was said: what is wrong with it is shown before anything
//! else happens.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bowline_core::app::App;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::EnvName;
use bowline_spec::{Defaults, Parsed};

use crate::ui::{self, Ui};

pub(crate) const NAME: &str = "bowline.toml";

/// What a folder says.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) app: App,
    /// `None`: there is no file, and the app is what the folder is.
    pub(crate) written: Option<(Parsed, String)>,
}

impl File {
    /// The line, from 1, where a key or its nearest parent is written.
    pub(crate) fn line(&self, key: &str) -> Option<usize> {
        let (parsed, text) = self.written.as_ref()?;
        let at = parsed.location(key)?.start.min(text.len());
        Some(text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1)
    }
}

/// A folder that can be read, its links resolved.
pub(crate) fn folder(dir: &Path, verb: &str) -> Result<PathBuf, Fault> {
    let unusable = |e: &std::io::Error| {
        Fault::new(FaultKind::Invalid, format!("{} is not a folder that can be read", dir.display()))
            .source(e)
            .hint(format!("say the folder of an app: bowline {verb} DIR"))
    };
    let dir = dir.canonicalize().map_err(|e| unusable(&e))?;
    std::fs::read_dir(&dir).map_err(|e| unusable(&e))?;
    Ok(dir)
}

pub(crate) fn folder_name(dir: &Path) -> String {
    dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// All of it or nothing: whoever reads meanwhile has the text before, or this one.
pub(crate) fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let written = write_new(&new, text).and_then(|()| std::fs::rename(&new, path));
    if written.is_err() {
        // What was not written to its end is nobody's.
        let _ = std::fs::remove_file(&new);
    }
    written
}

/// To the disk, under a name that was not taken.
pub(crate) fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Reads and parses for one environment.
///
/// # Errors
/// All that is wrong with the file, each at its place.
pub(crate) fn read(dir: &Path, env: &EnvName, ui: &Ui) -> Result<File, Fault> {
    let path = dir.join(NAME);
    let limit = u64::try_from(bowline_spec::MAX_FILE).expect("a MiB fits");
    let defaults = Defaults { folder_name: folder_name(dir), procfile: bowline_control::read_procfile(dir)? };
    let bytes = match bowline_control::read_small(&path, limit) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(File { app: bowline_spec::implicit(&defaults, env), written: None });
        }
        Err(error) => {
            return Err(Fault::new(FaultKind::Invalid, format!("{} cannot be read", path.display()))
                .source(&error)
                .hint("make it a text file that can be read, or remove it: then the folder says what it is"));
        }
    };
    let refused = |diagnostics: bowline_spec::Diagnostics| {
        let detail = match ui.is_terminal() {
            true => ui::painted(&diagnostics.render(true)),
            false => diagnostics.render(false),
        };
        Fault::from(diagnostics).detail(detail)
    };
    let name = path.display().to_string();
    let text = bowline_spec::decode(&bytes, &name).map_err(refused)?;
    let parsed = bowline_spec::parse(&text, &name, env, &defaults).map_err(refused)?;
    Ok(File { app: parsed.app.clone(), written: Some((parsed, text)) })
}
