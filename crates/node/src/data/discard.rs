//! Removing, whole or not at all.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::resource::data::DataDone;

use super::{all_apart, fill, fresh, left_apart};
use crate::volume::{VolumeError, Volumes};
use crate::walk::remove_tree;

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

/// Whether it was there, or what an earlier attempt has left of it.
fn one(path: &Path) -> io::Result<bool> {
    let existed = match fs::rename(path, fresh(path, GOING)?) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    if existed {
        File::open(path.parent().unwrap_or(path))?.sync_all()?;
    }
    let left = all_apart(path);
    let removed: Vec<io::Result<()>> = left.iter().map(|left| remove_tree(left)).collect();
    removed.into_iter().collect::<io::Result<()>>()?;
    Ok(existed || !left.is_empty())
}

/// What crashes have left apart, below ENV/APP of `root`; not what is whole and could not come in: somebody wants it.
pub(super) fn clean(root: &Path) {
    for (path, what) in left_apart(root) {
        if what.starts_with(fill::READY) {
            continue;
        }
        match remove_tree(&path) {
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
        fs::write(app.join("files.img~going"), "").unwrap();
        let volumes = Volumes::new(state.path().join("volumes"));
        assert_eq!(run(&volumes, &files), Ok(DataDone::Discarded(true)));
        assert_eq!(run(&volumes, &files), Ok(DataDone::Discarded(false)), "what is gone is gone");
        let mut left: Vec<_> = fs::read_dir(&app).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["old~new", "other"]);
        clean(&state.path().join("volumes"));
        assert!(!app.join("old~new").exists() && other.join("deep").exists());
    }
    #[test]
    fn what_an_app_built_as_deep_as_it_could_is_removed() {
        let state = tempfile::tempdir().unwrap();
        let files = state.path().join("volumes/local/shop/files");
        fs::create_dir_all(&files).unwrap();
        crate::walk::tests::deep(&files, 3_000);
        let volumes = Volumes::new(state.path().join("volumes"));
        assert_eq!(run(&volumes, &files), Ok(DataDone::Discarded(true)));
        assert_eq!(fs::read_dir(files.parent().unwrap()).unwrap().count(), 0);
    }
}
