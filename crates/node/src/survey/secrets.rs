//! Credentials in texts: tokens by the forms that their issuers give them, keys, URLs with passwords, and assignments
//! to what is called a secret. Doubt is silence: a report that cries wolf is not read.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use bowline_core::readiness::{Masked, SecretKind, Seen, Sighting};
use regex::Regex;

use super::{Ground, all_lines, ground, is_comment, is_long};

/// Tokens that cannot be anything else, as their issuers document them.
static ISSUED: LazyLock<Vec<(SecretKind, Regex)>> = LazyLock::new(|| {
    let forms = [
        (SecretKind::AwsKey, r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b"),
        (SecretKind::GitHubToken, r"\bgh[pousr]_[A-Za-z0-9]{36,251}\b"),
        (SecretKind::GitHubToken, r"\bgithub_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}\b"),
        (SecretKind::GitLabToken, r"\bglpat-[A-Za-z0-9_-]{20,64}"),
        (SecretKind::SlackToken, r"\bxox[abeprs]-[A-Za-z0-9-]{20,250}"),
        (SecretKind::SlackWebhook, r"https://hooks\.slack\.com/services/T[A-Z0-9]{8,}/B[A-Z0-9]{8,}/[A-Za-z0-9]{20,}"),
        (SecretKind::StripeKey, r"\b[sr]k_live_[A-Za-z0-9]{16,250}"),
        (SecretKind::OpenAiKey, r"\bsk-(?:proj|svcacct|admin)-[A-Za-z0-9_-]{20,250}"),
        (SecretKind::AnthropicKey, r"\bsk-ant-[A-Za-z0-9_-]{20,250}"),
        (SecretKind::NpmToken, r"\bnpm_[A-Za-z0-9]{36}\b"),
        (SecretKind::PyPiToken, r"\bpypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,250}"),
        (SecretKind::SendGridKey, r"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"),
    ];
    forms.into_iter().map(|(kind, form)| (kind, regex(form))).collect()
});

/// RFC 7519: header and payload are JSON objects, so both begin with `{"`.
static JWT: LazyLock<Regex> =
    LazyLock::new(|| regex(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}"));
/// The signature of the token that every introduction to them shows.
const JWT_OF_BOOKS: &str = "SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c";

/// RFC 7468, and OpenPGP's armour.
static KEY_HEAD: LazyLock<Regex> = LazyLock::new(|| regex(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----(.*)$"));
static KEY_BODY: LazyLock<Regex> = LazyLock::new(|| regex(r#"^(?:\\n|[\s"'+])*[A-Za-z0-9+/=]{32,}"#));

static URL: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r#"\b[a-z][a-z0-9+.-]{1,20}://([^\s:/@'"`<>{}$\[\]]*):([^\s/@'"`<>{}$]{3,})@([A-Za-z0-9._-]+|\[[0-9a-f:]+\])"#,
    )
});

/// `name = "value"` in the spellings of most languages.
static QUOTED: LazyLock<Regex> =
    LazyLock::new(|| regex(r#"([A-Za-z_][A-Za-z0-9_.-]*)["']?\]?\s*(?::=|=>|[:=])\s*[brf]?["']([^"']{6,200})["']"#));
/// `name: value` and `name=value` of files that need no quotes.
static BARE: LazyLock<Regex> = LazyLock::new(|| {
    regex(r"^\s*(?:-\s+|export\s+|ENV\s+)?([A-Za-z_][A-Za-z0-9_.-]*)\s*[:=]\s*([^\s'#\x22]{8,200})\s*$")
});
/// What signs the sessions of Flask and Django, and of Express.
static SESSION: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r#"(?:\bSECRET_KEY(?:["']\])?|\bapp\.secret_key)\s*=\s*[brf]?["']([^"']{3,})["']|\bsession\s*\(\s*\{[^}]*\bsecret:\s*["']([^"']{3,})["']"#,
    )
});

/// The commands of a `bowline.toml`.
static COMMAND: LazyLock<Regex> = LazyLock::new(|| regex(r"^\s*(?:[a-z0-9._-]+\.)?(?:run|build|before)\s*="));

/// A part that is filled in: by a shell, a template, a format, or whoever copies an example.
static INTERPOLATED: LazyLock<Regex> = LazyLock::new(|| {
    regex(r"\$\{[A-Za-z_][^}]*\}|\{\{.*\}\}|#\{[A-Za-z_@].*\}|%\([A-Za-z_]+\)[sd]|\{[A-Za-z_][A-Za-z0-9_.]*\}|\{\}")
});
/// The whole of it stands for something else: a variable, a command, an anchor, a stand-in, a call.
static ELSEWHERE: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"^(?:\$[A-Za-z_][A-Za-z0-9_]*|\$\(.*\)|%[A-Za-z_][A-Za-z0-9_]*%|[&*!][A-Za-z_][A-Za-z0-9_-]*|<[^<>]+>|[A-Za-z_][A-Za-z0-9_.:]*\(.*\))$",
    )
});
/// `${NAME}` and nothing else.
static WHOLE: LazyLock<Regex> = LazyLock::new(|| regex(r"^\$\{[^{}]*\}$|^\{\{[^{}]*\}\}$"));
/// Two names or more; a random text of base64 that begins with a slash is hardly ever one.
static PATH: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^(?:~|\.{1,2})?(?:/[A-Za-z0-9._-]+){2,}/?$|^(?:~|\.{1,2})?/[A-Za-z0-9._-]+/?$"));

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant that a test compiles")
}

