//! Names of images, as registries and engines take them: `ghcr.io/acme/shop:1.2@sha256:…`.
//!
//! The grammar is that of the OCI distribution specification and of Docker's short forms: `nginx` is
//! `docker.io/library/nginx`. A tag moves; what is deployed has a digest.

use std::fmt;
use std::str::FromStr;

use crate::id::Digest;

/// The registry of names that say none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// Longest repository, its registry included (distribution's own limit).
const MAX_REPOSITORY: usize = 255;
/// Longest tag.
const MAX_TAG: usize = 128;

/// Digest of an image's manifest, `sha256:` and 64 hexadecimal digits: the one name that never moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageDigest(pub Digest);

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl FromStr for ImageDigest {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let hex = text.strip_prefix("sha256:").ok_or(ReferenceError::Digest)?;
        hex.parse().map(Self).map_err(|_| ReferenceError::Digest)
    }
}

/// Why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("the name of an image cannot be empty")]
    Empty,
    #[error("{0:?} is no host of a registry")]
    Registry(String),
    #[error("a repository is made of a to z, 0 to 9, and '.', '_', '-' between them, not of {0:?}")]
    Component(String),
    #[error("a repository has at most {MAX_REPOSITORY} characters, this one has {0}")]
    TooLong(usize),
    #[error("a tag has up to {MAX_TAG} letters, digits, '_', '.' and '-', and begins with none of the last two")]
    Tag,
    #[error("a digest is sha256: and 64 hexadecimal digits in lower case")]
    Digest,
}

/// Where images of one name lie: a registry's host, and a path there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    registry: String,
    path: String,
}

impl Repository {
    /// The host, with its port where one is said: `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// What the registry's own API is asked for: `library/nginx`.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn at(&self, digest: ImageDigest) -> ImageRef {
        ImageRef { repository: self.clone(), digest }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)
    }
}

impl FromStr for Repository {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let (registry, path) = match text.split_once('/') {
            Some((host, rest)) if is_host(host) => (host, rest.to_owned()),
            Some(_) => (DEFAULT_REGISTRY, text.to_owned()),
            None => (DEFAULT_REGISTRY, format!("library/{text}")),
        };
        // Docker's other names of its registry; of both, names of one component are its own library's.
        let is_docker = matches!(registry, "docker.io" | "index.docker.io");
        let registry = if is_docker { DEFAULT_REGISTRY } else { registry };
        let path = if is_docker && !path.contains('/') { format!("library/{path}") } else { path };
        if !is_registry(registry) {
            return Err(ReferenceError::Registry(registry.to_owned()));
        }
        if let Some(bad) = path.split('/').find(|component| !is_component(component)) {
            return Err(ReferenceError::Component(bad.to_owned()));
        }
        match registry.len() + 1 + path.len() {
            n if n > MAX_REPOSITORY => Err(ReferenceError::TooLong(n)),
            _ => Ok(Self { registry: registry.to_owned(), path }),
        }
    }
}

/// What a person writes: a repository, and a tag, a digest, both or none (`latest`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    pub repository: Repository,
    pub tag: Option<String>,
    pub digest: Option<ImageDigest>,
}

impl Reference {
    /// What the registry's API takes for it: the digest, else the tag, else `latest`.
    pub fn wanted(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// It can be answered with one image alone.
    pub fn pinned(&self) -> Option<ImageRef> {
        self.digest.map(|digest| self.repository.at(digest))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse()?)),
            None => (text, None),
        };
        // A colon before the last slash is a port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag);
        }
        Ok(Self { repository: name.parse()?, tag: tag.map(str::to_owned), digest })
    }
}

/// One image for certain: what is deployed, and what manifests hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRef {
    pub repository: Repository,
    pub digest: ImageDigest,
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.repository, self.digest)
    }
}

/// Whether the first component of a name is a host and not part of a path: Docker's rule.
fn is_host(component: &str) -> bool {
    component == "localhost"
        || component.contains(['.', ':', '['])
        || component.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_registry(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("address", port),
            _ => return false,
        },
        None => host.find(':').map_or((host, ""), |at| host.split_at(at)),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_port = match port.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok_and(|n| n > 0),
        None => port.is_empty(),
    };
    name.split('.').all(is_label) && is_port
}

