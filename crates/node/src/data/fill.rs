//! A volume filled from a folder or an archive.
//!
//! Everything is unpacked beside the volume, where no app can put a link in the way, given to the app, and then put in
//! place at once. Into an empty volume that instances have mounted it comes entry by entry, so that they see it, and what was begun so is
//! carried to its end, by the next daemon if this one is killed. One with a size gets another file system, while nothing uses it.
//!
//! An archive that came from elsewhere was made by whoever was let in for the app, and may be anything: it is unpacked as the app's own
//! user, so that it comes to nothing but what is the app's, whatever the tool makes of it. That tool is told of no compression; but a
//! name of a few bytes makes many folders, and an empty file takes an inode: so what is left of the disk is looked at all the while, and
//! the tool is killed where it goes below what stays free for all.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::resource::data::{DataDone, FillSource};
use nix::fcntl::AtFlags;
use nix::unistd::{Gid, Uid, fchownat};
use rustix::fs::{CWD, FileType, RenameFlags, fstat, renameat_with};

use super::program::{self, Cut};
use super::{APART, all_apart, fresh, left_apart};
use crate::disk::{Begun, Filler};
use crate::driver::Context;
use crate::layout::{Layout, make_folder};
use crate::volume::{self, VolumeError, Volumes};
use crate::walk::{self, Found, remove_tree};

const NEW: &str = "new";
/// What is whole, and on its way into a volume.
pub(super) const READY: &str = "ready";
/// Of the tool that unpacks what was sent, in bytes: enough for some millions of folders and links.
const MEMORY: u64 = 1 << 30;
/// So much comes entry by entry, at most: the names are kept, to take it out again.
const MOST_ENTRIES: usize = 100_000;

/// Says why a program is to be ended that fills a volume.
type Stop<'a> = &'a dyn Fn() -> Option<Fault>;

pub(super) fn run(
    context: &Context,
    folder: &Path,
    uid: Option<u32>,
    source: &FillSource,
    replace: bool,
) -> Result<DataDone, Fault> {
    source_is_finite(source)?;
    match Volumes::is_sized(folder) {
        true => sized(context, folder, uid, source, replace),
        false if replace && context.volumes.is_used(folder) => Err(is_used(refused(source))),
        false => plain(context, folder, uid, source, replace),
    }
}

/// Whether [`run`] would begin: asked before an archive is sent.
pub(super) fn may(context: &Context, folder: &Path, replace: bool) -> Result<DataDone, Fault> {
    let fault = |kind| Fault::new(kind, "the volume cannot be filled");
    let may = match Volumes::is_sized(folder) {
        true => {
            let may = context.volumes.may_refill(folder, replace);
            may.map_err(|error| not_refilled(fault(FaultKind::Failed), &error))?
        }
        false if replace && context.volumes.is_used(folder) => return Err(is_used(fault(FaultKind::Refused))),
        false => replace || is_empty(folder).unwrap_or(true),
    };
    if may { Ok(DataDone::Fillable) } else { Err(not_empty()) }
}

/// In words for an operator, who knows nothing of where it lies that came from elsewhere.
fn called(source: &FillSource) -> String {
    match source {
        FillSource::Here(path) => path.display().to_string(),
        FillSource::Sent(_) => "what was sent".to_owned(),
    }
}

fn fault(kind: FaultKind, source: &FillSource) -> Fault {
    Fault::new(kind, format!("{} cannot be imported", called(source)))
}

fn refused(source: &FillSource) -> Fault {
    fault(FaultKind::Refused, source)
}

fn is_used(fault: Fault) -> Fault {
    fault
        .caused_by("something that runs uses the volume")
        .hint("stop the app first: what is open in the old content would be written into nowhere")
}

fn not_empty() -> Fault {
    Fault::new(FaultKind::Refused, "the volume is not empty")
        .hint("--replace puts the new content in the place of what is there")
}

