//! Removing, whole or not at all.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::resource::data::DataDone;

use super::{APART, apart};
use crate::layout::remove_tree;
use crate::volume::{VolumeError, Volumes};

const GOING: &str = "going";

/// From the rename on, the data are gone; what is left of a removal that was cut short is removed, too.
pub(super) fn run(volumes: &Volumes, folder: &Path) -> Result<DataDone, Fault> {
    let failed = |error: &io::Error| {
        Fault::new(FaultKind::Failed, format!("{} cannot be removed", folder.display()))
            .source(error)
            .hint("look at the disk and at who owns the folder, and run the command again: it goes on where it was")
    };
    let in_use = |error: VolumeError| {
        Fault::new(FaultKind::Refused, format!("{} cannot be removed", folder.display()))
            .source(&error)
            .hint("stop what uses it, and run the command again")
    };
    volumes.let_go(folder).map_err(in_use)?;
    let mut existed = false;
    // Where the data of a volume with a size lie, or lay when a crash came: its folder is only where they are mounted.
    for part in Volumes::parts(folder) {
        existed |= one(&part).map_err(|error| failed(&error))?;
    }
    existed |= one(folder).map_err(|error| failed(&error))?;
    Ok(DataDone::Discarded(existed))
}

/// Whether it was there.
fn one(path: &Path) -> io::Result<bool> {
    let going = apart(path, GOING);
    remove(&going)?;
    match fs::rename(path, &going) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    File::open(path.parent().unwrap_or(path))?.sync_all()?;
    remove(&going)?;
    Ok(true)
}

fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata().map(|meta| meta.is_dir()) {
        Ok(false) => fs::remove_file(path),
        Ok(true) | Err(_) => remove_tree(path),
    }
}

/// What crashes have left apart, below ENV/APP of `root`.
pub(super) fn clean(root: &Path) {
    let below = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let apps = below(root).flat_map(|env| below(&env).collect::<Vec<_>>());
    let left = apps.flat_map(|app| below(&app).collect::<Vec<_>>()).filter(|path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        name.is_some_and(|name| name.contains(APART))
    });
    for path in left {
        match remove(&path) {
            Ok(()) => tracing::info!(path = %path.display(), "an unfinished removal is finished"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "what was to be removed stays"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_are_removed_whole_and_leftovers_with_them() {
        let state = tempfile::tempdir().unwrap();
        let app = state.path().join("volumes/local/shop");
        let (files, other) = (app.join("files"), app.join("other"));
        for dir in [&files, &other, &app.join("files~going"), &app.join("old~new")] {
            fs::create_dir_all(dir.join("deep")).unwrap();
        }
        let volumes = Volumes::new(state.path().join("volumes"));
        assert_eq!(run(&volumes, &files), Ok(DataDone::Discarded(true)));
        assert_eq!(run(&volumes, &files), Ok(DataDone::Discarded(false)), "what is gone is gone");
        assert!(!app.join("files~going").exists() && other.exists());
        clean(&state.path().join("volumes"));
        assert!(!app.join("old~new").exists() && other.join("deep").exists());
    }
}
