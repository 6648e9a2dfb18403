//! Where a request goes: a host, and how it is spoken to.

use std::fmt;
use std::net::IpAddr;

use bowline_core::release::DEFAULT_REGISTRY;
use hyper::Uri;

use super::error::RegistryError;

/// Where Docker's own registry answers: its name is not its host.
const DOCKER_HOST: &str = "registry-1.docker.io";
/// Longest URL that is followed, in bytes: locations of uploads carry a signed state.
const MAX_URL: usize = 16 << 10;

/// An absolute URL that may be asked: HTTPS, or HTTP on loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) is_tls: bool,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// With its query; begins with a slash.
    pub(super) path: String,
}

impl Place {
    /// Of a registry by the name that images have it by.
    pub(super) fn registry(name: &str, is_tls_on_loopback: bool) -> Result<Self, RegistryError> {
        let host = if name == DEFAULT_REGISTRY { DOCKER_HOST } else { name };
        let uri: Uri = format!("https://{host}/").parse().map_err(|_| RegistryError::Url(name.to_owned()))?;
        let place = Self::of(&uri, true).ok_or_else(|| RegistryError::Url(name.to_owned()))?;
        if !is_loopback(&place.host) || is_tls_on_loopback {
            return Ok(place);
        }
        let port = uri.port_u16().unwrap_or(80);
        Ok(Self { is_tls: false, port, ..place })
    }

    /// What a registry sends on to: an absolute URL, or a path on its own host.
    ///
    /// # Errors
    /// It is neither, or in clear to another machine; or in clear at all where this place is not.
    pub(super) fn follow(&self, location: &str) -> Result<Self, RegistryError> {
        let refused = || RegistryError::Location(location.chars().take(200).collect());
        if location.len() > MAX_URL {
            return Err(refused());
        }
        if location.starts_with('/') && !location.starts_with("//") {
            let path: Uri = location.parse().map_err(|_| refused())?;
            return Ok(Self { path: path.to_string(), ..self.clone() });
        }
        let uri: Uri = location.parse().map_err(|_| refused())?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(refused()),
        };
        let place = Self::of(&uri, is_tls).ok_or_else(refused)?;
        let is_allowed = is_tls || (!self.is_tls && is_loopback(&place.host));
        if is_allowed { Ok(place) } else { Err(refused()) }
    }

    pub(super) fn at(&self, path: String) -> Self {
        Self { path, ..self.clone() }
    }

    /// The same server: what is secret to one is no secret to the other.
    pub(super) fn is_with(&self, other: &Self) -> bool {
        (self.is_tls, &self.host, self.port) == (other.is_tls, &other.host, other.port)
    }

    /// With one more parameter.
    pub(super) fn with(&self, name: &str, value: &str) -> Self {
        let between = if self.path.contains('?') { '&' } else { '?' };
        self.at(format!("{}{between}{name}={}", self.path, encoded(value)))
    }

    /// For `Host`.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.is_tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    fn of(uri: &Uri, is_tls: bool) -> Option<Self> {
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Some(Self { is_tls, host, port, path }).filter(|place| !place.host.is_empty())
    }
}

/// Without its query, which may hold a signature.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path.split('?').next().unwrap_or_default())
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// As a value of a query or a form.
pub(super) fn encoded(text: &str) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~');
    text.bytes()
        .map(|byte| if is_plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_asked_in_clear_on_loopback_alone() {
        let check = |name: &str, named: bool, expected: &str| {
            assert_eq!(Place::registry(name, named).unwrap().to_string(), expected);
        };
        check("shop.example", false, "https://shop.example/");
        check("shop.example:5000", false, "https://shop.example:5000/");
        check("docker.io", false, "https://registry-1.docker.io/");
        check("localhost:5000", false, "http://localhost:5000/");
        check("127.0.0.1", false, "http://127.0.0.1/");
        check("[::1]:5000", false, "http://[::1]:5000/");
        check("localhost:5000", true, "https://localhost:5000/");
        check("localhost.example:5000", false, "https://localhost.example:5000/");
    }

    #[test]
    fn nobody_is_sent_on_to_where_all_can_read() {
        let far = Place::registry("shop.example", false).unwrap();
        let near = Place::registry("localhost:5000", false).unwrap();
        let follow = |from: &Place, to: &str| from.follow(to).map(|place| format!("{place} {}", place.path)).ok();
        assert_eq!(follow(&far, "/v2/x?a=b").as_deref(), Some("https://shop.example/v2/x /v2/x?a=b"));
        assert_eq!(follow(&far, "https://cdn.example/x?s=1").as_deref(), Some("https://cdn.example/x /x?s=1"));
        assert_eq!(follow(&near, "http://127.0.0.1:9/x").as_deref(), Some("http://127.0.0.1:9/x /x"));
        for to in [
            "http://shop.example/x",
            "http://localhost/x",
            "//cdn.example/x",
            "x",
            "",
            "ftp://x/",
            "https://u:p@x/",
            "file:///etc/passwd",
        ] {
            assert_eq!(follow(&far, to), None, "{to}");
        }
        assert_eq!(follow(&near, "http://shop.example/x"), None);
        assert_eq!(follow(&far, &format!("/{}", "x".repeat(MAX_URL))), None);
        assert!(far.is_with(&far.at("/x".into())) && !far.is_with(&near));
        assert_eq!(far.with("digest", "sha256:a").with("b", "c d").path, "/?digest=sha256%3Aa&b=c%20d");
    }
}
