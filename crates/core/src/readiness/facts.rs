//! What the rim saw, as values.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::app::{App, HostName, Origin, Service, VarName};
use crate::id::ServiceName;

/// All that the rules look at.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// In the environment that is asked about.
    pub app: &'a App,
    /// How each service that has a process is started, as far as it is known.
    pub started: &'a BTreeMap<ServiceName, Started>,
    pub sightings: &'a [Sighting],
    /// Variables of the file whose text is a secret.
    pub settings: &'a [Setting],
    /// Of public names, where the machine that is to serve them was asked; empty elsewhere.
    pub names: &'a BTreeMap<HostName, NameSeen>,
}

/// Where a public name leads, as the machine sees it that is to serve it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameSeen {
    /// The resolver's words.
    Unresolved(String),
    /// Neither list is empty; the machine's own are those that others can reach.
    Elsewhere { addresses: Vec<IpAddr>, own: Vec<IpAddr> },
    /// It leads here, and nothing accepts connections on these ports.
    Closed(Vec<u16>),
    /// It leads here, as far as can be said: a machine behind a router does not know the address by which others reach it.
    Here,
}

/// A variable of `bowline.toml` whose text is a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The table: `env`, `service.web.env`.
    pub table: String,
    pub name: VarName,
    pub kind: SecretKind,
    pub value: Masked,
}

impl Facts<'_> {
    /// The folder whose code a service runs; `None` for images.
    pub(super) fn dir<'s>(&'s self, service: &'s Service) -> Option<&'s str> {
        let mut service = service;
        for _ in 0..=self.app.services.len() {
            match &service.origin {
                Origin::Folder { dir, .. } | Origin::Dockerfile { dir, .. } | Origin::Static { dir, .. } => {
                    return Some(dir);
                }
                Origin::BuildOf(other) => service = self.app.services.get(other)?,
                Origin::Image(_) => return None,
            }
        }
        None
    }

    /// What was seen in the code of a service.
    pub(super) fn seen<'s>(&'s self, service: &'s Service) -> impl Iterator<Item = &'s Sighting> {
        let dir = self.dir(service);
        self.sightings.iter().filter(move |s| dir.is_some_and(|dir| is_below(&s.file, dir)))
    }
}

/// Whether a file lies in a folder of the app, both as the file of the app names them.
pub fn is_below(file: &str, dir: &str) -> bool {
    let dir = dir.trim_start_matches("./").trim_end_matches('/');
    matches!(dir, "" | ".") || file.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

/// The command that starts a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    pub command: String,
    /// Where it is written, if not as `run` in `bowline.toml`: `package.json`, and the line.
    pub source: Option<(String, u32)>,
}

/// Something noteworthy in a line of the source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sighting {
    /// Below the app's folder, with `/`.
    pub file: String,
    /// From 1; 0 for the file as a whole.
    pub line: u32,
    pub seen: Seen,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// `name`: what it is assigned to, if that can be a variable.
    Secret {
        kind: SecretKind,
        name: Option<String>,
        value: Masked,
    },
    /// `.env` lies in a git repository that does not ignore it.
    EnvFileTracked,
    /// A `FROM` image's user, when the Dockerfile names none or `root`.
    DockerfileRoot,
    /// `app.run(…)` of Flask and its like; `debug`: with `debug=True`.
    PythonServer {
        debug: bool,
    },
    /// A switch in the code: `DEBUG = True`.
    DebugSwitch {
        text: String,
    },
    /// A route that is there to be checked.
    HealthRoute {
        path: String,
    },
    /// The port is written in the code, and the variable is not read in that line.
    ListensOn {
        port: u16,
    },
    /// `$PORT` is read.
    ReadsPort,
    /// TERM is handled.
    HandlesTerm,
    Writes {
        kind: WriteKind,
        path: String,
    },
    /// A route to an administration page.
    AdminRoute {
        path: String,
    },
    /// `count` dependencies of a file have no version, this being the first.
    Unpinned {
        first: String,
        count: usize,
    },
    /// A list of dependencies without the lock file beside it that `command` writes.
    NoLock {
        lock: &'static str,
        command: &'static str,
    },
}

