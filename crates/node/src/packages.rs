//! Which packages this machine has, as dpkg(1) says it, and whether they are being changed.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bowline_core::fault::{Fault, FaultKind};
use nix::fcntl::{FcntlArg, fcntl};

/// Of what is made, while packages are being updated.
const ATTEMPTS: usize = 3;
/// One run of dpkg; apt(8) starts several, and what is there between two of them is whole.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Where it is written down.
#[derive(Debug, Clone)]
pub struct Packages {
    /// `/var/lib/dpkg`
    folder: PathBuf,
    /// Which authorities are trusted (update-ca-certificates(8)).
    authorities: PathBuf,
}

impl Packages {
    #[must_use]
    pub fn of_machine() -> Self {
        Self { folder: "/var/lib/dpkg".into(), authorities: "/etc/ca-certificates.conf".into() }
    }

    /// Whatever tells two of them apart; empty where there are none.
    #[must_use]
    pub fn said(&self) -> Vec<u8> {
        // What dpkg does is written to `updates` before it is in `status`.
        let under_way = fs::read_dir(self.folder.join("updates")).into_iter().flatten().flatten();
        let under_way: BTreeSet<PathBuf> = under_way.map(|entry| entry.path()).collect();
        let all = [self.folder.join("status"), self.authorities.clone()].into_iter().chain(under_way);
        all.flat_map(|path| fs::read(path).unwrap_or_default()).collect()
    }

    /// While it is, files are replaced of which nothing is written down yet.
    fn are_changing(&self) -> bool {
        // Who may not open it cannot know.
        fs::File::open(self.folder.join("lock")).is_ok_and(|lock| holder(&lock).is_some_and(is_dpkg))
    }

    /// What is said when nobody changes them, waited for for two minutes at most. Blocks.
    fn settled(&self) -> Result<Vec<u8>, Fault> {
        let deadline = Instant::now() + SETTLED_WITHIN;
        while self.are_changing() {
            if Instant::now() >= deadline {
                return Err(changing(&format!("dpkg has been changing them for {} s", SETTLED_WITHIN.as_secs())));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(self.said())
    }

    /// Makes something while the packages stay what they are: of an update under way it would have one half. Blocks.
    ///
    /// # Errors
    /// What `make` says while nothing changed; or the packages were changed again and again.
    pub fn while_settled<T>(&self, mut make: impl FnMut(&[u8]) -> Result<T, Fault>) -> Result<T, Fault> {
        let mut packages = self.settled()?;
        for _ in 0..ATTEMPTS {
            let made = make(&packages);
            let now = self.settled()?;
            if now == packages {
                return made;
            }
            packages = now;
        }
        Err(changing("they were changed meanwhile, again and again"))
    }

    #[cfg(test)]
    fn at(folder: PathBuf) -> Self {
        Self { authorities: folder.join("authorities"), folder }
    }
}

/// Whoever has it locked (fcntl(2)): a number, or one below 1 where that is not known here.
fn holder(file: &fs::File) -> Option<i32> {
    let mut asked = whole(libc::F_WRLCK);
    fcntl(file, FcntlArg::F_GETLK(&mut asked)).ok()?;
    (i32::from(asked.l_type) != libc::F_UNLCK).then_some(asked.l_pid)
}

fn whole(kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Or may be. An apt(8) that asks its user, or downloads, holds the lock, too, and changes nothing.
fn is_dpkg(pid: i32) -> bool {
    let name = (pid > 0).then(|| fs::read_to_string(format!("/proc/{pid}/comm")).ok()).flatten();
    name.is_none_or(|name| name.trim_end() == "dpkg")
}

fn changing(cause: &str) -> Fault {
    Fault::new(FaultKind::Failed, "no image can stand on the packages of this machine")
        .caused_by(cause)
        .hint("they are being updated: it is tried again by itself, or when that is over")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> (tempfile::TempDir, Packages) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("lock"), "").unwrap();
        let packages = Packages::at(folder.path().to_owned());
        (folder, packages)
    }

    /// Held until it is closed, by somebody whom the kernel does not name.
    fn held(folder: &std::path::Path) -> fs::File {
        let lock = fs::OpenOptions::new().write(true).open(folder.join("lock")).unwrap();
        fcntl(&lock, FcntlArg::F_OFD_SETLK(&whole(libc::F_WRLCK))).unwrap();
        lock
    }

    #[test]
    fn what_is_under_way_and_whom_the_machine_trusts_are_of_it() {
        let (folder, packages) = machine();
        let folder = folder.path();
        assert_eq!(packages.said(), b"");
        fs::create_dir(folder.join("updates")).unwrap();
        for (file, content) in [("status", "s"), ("authorities", "a"), ("updates/2", "y"), ("updates/1", "x")] {
            fs::write(folder.join(file), content).unwrap();
        }
        assert_eq!(packages.said(), b"saxy");
    }

    #[test]
    fn who_changes_packages_is_waited_for() {
        let (folder, packages) = machine();
        assert!(!packages.are_changing());
        let lock = held(folder.path());
        assert!(packages.are_changing(), "nothing of it is written down yet");
        let waits = std::thread::spawn(move || packages.settled().map(|_| packages.are_changing()));
        drop(lock);
        assert!(!waits.join().unwrap().unwrap());
        assert!(!is_dpkg(nix::unistd::getpid().as_raw()), "an apt that waits for its user");
    }

    #[test]
    fn nothing_is_made_of_two_halves_of_an_update() {
        let made = |looks: &[&str]| {
            let (folder, packages) = machine();
            let mut looks = looks.iter();
            let mut next = || looks.next().map(|text| fs::write(folder.path().join("status"), text).unwrap());
            next();
            packages.while_settled(|packages| {
                next();
                Ok(String::from_utf8_lossy(packages).into_owned())
            })
        };
        assert_eq!(made(&["1", "1"]).unwrap(), "1");
        assert_eq!(made(&["1", "2", "2"]).unwrap(), "2");
        let fault = made(&["1", "2", "3", "4"]).unwrap_err();
        assert!(fault.causes[0].contains("changed meanwhile"), "{fault:?}");
        // What fails because of an update is tried again; what fails without one is told.
        let (folder, packages) = machine();
        let gone = |packages: &[u8]| match packages {
            b"2" => Ok(()),
            _ => {
                fs::write(folder.path().join("status"), "2").unwrap();
                Err(Fault::new(FaultKind::Failed, "a file is gone"))
            }
        };
        assert!(packages.while_settled(gone).is_ok());
        let fails = |_: &[u8]| Err::<(), _>(Fault::new(FaultKind::Failed, "a file is gone"));
        assert_eq!(packages.while_settled(fails).unwrap_err().message, "a file is gone");
    }
}
