//! A real registry of images: Debian's `docker-registry`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// bcrypt of `sesame`, as `htpasswd -B` writes it.
const USERS: &str = "ann:$2b$05$abcdefghijklmnopqrstuuKcS.CYWVYVaLiiCKrrc0A5s3mGesJ9O\n";

/// It listens on a port of the kernel's.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    folder: tempfile::TempDir,
    host: String,
}

impl Registry {
    /// It asks nobody who they are.
    pub fn start() -> Self {
        Self::with("", |_| {})
    }

    /// It lets in `ann` with `sesame`.
    pub fn guarded() -> Self {
        Self::with("auth:\n  htpasswd:\n    realm: registry\n    path: DIR/users\n", |dir| {
            std::fs::write(dir.join("users"), USERS).expect("a file of the test");
        })
    }

    /// For `localhost`, by a certificate that is its own authority, in `ca.pem` of its folder.
    pub fn over_tls() -> Self {
        Self::with("  tls:\n    certificate: DIR/ca.pem\n    key: DIR/key.pem\n", |dir| {
            let key = rcgen::KeyPair::generate().expect("a key");
            let own = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name").self_signed(&key);
            std::fs::write(dir.join("ca.pem"), own.expect("a certificate").pem()).expect("a file of the test");
            std::fs::write(dir.join("key.pem"), key.serialize_pem()).expect("a file of the test");
        })
    }

    /// `more` is for the end of its settings; `DIR` in it is its folder.
    fn with(more: &str, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path();
        prepare(dir);
        let settings = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: DIR/data\nhttp:\n  addr: 127.0.0.1:0\n{more}"
        );
        let settings = settings.replace("DIR", &dir.display().to_string());
        std::fs::write(dir.join("config.yml"), settings).expect("a file of the test");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(dir.join("config.yml")).stdin(Stdio::null()).stderr(Stdio::piped());
        command.stdout(std::fs::File::create(dir.join("access")).expect("a file of the test"));
        let mut child = command.spawn().expect("docker-registry is there: scripts/setup");
        let mut said = BufReader::new(child.stderr.take().expect("it is piped"));
        let host = loop {
            let mut line = String::new();
            assert!(said.read_line(&mut line).expect("it says something") > 0, "it ended before it listened");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ',']).next().expect("an address").to_owned();
            }
        };
        // Its pipe must not fill.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Self { child, folder, host }
    }

    /// With its port.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.host.rsplit(':').next().and_then(|port| port.parse().ok()).expect("an address has a port")
    }

    /// Of its own folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where its images lie.
    pub fn folder(&self) -> PathBuf {
        self.file("data/docker/registry/v2/repositories")
    }

    /// How often it was asked so, by its own log: `PUT /v2/`.
    pub fn asked(&self, what: &str) -> usize {
        let log = std::fs::read_to_string(self.file("access")).expect("its log");
        log.lines().filter(|line| line.contains(&format!("\"{what}"))).count()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