/// How the code writes below its own folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WriteKind {
    File,
    Sqlite,
    Uploads,
}

/// What a text is most probably.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecretKind {
    AwsKey,
    GitHubToken,
    GitLabToken,
    SlackToken,
    SlackWebhook,
    StripeKey,
    OpenAiKey,
    AnthropicKey,
    NpmToken,
    PyPiToken,
    SendGridKey,
    PrivateKey,
    Jwt,
    UrlPassword,
    SessionKey,
    Password,
    Token,
}

impl fmt::Display for SecretKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AwsKey => "an AWS key",
            Self::GitHubToken => "a GitHub token",
            Self::GitLabToken => "a GitLab token",
            Self::SlackToken => "a Slack token",
            Self::SlackWebhook => "a Slack webhook",
            Self::StripeKey => "a Stripe live key",
            Self::OpenAiKey => "an OpenAI key",
            Self::AnthropicKey => "an Anthropic key",
            Self::NpmToken => "an npm token",
            Self::PyPiToken => "a PyPI token",
            Self::SendGridKey => "a SendGrid key",
            Self::PrivateKey => "a private key",
            Self::Jwt => "a signed token (JWT)",
            Self::UrlPassword => "a URL with a password",
            Self::SessionKey => "the key that signs sessions",
            Self::Password => "a password",
            Self::Token => "a token",
        })
    }
}

impl SecretKind {
    /// What a variable for it would be called.
    pub(super) fn variable(self) -> &'static str {
        match self {
            Self::AwsKey => "AWS_SECRET_ACCESS_KEY",
            Self::GitHubToken => "GITHUB_TOKEN",
            Self::GitLabToken => "GITLAB_TOKEN",
            Self::SlackToken => "SLACK_TOKEN",
            Self::SlackWebhook => "SLACK_WEBHOOK_URL",
            Self::StripeKey => "STRIPE_SECRET_KEY",
            Self::OpenAiKey => "OPENAI_API_KEY",
            Self::AnthropicKey => "ANTHROPIC_API_KEY",
            Self::NpmToken => "NPM_TOKEN",
            Self::PyPiToken => "PYPI_TOKEN",
            Self::SendGridKey => "SENDGRID_API_KEY",
            Self::PrivateKey => "PRIVATE_KEY",
            Self::Jwt | Self::Token => "API_TOKEN",
            Self::UrlPassword => "DATABASE_URL",
            Self::SessionKey => "SECRET_KEY",
            Self::Password => "PASSWORD",
        }
    }
}

/// A secret as it may be shown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Masked(String);

impl Masked {
    /// What an issuer begins all of its tokens with is no secret, and says which of them it is.
    const ISSUER: usize = 4;

    /// A token of a known issuer: its first characters, and its length.
    pub fn issued(value: &str) -> Self {
        let start: String = value.chars().take(Self::ISSUER).collect();
        Self(format!("{start}… ({} characters)", value.chars().count()))
    }

    /// Anything else: its length.
    pub fn hidden(value: &str) -> Self {
        Self(format!("{} characters", value.chars().count()))
    }
}

impl fmt::Display for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_value_shows_at_most_its_issuer() {
        assert_eq!(Masked::issued("AKIAABCDEFGHIJKLMNOP").to_string(), "AKIA… (20 characters)");
        assert_eq!(Masked::hidden("häuser2").to_string(), "7 characters");
    }

    #[test]
    fn folders_hold_what_is_below_them() {
        let check = |file, dir, expected| assert_eq!(is_below(file, dir), expected, "{file} in {dir}");
        check("app.py", ".", true);
        check("web/app.py", "./web/", true);
        check("webapp/app.py", "web", false);
    }
}
