//! A real registry of images: Debian's `docker-registry`.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// bcrypt of `sesame`, as `htpasswd -B` writes it.
const USERS: &str = "ann:$2b$05$abcdefghijklmnopqrstuuKcS.CYWVYVaLiiCKrrc0A5s3mGesJ9O\n";

/// It listens on a port of the kernel's and lets in `ann` with `sesame`.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    folder: tempfile::TempDir,
    host: String,
}

impl Registry {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("users"), USERS).expect("a file of the test");
        let settings = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\nauth:\n  htpasswd:\n    realm: registry\n    path: {}\n",
            at("data").display(),
            at("users").display()
        );
        std::fs::write(at("config.yml"), settings).expect("a file of the test");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(at("config.yml")).stdin(Stdio::null()).stderr(Stdio::piped());
        command.stdout(std::fs::File::create(at("access")).expect("a file of the test"));
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

    /// Where its images lie.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().join("data/docker/registry/v2/repositories")
    }

    /// How often it was asked so, by its own log: `PUT /v2/`.
    pub fn asked(&self, what: &str) -> usize {
        let log = std::fs::read_to_string(self.folder.path().join("access")).expect("its log");
        log.lines().filter(|line| line.contains(&format!("\"{what}"))).count()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
