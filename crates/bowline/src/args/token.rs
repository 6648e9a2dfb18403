//! The words of tokens.

use std::path::PathBuf;
use std::time::Duration;

use bowline_core::access::Role;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};

/// How long a token holds where nothing else is said.
const NINETY_DAYS: &str = "90d";

#[derive(Debug, Args)]
pub(crate) struct Login {
    /// The daemon: https://HOST[:PORT]
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    /// A PEM file of authorities that are believed for it, in the place of this machine's; it is remembered
    #[arg(long, value_name = "FILE", env = "BOWLINE_CA")]
    pub(crate) ca: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token; it is shown once
    ///
    /// The first one is made on the server, or over ssh://. Roles: viewer sees what runs; deployer brings releases out and
    /// steers them; secret-writer sets secrets; operator restarts, runs commands and lets people into data; auditor sees what
    /// happened and who is let in; admin may do all of it, and makes tokens.
    Create {
        /// Its name, as apps are named
        name: String,
        /// What it is for
        #[arg(long, value_parser = PossibleValuesParser::new(Role::ALL.map(Role::as_str)))]
        role: String,
        /// Only this app; may be said again [default: all]
        #[arg(long)]
        app: Vec<String>,
        /// Only this environment; may be said again [default: all]
        #[arg(long)]
        env: Vec<String>,
        /// How long it holds: 12h, 90d; or never, which means until it is revoked
        #[arg(long, value_name = "TIME", value_parser = expires, default_value = NINETY_DAYS)]
        expires: Expires,
    },
    /// Names, roles and when each was used last; never what they are
    List,
    /// End a token at once
    Revoke {
        /// Its name, or its id
        #[arg(value_name = "NAME|ID")]
        which: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expires {
    After(Duration),
    Never,
}

fn expires(text: &str) -> Result<Expires, String> {
    match text {
        "never" => Ok(Expires::Never),
        text => super::age(text).map(Expires::After).map_err(|wanted| format!("{wanted}, or never")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_ends_or_never_does() {
        assert_eq!(expires("never"), Ok(Expires::Never));
        assert_eq!(expires("90d"), Ok(Expires::After(Duration::from_secs(90 * 86_400))));
        assert!(expires("soon").unwrap_err().contains("never"));
    }
}