/// What was found in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub kind: SecretKind,
    /// What it is assigned to.
    pub name: Option<String>,
    pub value: Masked,
}

pub(super) fn sightings(file: &str, text: &str) -> Vec<Sighting> {
    let ground = ground(file);
    if ground == Ground::Foreign {
        return Vec::new();
    }
    // The file has rules of its own for variables, which it knows by name; commands are only text to it.
    let is_looked_at = |line: &str| file != "bowline.toml" || COMMAND.is_match(line);
    let all = all_lines(file, text).filter(|(_, line, _)| is_looked_at(line));
    let found = all.filter_map(|(line, text, next)| Some((line, in_line(text, next, ground)?)));
    let seen = |found: Found| Seen::Secret { kind: found.kind, name: found.name, value: found.value };
    found.map(|(line, found)| Sighting { file: file.to_owned(), line, seen: seen(found) }).collect()
}

/// A line that a program wrote is looked at for what cannot be anything else.
fn in_line(line: &str, next: &str, ground: Ground) -> Option<Found> {
    if let Some((kind, value)) = issued(line) {
        return Some(Found { kind, name: assigned(line, value), value: Masked::issued(value) });
    }
    if let Some(rest) = KEY_HEAD.captures(line).map(|c| c.get(1).map_or("", |m| m.as_str())) {
        let has_body = KEY_BODY.is_match(rest) || (rest.trim().len() <= 4 && KEY_BODY.is_match(next));
        let found = Found { kind: SecretKind::PrivateKey, name: None, value: Masked::hidden(line.trim()) };
        return has_body.then_some(found);
    }
    if is_long(line) || matches!(ground, Ground::Prose | Ground::Foreign) {
        return None;
    }
    if let Some((kind, value)) = url(line) {
        let name = BARE.captures(line).or_else(|| QUOTED.captures(line)).map(|c| c[1].to_owned());
        return Some(Found { kind, name, value: Masked::hidden(value) });
    }
    if is_comment(line) {
        return None;
    }
    if let Some(value) = SESSION.captures(line).and_then(|c| c.get(1).or(c.get(2)))
        && !is_reference(value.as_str())
        && (value.len() >= 12 || has_two_classes(value.as_str()))
        && !value.as_str().contains("test")
    {
        let (kind, name) = (SecretKind::SessionKey, Some("SECRET_KEY".to_owned()));
        return Some(Found { kind, name, value: Masked::hidden(value.as_str()) });
    }
    let quoted = QUOTED.captures_iter(line).map(|c| c.extract::<2>().1);
    let bare = (ground == Ground::Config).then(|| BARE.captures(line).map(|c| c.extract::<2>().1)).flatten();
    let (name, value) = quoted.chain(bare).find(|[name, value]| assigned_secret(name, value)).map(|[n, v]| (n, v))?;
    Some(Found { kind: kind_by_name(name), name: Some(name.to_owned()), value: Masked::hidden(value) })
}

