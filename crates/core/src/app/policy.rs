//! `[route.NAME]`: where requests go, and what they must pass.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::id::{SecretName, ServiceName};
use crate::units::{Bytes, Rate};

/// One route.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Empty: `<app>.localhost` in `local`, none elsewhere.
    pub hosts: Vec<HostName>,
    pub path: PathPrefix,
    /// Remove the prefix before the request is forwarded.
    pub strip: bool,
    pub to: RouteTo,
    pub tls: Tls,
    pub access: Access,
    pub limit: Limit,
    pub upload: Option<Upload>,
    pub transfer: Transfer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteTo {
    Service(ServiceName),
    /// 308 to this URL, the path appended.
    Redirect(String),
    /// 403.
    Deny,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tls {
    /// ACME for public names, the local CA for the rest.
    #[default]
    Auto,
    Acme,
    Local,
    Off,
}

/// Who gets in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// Empty: everyone.
    pub allow: Vec<IpNet>,
    pub auth: Option<Auth>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// This header must hold the secret. Lower case.
    Header {
        name: String,
        secret: SecretName,
    },
    Bearer {
        secret: SecretName,
    },
    /// The secret holds lines of `user:password`.
    Basic {
        secret: SecretName,
    },
}

impl Auth {
    /// What a request must hold.
    pub fn secret(&self) -> &SecretName {
        match self {
            Self::Header { secret, .. } | Self::Bearer { secret } | Self::Basic { secret } => secret,
        }
    }
}

/// Default body limit of a route that says none.
pub const DEFAULT_BODY: Bytes = Bytes(100 << 20);

/// `limit = { … }`, with its defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    pub rate: Option<Rate>,
    pub by: RateBy,
    pub body: BodyLimit,
    /// From the last byte of the request to the first of the response. Default 60 s.
    pub timeout: Duration,
    /// Without a byte in either direction, WebSocket included. Default 1 h for tunnels, `timeout` for bodies.
    pub idle: Duration,
}

impl Default for Limit {
    fn default() -> Self {
        Self {
            rate: None,
            by: RateBy::Client,
            body: BodyLimit(DEFAULT_BODY),
            timeout: Duration::from_secs(60),
            idle: Duration::from_secs(3600),
        }
    }
}

/// The largest request body, in bytes; answered with 413 beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimit(pub Bytes);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RateBy {
    #[default]
    Client,
    Route,
}

/// `upload = { extensions = [...] }`: lower case, without the dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    pub extensions: Vec<String>,
}

/// How answers get to clients, whatever is behind a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Transfer {
    /// `None`: [`PlainHttp::Redirect`] where `tls` is `acme` and the environment not `local`, else [`PlainHttp::Serve`].
    pub http: Option<PlainHttp>,
    /// `None`: browsers are told nothing.
    pub hsts: Option<Hsts>,
    /// Text is compressed for clients that take it.
    pub compress: bool,
}

/// What requests get that do not come over HTTPS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum PlainHttp {
    /// What all others get.
    #[default]
    Serve,
    /// 308 to the same over HTTPS, as far as there is a certificate for the host.
    Redirect,
}

/// What browsers are to remember of a host (RFC 6797): it is asked over HTTPS only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hsts {
    /// For how long. Zero: no longer.
    pub age: Duration,
    /// All hosts below it, too.
    pub subdomains: bool,
    /// Browsers may be shipped with it. Only with `subdomains` and at least [`Hsts::PRELOAD_AGE`].
    pub preload: bool,
}

impl Hsts {
    /// What the lists that browsers are shipped with ask for: a year.
    pub const PRELOAD_AGE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
}

impl fmt::Display for Hsts {
    /// As `Strict-Transport-Security` says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "max-age={}", self.age.as_secs())?;
        f.write_str(if self.subdomains { "; includeSubDomains" } else { "" })?;
        f.write_str(if self.preload { "; preload" } else { "" })
    }
}

