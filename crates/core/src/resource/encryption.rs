//! What the URL of a server elsewhere says of encryption, in the words of each kind's own clients.

use super::endpoint::{UrlError, percent_decoded};
use crate::app::ResourceKind;
use crate::secret::Secret;

/// How a connection is encrypted, and what of the server's certificate is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Encryption {
    /// In clear.
    Off,
    /// If the server can, else in clear; nothing is verified.
    Preferred,
    /// Always; nothing is verified.
    Required,
    /// An authority that is trusted has signed it, for whatever name.
    Chain,
    /// And it bears the name of the host.
    Full,
}

impl Encryption {
    /// What the URL says, else what the kind's clients do by themselves. Where a CA is given, the certificate is
    /// verified: in full, unless the URL says in so many words that the name does not matter.
    ///
    /// | kind | words |
    /// |---|---|
    /// | `postgres` | `sslmode=disable\|allow\|prefer\|require\|verify-ca\|verify-full` |
    /// | `mariadb` | `ssl-mode=DISABLED\|PREFERRED\|REQUIRED\|VERIFY_CA\|VERIFY_IDENTITY` (also `sslMode`, `ssl_mode`), `ssl=true\|false`, `tls=true\|false\|preferred\|skip-verify` |
    /// | `redis` | `redis://`, `rediss://`, `rediss://…#insecure`, `ssl_cert_reqs=none\|required` |
    ///
    /// # Errors
    /// A word that is none of these; no encryption together with a CA.
    pub fn of(kind: ResourceKind, url: &Secret, has_ca: bool) -> Result<Self, UrlError> {
        let text = std::str::from_utf8(url.expose()).map_err(|_| UrlError::Encoding)?;
        let said = match kind {
            ResourceKind::Postgres => postgres(text)?,
            ResourceKind::MariaDb => mariadb(text)?,
            ResourceKind::Redis => Some(redis(text)?),
        };
        match (said, has_ca) {
            (Some(Self::Off), true) => Err(UrlError::Clear),
            (Some(Self::Chain), true) => Ok(Self::Chain),
            (_, true) => Ok(Self::Full),
            (said, false) => Ok(said.unwrap_or(Self::Preferred)),
        }
    }

    /// Whether anything of the certificate is verified.
    pub fn verifies(self) -> bool {
        match self {
            Self::Off | Self::Preferred | Self::Required => false,
            Self::Chain | Self::Full => true,
        }
    }
}

/// The parameters behind the `?`, percent-decoded.
fn parameters(url: &str) -> Result<Vec<(String, String)>, UrlError> {
    let whole = url.split('#').next().unwrap_or(url);
    let Some((_, query)) = whole.split_once('?') else { return Ok(Vec::new()) };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((percent_decoded(name)?, percent_decoded(value)?))
    };
    pairs.map(pair).collect()
}

fn postgres(url: &str) -> Result<Option<Encryption>, UrlError> {
    const WORDS: &str = "disable, allow, prefer, require, verify-ca, verify-full";
    let said = parameters(url)?.into_iter().rfind(|(name, _)| name == "sslmode");
    said.map(|(_, value)| match value.as_str() {
        "disable" => Ok(Encryption::Off),
        "allow" | "prefer" => Ok(Encryption::Preferred),
        "require" => Ok(Encryption::Required),
        "verify-ca" => Ok(Encryption::Chain),
        "verify-full" => Ok(Encryption::Full),
        _ => Err(UrlError::Mode("sslmode", WORDS)),
    })
    .transpose()
}