fn issued(text: &str) -> Option<(SecretKind, &str)> {
    let known = ISSUED.iter().find_map(|(kind, form)| Some((*kind, form.find(text)?.as_str())));
    let token = known.or_else(|| JWT.find(text).map(|m| (SecretKind::Jwt, m.as_str())));
    token.filter(|(_, value)| !is_placeholder(value) && !value.ends_with(JWT_OF_BOOKS))
}

/// The name before `value` in its line.
fn assigned(line: &str, value: &str) -> Option<String> {
    let all = QUOTED.captures_iter(line).find(|c| c[2].contains(value)).map(|c| c[1].to_owned());
    all.or_else(|| BARE.captures(line).filter(|c| c[2].contains(value)).map(|c| c[1].to_owned()))
}

/// The password of a URL, unless everybody knows it or it opens nothing but the developer's own machine.
fn url(text: &str) -> Option<(SecretKind, &str)> {
    const DEFAULTS: [&str; 14] = [
        "password", "passwd", "pass", "pwd", "secret", "user", "username", "admin", "root", "postgres", "mysql",
        "guest", "test", "dev",
    ];
    const OWN: [&str; 6] = ["localhost", "127.0.0.1", "0.0.0.0", "[::1]", "host.docker.internal", "host"];
    let found = URL.captures(text)?;
    let (user, password, host) = (found.get(1)?.as_str(), found.get(2)?.as_str(), found.get(3)?.as_str());
    let is_default = DEFAULTS.iter().any(|default| default.eq_ignore_ascii_case(password));
    let known = password == user || is_default || is_placeholder(password) || is_reference(password);
    let nowhere = OWN.iter().any(|own| own.eq_ignore_ascii_case(host)) || host.contains("example");
    (!known && !nowhere).then_some((SecretKind::UrlPassword, password))
}

fn kind_by_name(name: &str) -> SecretKind {
    let words = words(name);
    match words.last().map(|word| unnumbered(word)) {
        Some("password" | "passwd" | "pwd" | "passphrase" | "pass") => SecretKind::Password,
        Some(_) | None => SecretKind::Token,
    }
}

/// Whether a variable of this name is there to hold a secret: `API_KEY`, `db.password`, `clientSecret`.
pub fn is_secret_name(name: &str) -> bool {
    const ALONE: [&str; 12] = [
        "password",
        "passwd",
        "pwd",
        "pass",
        "passphrase",
        "dsn",
        "secret",
        "secrets",
        "token",
        "credential",
        "credentials",
        "apikey",
    ];
    const BEFORE_KEY: [&str; 10] =
        ["api", "access", "secret", "private", "signing", "encryption", "auth", "session", "master", "account"];
    // Front ends are given these by name, for everybody to see.
    const PUBLIC: [&str; 5] = ["NEXT_PUBLIC_", "REACT_APP_", "VITE_", "PUBLIC_", "EXPO_PUBLIC_"];
    if PUBLIC.iter().any(|start| name.starts_with(start)) {
        return false;
    }
    let words = words(name);
    let last: Vec<&str> = words.iter().rev().take(3).map(String::as_str).collect();
    match last.as_slice() {
        ["base", "key", "secret"] => true,
        ["key", before, ..] => BEFORE_KEY.contains(before),
        ["token", "csrf" | "next" | "page" | "refresh", ..] => false,
        [word, ..] => ALONE.contains(&unnumbered(word)),
        [] => false,
    }
}