fn not_refilled(fault: Fault, error: &VolumeError) -> Fault {
    let fault = fault.source(error);
    fault.hint(match matches!(error, VolumeError::InUse) {
        true => "a volume with a size is filled while its app is stopped: end its `bowline up`, and run this again",
        false => "look at the disk's space; the volume is as it was",
    })
}

/// One that is not there yet is.
fn is_empty(folder: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(folder)?.next().is_none())
}

fn sized(
    context: &Context,
    folder: &Path,
    uid: Option<u32>,
    source: &FillSource,
    replace: bool,
) -> Result<DataDone, Fault> {
    let own = uid.filter(|_| nix::unistd::geteuid().is_root());
    let filled = context.volumes.refill(folder, uid, replace, &mut |target| {
        // It has no more room than was reserved for it.
        unpack(&context.layout, source, target, own, &|| None)?;
        settle(source, target, own)
    });
    match filled {
        Ok(Some(files)) => Ok(DataDone::Filled { files }),
        Ok(None) => Err(not_empty()),
        Err(VolumeError::Content(fault)) => Err(*fault),
        Err(error) => Err(not_refilled(fault(FaultKind::Failed, source), &error)),
    }
}

fn plain(
    context: &Context,
    folder: &Path,
    uid: Option<u32>,
    source: &FillSource,
    replace: bool,
) -> Result<DataDone, Fault> {
    volume::ensure(folder, uid).map_err(|error| failed(source, "make", &error))?;
    let empty = is_empty(folder).map_err(|error| failed(source, "look into", &error))?;
    if !empty && !replace {
        return Err(not_empty());
    }
    let own = uid.filter(|_| nix::unistd::geteuid().is_root());
    let beside = |error: io::Error| failed(source, "make room beside", &error);
    let new = fresh(folder, NEW).map_err(beside)?;
    let filled = make_folder(&new, 0o700)
        .and_then(|()| own.map_or(Ok(()), |uid| lchown(&new, Some(uid), Some(uid))))
        .map_err(beside)
        .and_then(|()| {
            let filler = match source {
                FillSource::Here(_) => Filler::Own,
                FillSource::Sent(_) => Filler::Sent,
            };
            let begun = Begun::now(&new, filler);
            unpack(&context.layout, source, &new, own, &|| begun.filled("filling the volume was ended"))?;
            let files = settle(source, &new, own)?;
            put(&context.volumes, (&new, folder), source, replace, &sync)?;
            Ok(files)
        });
    // What is left beside is of no use any more; the next start removes what cannot be removed now.
    let _ = remove_tree(&new);
    if filled.is_ok() && replace {
        all_apart(folder).iter().for_each(|left| drop(remove_tree(left)));
    }
    filled.map(|files| DataDone::Filled { files })
}

fn failed(source: &FillSource, what: &str, error: &io::Error) -> Fault {
    fault(FaultKind::Failed, source)
        .caused_by(format!("cannot {what} the volume"))
        .source(error)
        .hint("look at the disk's space; the volume is as it was")
}

fn sync(tree: &Path) -> io::Result<()> {
    nix::unistd::syncfs(File::open(tree)?)?;
    Ok(())
}

/// Puts what is whole in `new` into the volume, or leaves that as it was.
fn put(
    volumes: &Volumes,
    (new, folder): (&Path, &Path),
    source: &FillSource,
    replace: bool,
    sync: &dyn Fn(&Path) -> io::Result<()>,
) -> Result<(), Fault> {
    // What takes the place of something is on the disk before that goes.
    sync(new).map_err(|error| failed(source, "write", &error))?;
    let put = |error| failed(source, "put it into", &error);
    // It may have changed since it was looked at.
    volumes.at_rest(folder, |in_use| match (in_use, replace) {
        (true, true) => Err(is_used(refused(source))),
        (_, false) if !is_empty(folder).map_err(put)? => Err(not_empty()),
        (false, _) => exchange(new, folder).map_err(put),
        (true, false) if has_many(new).map_err(put)? => Err(refused(source)
            .caused_by(format!("it has more than {MOST_ENTRIES} files and folders at its top"))
            .hint("stop the app first: into a volume that something uses comes no more at once")),
        (true, false) => move_into(new, folder).map_err(put),
    })
}

