//! Certificates that nobody but the test has signed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{path, text};

/// A chain of one for this name, and its key, in files of this folder; those that were there are replaced.
pub fn self_signed(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let [chain, key] = ["chain.pem", "key.pem"].map(|file| folder.join(file));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    openssl.args(["-subj", "/CN=bowline", "-addext", &format!("subjectAltName=DNS:{name}")]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE", "-out", path(&chain), "-keyout", path(&key)]);
    let made = openssl.output().expect("openssl is installed by scripts/setup");
    assert!(made.status.success(), "{}", text(&made));
    (chain, key)
}