/// `[a-z0-9]+` parts, between them one `.`, one or two `_`, or any number of `-`.
fn is_component(component: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !is_word(*first) || !is_word(*last) {
        return false;
    }
    let mut separators = component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    separators.all(|between| matches!(between, "" | "." | "_" | "__") || between.bytes().all(|byte| byte == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_name_says_registry_path_tag_and_digest() {
        let all = |text: &str| {
            let reference: Reference = text.parse().unwrap();
            let Repository { registry, path } = reference.repository.clone();
            (registry, path, reference.tag.clone(), reference.digest.is_some())
        };
        let expected = |registry: &str, path: &str, tag: Option<&str>, digest| {
            (registry.to_owned(), path.to_owned(), tag.map(str::to_owned), digest)
        };
        assert_eq!(all("nginx"), expected("docker.io", "library/nginx", None, false));
        assert_eq!(all("docker.io/nginx:1"), expected("docker.io", "library/nginx", Some("1"), false));
        assert_eq!(all("index.docker.io/acme/shop"), expected("docker.io", "acme/shop", None, false));
        assert_eq!(all("acme/shop:v1.2"), expected("docker.io", "acme/shop", Some("v1.2"), false));
        assert_eq!(all("localhost/shop"), expected("localhost", "shop", None, false));
        assert_eq!(all("localhost:5000/a/b/c:x"), expected("localhost:5000", "a/b/c", Some("x"), false));
        assert_eq!(all("[::1]:5000/shop"), expected("[::1]:5000", "shop", None, false));
        assert_eq!(all("Registry/shop"), expected("Registry", "shop", None, false));
        let both = format!("ghcr.io/acme/shop__web--x:1@sha256:{HEX}");
        assert_eq!(all(&both), expected("ghcr.io", "acme/shop__web--x", Some("1"), true));
        assert_eq!(both.parse::<Reference>().unwrap().to_string(), both);
        assert_eq!(both.parse::<Reference>().unwrap().wanted(), format!("sha256:{HEX}"));
        assert_eq!("nginx".parse::<Reference>().unwrap().wanted(), "latest");
    }

    #[test]
    fn what_is_no_name_says_why() {
        let why = |text: &str| text.parse::<Reference>().unwrap_err();
        let component = |text: &str| ReferenceError::Component(text.into());
        assert_eq!(why(""), ReferenceError::Empty);
        assert_eq!(why(":1"), ReferenceError::Empty);
        assert_eq!(why("shop:"), ReferenceError::Tag);
        assert_eq!(why("shop:-1"), ReferenceError::Tag);
        assert_eq!(why(&format!("shop:{}", "a".repeat(129))), ReferenceError::Tag);
        assert_eq!(why("acme/Shop"), component("Shop"));
        assert_eq!(why("acme//shop"), component(""));
        assert_eq!(why("acme/../shop"), component(".."));
        assert_eq!(why("acme/a___b"), component("a___b"));
        assert_eq!(why("acme/sho p"), component("sho p"));
        assert_eq!(why("ghcr.io/"), component(""));
        assert_eq!(why("a..b/shop"), ReferenceError::Registry("a..b".into()));
        assert_eq!(why("host:0/shop"), ReferenceError::Registry("host:0".into()));
        assert_eq!(why("host:99999/shop"), ReferenceError::Registry("host:99999".into()));
        assert_eq!(why("[::g]/shop"), ReferenceError::Registry("[::g]".into()));
        assert_eq!(why("shop@sha256:ab"), ReferenceError::Digest);
        assert_eq!(why(&format!("shop@sha256:{}", HEX.to_uppercase())), ReferenceError::Digest);
        assert_eq!(why(&format!("shop@sha512:{HEX}")), ReferenceError::Digest);
        assert_eq!(why(&format!("ghcr.io/{}", "a".repeat(255))), ReferenceError::TooLong(263));
    }
}