fn has_many(folder: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(folder)?.take(MOST_ENTRIES + 1).count() > MOST_ENTRIES)
}

/// A pipe or a device may never end.
fn source_is_finite(source: &FillSource) -> Result<(), Fault> {
    let (FillSource::Here(path) | FillSource::Sent(path)) = source;
    let fault = || fault(FaultKind::Invalid, source);
    let meta = fs::metadata(path).map_err(|error| fault().caused_by("cannot look at it").source(&error))?;
    match meta.is_file() || meta.is_dir() {
        true => Ok(()),
        false => Err(fault().caused_by("it is neither a file nor a folder").hint("write it into a file first")),
    }
}

/// `own`: the app's user, where it is another than this process's.
fn unpack(layout: &Layout, source: &FillSource, new: &Path, own: Option<u32>, stop: Stop<'_>) -> Result<(), Fault> {
    let command = match source {
        FillSource::Here(path) if path.is_dir() => {
            let mut cp = Command::new("cp");
            cp.args(["-R", "-P", "--preserve=mode,timestamps,links", "--"]).arg(path.join(".")).arg(new);
            cp.stdin(Stdio::null());
            cp
        }
        FillSource::Here(path) => {
            let mut tar = Command::new("tar");
            tar.args(["--extract", "--no-same-owner", "--no-same-permissions", "--file"]).arg(path);
            tar.arg("--directory").arg(new).stdin(Stdio::null());
            tar
        }
        FillSource::Sent(path) => {
            let opened = File::open(path).and_then(|archive| Ok((archive, File::open(new)?)));
            let (archive, target) =
                opened.map_err(|error| fault(FaultKind::Failed, source).caused_by("cannot open it").source(&error))?;
            let mut tar = Command::new("tar");
            tar.args(["--extract", "--no-same-owner", "--no-same-permissions", "--file=-"]).stdin(archive);
            program::within(&mut tar, target.into());
            program::bounded(&mut tar, MEMORY);
            if let Some(uid) = own {
                tar.uid(uid).gid(uid);
            }
            tar
        }
    };
    output(command, layout, source, stop)
}

fn output(mut command: Command, layout: &Layout, source: &FillSource, stop: Stop<'_>) -> Result<(), Fault> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C.UTF-8");
    let failed = || fault(FaultKind::Failed, source);
    let full = |why: Fault| failed().caused_by(why.message).hint("make room on the machine; the volume is as it was");
    let (status, said) = program::run(command, layout, stop).map_err(|cut| match cut {
        Cut::Broken(error) => failed().caused_by(format!("cannot run {name}")).source(&error),
        Cut::Stopped(why) => full(why),
    })?;
    if status.success() {
        return Ok(());
    }
    // It may have been faster than the looks.
    if let Some(why) = stop() {
        return Err(full(why).said(&said));
    }
    let fault = failed().caused_by(format!("{name} ended with {status}")).said(&said);
    Err(fault.hint("a folder, or an archive of tar (.tar, .tar.gz, .tar.xz) is wanted; the volume is as it was"))
}

/// Makes what was unpacked the app's own; how many files there are besides folders. The folder itself is none of them, and stays as a
/// volume's is, whatever an archive says of its top.
fn settle(source: &FillSource, tree: &Path, own: Option<u32>) -> Result<u64, Fault> {
    let settled = fs::set_permissions(tree, Permissions::from_mode(0o700)).and_then(|()| match (source, own) {
        // It is, and may still be changed by it: nothing is done there as root.
        (FillSource::Sent(_), Some(_)) => count(tree),
        (FillSource::Sent(_), None) | (FillSource::Here(_), _) => give(tree, own),
    });
    settled.map_err(|error| match error.kind() == io::ErrorKind::InvalidData {
        true => fault(FaultKind::Invalid, source)
            .source(&error)
            .hint("lay its folders out flatter; the volume is as it was"),
        false => failed(source, "give away", &error),
    })
}

