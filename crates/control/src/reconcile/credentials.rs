//! What an edge compares proofs with: salted digests of the secrets that routes ask for.
//!
//! One round of SHA-256, not a slow hash: an edge computes it for every request, before it knows who asks. The digests are
//! in the edge's memory and in the sealed snapshot only, and whoever reads those reads TLS keys, too.

use std::collections::{BTreeMap, BTreeSet};

use bowline_core::app::{App, Auth};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, RouteName, SecretName};
use bowline_core::route::Credentials;
use bowline_core::secret::Secret;
use sha2::{Digest, Sha256};

/// Random, of one daemon's life or of one print: digests of two machines cannot be compared.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Salt(pub(crate) [u8; 16]);

impl std::fmt::Debug for Salt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Salt")
    }
}

impl Salt {
    /// # Errors
    /// The system gives no random numbers.
    pub fn fresh() -> Result<Self, Fault> {
        let mut salt = Self::default();
        getrandom::fill(&mut salt.0)
            .map_err(|e| Fault::new(FaultKind::Failed, "no random numbers can be had").source(&e))?;
        Ok(salt)
    }

    /// Another one for each route: the same secret looks different on each.
    fn of(&self, key: &AppKey, route: &RouteName) -> [u8; 16] {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(format!("{key}/{route}"));
        let digest: [u8; 32] = hash.finalize().into();
        *digest.first_chunk().expect("16 of 32 bytes")
    }
}

/// Why nothing can be said that proofs are compared with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    #[error("route {route} of {key} asks for secret {secret}, which has no value")]
    Missing { key: AppKey, route: RouteName, secret: SecretName },
    #[error("secret {secret} of {key} is no list of users")]
    Users {
        key: AppKey,
        secret: SecretName,
        #[source]
        why: UsersError,
    },
}

/// What is wrong with a list of users; never what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UsersError {
    /// The number of the line, from 1.
    #[error("line {0} is not `user:password`")]
    Line(usize),
    #[error("line {0} holds a hash instead of a password")]
    Hashed(usize),
    #[error("it names nobody")]
    Empty,
}

/// Of every route that asks for a proof.
///
/// # Errors
/// The first secret that is missing, or is not what its route takes.
pub fn credentials(
    key: &AppKey,
    app: &App,
    secrets: &BTreeMap<SecretName, Secret>,
    salt: &Salt,
) -> Result<BTreeMap<RouteName, Credentials>, CredentialsError> {
    let guarded = app.routes.iter().filter_map(|(name, route)| Some((name, route.access.auth.as_ref()?)));
    let each = guarded.map(|(name, auth)| {
        let missing =
            || CredentialsError::Missing { key: key.clone(), route: name.clone(), secret: auth.secret().clone() };
        let unread = |why| CredentialsError::Users { key: key.clone(), secret: auth.secret().clone(), why };
        let secret = secrets.get(auth.secret()).ok_or_else(missing)?;
        let proofs = match auth {
            Auth::Header { .. } | Auth::Bearer { .. } => vec![secret.expose()],
            Auth::Basic { .. } => users(secret.expose()).map_err(unread)?,
        };
        let salt = salt.of(key, name);
        let digests: BTreeSet<[u8; 32]> = proofs.into_iter().map(|proof| digest(&salt, proof)).collect();
        Ok((name.clone(), Credentials { salt, digests }))
    });
    each.collect()
}

fn digest(salt: &[u8], proof: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(proof).finalize().into()
}

/// Lines of `user:password`; empty ones and those that begin with `#` are left out.
fn users(text: &[u8]) -> Result<Vec<&[u8]>, UsersError> {
    let lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).enumerate();
    let mut users = Vec::new();
    for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#")) {
        let colon = line.iter().position(|byte| *byte == b':').ok_or(UsersError::Line(number + 1))?;
        match (&line[..colon], &line[colon + 1..]) {
            (b"", _) | (_, b"") => return Err(UsersError::Line(number + 1)),
            (_, password) if is_hash(password) => return Err(UsersError::Hashed(number + 1)),
            _ => users.push(line),
        }
    }
    if users.is_empty() { Err(UsersError::Empty) } else { Ok(users) }
}

/// As `htpasswd` writes them.
fn is_hash(password: &[u8]) -> bool {
    [&b"$2y$"[..], b"$2a$", b"$2b$", b"$apr1$", b"{SHA}", b"$5$", b"$6$"].iter().any(|form| password.starts_with(form))
}

impl From<CredentialsError> for Fault {
    fn from(error: CredentialsError) -> Self {
        let fault = Self::new(FaultKind::Invalid, error.to_string());
        match &error {
            CredentialsError::Missing { key, secret, .. } => fault.hint(key.command("secret set", secret.as_str())),
            CredentialsError::Users { key, secret, why } => fault.source(why).hint(format!(
                "write one `user:password` a line, in clear: {}",
                key.command("secret set", secret.as_str())
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_users_is_read_line_by_line() {
        let check = |text: &str, expected: Result<&[&str], UsersError>| {
            let expected = expected.map(|lines| lines.iter().map(|line| line.as_bytes()).collect::<Vec<_>>());
            assert_eq!(users(text.as_bytes()), expected, "{text:?}");
        };
        check("a:b", Ok(&["a:b"]));
        check("# people\na:b:c\r\n\nd:e\n", Ok(&["a:b:c", "d:e"]));
        check("a:b\nc", Err(UsersError::Line(2)));
        check(":b", Err(UsersError::Line(1)));
        check("a:", Err(UsersError::Line(1)));
        check("a:$apr1$x$y", Err(UsersError::Hashed(1)));
        check("\n#\n", Err(UsersError::Empty));
    }

    #[test]
    fn the_same_secret_has_another_digest_on_another_route() {
        let salt = Salt([3; 16]);
        let key = "local/shop".split_once('/').map(|(env, app)| AppKey {
            env: bowline_core::id::EnvName::new(env).unwrap(),
            app: bowline_core::id::AppName::new(app).unwrap(),
        });
        let key = key.unwrap();
        let of = |route: &str| digest(&salt.of(&key, &RouteName::new(route).unwrap()), b"token");
        assert_ne!(of("a"), of("b"));
        assert_eq!(of("a"), of("a"));
    }
}