/// A host name in lower case, without a trailing dot: a DNS name (or `*.` before one), an IPv4 address or an IPv6
/// address in brackets. No port.
///
/// Shared: tables have thousands of them, and are compared with the ones before.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HostName(Arc<str>);

/// That of the text. Most of those that are compared are clones of one, which need not be read for that.
impl Ord for HostName {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
    }
}

impl PartialOrd for HostName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostNameError {
    #[error("a host name cannot be empty")]
    Empty,
    #[error("a host name has at most 253 characters, and 63 between dots")]
    TooLong,
    #[error(
        "a host name is made of letters, digits, '-' and '.', not of {0:?}; write international names in their xn-- form"
    )]
    Character(char),
    #[error("a label of a host name is not empty and neither starts nor ends with '-'")]
    Label,
    #[error("only the whole first label can be '*'")]
    Wildcard,
}

impl HostName {
    /// Lower-cases and checks. A single trailing dot is removed.
    pub fn new(text: &str) -> Result<Self, HostNameError> {
        let text = text.to_ascii_lowercase();
        if let Some(address) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            let address: std::net::Ipv6Addr = address.parse().map_err(|_| HostNameError::Character('['))?;
            return Ok(Self(format!("[{address}]").into()));
        }
        let name = text.strip_suffix('.').unwrap_or(&text);
        let labels = name.strip_prefix("*.").unwrap_or(name);
        match labels {
            "" => return Err(HostNameError::Empty),
            _ if name.len() > 253 => return Err(HostNameError::TooLong),
            _ if labels.contains('*') => return Err(HostNameError::Wildcard),
            _ => labels.split('.').try_for_each(check_label)?,
        }
        Ok(Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same text, not copied.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// `*.example.com`: any one label before the rest.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }

    /// The wildcard that has this name where it has no route of its own: of `a.example.com`, `*.example.com`.
    pub fn wildcard(&self) -> Option<Self> {
        let (_, rest) = self.0.split_once('.')?;
        Some(Self(format!("*.{rest}").into()))
    }
}

fn check_label(label: &str) -> Result<(), HostNameError> {
    if let Some(bad) = label.chars().find(|c| !(c.is_ascii_alphanumeric() || *c == '-' || *c == '_')) {
        return Err(HostNameError::Character(bad));
    }
    match label {
        _ if label.len() > 63 => Err(HostNameError::TooLong),
        _ if label.is_empty() || label.starts_with('-') || label.ends_with('-') => Err(HostNameError::Label),
        _ => Ok(()),
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A canonical path prefix: starts with `/`, no empty, `.` or `..` segment, no trailing `/` except the root itself.
/// It matches whole segments: `/api` matches `/api` and `/api/x`, not `/apix`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPrefix(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathPrefixError {
    #[error("a path starts with '/'")]
    Start,
    #[error("a path has no empty, '.' or '..' segment")]
    Segment,
    #[error("a path prefix is plain ASCII without '%', '?', '#', '\\' or blanks, not {0:?}")]
    Character(char),
}

impl PathPrefix {
    pub fn root() -> Self {
        Self("/".into())
    }

    /// A trailing `/` is removed.
    pub fn new(text: &str) -> Result<Self, PathPrefixError> {
        let rest = text.strip_prefix('/').ok_or(PathPrefixError::Start)?;
        if let Some(bad) = rest.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '%' | '?' | '#' | '\\')) {
            return Err(PathPrefixError::Character(bad));
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.is_empty() {
            return Ok(Self::root());
        }
        match rest.split('/').any(|s| matches!(s, "" | "." | "..")) {
            true => Err(PathPrefixError::Segment),
            false => Ok(Self(format!("/{rest}").into())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a canonical path lies at or below this prefix.
    pub fn matches(&self, path: &str) -> bool {
        &*self.0 == "/" || path.strip_prefix(&*self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether an app may take a canonical path for one at or below this prefix: without case, as Express routes, and
    /// without what follows a `;`, encoded or not, in a segment, which servlet containers cut off (RFC 3986, 3.3).
    pub fn covers(&self, path: &str) -> bool {
        self.matches(path) || self.loosely(path).is_some()
    }

    /// What an app that cuts parameters off goes by: the names of the segments.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').map(name_of).filter(|name| !matches!(*name, "" | "."))
    }

    /// What is left of a path behind all segments of this prefix, read as in [`Self::covers`].
    fn loosely<'p>(&self, path: &'p str) -> Option<&'p str> {
        let mut wanted = self.names();
        let mut next = wanted.next();
        let mut rest = path;
        while let Some(segment) = next {
            let (raw, behind) = match rest.strip_prefix('/')?.split_once('/') {
                Some((raw, _)) => (raw, &rest[1 + raw.len()..]),
                None => (&rest[1..], ""),
            };
            match name_of(raw) {
                "" | "." => {}
                name if name.eq_ignore_ascii_case(segment) => next = wanted.next(),
                _ => return None,
            }
            rest = behind;
        }
        Some(rest)
    }

    /// The path below this prefix, starting with `/`. `path` must match, or be covered.
    pub fn strip<'p>(&self, path: &'p str) -> &'p str {
        let below = if self.matches(path) { path.strip_prefix(&*self.0) } else { self.loosely(path) };
        match below {
            _ if &*self.0 == "/" => path,
            Some(rest) if !rest.is_empty() => rest,
            Some(_) | None => "/",
        }
    }
}

/// A segment without its parameters, whether their `;` is encoded or not: some decode first.
fn name_of(segment: &str) -> &str {
    let end = segment.find(';').into_iter().chain(segment.find("%3B")).min();
    &segment[..end.unwrap_or(segment.len())]
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_app_may_take_for_a_guarded_path_is_covered() {
        let check = |path: &str, expected: Option<&str>| {
            let prefix = PathPrefix::new("/admin/x").unwrap();
            let got = prefix.covers(path).then(|| prefix.strip(path));
            assert_eq!(got, expected, "{path}");
        };
        check("/admin/x", Some("/"));
        check("/ADMIN/X/y;z", Some("/y;z"));
        check("/admin;a=b/x", Some("/"));
        check("/admin;a/X;b/y/", Some("/y/"));
        check("/;/admin/.;a/x/y", Some("/y"));
        check("/admin", None);
        check("/adminx/x", None);
        check("/a/admin/x", None);
        check("/;admin/x", None);
        check("/%3B/admin%3Ba/x", Some("/"));
        assert!(PathPrefix::root().covers("/;x"));
        let with_parameter = PathPrefix::new("/admin;v=1").unwrap();
        for path in ["/admin;v=1/x", "/Admin;v=1/x", "/admin/x", "/admin;v=2/x"] {
            assert!(with_parameter.covers(path), "the same to whoever cuts it off: {path}");
        }
        assert_eq!(with_parameter.strip("/admin/x"), "/x");
    }

    #[test]
    fn prefixes_match_whole_segments() {
        let check = |prefix: &str, path: &str, expected: Option<&str>| {
            let prefix = PathPrefix::new(prefix).unwrap();
            let got = prefix.matches(path).then(|| prefix.strip(path));
            assert_eq!(got, expected, "{prefix} {path}");
        };
        check("/", "/a/b", Some("/a/b"));
        check("/api", "/api", Some("/"));
        check("/api/", "/api/x", Some("/x"));
        check("/api", "/apix", None);
    }

    #[test]
    fn hosts_are_canonical() {
        let check = |text: &str, expected: Result<&str, HostNameError>| {
            assert_eq!(HostName::new(text).as_ref().map(HostName::as_str).map_err(Clone::clone), expected);
        };
        check("Example.COM.", Ok("example.com"));
        check("*.example.com", Ok("*.example.com"));
        check("[2001:DB8::1]", Ok("[2001:db8::1]"));
        check("a.*.com", Err(HostNameError::Wildcard));
        check("a..b", Err(HostNameError::Label));
        check("a:80", Err(HostNameError::Character(':')));
        check("", Err(HostNameError::Empty));
    }
}
