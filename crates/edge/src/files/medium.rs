//! What files lie on: whether asking for them may wait for somebody else's machine.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, StatxFlags, statx};

use crate::upstream::is_shortage;

/// What files lie on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Medium {
    Memory,
    /// A disk of this machine: what memory has of it, and closing, is not waited for.
    Disk,
    /// Perhaps a server: whatever is asked of it may wait.
    Elsewhere,
}

impl Medium {
    /// Asks only what the kernel knows by itself: a file system that is asked may ask its server. Fails where no descriptor is left to ask
    /// with; `None`: it is not known.
    fn of(fd: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        let read = |path: &str| match std::fs::read(path) {
            Err(error) if is_shortage(&error) => Err(error),
            // Paths are of any bytes.
            read => Ok(String::from_utf8_lossy(&read.unwrap_or_default()).into_owned()),
        };
        let info = read(&format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
        Ok(Self::mounted(&info, &read("/proc/self/mountinfo")?))
    }

    /// By what is known of a descriptor, and of all mounts (proc(5)).
    fn mounted(info: &str, mounts: &str) -> Option<Self> {
        let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
        let mount = mounts.lines().find(|line| line.split(' ').next() == Some(id))?;
        // Before it come optional fields, none of which is a single dash.
        Some(match mount.split_once(" - ")?.1.split(' ').next()? {
            "tmpfs" | "ramfs" => Self::Memory,
            "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" => Self::Disk,
            _ => Self::Elsewhere,
        })
    }
}

/// A mount of this machine.
type Mount = (u64, u32, u32);

/// Never waits for a disk of this machine, nor, but where its cache is void, for a server.
fn mount_of(fd: BorrowedFd<'_>) -> Option<Mount> {
    /// `STATX_MNT_ID_UNIQUE`, since Linux 6.8, which no library knows. Before, another mount gets the number of one that is gone.
    const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
    let stat = statx(fd, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID | UNIQUE).ok()?;
    // Within one mount of btrfs there are many devices.
    let is_unique = stat.stx_mask & UNIQUE.bits() != 0;
    let device = if is_unique { (0, 0) } else { (stat.stx_dev_major, stat.stx_dev_minor) };
    Some((stat.stx_mnt_id, device.0, device.1))
}

/// Where a folder lies.
#[derive(Debug)]
pub(crate) struct Place {
    medium: Medium,
    /// `None`: elsewhere.
    mount: Option<Mount>,
}

impl Place {
    /// # Errors
    /// No descriptor is left to find out with.
    pub(crate) fn of(root: impl AsFd) -> io::Result<Self> {
        let medium = Medium::of(root.as_fd())?.filter(|medium| *medium != Medium::Elsewhere);
        let mount = medium.and_then(|_| mount_of(root.as_fd()));
        Ok(Self { medium: medium.filter(|_| mount.is_some()).unwrap_or(Medium::Elsewhere), mount })
    }

    pub(crate) fn is_elsewhere(&self) -> bool {
        self.medium == Medium::Elsewhere
    }

    /// What this lies on. Where it is not of the same mount, that is not known.
    pub(crate) fn medium(&self, fd: impl AsFd) -> Medium {
        let is_here = self.mount.is_some() && mount_of(fd.as_fd()) == self.mount;
        if is_here { self.medium } else { Medium::Elsewhere }
    }
}