fn count(tree: &Path) -> io::Result<u64> {
    let mut files = 0;
    walk::each(tree, &mut |found| {
        files += u64::from(!found.is_folder());
        Ok(())
    })?;
    Ok(files)
}

/// How many files there are besides folders; owned by the app, and none with another's rights. Devices, pipes and
/// sockets are left out: none of them is content, and a device would open the machine to the app.
fn give(tree: &Path, uid: Option<u32>) -> io::Result<u64> {
    let mut files = 0;
    walk::each(tree, &mut |found| {
        files += u64::from(!found.is_folder() && !found.is_special());
        give_one(found, uid)
    })?;
    loop {
        let mut left_out = false;
        walk::each(tree, &mut |found| match found.is_special() {
            true => {
                left_out = true;
                found.remove()
            }
            false => Ok(()),
        })?;
        // A folder that loses something while it is read may hide the next one from that look.
        if !left_out {
            return Ok(files);
        }
    }
}

fn give_one(found: &Found<'_>, uid: Option<u32>) -> io::Result<()> {
    let held = found.hold()?;
    let mode = fstat(&held)?.st_mode;
    // The owner reads and writes what is its own; nobody becomes anybody else by running it.
    match FileType::from_raw_mode(mode) {
        FileType::Directory => walk::permit(&held, mode & 0o777 | 0o700)?,
        FileType::RegularFile => walk::permit(&held, mode & 0o777 | 0o600)?,
        FileType::Symlink => {}
        FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => {
            return Ok(());
        }
    }
    if let Some(uid) = uid {
        fchownat(&held, c"", Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)), AtFlags::AT_EMPTY_PATH)?;
    }
    Ok(())
}

/// Entry by entry: instances have the folder itself mounted. What an app puts there meanwhile keeps its name, and all is taken out again.
fn move_into(new: &Path, folder: &Path) -> io::Result<()> {
    let ready = fresh(folder, READY)?;
    fs::rename(new, &ready)?;
    sync_around(folder)?;
    let mut moved = Vec::new();
    let Err(error) = hand_over(&ready, folder, &mut moved) else {
        // Empty, and gone with the next start at the latest.
        let _ = fs::remove_dir(&ready);
        return Ok(());
    };
    match take_back(&ready, folder, &moved).and_then(|()| fs::rename(&ready, new)) {
        Ok(()) => Err(error),
        Err(left) => Err(io::Error::other(format!("{error}, and what had come in could not be taken out: {left}"))),
    }
}

fn hand_over(ready: &Path, folder: &Path, moved: &mut Vec<OsString>) -> io::Result<()> {
    while !is_empty(ready)? {
        for entry in fs::read_dir(ready)? {
            let name = entry?.file_name();
            move_one(&name, ready, folder)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", name.display())))?;
            moved.push(name);
        }
    }
    File::open(folder)?.sync_all()
}

