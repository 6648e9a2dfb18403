//! A volume filled from a folder or an archive.
//!
//! Everything is unpacked beside the volume, where no app can put a link in the way, given to the app, and then put in
//! place: into an empty volume entry by entry, so that instances which have it mounted see it; in the place of a full one
//! at once. One with a size gets another file system, while nothing uses it.

use std::fs;
use std::io;
use std::os::unix::fs::lchown;
use std::path::Path;
use std::process::{Command, Stdio};

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::resource::data::DataDone;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{apart, program};
use crate::driver::Context;
use crate::layout::{Layout, make_folder, remove_tree};
use crate::volume::{self, Volumes};

const NEW: &str = "new";

pub(super) fn run(
    context: &Context,
    folder: &Path,
    uid: Option<u32>,
    source: &Path,
    replace: bool,
) -> Result<DataDone, Fault> {
    source_is_finite(source)?;
    match Volumes::is_sized(folder) {
        true => sized(context, folder, uid, source, replace),
        false if replace && context.volumes.is_used(folder) => {
            Err(Fault::new(FaultKind::Refused, format!("{} cannot be imported", source.display()))
                .caused_by("something that runs uses the volume")
                .hint("stop the app first: what is open in the old content would be written into nowhere"))
        }
        false => plain(context, folder, uid, source, replace),
    }
}

fn not_empty() -> Fault {
    Fault::new(FaultKind::Refused, "the volume is not empty")
        .hint("--replace puts the new content in the place of what is there")
}

fn sized(context: &Context, folder: &Path, uid: Option<u32>, source: &Path, replace: bool) -> Result<DataDone, Fault> {
    let failed = |error: &dyn std::error::Error| {
        Fault::new(FaultKind::Failed, format!("{} cannot be imported", source.display())).source(error)
    };
    let own = uid.filter(|_| nix::unistd::geteuid().is_root());
    let filled = context.volumes.refill(folder, uid, replace, &mut |target| {
        unpack(&context.layout, source, target)?;
        // The folder itself is none of them.
        give(target, own).map_err(|error| failed(&error).hint("look at the disk's space; the volume is as it was"))
    });
    match filled {
        Ok(Some(files)) => Ok(DataDone::Filled { files }),
        Ok(None) => Err(not_empty()),
        Err(volume::VolumeError::Content(fault)) => Err(*fault),
        Err(error @ volume::VolumeError::InUse) => Err(failed(&error)
            .hint("a volume with a size is filled while its app is stopped: end its `bowline up`, and run this again")),
        Err(error) => Err(failed(&error).hint("look at the disk's space; the volume is as it was")),
    }
}

fn plain(context: &Context, folder: &Path, uid: Option<u32>, source: &Path, replace: bool) -> Result<DataDone, Fault> {
    let failed = |what: &str, error: &io::Error| {
        Fault::new(FaultKind::Failed, format!("{} cannot be imported", source.display()))
            .caused_by(format!("cannot {what} the volume"))
            .source(error)
            .hint("look at the disk's space; the volume is as it was")
    };
    volume::ensure(folder, uid).map_err(|error| failed("make", &error))?;
    let empty = fs::read_dir(folder).map_err(|error| failed("look into", &error))?.next().is_none();
    if !empty && !replace {
        return Err(not_empty());
    }
    let new = apart(folder, NEW);
    remove_tree(&new).and_then(|()| make_folder(&new, 0o700)).map_err(|error| failed("make room beside", &error))?;
    let filled = unpack(&context.layout, source, &new).and_then(|()| {
        let uid = uid.filter(|_| nix::unistd::geteuid().is_root());
        let files = give(&new, uid).map_err(|error| failed("give away", &error))?;
        let put = if empty { move_into(&new, folder) } else { exchange(&new, folder) };
        put.map_err(|error| failed("put it into", &error)).map(|()| files)
    });
    // What is left beside is of no use any more; the next start removes what cannot be removed now.
    let _ = remove_tree(&new);
    filled.map(|files| DataDone::Filled { files })
}

/// A pipe or a device may never end.
fn source_is_finite(source: &Path) -> Result<(), Fault> {
    let fault = || Fault::new(FaultKind::Invalid, format!("{} cannot be imported", source.display()));
    let meta = fs::metadata(source).map_err(|error| fault().caused_by("cannot look at it").source(&error))?;
    match meta.is_file() || meta.is_dir() {
        true => Ok(()),
        false => Err(fault().caused_by("it is neither a file nor a folder").hint("write it into a file first")),
    }
}

