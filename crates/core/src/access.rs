//! Who may use a daemon from elsewhere: roles, and the apps that a token is for.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::id::{AppKey, AppName, EnvName};

/// What somebody is let in for. No role includes another; what each may do is one table of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Sees what runs, its logs and what happened.
    Viewer,
    /// Brings releases out and steers them.
    Deployer,
    /// Sets secrets, and sees nothing else.
    SecretWriter,
    /// Restarts, runs commands, lets people into data; brings nothing out.
    Operator,
    /// Sees what happened, and who is let in.
    Auditor,
    /// Everything that is possible from elsewhere, tokens included.
    Admin,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no role {0:?}")]
pub struct NoRole(pub String);

impl Role {
    pub const ALL: [Self; 6] =
        [Self::Viewer, Self::Deployer, Self::SecretWriter, Self::Operator, Self::Auditor, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Deployer => "deployer",
            Self::SecretWriter => "secret-writer",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = NoRole;

    fn from_str(text: &str) -> Result<Self, NoRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| NoRole(text.to_owned()))
    }
}

/// The apps that a token is for. An empty list is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    pub apps: BTreeSet<AppName>,
    pub environments: BTreeSet<EnvName>,
}

impl Scope {
    pub fn is_whole(&self) -> bool {
        self.apps.is_empty() && self.environments.is_empty()
    }

    pub fn covers(&self, key: &AppKey) -> bool {
        let app = self.apps.is_empty() || self.apps.contains(&key.app);
        app && (self.environments.is_empty() || self.environments.contains(&key.env))
    }
}

/// Counted from 1 by the store; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub u32);

impl TokenId {
    /// Where the store and events keep who asked, in one number, users have their ids below this one, and tokens above. No system gives
    /// users such ids: 2³² − 1 and below are "nobody" in 32 bits.
    const ACTORS: u32 = 0xF000_0000;

    /// As the number of whoever asks.
    pub fn actor(self) -> u32 {
        Self::ACTORS + self.0
    }

    /// Back from that number; `None`: it is a user's.
    pub fn of_actor(actor: u32) -> Option<Self> {
        // The highest stands for Bowline itself.
        actor.checked_sub(Self::ACTORS).filter(|_| actor < u32::MAX).map(Self)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(apps: &[&str], environments: &[&str]) -> Scope {
        Scope {
            apps: apps.iter().map(|name| AppName::new(name).unwrap()).collect(),
            environments: environments.iter().map(|name| EnvName::new(name).unwrap()).collect(),
        }
    }

    fn key(env: &str, app: &str) -> AppKey {
        AppKey { env: EnvName::new(env).unwrap(), app: AppName::new(app).unwrap() }
    }

    #[test]
    fn a_scope_covers_what_it_names_and_an_empty_one_all() {
        let check = |apps: &[&str], environments: &[&str], expected: [bool; 3]| {
            let scope = scope(apps, environments);
            let keys = [key("beta", "shop"), key("production", "shop"), key("beta", "board")];
            assert_eq!(keys.map(|key| scope.covers(&key)), expected, "{scope:?}");
        };
        check(&[], &[], [true, true, true]);
        check(&["shop"], &[], [true, true, false]);
        check(&[], &["beta"], [true, false, true]);
        check(&["shop"], &["beta"], [true, false, false]);
    }

    #[test]
    fn roles_and_actors_are_read_as_they_are_written() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert!("root".parse::<Role>().is_err());
        assert_eq!(TokenId::of_actor(TokenId(7).actor()), Some(TokenId(7)));
        assert_eq!(
            (TokenId::of_actor(0), TokenId::of_actor(1_900_000_000), TokenId::of_actor(u32::MAX)),
            (None, None, None)
        );
    }
}
