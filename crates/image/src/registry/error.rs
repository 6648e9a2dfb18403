//! Why a registry has not done what it was asked.

use std::io;

use bowline_core::fault::{Fault, FaultKind};

use super::auth::AuthError;
use super::http::HttpError;
use crate::digest::BlobDigest;
use crate::error::ImageError;

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("{0:?} is no host that can be asked")]
    Url(String),
    #[error("it sends on to {0:?}, which is not followed: neither HTTPS, nor on this machine, nor a path of its own")]
    Location(String),
    #[error("it sends on and on, {0} times")]
    Redirects(usize),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("it answers {status} to {what}{}", said.as_ref().map(|said| format!(": {said}")).unwrap_or_default())]
    Refused { what: String, status: u16, said: Option<String> },
    #[error("{0} is not there")]
    Absent(String),
    #[error("its answer to {what} is not as the protocol has it: {why}")]
    Answer { what: String, why: &'static str },
    #[error("it gives {found} for {expected}")]
    Digest { expected: BlobDigest, found: BlobDigest },
    #[error("it gives more than the {0} bytes that were to come")]
    TooLong(u64),
    #[error("it does not take a layer of {bytes} bytes ({about}); its largest files: {largest}")]
    LayerTooLarge { about: String, bytes: u64, largest: String },
    #[error("a file of this machine cannot be read")]
    Read(#[source] io::Error),
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl RegistryError {
    /// Another try may go better.
    pub(super) fn is_passing(&self) -> bool {
        // 404: the session of an upload is gone.
        let may_pass = |status: u16| matches!(status, 404 | 408 | 416 | 429 | 500..=599);
        matches!(self, Self::Http(error) if error.is_passing())
            || matches!(self, Self::Refused { status, .. } if may_pass(*status))
    }

    /// As it is shown. `doing`: `shop.example/web:1 cannot be pushed`.
    pub fn fault(self, doing: &str) -> Fault {
        const LOGIN: &str = "`bowline image login HOST` says who you are; the repository may need to be made first";
        if let Self::Image(error) = self {
            return Fault { message: doing.to_owned(), ..error.into() };
        }
        let kind = match &self {
            Self::Url(_) => FaultKind::Invalid,
            Self::Http(_) => FaultKind::Unreachable,
            Self::Auth(_) | Self::LayerTooLarge { .. } | Self::Refused { status: 401 | 403, .. } => FaultKind::Refused,
            Self::Refused { .. }
            | Self::Location(_)
            | Self::Redirects(_)
            | Self::Absent(_)
            | Self::Answer { .. }
            | Self::Digest { .. }
            | Self::TooLong(_)
            | Self::Read(_)
            | Self::Image(_) => FaultKind::Failed,
        };
        let fault = Fault::new(kind, doing).source(&self);
        if let Self::Auth(error) = &self {
            fault.hint(error.hint())
        } else if let Self::Refused { status: 401 | 403, .. } = self {
            fault.hint(LOGIN)
        } else if let Self::LayerTooLarge { .. } = self {
            fault.hint("leave out of the build what the app does not need")
        } else {
            fault
        }
    }
}

/// What a registry says of a failure in its own words: the first of its errors, in one line, bounded.
pub(super) fn said(body: &[u8]) -> Option<String> {
    const MOST: usize = 300;
    let document: serde_json::Value = serde_json::from_slice(body).ok()?;
    let first = document.get("errors")?.get(0)?;
    let word = |key: &str| first.get(key).and_then(serde_json::Value::as_str).filter(|text| !text.is_empty());
    let text = match (word("code"), word("message")) {
        (Some(code), Some(message)) => format!("{code}, {message}"),
        (code, message) => code.or(message)?.to_owned(),
    };
    Some(text.chars().filter(|c| !c.is_control()).take(MOST).collect())
}

/// Whether a registry that answers 404 says that it has not got what was asked for. Without these words it may be another server, or a
/// mirror's name.
pub(super) fn is_absence(body: &[u8]) -> bool {
    let document: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let code = document.as_ref().and_then(|document| document.pointer("/errors/0/code")?.as_str());
    code.is_some_and(|code| ["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "NOT_FOUND"].contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_says_itself_that_it_has_not_got_something() {
        let check = |body: &str, expected: bool| assert_eq!(is_absence(body.as_bytes()), expected, "{body}");
        for code in ["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "NOT_FOUND"] {
            check(&format!(r#"{{"errors":[{{"code":"{code}","message":"unknown"}}]}}"#), true);
        }
        check(r#"{"errors":[{"code":"DENIED"},{"code":"NAME_UNKNOWN"}]}"#, false);
        check(r#"{"code":"NOT_FOUND"}"#, false);
        check(r#"{"errors":[]}"#, false);
        check("<html>404 not found</html>", false);
        check("", false);
    }

    #[test]
    fn a_registrys_words_are_bounded() {
        let check =
            |body: &str, expected: Option<&str>| assert_eq!(said(body.as_bytes()).as_deref(), expected, "{body}");
        check(r#"{"errors":[{"code":"DENIED","message":"not\nyours","detail":{}}]}"#, Some("DENIED, notyours"));
        check(r#"{"errors":[{"code":"DENIED","message":""}]}"#, Some("DENIED"));
        check(r#"{"errors":[]}"#, None);
        check("<html>", None);
        let long = said(format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "x".repeat(9_000)).as_bytes());
        assert_eq!(long.unwrap().len(), 300);
    }
}