fn unpack(layout: &Layout, source: &Path, new: &Path) -> Result<(), Fault> {
    let command = match source.is_dir() {
        true => {
            let mut cp = Command::new("cp");
            cp.args(["-R", "-P", "--preserve=mode,timestamps,links", "--"]).arg(source.join(".")).arg(new);
            cp
        }
        false => {
            let mut tar = Command::new("tar");
            tar.args(["--extract", "--no-same-owner", "--no-same-permissions", "--file"]).arg(source);
            tar.arg("--directory").arg(new);
            tar
        }
    };
    output(command, layout, source)
}

fn output(mut command: Command, layout: &Layout, source: &Path) -> Result<(), Fault> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    let fault = || Fault::new(FaultKind::Failed, format!("{} cannot be imported", source.display()));
    let output = program::output(command, layout)
        .map_err(|error| fault().caused_by(format!("cannot run {name}")).source(&error))?;
    if output.status.success() {
        return Ok(());
    }
    let fault = fault().caused_by(format!("{name} ended with {}", output.status)).said(&output.stderr);
    Err(fault.hint("a folder, or an archive of tar (.tar, .tar.gz, .tar.xz) is wanted; the volume is as it was"))
}

/// How many files there are besides folders; owned by the app, and none with another's rights. Devices, pipes and
/// sockets are left out: none of them is content, and a device would open the machine to the app.
fn give(tree: &Path, uid: Option<u32>) -> io::Result<u64> {
    use std::os::unix::fs::PermissionsExt;
    let meta = tree.symlink_metadata()?;
    if !meta.is_dir() && !meta.is_file() && !meta.is_symlink() {
        return fs::remove_file(tree).map(|()| 0);
    }
    let mut files = u64::from(!meta.is_dir());
    if meta.is_dir() {
        for entry in fs::read_dir(tree)? {
            files += give(&entry?.path(), uid)?;
        }
    }
    if !meta.is_symlink() {
        // The owner reads and writes what is its own; nobody becomes anybody else by running it.
        let needed = if meta.is_dir() { 0o700 } else { 0o600 };
        fs::set_permissions(tree, fs::Permissions::from_mode(meta.permissions().mode() & 0o777 | needed))?;
    }
    if let Some(uid) = uid {
        lchown(tree, Some(uid), Some(uid))?;
    }
    Ok(files)
}

fn move_into(new: &Path, folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(new)? {
        let entry = entry?;
        fs::rename(entry.path(), folder.join(entry.file_name()))?;
    }
    fs::File::open(folder)?.sync_all()
}

/// Both names are there at every moment.
fn exchange(new: &Path, folder: &Path) -> io::Result<()> {
    renameat_with(CWD, new, CWD, folder, RenameFlags::EXCHANGE)?;
    fs::File::open(folder.parent().unwrap_or(folder))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeConfig;

    fn check(folder: &Path, source: &Path, replace: bool, expected: Result<u64, FaultKind>) {
        let state = folder.ancestors().nth(4).unwrap();
        let context = Context::new(NodeConfig::new(state.to_owned(), state.join("run"), "unused".into()));
        let got = run(&context, folder, None, source, replace).map_err(|fault| fault.kind);
        assert_eq!(got, expected.map(|files| DataDone::Filled { files }));
    }

    #[test]
    fn a_volume_is_filled_from_folders_and_archives() {
        let root = tempfile::tempdir().unwrap();
        let (source, folder) = (root.path().join("source"), root.path().join("volumes/local/a/files"));
        fs::create_dir_all(source.join("deep")).unwrap();
        fs::write(source.join("deep/x"), "1").unwrap();
        std::os::unix::fs::symlink("/etc", source.join("link")).unwrap();
        nix::unistd::mkfifo(&source.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        check(&folder, &source.join("pipe"), false, Err(FaultKind::Invalid));
        check(&folder, &source, false, Ok(2));
        assert_eq!(fs::read_to_string(folder.join("deep/x")).unwrap(), "1");
        assert!(!folder.join("pipe").exists(), "it is no content");
        check(&folder, &source, false, Err(FaultKind::Refused));

        let archive = root.path().join("a.tar.gz");
        fs::remove_file(source.join("link")).unwrap();
        fs::write(source.join("deep/x"), "2").unwrap();
        let tar = Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(&source).arg(".").status().unwrap();
        assert!(tar.success());
        check(&folder, &archive, true, Ok(1));
        assert_eq!(fs::read_to_string(folder.join("deep/x")).unwrap(), "2");
        assert!(!folder.join("link").exists(), "what was there is gone");

        fs::write(&archive, "no archive").unwrap();
        check(&folder, &archive, true, Err(FaultKind::Failed));
        assert_eq!(fs::read_to_string(folder.join("deep/x")).unwrap(), "2", "and nothing has changed");
        assert_eq!(fs::read_dir(folder.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }
}
