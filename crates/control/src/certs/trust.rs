//! Making a machine trust the local CA, and stop trusting it: the system's store and the browsers' NSS databases.
//!
//! Only the root for local names is installed, see [`super::Scope`]. Every step says what was done, or what is left
//! to do by hand; running it again changes nothing.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::authority::Root;

/// Where trust is kept on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustPlaces {
    /// The system's store; `None` if it is of no known kind.
    pub system: Option<SystemStore>,
    /// Folders with a `cert9.db`: of Chromium, of each Firefox profile.
    pub nss: Vec<PathBuf>,
    /// Changes NSS databases.
    pub certutil: Option<PathBuf>,
}

/// A folder of trusted roots and the program that makes them known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemStore {
    /// Holds one PEM file per root that was added.
    pub anchors: PathBuf,
    /// Program and arguments that make an added root known.
    pub refresh: Vec<String>,
    /// The same after one was taken away.
    pub forget: Vec<String>,
}

/// One thing that was to be done, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// `system store /usr/local/share/ca-certificates`.
    pub place: String,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was changed.
    Done,
    /// It was so before.
    Already,
    /// A person has to do this.
    Todo(String),
    /// It was tried, and this is why it failed; then what to do.
    Failed { reason: String, todo: String },
}

/// Whether one place trusts the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustStatus {
    pub place: String,
    pub trusted: Option<bool>,
}

impl TrustPlaces {
    /// Looks at the machine. `home` is the user's; nothing is changed.
    pub fn detect(home: &Path) -> Self {
        let program = |name: &str| {
            let dirs = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
            dirs.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
        };
        let known = [
            // Without `--fresh` it keeps the links of a root that is gone.
            ("/usr/local/share/ca-certificates", "update-ca-certificates", Some("--fresh")),
            ("/etc/pki/ca-trust/source/anchors", "update-ca-trust", None),
            ("/etc/ca-certificates/trust-source/anchors", "update-ca-trust", None),
        ];
        let system = known.into_iter().find_map(|(anchors, refresh, fresh)| {
            let refresh = program(refresh).filter(|_| Path::new(anchors).is_dir())?;
            let refresh = vec![refresh.display().to_string()];
            let forget = refresh.iter().cloned().chain(fresh.map(str::to_owned)).collect();
            Some(SystemStore { anchors: anchors.into(), refresh, forget })
        });
        Self { system, nss: nss_databases(home), certutil: program("certutil") }
    }

    /// Makes every place trust the root.
    pub fn install(&self, root: &Root) -> Vec<Step> {
        let system = match &self.system {
            Some(store) => store.install(root),
            None => Step {
                place: "system store".to_owned(),
                outcome: Outcome::Todo(format!("add {} to the system's trusted roots", root.path.display())),
            },
        };
        std::iter::once(system).chain(self.nss.iter().map(|db| self.install_nss(db, root))).collect()
    }

    /// Makes every place forget the root.
    pub fn remove(&self, root: &Root) -> Vec<Step> {
        let system = self.system.iter().map(|store| store.remove(root));
        system.chain(self.nss.iter().map(|db| self.remove_nss(db, root))).collect()
    }

    /// Whether each place trusts the root; `None` where that cannot be found out.
    pub fn status(&self, root: &Root) -> Vec<TrustStatus> {
        let system = self.system.iter().map(|store| {
            let held = std::fs::read_to_string(store.anchor(root)).ok();
            TrustStatus { place: store.place(), trusted: Some(held.as_deref() == Some(root.pem.as_str())) }
        });
        let nss = self.nss.iter().map(|db| {
            let trusted = self.certutil.as_deref().map(|certutil| nss_holds(certutil, db, root));
            TrustStatus { place: nss_place(db), trusted }
        });
        system.chain(nss).collect()
    }

    fn install_nss(&self, db: &Path, root: &Root) -> Step {
        self.change_nss(db, root, true, &["-A", "-t", "C,,", "-i", &root.path.display().to_string()])
    }

    fn remove_nss(&self, db: &Path, root: &Root) -> Step {
        self.change_nss(db, root, false, &["-D"])
    }

    fn change_nss(&self, db: &Path, root: &Root, wanted: bool, verb: &[&str]) -> Step {
        let place = nss_place(db);
        let (folder, nickname) = (format!("sql:{}", db.display()), nickname(root));
        let arguments = [verb, &["-d", &folder, "-n", &nickname]].concat();
        let by_hand = format!("certutil {}", arguments.iter().map(|a| quoted(a)).collect::<Vec<_>>().join(" "));
        let Some(certutil) = &self.certutil else {
            let todo = format!("install certutil (Debian: apt install libnss3-tools), then: {by_hand}");
            return Step { place, outcome: Outcome::Todo(todo) };
        };
        if nss_holds(certutil, db, root) == wanted {
            return Step { place, outcome: Outcome::Already };
        }
        let outcome = match run(certutil.as_os_str(), &arguments) {
            Ok(()) => Outcome::Done,
            Err(reason) => Outcome::Failed { reason, todo: by_hand },
        };
        Step { place, outcome }
    }
}

