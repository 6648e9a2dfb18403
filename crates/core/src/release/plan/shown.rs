//! What of a file is shown in a plan: not what may be a secret that somebody has written into it.
//!
//! A file is no place for secrets, and `bowline check` says so. Where one is there all the same, a plan, which is sent
//! around and kept, is not to spread it. In doubt it is not shown: that it differs is said, and is part of the hash.

use std::fmt;

/// A value as a plan shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    Text(String),
    /// It may be a secret.
    Hidden,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text(text) => text,
            Self::Hidden => "(not shown)",
        })
    }
}

/// Words in names of what holds a secret.
const WORDS: [&str; 16] = [
    "auth", "cert", "cookie", "cred", "dsn", "jwt", "key", "pass", "private", "pwd", "salt", "secret", "session",
    "sign", "token", "webhook",
];

/// From this length on, letters mixed with digits may be a token. Shorter than what any service issues, longer than
/// most words.
const TOKEN: usize = 16;

impl Shown {
    /// Of a key of the file.
    pub(super) fn of(path: &str, text: &str) -> Self {
        let hidden = match variable(path) {
            Some(name) => names_a_secret(name) || holds_a_secret(text),
            None => is_free(path) && holds_a_secret(text),
        };
        if hidden { Self::Hidden } else { Self::Text(text.to_owned()) }
    }
}

/// The variable that a key sets to a text; what it is set to by a reference or a secret's name is no value.
fn variable(path: &str) -> Option<&str> {
    let name = path.strip_prefix("env.").or_else(|| path.split_once(".env.").map(|(_, name)| name))?;
    (!name.contains('.')).then_some(name)
}

/// Keys with text of any kind: commands, and URLs.
fn is_free(path: &str) -> bool {
    const FREE: [&str; 6] = ["run", "build", "before", "redirect", "to", "push"];
    path.rsplit('.').next().is_some_and(|key| FREE.contains(&key))
}

fn names_a_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    WORDS.iter().any(|word| name.contains(word))
}

/// A password in a URL, an assignment to a name that tells, or what looks random.
fn holds_a_secret(text: &str) -> bool {
    let in_url = |word: &str| {
        let authority = word.split_once("://").map(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or(rest));
        authority.is_some_and(|authority| authority.contains('@'))
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let assigned = |word: &str| {
        let name = |at: usize| word[..at].rsplit(|c| !is_name(c)).next().unwrap_or_default();
        word.match_indices(['=', ':']).any(|(at, _)| names_a_secret(name(at)))
    };
    let told = |word: &str| word.starts_with("--") && names_a_secret(word);
    text.contains("-----BEGIN")
        || text.split_whitespace().any(|word| in_url(word) || assigned(word) || told(word))
        || text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+'))).any(is_random)
}

/// Letters and digits without a break, as tokens are and words, versions and paths are not.
fn is_random(word: &str) -> bool {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    word.len() >= TOKEN && digits >= 3 && digits < word.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str, is_shown: bool) {
        assert_eq!(Shown::of(path, text) != Shown::Hidden, is_shown, "{path} = {text}");
    }

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        check("env.LOG_LEVEL", "debug", true);
        check("env.API_TOKEN", "x", false);
        check("service.web.env.DB_PASSWORD", "x", false);
        check("job.clean.env.URL", "https://example.com/a?b=c", true);
        check("env.DATABASE_URL", "postgres://app:x@db/app", false);
        check("env.OPTIONS", "a=b token=c", false);
        check("env.OPTIONS", "https://example.com/?api_key=c", false);
        check("env.THING", "ghp_16C7e42F292c6912E7710c838347Ae178B4a", false);
        check("env.THING", "-----BEGIN PRIVATE KEY-----", false);
        check("service.web.run", "gunicorn app:app --bind 0.0.0.0:$PORT --workers 3", true);
        check("service.web.run", "TOKEN=abc ./serve", false);
        check("service.web.run", "./serve --password abc", false);
        check("release.before", "python manage.py migrate", true);
    }

    #[test]
    fn names_of_secrets_are_shown() {
        check("env.API_TOKEN.secret", "api-token", true);
        check("route.main.auth.secret", "api-token", true);
        check("env.DATABASE_URL.from", "postgres.db.url", true);
        check("route.main.hosts", "shop.example.com", true);
    }
}
