//! The cage around an app or a build: which files it reaches, what it may ask of the kernel, what it is allowed to be.
//!
//! Each file is one lock of it, and each holds alone: a mount namespace hides what is not the app's (`veil`),
//! Landlock refuses what is not granted (`files`), seccomp refuses the calls that no app needs (`calls`), no capability
//! is left (`privileges`), and nobody but the edge reaches an instance's port (`ports`); `entry` is the order in which a
//! process closes them behind itself. What a machine cannot enforce
//! is a [`Lack`]: reported by name, and refused where the cage is required.
//!
//! Architecture invariant: nothing here grants; what is granted comes as a list from whoever starts the process.

pub(crate) mod calls;
pub(crate) mod entry;
pub(crate) mod files;
pub(crate) mod namespaces;
pub(crate) mod ports;
pub(crate) mod privileges;
mod tables;
pub(crate) mod toolchain;
pub(crate) mod veil;

/// What a machine does not enforce, found out by the process that is about to be caged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    /// The state, homes and sockets of this machine are visible, and `/tmp` and `/dev/shm` are everyone's.
    Hiding,
    /// No Landlock at all.
    Files,
    /// Landlock before ABI 3: files may be truncated, or moved between folders, beyond what is granted.
    FilesWhole,
    /// Landlock before ABI 5: controls of devices.
    Devices,
    /// Landlock before ABI 6: signals to, and abstract sockets of, what is outside.
    Signals,
    /// No seccomp.
    Calls,
    /// Capabilities cannot be given up.
    Capabilities,
    /// Volumes are found by their variables only.
    Volumes,
}

impl Lack {
    const ALL: [Self; 8] = [
        Self::Hiding,
        Self::Files,
        Self::FilesWhole,
        Self::Devices,
        Self::Signals,
        Self::Calls,
        Self::Capabilities,
        Self::Volumes,
    ];

    /// As `bowline status` says it after "cannot enforce".
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hiding => "own view of the files",
            Self::Files => "file access (Landlock)",
            Self::FilesWhole => "file access in all its ways (Landlock 3)",
            Self::Devices => "device controls (Landlock 5)",
            Self::Signals => "signals and abstract sockets (Landlock 6)",
            Self::Calls => "system calls (seccomp)",
            Self::Capabilities => "no capabilities",
            Self::Volumes => "volumes at their paths (use $BOWLINE_VOLUME_NAME)",
        }
    }

    /// What is named among what an instance lacks.
    pub(crate) fn named(unenforced: &[String]) -> Vec<Self> {
        Self::ALL.into_iter().filter(|lack| unenforced.iter().any(|name| name == lack.name())).collect()
    }

    /// Between a process that may not allocate much and whoever reads its report.
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    pub(crate) fn code(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_name_what_they_were_made_of() {
        for lack in Lack::ALL {
            assert_eq!(Lack::from_code(lack.code()), Some(lack));
        }
        assert_eq!(Lack::from_code(u8::try_from(Lack::ALL.len()).unwrap()), None);
    }
}
