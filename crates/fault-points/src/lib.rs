//! Fault points: the steps of a deploy at which a process of Bowline can be made to die as by `kill -9`, for the tests.
//!
//! The code says [`reach`] at each step. A test starts a daemon with `BOWLINE_FAULT_POINTS=DIR` and arms a point by a file of its
//! name in DIR: whichever process reaches it first takes the file away and dies. A file of N bytes is one that is reached N times
//! before that. So a point is armed while everything runs, strikes once, and a file that is left says that the point was never
//! reached.
//!
//! Architecture invariant: with `debug_assertions` off, as in what is shipped, there is nothing of it: no variable is read, no name
//! is in the binary. `make release` and `make build` look.

use std::fmt;

/// Defines [`Point`] with the list of all and their names.
macro_rules! points {
    ($($role:ident: { $($(#[$doc:meta])* $point:ident = $name:literal,)* })*) => {
        /// A step at which a process can be made to die.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Point { $($($(#[$doc])* $point,)*)* }

        impl Point {
            /// All that the code has, in the order in which a release comes to them.
            pub const ALL: &[Self] = &[$($(Self::$point,)*)*];

            /// The name of the file that arms it.
            pub fn name(self) -> &'static str {
                match self { $($(Self::$point => $name,)*)* }
            }

            /// Which process dies.
            pub fn role(self) -> Role {
                match self { $($(Self::$point => Role::$role,)*)* }
            }
        }
    };
}

/// Whose step a point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Daemon,
    /// The process of one command of a build.
    Builder,
    Shim,
    Edge,
    /// `bowline image`, which no daemon knows of.
    Image,
}

points! {
    Daemon: {
        /// A manifest was taken, and what is missing not asked for yet.
        SourceOffered = "source-offered",
        /// A content has arrived whole, and has not got its name.
        ContentArrived = "content-arrived",
        /// A folder is put together, and has not got its name.
        SourceAssembled = "source-assembled",
        SourcePlaced = "source-placed",
        /// An apply was asked for; nothing was done.
        ApplyAsked = "apply-asked",
        FolderRead = "folder-read",
        BeginUnstored = "begin-unstored",
        BeginStored = "begin-stored",
        BuildOrdered = "build-ordered",
        /// The artifact's folder is made, and nothing is in it.
        ArtifactStarted = "artifact-started",
        /// Every command has run.
        ArtifactBuilt = "artifact-built",
        /// Read-only and on the disk, and no seal says so.
        ArtifactFrozen = "artifact-frozen",
        ArtifactSealed = "artifact-sealed",
        BuildEnded = "build-ended",
        ReleaseUnstored = "release-unstored",
        ReleaseStored = "release-stored",
        /// Data are to be kept as they are before a release; nothing was done.
        DataSnapshotOrdered = "data-snapshot-ordered",
        /// All of it is on the disk, and has not got its name.
        DataSnapshotWritten = "data-snapshot-written",
        DataSnapshotPlaced = "data-snapshot-placed",
        /// The node has answered, and what it was for has not begun.
        DataSnapshotTaken = "data-snapshot-taken",
        RunUnstored = "run-unstored",
        /// A run is recorded, and was not ordered.
        RunStored = "run-stored",
        RunBeganUnstored = "run-began-unstored",
        RunBeganStored = "run-began-stored",
        RunEndUnstored = "run-end-unstored",
        RunEndStored = "run-end-stored",
        StepUnstored = "step-unstored",
        StepStored = "step-stored",
        PromoteUnstored = "promote-unstored",
        PromoteStored = "promote-stored",
        NodeOrdered = "node-ordered",
        /// Folder, control group and port are there, and no shim.
        InstanceStarting = "instance-starting",
        /// The shim has answered, and nobody was told.
        InstanceStarted = "instance-started",
        EdgeOrdered = "edge-ordered",
        SnapshotOrdered = "snapshot-ordered",
        SnapshotSealed = "snapshot-sealed",
        /// The edge has acknowledged a table, and nobody was told.
        TableAcknowledgementHeard = "table-acknowledgement-heard",
        /// An instance is to be told to end.
        InstanceStopping = "instance-stopping",
        /// Its shim is gone, and its end was not read.
        InstanceEnded = "instance-ended",
        InstanceConcluded = "instance-concluded",
        /// What an instance left is half removed.
        InstanceCleaned = "instance-cleaned",
        DoneUnstored = "done-unstored",
        DoneStored = "done-stored",
        DoneTold = "done-told",
        CollectOrdered = "collect-ordered",
        ForgetUnstored = "forget-unstored",
        ForgetStored = "forget-stored",
        CertificateOrdered = "certificate-ordered",
        CertificateMade = "certificate-made",
        /// An order is in the ledger, and the authority has not heard of it.
        OrderNoted = "order-noted",
        /// The authority has taken it, and said what it wants to see.
        OrderPlaced = "order-placed",
        /// The edge answers, and the authority was not told.
        ChallengeServed = "challenge-served",
        /// The authority looks.
        ChallengeAnnounced = "challenge-announced",
        /// The authority believes it, and was asked to sign.
        OrderFinalised = "order-finalised",
        /// The certificate is on the disk, and nobody was told.
        OrderKept = "order-kept",
        /// The certificate is about to be handed to the edge.
        OrderTaken = "order-taken",
        AbortUnstored = "abort-unstored",
        AbortStored = "abort-stored",
        UndoneUnstored = "undone-unstored",
        UndoneStored = "undone-stored",
        BackUnstored = "back-unstored",
        BackStored = "back-stored",
        RoundUnstored = "round-unstored",
        RoundStored = "round-stored",
        RoundPhaseUnstored = "round-phase-unstored",
        RoundPhaseStored = "round-phase-stored",
        RoundEndUnstored = "round-end-unstored",
        RoundEndStored = "round-end-stored",
    }
    Builder: {
        /// It has its order, and no child.
        BuilderOrdered = "builder-ordered",
        /// The command is about to be executed.
        BuilderExecutes = "builder-executes",
        /// The command has ended, and nobody was told.
        BuilderEnded = "builder-ended",
    }
    Shim: {
        /// It holds the slot's lock, and nothing says so.
        ShimLocked = "shim-locked",
        /// The record is there, and nothing runs.
        ShimRecorded = "shim-recorded",
        /// The place is about to be made.
        ShimBegins = "shim-begins",
        /// The app's process is there, and waits.
        ShimForked = "shim-forked",
        /// The app was executed, and nobody was told.
        ShimExecuted = "shim-executed",
        /// All is recorded, and the daemon was not answered.
        ShimAnswers = "shim-answers",
        ShimTerminated = "shim-terminated",
        /// Nothing is left of the app, and no record says how it ended.
        ShimUnrecorded = "shim-unrecorded",
        ShimEndRecorded = "shim-end-recorded",
    }
    Edge: {
        TableReceived = "table-received",
        /// Every worker serves it, and the daemon was not told.
        TableServed = "table-served",
        TableAcknowledged = "table-acknowledged",
    }
    Image: {
        /// All of a blob is on the disk, and it has not got its name.
        BlobWritten = "blob-written",
        BlobKept = "blob-kept",
        /// Every blob of an image is there, and no name leads to it.
        ImageUnnamed = "image-unnamed",
        ImageNamed = "image-named",
        /// Every blob of an image is at the registry, and no name there leads to it.
        ImagePushing = "image-pushing",
        ImagePushed = "image-pushed",
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Dies here if the point is armed.
#[inline]
pub fn reach(point: Point) {
    #[cfg(debug_assertions)]
    armed::reach(point);
    #[cfg(not(debug_assertions))]
    let _ = point;
}

/// Lets a child that gets no environment reach points, too.
#[inline]
pub fn pass_on(command: &mut std::process::Command) {
    #[cfg(debug_assertions)]
    armed::pass_on(command);
    #[cfg(not(debug_assertions))]
    let _ = command;
}

/// How many times faster scaling by load is than it would be, and an order that failed is tried again: the number in the file [`FASTER`] of the folder, else 1.
pub fn faster() -> u32 {
    #[cfg(debug_assertions)]
    {
        armed::faster().unwrap_or(1)
    }
    #[cfg(not(debug_assertions))]
    {
        1
    }
}

/// Whether what is stored of an app is to be taken for another version's, which this one cannot read: a line of the file
/// [`UNREADABLE`] of the folder. `app`: as it prints.
pub fn is_unreadable(app: &str) -> bool {
    #[cfg(debug_assertions)]
    {
        armed::is_unreadable(app)
    }
    #[cfg(not(debug_assertions))]
    {
        let _ = app;
        false
    }
}

/// The file that names them: what another version has stored is not at hand in a test of the whole.
pub const UNREADABLE: &str = "unreadable-apps";

/// The file that says how many times faster these are: minutes are what a test waits for otherwise.
pub const FASTER: &str = "scale-faster";

/// The variable that names the folder whose files arm points.
pub const VARIABLE: &str = "BOWLINE_FAULT_POINTS";

#[cfg(debug_assertions)]
mod armed {
    use std::path::Path;
    use std::process::Command;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::getpid;

    use super::{Point, VARIABLE};

    pub(super) fn reach(point: Point) {
        if let Some(folder) = std::env::var_os(VARIABLE)
            && strikes(Path::new(&folder), point)
        {
            die();
        }
    }

    pub(super) fn faster() -> Option<u32> {
        let folder = std::env::var_os(VARIABLE)?;
        let text = std::fs::read_to_string(Path::new(&folder).join(super::FASTER)).ok()?;
        text.trim().parse().ok().filter(|times| *times > 0)
    }

    pub(super) fn is_unreadable(app: &str) -> bool {
        let Some(folder) = std::env::var_os(VARIABLE) else { return false };
        let text = std::fs::read_to_string(Path::new(&folder).join(super::UNREADABLE)).unwrap_or_default();
        text.lines().any(|line| line == app)
    }

    pub(super) fn pass_on(command: &mut Command) {
        if let Some(folder) = std::env::var_os(VARIABLE) {
            command.env(VARIABLE, folder);
        }
    }

    /// Takes the file away, or a byte of it.
    pub(super) fn strikes(folder: &Path, point: Point) -> bool {
        let file = folder.join(point.name());
        let Ok(left) = std::fs::metadata(&file).map(|meta| meta.len()) else { return false };
        if left > 0 {
            // One that was struck meanwhile is not written anew.
            let open = std::fs::File::options().write(true).open(&file);
            let _ = open.and_then(|file| file.set_len(left - 1));
            return false;
        }
        // Of several that come at once, one.
        std::fs::remove_file(&file).is_ok()
    }

    #[expect(unsafe_code, reason = "_exit(2) is a foreign function")]
    fn die() -> ! {
        let _ = kill(getpid(), Signal::SIGKILL);
        // The first process of a PID namespace takes no signal of its own: as sudden, by another code.
        // SAFETY: it returns to nobody, and runs nothing of this process.
        unsafe { libc::_exit(128 + libc::SIGKILL) }
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use std::collections::BTreeSet;

    use super::armed::strikes;
    use super::*;

    #[test]
    fn each_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
    }

    #[test]
    fn an_armed_point_strikes_once_after_so_many_times() {
        let folder = tempfile::tempdir().unwrap();
        let strike = || strikes(folder.path(), Point::BeginStored);
        assert!(!strike(), "not armed");
        std::fs::write(folder.path().join("begin-stored"), "..").unwrap();
        assert!(!strikes(folder.path(), Point::BeginUnstored), "another one");
        assert_eq!([strike(), strike(), strike(), strike()], [false, false, true, false]);
    }
}