/// What the text of a variable is, if it is a secret: by its form, or by the variable's name. In doubt it is one: nothing is
/// lost by that, and a file that is committed would keep what was taken for harmless.
pub fn secret_in(name: &str, value: &str) -> Option<(SecretKind, Masked)> {
    if let Some((kind, token)) = issued(value) {
        return Some((kind, Masked::issued(token)));
    }
    if KEY_HEAD.is_match(value.lines().next().unwrap_or("")) {
        return Some((SecretKind::PrivateKey, Masked::hidden(value)));
    }
    if let Some((kind, password)) = url(value) {
        return Some((kind, Masked::hidden(password)));
    }
    let text = value.trim();
    let elsewhere = ELSEWHERE.is_match(text) || WHOLE.is_match(text) || text.starts_with("/run/secrets/");
    let named = is_secret_name(name) && !text.is_empty() && !elsewhere;
    named.then(|| (kind_by_name(name), Masked::hidden(value)))
}

/// `password2` → `password`
fn unnumbered(word: &str) -> &str {
    word.trim_end_matches(|c: char| c.is_ascii_digit())
}

/// `dbPassword`, `DB_PASSWORD`, `db.password` → `db`, `password`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut lower_before = false;
    for c in name.chars() {
        let starts = c.is_ascii_uppercase() && lower_before;
        if starts || matches!(c, '_' | '-' | '.') {
            words.push(String::new());
        }
        lower_before = c.is_ascii_lowercase() || c.is_ascii_digit();
        if let (true, Some(word)) = (c.is_ascii_alphanumeric(), words.last_mut()) {
            word.push(c.to_ascii_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Whether an assignment gives a secret its value, rather than its name, its label or a stand-in.
fn assigned_secret(name: &str, value: &str) -> bool {
    /// Words have about two bits per character, random texts of letters and digits more than three.
    const RANDOM: f64 = 3.0;
    if !is_secret_name(name) || value.contains(char::is_whitespace) {
        return false;
    }
    if is_placeholder(value) || is_reference(value) || is_path(value) || is_uuid(value) {
        return false;
    }
    let (length, random) = match kind_by_name(name) == SecretKind::Password {
        true => (6, 2.0),
        false => (12, RANDOM),
    };
    value.len() >= length && has_two_classes(value) && entropy(value) >= random
}

/// What stands where a secret will.
fn is_placeholder(value: &str) -> bool {
    const WORDS: [&str; 23] = [
        "example",
        "changeme",
        "change-me",
        "change_me",
        "placeholder",
        "your",
        "xxxx",
        "dummy",
        "sample",
        "insert",
        "replace",
        "redacted",
        "todo",
        "****",
        "...",
        "test",
        "fake",
        "mock",
        "none",
        "null",
        "undefined",
        "0123456789",
        "abcdefgh",
    ];
    let lower = value.to_ascii_lowercase();
    let distinct: BTreeSet<char> = lower.chars().collect();
    distinct.len() <= 3 || WORDS.iter().any(|word| lower.contains(word))
}

/// A value that is looked up elsewhere.
fn is_reference(value: &str) -> bool {
    INTERPOLATED.is_match(value)
        || ELSEWHERE.is_match(value)
        || ["env.", "environ", "getenv"].iter().any(|word| value.contains(word))
}

fn is_path(value: &str) -> bool {
    PATH.is_match(value) || value.contains("://")
}

fn is_uuid(value: &str) -> bool {
    let parts: Vec<usize> = value.split('-').map(str::len).collect();
    parts == [8, 4, 4, 4, 12] && value.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}

/// Letters with digits or with marks that names of things do not have.
fn has_two_classes(value: &str) -> bool {
    let has_letter = value.chars().any(|c| c.is_ascii_alphabetic());
    let has_digit = value.chars().any(|c| c.is_ascii_digit());
    let has_mark = value.chars().any(|c| c.is_ascii_punctuation() && !matches!(c, '_' | '-' | '.' | ':' | '/' | ','));
    has_letter && (has_digit || has_mark)
}

/// Shannon's, in bits per character.
#[expect(clippy::cast_precision_loss, reason = "lengths of lines")]
fn entropy(value: &str) -> f64 {
    let mut counts = std::collections::BTreeMap::new();
    value.chars().for_each(|c| *counts.entry(c).or_insert(0u32) += 1);
    let total = value.chars().count() as f64;
    counts.values().map(|n| f64::from(*n) / total).map(|share| -share * share.log2()).sum()
}