impl SystemStore {
    fn install(&self, root: &Root) -> Step {
        let (anchor, refresh) = (self.anchor(root), self.refresh.join(" "));
        let by_hand = format!(
            "sudo install -m 0644 {} {} && sudo {refresh}",
            quoted(&root.path.display().to_string()),
            quoted(&anchor.display().to_string())
        );
        if std::fs::read_to_string(&anchor).is_ok_and(|held| held == root.pem) {
            return self.step(Outcome::Already);
        }
        let change = || write_public(&anchor, root.pem.as_bytes());
        self.change(&self.refresh, by_hand, change, || std::fs::remove_file(&anchor))
    }

    fn remove(&self, root: &Root) -> Step {
        let anchor = self.anchor(root);
        let by_hand = format!("sudo rm {} && sudo {}", quoted(&anchor.display().to_string()), self.forget.join(" "));
        if !anchor.exists() {
            return self.step(Outcome::Already);
        }
        let undo = || write_public(&anchor, root.pem.as_bytes());
        self.change(&self.forget, by_hand, || std::fs::remove_file(&anchor), undo)
    }

    /// A change that could not be made known is undone: the next run tries it whole again.
    fn change(
        &self,
        command: &[String],
        by_hand: String,
        change: impl FnOnce() -> std::io::Result<()>,
        undo: impl FnOnce() -> std::io::Result<()>,
    ) -> Step {
        match change() {
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => return self.step(Outcome::Todo(by_hand)),
            Err(e) => return self.step(Outcome::Failed { reason: e.to_string(), todo: by_hand }),
            Ok(()) => {}
        }
        let (program, arguments) = command.split_first().expect("a store has a program that refreshes it");
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match run(OsStr::new(program), &arguments) {
            Ok(()) => self.step(Outcome::Done),
            Err(reason) => {
                let kept = undo().err().map_or_else(String::new, |e| format!("; and it could not be undone: {e}"));
                self.step(Outcome::Failed { reason: format!("{reason}{kept}"), todo: by_hand })
            }
        }
    }

    /// One file per CA, so that users of one machine do not overwrite each other's.
    fn anchor(&self, root: &Root) -> PathBuf {
        self.anchors.join(format!("bowline-{}.crt", root.fingerprint.short()))
    }

    fn place(&self) -> String {
        format!("system store {}", self.anchors.display())
    }

    fn step(&self, outcome: Outcome) -> Step {
        Step { place: self.place(), outcome }
    }
}

fn nickname(root: &Root) -> String {
    format!("Bowline {}", root.fingerprint.short())
}

fn nss_place(db: &Path) -> String {
    format!("browser store {}", db.display())
}

fn nss_holds(certutil: &Path, db: &Path, root: &Root) -> bool {
    let db = format!("sql:{}", db.display());
    run(certutil.as_os_str(), &["-L", "-d", &db, "-n", &nickname(root)]).is_ok()
}

/// Chromium's, and each profile's of Firefox, also from a snap or flatpak.
fn nss_databases(home: &Path) -> Vec<PathBuf> {
    let profiles =
        [".mozilla/firefox", "snap/firefox/common/.mozilla/firefox", ".var/app/org.mozilla.firefox/.mozilla/firefox"];
    let profiles = profiles.iter().flat_map(|dir| std::fs::read_dir(home.join(dir)).into_iter().flatten().flatten());
    let mut found: Vec<_> = profiles.map(|entry| entry.path()).collect();
    found.sort();
    found.insert(0, home.join(".pki/nssdb"));
    found.retain(|dir| dir.join("cert9.db").is_file());
    found
}

/// Standard output is dropped; the end of standard error is the reason.
fn run(program: &OsStr, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("{}: {e}", program.display()))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let text = String::from_utf8_lossy(&output.stderr);
            Err(format!("{}: {}: {}", program.display(), output.status, text.trim().lines().last().unwrap_or("")))
        }
    }
}

fn write_public(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, bytes)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

/// For a shell, where it needs quotes.
fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,@".contains(c);
    match !argument.is_empty() && argument.chars().all(plain) {
        true => argument.to_owned(),
        false => format!("'{}'", argument.replace('\'', r"'\''")),
    }
}
