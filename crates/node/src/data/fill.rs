//! A volume filled from a folder or an archive.
//!
//! Everything is unpacked beside the volume, where no app can put a link in the way, given to the app, and then put in
//! place: into an empty volume entry by entry, so that instances which have it mounted see it; in the place of a full one
//! at once. One with a size gets another file system, while nothing uses it.
//!
//! An archive that came from elsewhere was made by whoever was let in for the app, and may be anything: it is unpacked as the app's own
//! user, so that it comes to nothing but what is the app's, whatever the tool makes of it. That tool is told of no compression: what is
//! unpacked takes no more of the disk than what arrived, but for the ends of blocks.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::lchown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::resource::data::{DataDone, FillSource};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{apart, program};
use crate::driver::Context;
use crate::layout::{Layout, make_folder, remove_tree};
use crate::volume::{self, VolumeError, Volumes};

const NEW: &str = "new";

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
        unpack(&context.layout, source, target, own)?;
        // The folder itself is none of them.
        settle(source, target, own).map_err(|error| {
            fault(FaultKind::Failed, source).source(&error).hint("look at the disk's space; the volume is as it was")
        })
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
    let failed = |what: &str, error: &io::Error| {
        fault(FaultKind::Failed, source)
            .caused_by(format!("cannot {what} the volume"))
            .source(error)
            .hint("look at the disk's space; the volume is as it was")
    };
    volume::ensure(folder, uid).map_err(|error| failed("make", &error))?;
    let empty = is_empty(folder).map_err(|error| failed("look into", &error))?;
    if !empty && !replace {
        return Err(not_empty());
    }
    let own = uid.filter(|_| nix::unistd::geteuid().is_root());
    let new = apart(folder, NEW);
    remove_tree(&new)
        .and_then(|()| make_folder(&new, 0o700))
        .and_then(|()| own.map_or(Ok(()), |uid| lchown(&new, Some(uid), Some(uid))))
        .map_err(|error| failed("make room beside", &error))?;
    let filled = unpack(&context.layout, source, &new, own).and_then(|()| {
        let files = settle(source, &new, own).map_err(|error| failed("give away", &error))?;
        // What takes the place of something is on the disk before that goes.
        sync(&new).map_err(|error| failed("write", &error))?;
        let put = if empty { move_into(&new, folder) } else { exchange(&new, folder) };
        put.map_err(|error| failed("put it into", &error)).map(|()| files)
    });
    // What is left beside is of no use any more; the next start removes what cannot be removed now.
    let _ = remove_tree(&new);
    filled.map(|files| DataDone::Filled { files })
}

fn sync(tree: &Path) -> io::Result<()> {
    nix::unistd::syncfs(File::open(tree)?)?;
    Ok(())
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
fn unpack(layout: &Layout, source: &FillSource, new: &Path, own: Option<u32>) -> Result<(), Fault> {
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
            if let Some(uid) = own {
                tar.uid(uid).gid(uid);
            }
            tar
        }
    };
    output(command, layout, source)
}

fn output(mut command: Command, layout: &Layout, source: &FillSource) -> Result<(), Fault> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C.UTF-8");
    let failed = || fault(FaultKind::Failed, source);
    let (status, said) = program::run(command, layout)
        .map_err(|error| failed().caused_by(format!("cannot run {name}")).source(&error))?;
    if status.success() {
        return Ok(());
    }
    let fault = failed().caused_by(format!("{name} ended with {status}")).said(&said);
    Err(fault.hint("a folder, or an archive of tar (.tar, .tar.gz, .tar.xz) is wanted; the volume is as it was"))
}

/// Makes what was unpacked the app's own; how many files there are besides folders.
fn settle(source: &FillSource, tree: &Path, own: Option<u32>) -> io::Result<u64> {
    match (source, own) {
        // It is, and may still be changed by it: nothing is done there as root.
        (FillSource::Sent(_), Some(_)) => count(tree),
        (FillSource::Sent(_), None) | (FillSource::Here(_), _) => give(tree, own),
    }
}

fn count(tree: &Path) -> io::Result<u64> {
    let (mut files, mut open) = (0, vec![tree.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => open.push(entry.path()),
                false => files += 1,
            }
        }
    }
    Ok(files)
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
    File::open(folder)?.sync_all()
}

/// Both names are there at every moment.
fn exchange(new: &Path, folder: &Path) -> io::Result<()> {
    renameat_with(CWD, new, CWD, folder, RenameFlags::EXCHANGE)?;
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
        use std::os::unix::fs::PermissionsExt;
        // Others pass here, as they do through a daemon's state.
        fs::set_permissions(root, fs::Permissions::from_mode(0o711)).unwrap();
        let (from, folder) = (root.join("archive"), root.join("volumes/beta/a/files"));
        archive(&from, entries);
        fs::set_permissions(&from, fs::Permissions::from_mode(0o600)).unwrap();
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
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
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
}