/// `VERIFY_CA`, `verify-ca` and `VerifyCa` are one word.
fn folded(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

fn mariadb(url: &str) -> Result<Option<Encryption>, UrlError> {
    const MODES: &str = "DISABLED, PREFERRED, REQUIRED, VERIFY_CA, VERIFY_IDENTITY";
    let mut found = None;
    for (name, value) in parameters(url)? {
        let value = folded(&value);
        match folded(&name).as_str() {
            "sslmode" => {
                found = Some(match value.as_str() {
                    "disable" | "disabled" => Encryption::Off,
                    "prefer" | "preferred" => Encryption::Preferred,
                    "require" | "required" | "trust" => Encryption::Required,
                    "verifyca" => Encryption::Chain,
                    "verifyidentity" | "verifyfull" => Encryption::Full,
                    _ => return Err(UrlError::Mode("ssl-mode", MODES)),
                });
            }
            "ssl" | "requiressl" => {
                found = found.or(Some(match value.as_str() {
                    "true" | "1" | "" => Encryption::Required,
                    "false" | "0" => Encryption::Off,
                    _ => return Err(UrlError::Mode("ssl", "true, false")),
                }));
            }
            "tls" => {
                found = found.or(Some(match value.as_str() {
                    "true" => Encryption::Full,
                    "false" => Encryption::Off,
                    "preferred" => Encryption::Preferred,
                    "skipverify" => Encryption::Required,
                    _ => return Err(UrlError::Mode("tls", "true, false, preferred, skip-verify")),
                }));
            }
            _ => {}
        }
    }
    Ok(found)
}

fn redis(url: &str) -> Result<Encryption, UrlError> {
    if !url.starts_with("rediss") {
        return Ok(Encryption::Off);
    }
    if url.split_once('#').is_some_and(|(_, word)| word == "insecure") {
        return Ok(Encryption::Required);
    }
    let said = parameters(url)?.into_iter().rfind(|(name, _)| name == "ssl_cert_reqs");
    match said.as_ref().map(|(_, value)| value.as_str()) {
        None | Some("required") => Ok(Encryption::Full),
        Some("none" | "optional") => Ok(Encryption::Required),
        Some(_) => Err(UrlError::Mode("ssl_cert_reqs", "none, optional, required")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_says_it_in_its_own_words() {
        use Encryption::{Chain, Full, Off, Preferred, Required};
        use ResourceKind::{MariaDb, Postgres, Redis};
        let check = |kind, rest: &str, alone: Result<Encryption, UrlError>, with_ca: Result<Encryption, UrlError>| {
            let url = Secret::new(rest);
            assert_eq!(Encryption::of(kind, &url, false), alone, "{rest}");
            assert_eq!(Encryption::of(kind, &url, true), with_ca, "{rest} with a CA");
        };
        let unknown = |name, words| Err(UrlError::Mode(name, words));
        let pg = "disable, allow, prefer, require, verify-ca, verify-full";
        check(Postgres, "postgres://u@h/d", Ok(Preferred), Ok(Full));
        check(Postgres, "postgres://u@h/d?sslmode=disable", Ok(Off), Err(UrlError::Clear));
        check(Postgres, "postgres://u@h/d?a=b&sslmode=require", Ok(Required), Ok(Full));
        check(Postgres, "postgres://u@h/d?sslmode=verify-ca", Ok(Chain), Ok(Chain));
        check(Postgres, "postgres://u@h/d?sslmode=verify%2Dfull#x", Ok(Full), Ok(Full));
        check(Postgres, "postgres://u@h/d?sslmode=sure", unknown("sslmode", pg), unknown("sslmode", pg));

        check(MariaDb, "mysql://u@h/d", Ok(Preferred), Ok(Full));
        check(MariaDb, "mysql://u@h/d?ssl-mode=VERIFY_IDENTITY", Ok(Full), Ok(Full));
        check(MariaDb, "mysql://u@h/d?sslMode=VERIFY_CA", Ok(Chain), Ok(Chain));
        check(MariaDb, "mariadb://u@h/d?ssl_mode=disabled", Ok(Off), Err(UrlError::Clear));
        check(MariaDb, "mariadb://u@h/d?ssl=true", Ok(Required), Ok(Full));
        check(MariaDb, "mysql://u@h/d?tls=skip-verify&charset=utf8mb4", Ok(Required), Ok(Full));

        check(Redis, "redis://h", Ok(Off), Err(UrlError::Clear));
        check(Redis, "rediss://h", Ok(Full), Ok(Full));
        check(Redis, "rediss://h/0#insecure", Ok(Required), Ok(Full));
        check(Redis, "rediss://h?ssl_cert_reqs=none", Ok(Required), Ok(Full));
    }
}
