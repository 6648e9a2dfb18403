//! Names of objects: labels of DNS (RFC 1123), whatever the file calls things.

use bowline_core::app::{App, Target};
use bowline_core::id::{AppKey, Digest};
use sha2::{Digest as _, Sha256};

/// A label of DNS, and the longest value of a label of Kubernetes.
pub(crate) const LABEL: usize = 63;
/// Of what a controller makes objects or labels of, eleven characters longer: CronJobs, StatefulSets.
pub(crate) const CONTROLLED: usize = 52;

/// Where the objects of an app lie: what `server` of the environment says, else `APP-ENV`.
pub fn namespace(key: &AppKey, app: &App) -> String {
    match &app.environment.server {
        Some(Target::Kubernetes { namespace: Some(namespace), context: _ }) => namespace.clone(),
        Some(Target::Kubernetes { .. } | Target::Local | Target::Ssh { .. } | Target::Https { .. }) | None => {
            join(&[key.app.as_str(), key.env.as_str()], LABEL)
        }
    }
}

/// Hexadecimal digits of a hash in a name.
const DIGITS: usize = 10;

/// The parts with `-` between them; what is too long, or ends with a `-`, is cut and told apart by its hash.
pub(crate) fn join(parts: &[&str], most: usize) -> String {
    let whole = parts.join("-");
    match whole.len() <= most && !whole.ends_with('-') {
        true => whole,
        false => with(&whole, &hash(whole.as_bytes()), most),
    }
}

/// The parts, and a hash of what the object holds: another content is another object. Two that hold the same are told apart by their parts.
pub(crate) fn hashed(parts: &[&str], hash: &str) -> String {
    format!("{}-{hash}", join(parts, LABEL - DIGITS - 1))
}

fn with(whole: &str, hash: &str, most: usize) -> String {
    // Names of the file are ASCII.
    let kept = whole.get(..most - DIGITS - 1).unwrap_or(whole).trim_end_matches('-');
    format!("{kept}-{hash}")
}

/// All digits of SHA-256.
pub(crate) fn digest(bytes: &[u8]) -> String {
    Digest(Sha256::digest(bytes).into()).to_string()
}

/// The first ten digits of SHA-256.
pub(crate) fn hash(bytes: &[u8]) -> String {
    short(Sha256::digest(bytes).into())
}

pub(crate) fn short(digest: [u8; 32]) -> String {
    Digest(digest).to_string()[..DIGITS].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels_of_dns() {
        let long = "a".repeat(40);
        let check = |parts: &[&str], most: usize, expected: &str| assert_eq!(join(parts, most), expected);
        check(&["hello", "web"], LABEL, "hello-web");
        check(&["hello", "web-"], LABEL, &format!("hello-web-{}", hash(b"hello-web-")));
        let cut = join(&[&long, &long], LABEL);
        assert_eq!(cut, format!("{long}-{}-{}", "a".repeat(11), hash(format!("{long}-{long}").as_bytes())));
        assert_eq!(cut.len(), LABEL);
        assert!(join(&[&long, &long], CONTROLLED).len() <= CONTROLLED);
        assert_eq!(hashed(&["hello", "web"], "0123456789"), "hello-web-0123456789");
    }

    #[test]
    fn what_is_cut_is_told_apart_whatever_it_holds() {
        let long = "a".repeat(60);
        let name = |last: &str| hashed(&[&long, last], "0123456789");
        assert_ne!(name("one"), name("two"));
        assert_eq!(name("one").len(), LABEL);
        assert!(name("one").ends_with("-0123456789"));
    }
}
