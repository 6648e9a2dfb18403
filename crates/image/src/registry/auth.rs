//! Who asks: how a registry wants to know it, and what it is told. A machine: what comes in is the head of an answer, what
//! comes out is what to send or to ask next.
//!
//! Anonymous → challenged → basic, or a token is asked for and held until shortly before its end (RFC 9110, 11; the
//! distribution project's token specification). A request is challenged once: what is refused then is refused.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bowline_core::time::Mono;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::place::encoded;

/// What a token lives if nothing says it (token specification).
const LIFE: Duration = Duration::from_secs(60);
/// So long before its end a token is not used any more; of a short one, a tenth.
const MARGIN: Duration = Duration::from_secs(30);
/// Longest token and longest value of a challenge that are taken, in bytes.
const MAX_TOKEN: usize = 64 << 10;
const MAX_VALUE: usize = 4 << 10;

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// As whom a registry is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    Password {
        user: String,
        password: Secret,
    },
    /// What a login elsewhere left: it is exchanged for tokens.
    Identity(Secret),
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send the request with this `Authorization`.
    Send(Option<Secret>),
    /// Ask for a token first, and tell [`Auth::answered`].
    Ask(Question),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    /// Absolute, with its query.
    pub(super) url: String,
    pub(super) authorization: Option<Secret>,
    /// To be posted as a form; else it is a GET.
    pub(super) form: Option<Secret>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("it wants to know who asks, and nobody has logged in")]
    Nobody,
    #[error("it refuses {0}")]
    Refused(String),
    #[error("it wants to know who asks in a way that is not known here")]
    Unknown,
    #[error("where it sends for a token answers {0}")]
    Tokens(u16),
    #[error("where it sends for a token gives none")]
    NoToken,
}

impl AuthError {
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::Nobody => "`bowline image login HOST` says who you are",
            Self::Refused(_) => "`bowline image login HOST` again, or ask its owner for the right to this repository",
            Self::Unknown | Self::Tokens(_) | Self::NoToken => "ask the registry's owner how it is logged in to",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Anonymous,
    Basic,
    /// By this challenge; nothing is sent before the answer.
    Asking(Challenge),
    Holding {
        challenge: Challenge,
        token: Secret,
        until: Mono,
    },
}

/// Where tokens are had.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Challenge {
    realm: String,
    service: Option<String>,
    /// What the registry wants for this request, beside what was known.
    scope: Option<String>,
}

/// Of one registry and what is done there.
#[derive(Debug)]
pub(super) struct Auth {
    credentials: Option<Credentials>,
    /// `repository:acme/shop:pull,push`, sorted.
    scopes: Vec<String>,
    state: State,
    is_challenged: bool,
}

impl Auth {
    pub(super) fn new(credentials: Option<Credentials>, mut scopes: Vec<String>) -> Self {
        scopes.sort();
        Self { credentials, scopes, state: State::Anonymous, is_challenged: false }
    }

    /// Before each request.
    pub(super) fn begin(&mut self, now: Mono) -> Step {
        self.is_challenged = false;
        match &self.state {
            State::Holding { challenge, until, .. } if now >= *until => self.ask(challenge.clone()),
            State::Asking(challenge) => self.ask(challenge.clone()),
            State::Anonymous | State::Basic | State::Holding { .. } => self.send(),
        }
    }

