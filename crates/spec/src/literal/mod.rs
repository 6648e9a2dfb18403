//! The small languages inside strings: durations, sizes, rates, schedules, references. Each function takes the text
//! of one value and says what is wrong with it; each prints with `Display` in `core` or with the function beside it.

mod address;
mod cron;
mod path;
mod quantity;
mod reference;
mod rollout;

pub(crate) use address::{
    cidr, destination, email, header, host, https_url, listen, log_sink, print_log_sink, print_target, recipient,
    target, url,
};
pub(crate) use cron::schedule;
pub(crate) use path::{absolute, grpc_service, mount_point, prefix, relative, relative_below, url_path};
pub(crate) use quantity::{cpu, duration, positive, print_cpu, rate, share, size, target_share};
pub(crate) use reference::{print_reference, reference};
pub(crate) use rollout::{
    abort_rule, any_abort_rule, latency_objective, print_abort_rule, print_latency_objective, print_step, step,
};

use std::str::FromStr;

use bowline_core::app::{Command, SecretSource};

/// Why a value is not what its key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Wrong {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(crate) fn hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}

pub(crate) type Read<T> = Result<T, Wrong>;

/// What parses with `FromStr`: the names.
pub(crate) fn name<T: FromStr<Err: ToString>>(text: &str) -> Read<T> {
    text.parse().map_err(|e: T::Err| Wrong::new(e.to_string()))
}

/// Text without control characters but tabs and line ends.
pub(crate) fn any(text: &str) -> Read<String> {
    match text.chars().find(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r')) {
        Some(bad) => Err(Wrong::new(format!("the control character {bad:?} cannot stand here"))),
        None if text.trim().is_empty() => Err(Wrong::new("this cannot be empty")),
        None => Ok(text.to_owned()),
    }
}

/// The same on one line, without blanks at its ends: a name in another system.
pub(crate) fn line(text: &str) -> Read<String> {
    match text.contains(['\t', '\n', '\r']) || text.trim() != text {
        true => Err(Wrong::new("this is one line, without blanks at its ends")),
        false => any(text),
    }
}

pub(crate) fn command(text: &str) -> Read<Command> {
    any(text).map(Command)
}

/// A command, or nothing to do.
pub(crate) fn build(text: &str) -> Read<Command> {
    match text {
        "" => Ok(Command(String::new())),
        _ => command(text),
    }
}

/// `python 3.11`
pub(crate) fn runtime(text: &str) -> Read<String> {
    let wrong = || Wrong::hint("a runtime is a name and a version", "for example \"python 3.11\"");
    let (name, version) = text.split_once(' ').ok_or_else(wrong)?;
    let named = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let numbered = version.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    if named && numbered { Ok(text.to_owned()) } else { Err(wrong()) }
}

/// The name of a Debian package (Debian Policy 5.6.7).
pub(crate) fn package(text: &str) -> Read<String> {
    let start = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let rest = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    match start && rest && text.len() >= 2 {
        true => Ok(text.to_owned()),
        false => Err(Wrong::new("a package's name is made of a to z, 0 to 9, '+', '-' and '.'")),
    }
}

/// `registry.example.com/uploads:1.4`, with an optional tag and digest.
pub(crate) fn image(text: &str) -> Read<String> {
    let wrong = || Wrong::hint("this is not an image's name", "for example \"registry.example.com/uploads:1.4\"");
    let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
    let hex = |d: &str| d.len() == 64 && d.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let digested = digest.is_none_or(|d| d.strip_prefix("sha256:").is_some_and(hex));
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let last = rest.rsplit('/').next().unwrap_or(rest);
    let tagged = last.split(':').count() <= 2;
    let parts = rest.split(['/', ':']).all(|part| !part.is_empty() && part.chars().all(allowed));
    if digested && parts && tagged { Ok(text.to_owned()) } else { Err(wrong()) }
}

/// `aws:ID`, `vault:PATH`, `file:PATH`
pub(crate) fn secret_source(text: &str) -> Read<SecretSource> {
    let source = match text.split_once(':') {
        Some(("aws", id)) => SecretSource::Aws(line(id)?),
        Some(("vault", path)) => SecretSource::Vault(line(path)?),
        Some(("file", path)) => SecretSource::File(absolute(path)?),
        Some(_) | None => {
            return Err(Wrong::hint("a source is aws:ID, vault:PATH or file:PATH", "for example \"aws:prod/db-ca\""));
        }
    };
    Ok(source)
}

pub(crate) fn print_secret_source(source: &SecretSource) -> Option<String> {
    match source {
        SecretSource::Store { .. } => None,
        SecretSource::Aws(id) => Some(format!("aws:{id}")),
        SecretSource::Vault(path) => Some(format!("vault:{path}")),
        SecretSource::File(path) => Some(format!("file:{path}")),
    }
}

/// `png`
pub(crate) fn extension(text: &str) -> Read<String> {
    match !text.is_empty() && text.len() <= 16 && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        true => Ok(text.to_owned()),
        false => {
            let message = "an extension is lower case, without the dot";
            let plain: String = text.trim_start_matches('.').to_ascii_lowercase();
            match extension_like(&plain) {
                true => Err(Wrong::hint(message, format!("write \"{plain}\""))),
                false => Err(Wrong::new(message)),
            }
        }
    }
}

fn extension_like(text: &str) -> bool {
    !text.is_empty() && text.len() <= 16 && text.bytes().all(|b| b.is_ascii_alphanumeric())
}