fn take_back(ready: &Path, folder: &Path, moved: &[OsString]) -> io::Result<()> {
    for name in moved {
        match move_one(name, folder, ready) {
            // The app has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    File::open(folder)?.sync_all()
}

/// In nobody's place.
fn move_one(name: &OsString, from: &Path, to: &Path) -> io::Result<()> {
    Ok(renameat_with(CWD, from.join(name), CWD, to.join(name), RenameFlags::NOREPLACE)?)
}

/// Carries to its end what a killed daemon had begun to move into volumes, below `root`. What an app has put in the way meanwhile stays,
/// and what it is in the way of stays beside.
pub(super) fn go_on(volumes: &Volumes, root: &Path) {
    for (ready, what) in left_apart(root) {
        let name = ready.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let folder = ready.with_file_name(name.split(APART).next().unwrap_or_default());
        if !what.starts_with(READY) {
            continue;
        }
        match volumes.at_rest(&folder, |_| finish(&ready, &folder)) {
            Ok(()) => tracing::info!(volume = %folder.display(), "a filling that was cut short is finished"),
            Err(error) => {
                tracing::warn!(volume = %folder.display(), left = %ready.display(), %error, "not all that it was filled with came in")
            }
        }
    }
}

fn finish(ready: &Path, folder: &Path) -> io::Result<()> {
    if Volumes::is_sized(folder) {
        return Err(io::Error::other("it has got a size meanwhile"));
    }
    let mut kept_out = Ok(());
    for entry in fs::read_dir(ready)? {
        let name = entry?.file_name();
        if let Err(error) = move_one(&name, ready, folder) {
            kept_out = Err(io::Error::new(error.kind(), format!("{}: {error}", name.display())));
        }
    }
    File::open(folder)?.sync_all()?;
    kept_out.and_then(|()| fs::remove_dir(ready))
}

/// Both names are there at every moment.
fn exchange(new: &Path, folder: &Path) -> io::Result<()> {
    let exchange = || renameat_with(CWD, new, CWD, folder, RenameFlags::EXCHANGE);
    exchange()?;
    // What is beside afterwards is removed.
    sync_around(folder).or_else(|error| exchange().map_err(io::Error::from).and(Err(error)))
}

fn sync_around(folder: &Path) -> io::Result<()> {
    File::open(folder.parent().unwrap_or(folder))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeConfig;

    fn check(folder: &Path, source: &Path, replace: bool, expected: Result<u64, FaultKind>) {
        let state = folder.ancestors().nth(4).unwrap();
        let context = Context::new(NodeConfig::new(state.to_owned(), state.join("run"), "unused".into()));
        let source = FillSource::Here(source.to_owned());
        let got = run(&context, folder, None, &source, replace).map_err(|fault| fault.kind);
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

    /// As root the app has a user of its own, else it is this one.
    fn user() -> u32 {
        let own = nix::unistd::geteuid();
        if own.is_root() { 1_900_065_001 } else { own.as_raw() }
    }

    /// An archive of tar, as it may be made by whoever wants to harm: names and what they are, one after the other.
    fn archive(at: &Path, entries: &[(&str, u8, &str, &str)]) {
        let mut text = Vec::new();
        for (name, kind, link, content) in entries {
            let mut head = [0_u8; 512];
            head[..name.len()].copy_from_slice(name.as_bytes());
            head[100..108].copy_from_slice(b"0004777\0");
            head[108..116].copy_from_slice(b"0000000\0");
            head[116..124].copy_from_slice(b"0000000\0");
            head[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
            head[136..148].copy_from_slice(b"00000000000\0");
            head[148..156].copy_from_slice(b"        ");
            head[156] = *kind;
            head[157..157 + link.len()].copy_from_slice(link.as_bytes());
            head[257..265].copy_from_slice(b"ustar\x0000");
            // Of a device: `/dev/null`. That of no number at all anybody may make.
            head[329..337].copy_from_slice(b"0000001\0");
            head[337..345].copy_from_slice(b"0000003\0");
            let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
            head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            text.extend_from_slice(&head);
            text.extend_from_slice(content.as_bytes());
            text.resize(text.len().next_multiple_of(512), 0);
        }
        text.resize(text.len() + 1024, 0);
        fs::write(at, text).unwrap();
    }

    /// What is there afterwards, with its owner.
    fn sent(
        root: &Path,
        entries: &[(&str, u8, &str, &str)],
        replace: bool,
    ) -> (Result<DataDone, Fault>, std::path::PathBuf) {
        // Others pass here, as they do through a daemon's state.
        fs::set_permissions(root, Permissions::from_mode(0o711)).unwrap();
        let (from, folder) = (root.join("archive"), root.join("volumes/beta/a/files"));
        archive(&from, entries);
        fs::set_permissions(&from, Permissions::from_mode(0o600)).unwrap();
        let context = Context::new(NodeConfig::new(root.to_owned(), root.join("run"), "unused".into()));
        let may = may(&context, &folder, replace);
        let done = run(&context, &folder, Some(user()), &FillSource::Sent(from), replace);
        assert_eq!(may.is_ok(), done.is_ok() || done.as_ref().is_err_and(|fault| fault.kind == FaultKind::Failed));
        (done, folder)
    }

    const FILE: u8 = b'0';
    const HARD: u8 = b'1';
    const LINK: u8 = b'2';
    const DEVICE: u8 = b'3';

    #[test]
    fn what_was_sent_is_the_apps_and_comes_whole_or_not_at_all() {
        use std::os::unix::fs::MetadataExt;
        let root = tempfile::tempdir().unwrap();
        let (done, folder) = sent(root.path(), &[("deep/a", FILE, "", "1"), ("link", LINK, "/etc", "")], false);
        assert_eq!(done, Ok(DataDone::Filled { files: 2 }));
        let meta = fs::metadata(folder.join("deep/a")).unwrap();
        assert_eq!((meta.uid(), meta.permissions().mode() & 0o7000), (user(), 0));
        assert_eq!(fs::read_to_string(folder.join("deep/a")).unwrap(), "1");

        let (again, _) = sent(root.path(), &[("b", FILE, "", "2")], false);
        assert_eq!(again.unwrap_err().message, "the volume is not empty");
        let (replaced, _) = sent(root.path(), &[("b", FILE, "", "2")], true);
        assert_eq!(replaced, Ok(DataDone::Filled { files: 1 }));
        assert!(!folder.join("deep").exists() && fs::read_to_string(folder.join("b")).unwrap() == "2");
        assert_eq!(fs::metadata(&folder).unwrap().uid(), user());

        // Cut off within.
        let from = root.path().join("archive");
        archive(&from, &[("c", FILE, "", &"3".repeat(2_000))]);
        File::options().write(true).open(&from).unwrap().set_len(1_024).unwrap();
        let context = Context::new(NodeConfig::new(root.path().to_owned(), root.path().join("run"), "unused".into()));
        let cut = run(&context, &folder, Some(user()), &FillSource::Sent(from), true).unwrap_err();
        assert!(cut.message == "what was sent cannot be imported" && cut.kind == FaultKind::Failed, "{cut:?}");
        assert_eq!(fs::read_to_string(folder.join("b")).unwrap(), "2", "and nothing has changed");
        assert_eq!(fs::read_dir(folder.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_was_sent_gets_nowhere_else() {
        let root = tempfile::tempdir().unwrap();
        let outside = root.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let secret = root.path().join("secret");
        fs::write(&secret, "root's").unwrap();
        let (out, key) = (outside.to_str().unwrap(), secret.to_str().unwrap());
        let through = format!("{out}/absolute");
        let attacks: &[&[(&str, u8, &str, &str)]] = &[
            &[("../../../../outside/up", FILE, "", "x")],
            &[(&through, FILE, "", "x")],
            &[("way", LINK, out, ""), ("way/through", FILE, "", "x")],
            &[("way", LINK, "../../../../outside", ""), ("way/through", FILE, "", "x")],
            &[("same", HARD, key, "")],
            &[("same", HARD, "../../../../secret", "")],
        ];
        for attack in attacks {
            let (_, folder) = sent(root.path(), attack, true);
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{attack:?}");
            let same = fs::read_to_string(folder.join("same")).unwrap_or_default();
            assert!(same.is_empty() && fs::read_to_string(&secret).unwrap() == "root's", "{attack:?}");
        }
        if nix::unistd::geteuid().is_root() {
            let (device, _) = sent(root.path(), &[("disk", DEVICE, "", "")], true);
            assert_eq!(device.unwrap_err().kind, FaultKind::Failed, "the app's user makes none");
        }
        // More comes out of it than arrives.
        let gz = root.path().join("archive.gz");
        let (packed, to) = (File::create(&gz).unwrap(), root.path().join("volumes/beta/a/files"));
        archive(&root.path().join("archive"), &[("large", FILE, "", &"0".repeat(1 << 20))]);
        let gzip = Command::new("gzip").arg("-c").arg(root.path().join("archive")).stdout(packed).status().unwrap();
        assert!(gzip.success());
        let context = Context::new(NodeConfig::new(root.path().to_owned(), root.path().join("run"), "unused".into()));
        let bomb = run(&context, &to, Some(user()), &FillSource::Sent(gz), true);
        assert_eq!(bomb.unwrap_err().kind, FaultKind::Failed);
    }
    fn context(root: &Path) -> Context {
        Context::new(NodeConfig::new(root.to_owned(), root.join("run"), "unused".into()))
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn make(root: &Path, folders: &[&str], files: &[&str]) {
        folders.iter().for_each(|folder| fs::create_dir_all(root.join(folder)).unwrap());
        files.iter().for_each(|file| fs::write(root.join(file), *file).unwrap());
    }

    #[test]
    fn folders_that_are_nested_too_deeply_are_refused_and_leave_nothing() {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o711)).unwrap();
        make(root.path(), &["source", "volumes/beta/a/files~new"], &["volumes/beta/a/files~new/old"]);
        let (source, folder) = (root.path().join("source"), root.path().join("volumes/beta/a/files"));
        walk::tests::deep(&source, walk::MOST_LEVELS + 1);
        let archive = root.path().join("archive");
        let tar = Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&source).arg(".").status().unwrap();
        assert!(tar.success());
        let context = context(root.path());
        for source in [FillSource::Sent(archive), FillSource::Here(source)] {
            let refused = run(&context, &folder, Some(user()), &source, false).unwrap_err();
            assert!(refused.kind == FaultKind::Invalid && refused.causes[0].contains("too deeply"), "{refused:?}");
            assert_eq!(
                names(folder.parent().unwrap()),
                ["files", "files~new"],
                "what was left earlier is in nobody's way"
            );
        }
    }

    #[test]
    fn what_takes_the_place_of_something_is_on_the_disk_before() {
        let root = tempfile::tempdir().unwrap();
        make(root.path(), &["files", "new"], &["files/old", "new/fresh"]);
        let (new, folder) = (root.path().join("new"), root.path().join("files"));
        let (context, source) = (context(root.path()), FillSource::Here("/source".into()));
        // One that fails.
        let fails = |tree: &Path| {
            assert_eq!((names(tree), names(&folder)), (vec!["fresh".to_owned()], vec!["old".to_owned()]));
            Err(io::Error::other("the disk is broken"))
        };
        let put = put(&context.volumes, (&new, &folder), &source, true, &fails).unwrap_err();
        assert_eq!(put.causes, ["cannot write the volume", "the disk is broken"]);
        assert_eq!((names(&new), names(&folder)), (vec!["fresh".to_owned()], vec!["old".to_owned()]));
    }

    #[test]
    fn into_a_volume_in_use_all_comes_or_nothing_and_nothing_of_the_apps_goes() {
        let root = tempfile::tempdir().unwrap();
        make(root.path(), &["files", "new/b", "new/c"], &["files/b", "new/a", "new/b/x", "new/c/x"]);
        let (new, folder) = (root.path().join("new"), root.path().join("files"));
        let refused = move_into(&new, &folder).unwrap_err();
        assert!(refused.kind() == io::ErrorKind::AlreadyExists && refused.to_string().starts_with("b: "), "{refused}");
        assert_eq!((names(&new), names(&folder)), (["a", "b", "c"].map(String::from).to_vec(), vec!["b".to_owned()]));
        assert_eq!(fs::read_to_string(folder.join("b")).unwrap(), "files/b");
        fs::remove_file(folder.join("b")).unwrap();
        move_into(&new, &folder).unwrap();
        assert_eq!(names(root.path()), ["files"]);
        assert_eq!(names(&folder), ["a", "b", "c"]);
    }

    #[test]
    fn who_has_a_volume_mounted_sees_what_comes_and_nothing_is_replaced_under_it() {
        use std::os::unix::fs::MetadataExt;
        let root = tempfile::tempdir().unwrap();
        make(root.path(), &["source"], &["source/a"]);
        let (context, folder) = (context(root.path()), root.path().join("volumes/local/a/files"));
        let source = FillSource::Here(root.path().join("source"));
        let volume = bowline_core::instance::VolumeMount {
            name: bowline_core::id::ResourceName::new("files").unwrap(),
            source: folder.clone(),
            path: None,
            size: None,
        };
        let id = "local/a.web.r1.0.1".parse().unwrap();
        context.volumes.attach(&id, &volume, None).unwrap();
        let mounted = fs::metadata(&folder).unwrap().ino();
        assert_eq!(run(&context, &folder, None, &source, false), Ok(DataDone::Filled { files: 1 }));
        assert_eq!((fs::metadata(&folder).unwrap().ino(), names(&folder)), (mounted, vec!["a".to_owned()]));
        // It has begun to use it since that was looked at.
        make(root.path(), &["new"], &["new/b"]);
        let put = put(&context.volumes, (&root.path().join("new"), &folder), &source, true, &|_| Ok(()));
        assert_eq!(put.map_err(|fault| fault.kind), Err(FaultKind::Refused));
        assert_eq!(names(&folder), ["a"]);
        context.volumes.release(&id);
        assert_eq!(run(&context, &folder, None, &source, true), Ok(DataDone::Filled { files: 1 }));
    }

    #[test]
    fn what_a_killed_daemon_had_begun_to_move_comes_in_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let volumes = root.path().join("volumes");
        make(
            &volumes,
            &["local/a/begun~ready-1", "local/a/begun", "local/a/whole~new-1", "local/a/whole", "local/a/taken"],
            &["local/a/begun/in", "local/a/begun~ready-1/out", "local/a/whole~new-1/x", "local/a/taken/name"],
        );
        make(&volumes, &["local/a/taken~ready-1"], &["local/a/taken~ready-1/name", "local/a/taken~ready-1/other"]);
        go_on(&Volumes::new(volumes.clone()), &volumes);
        super::super::discard::clean(&volumes);
        let app = volumes.join("local/a");
        assert_eq!(names(&app.join("begun")), ["in", "out"]);
        assert_eq!(names(&app.join("whole")), Vec::<String>::new(), "it was not whole");
        assert_eq!(names(&app.join("taken")), ["name", "other"]);
        assert_eq!(fs::read_to_string(app.join("taken/name")).unwrap(), "local/a/taken/name", "it is the app's");
        assert_eq!(names(&app), ["begun", "taken", "taken~ready-1", "whole"], "and what it is in the way of is kept");
    }

    #[test]
    fn an_archive_that_takes_all_inodes_of_the_disk_is_ended_and_says_so() {
        use nix::mount::{MntFlags, MsFlags, mount, umount2};
        let root = tempfile::tempdir().unwrap();
        let limits = Some("size=64m,nr_inodes=2000,mode=711");
        if !nix::unistd::geteuid().is_root()
            || mount(Some("tmpfs"), root.path(), Some("tmpfs"), MsFlags::empty(), limits).is_err()
        {
            return;
        }
        let files: Vec<String> = (0..3_000).map(|number| format!("file{number}")).collect();
        let files: Vec<_> = files.iter().map(|name| (name.as_str(), FILE, "", "")).collect();
        let (done, folder) = sent(root.path(), &files, false);
        let left = (names(&folder), names(folder.parent().unwrap()));
        umount2(root.path(), MntFlags::MNT_DETACH).unwrap();
        let fault = done.unwrap_err();
        assert!(fault.causes[0].contains("almost no inodes"), "{fault:?}");
        assert_eq!(left, (Vec::new(), vec!["files".to_owned()]));
    }
}