    /// The request was answered 401, with these values of `WWW-Authenticate`.
    pub(super) fn challenged<'a>(&mut self, values: impl Iterator<Item = &'a str>) -> Result<Step, AuthError> {
        if self.is_challenged {
            return Err(self.refused());
        }
        self.is_challenged = true;
        let challenges: Vec<(String, BTreeMap<String, String>)> = values.filter_map(parse).collect();
        let of = |scheme: &str| challenges.iter().find(|(name, _)| name == scheme).map(|(_, values)| values);
        if let Some(values) = of("bearer") {
            let get = |key: &str| values.get(key).filter(|value| value.len() <= MAX_VALUE).cloned();
            let realm = get("realm").ok_or(AuthError::Unknown)?;
            return Ok(self.ask(Challenge { realm, service: get("service"), scope: get("scope") }));
        }
        if of("basic").is_none() {
            return Err(AuthError::Unknown);
        }
        match (&self.state, &self.credentials) {
            (_, None | Some(Credentials::Identity(_))) => Err(AuthError::Nobody),
            (State::Basic, Some(_)) => Err(self.refused()),
            (State::Anonymous | State::Asking(_) | State::Holding { .. }, Some(_)) => {
                self.state = State::Basic;
                Ok(self.send())
            }
        }
    }

    /// What was asked for a token has answered.
    pub(super) fn answered(&mut self, status: u16, body: &[u8], now: Mono) -> Result<Step, AuthError> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        let State::Asking(challenge) = &self.state else { return Err(AuthError::NoToken) };
        match status {
            200 => {}
            401 | 403 => return Err(self.refused()),
            other => return Err(AuthError::Tokens(other)),
        }
        let said: Token = serde_json::from_slice(body).map_err(|_| AuthError::NoToken)?;
        let token = said.token.or(said.access_token).map(Secret::new).ok_or(AuthError::NoToken)?;
        let is_token = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if token.expose().len() > MAX_TOKEN || !is_token(token.expose()) {
            return Err(AuthError::NoToken);
        }
        let life = said.expires_in.map_or(LIFE, Duration::from_secs);
        let until = now + life.saturating_sub(MARGIN.min(life / 10));
        self.state = State::Holding { challenge: challenge.clone(), token, until };
        Ok(self.send())
    }

    fn send(&self) -> Step {
        Step::Send(match (&self.state, &self.credentials) {
            (State::Basic, Some(credentials)) => basic(credentials),
            (State::Holding { token, .. }, _) => Some(Secret::new(format!("Bearer {}", token.expose()))),
            (State::Anonymous | State::Asking(_) | State::Basic, _) => None,
        })
    }

    fn ask(&mut self, challenge: Challenge) -> Step {
        let mut scopes = self.scopes.clone();
        // One text may be several, with spaces between.
        for wanted in challenge.scope.iter().flat_map(|scope| scope.split(' ')) {
            if !wanted.is_empty() && !scopes.iter().any(|scope| covers(scope, wanted)) {
                scopes.push(wanted.to_owned());
            }
        }
        let mut fields: Vec<(&str, &str)> =
            challenge.service.iter().map(|service| ("service", service.as_str())).collect();
        let identity = match &self.credentials {
            Some(Credentials::Identity(token)) => Some(token),
            Some(Credentials::Password { .. }) | None => None,
        };
        let joined = scopes.join(" ");
        let question = match identity {
            Some(token) => {
                fields.extend([("scope", joined.as_str()), ("grant_type", "refresh_token"), ("client_id", "bowline")]);
                fields.push(("refresh_token", token.expose()));
                Question { url: challenge.realm.clone(), authorization: None, form: Some(Secret::new(query(&fields))) }
            }
            None => {
                fields.extend(scopes.iter().map(|scope| ("scope", scope.as_str())));
                let between = if challenge.realm.contains('?') { '&' } else { '?' };
                let url = format!("{}{between}{}", challenge.realm, query(&fields));
                Question { url, authorization: self.credentials.as_ref().and_then(basic), form: None }
            }
        };
        self.state = State::Asking(challenge);
        Step::Ask(question)
    }

    fn refused(&self) -> AuthError {
        match &self.credentials {
            None => AuthError::Nobody,
            Some(Credentials::Password { user, .. }) => AuthError::Refused(user.clone()),
            Some(Credentials::Identity(_)) => AuthError::Refused("the login that is kept".to_owned()),
        }
    }
}

fn basic(credentials: &Credentials) -> Option<Secret> {
    match credentials {
        Credentials::Password { user, password } => {
            let pair = Zeroizing::new(format!("{user}:{}", password.expose()));
            Some(Secret::new(format!("Basic {}", STANDARD.encode(pair.as_bytes()))))
        }
        Credentials::Identity(_) => None,
    }
}

fn query(fields: &[(&str, &str)]) -> String {
    fields.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect::<Vec<_>>().join("&")
}

/// Whether who may do the one may do the other, of the same thing.
fn covers(scope: &str, wanted: &str) -> bool {
    match (scope.rsplit_once(':'), wanted.rsplit_once(':')) {
        (Some((what, may)), Some((other, wanted))) => {
            what == other && wanted.split(',').all(|action| may.split(',').any(|one| one == action))
        }
        _ => scope == wanted,
    }
}

/// `Bearer realm="https://…",service="x"`: the scheme in lower case, and its parameters.
fn parse(value: &str) -> Option<(String, BTreeMap<String, String>)> {
    let (scheme, mut rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
    let mut values = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([' ', ',', '\t']);
        if rest.is_empty() {
            return Some((scheme.to_ascii_lowercase(), values));
        }
        let (name, behind) = rest.split_once('=')?;
        let (value, behind) = match behind.strip_prefix('"') {
            Some(quoted) => quote(quoted)?,
            None => behind.find(',').map_or((behind.to_owned(), ""), |at| (behind[..at].to_owned(), &behind[at..])),
        };
        values.insert(name.trim().to_ascii_lowercase(), value);
        rest = behind;
    }
}

/// Up to the quote that no backslash escapes, and what is behind it.
fn quote(text: &str) -> Option<(String, &str)> {
    let (mut value, mut is_escaped) = (String::new(), false);
    for (at, c) in text.char_indices() {
        match c {
            '\\' if !is_escaped => is_escaped = true,
            '"' if !is_escaped => return Some((value, &text[at + 1..])),
            c => {
                is_escaped = false;
                value.push(c);
            }
        }
    }
    None
}

#[cfg(test)]
#[path = "auth/tests.rs"]
mod tests;
