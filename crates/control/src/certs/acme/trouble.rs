//! Why an order failed, in one line for people, and when to come back.

use bowline_core::acme::{Failure, Pause};
use bowline_core::time::Timestamp;

use super::http::Later;

/// Of an authority's own words, so many bytes are kept: many names may have failed, and what was said of all is written at once.
pub(super) const LONGEST: usize = 300;

/// The authority does not know the account, as one does that has lost its data.
pub(super) const UNKNOWN_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// `what` failed, and why.
pub(super) fn failure(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure { reason: line(&format!("{what}: {}", chain(error))), pause: None }
}

pub(super) fn words(reason: impl AsRef<str>) -> Failure {
    Failure { reason: line(reason.as_ref()), pause: None }
}

/// What the library has met: most of it is the authority's own answer.
pub(super) fn of(error: &instant_acme::Error) -> Failure {
    if let instant_acme::Error::Api(problem) = error {
        return words(format!("the authority refuses: {}", said(problem)));
    }
    if let instant_acme::Error::Other(inner) = error {
        return match inner.downcast_ref::<Later>() {
            Some(later) => Failure { reason: line(&later.to_string()), pause: Some(pause(later)) },
            None => words(chain(&**inner)),
        };
    }
    if matches!(error, instant_acme::Error::Timeout(_)) {
        return words("the authority has not made up its mind in time");
    }
    failure("the authority's answer is not understood", error)
}

/// What it says in words, else the kind of problem.
pub(super) fn said(problem: &instant_acme::Problem) -> String {
    let of_names: Vec<&str> = problem.subproblems.iter().filter_map(|sub| sub.detail.as_deref()).collect();
    let detail = problem.detail.as_deref().or(problem.r#type.as_deref()).unwrap_or("it does not say why");
    std::iter::once(detail).chain(of_names).collect::<Vec<_>>().join("; ")
}

/// The whole server is short of something, or one name was asked for too often.
fn pause(later: &Later) -> Pause {
    let until = Timestamp(later.until);
    if later.status == 503 { Pause::All(until) } else { Pause::Name(until) }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let cause = source.to_string();
        // Some errors print their source, too.
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        next = source.source();
    }
    text
}

/// Others choose these words: a line is a line, and an end.
pub(super) fn line(text: &str) -> String {
    const MORE: char = '…';
    let mut clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clean.len() > LONGEST {
        clean.truncate(clean.floor_char_boundary(LONGEST - MORE.len_utf8()));
        clean.push(MORE);
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_authority_says_is_one_line_with_an_end() {
        let problem = |text: &str| serde_json::from_str::<instant_acme::Problem>(text).unwrap();
        let reason = |text: &str| of(&instant_acme::Error::Api(problem(text))).reason;
        assert_eq!(reason(r#"{"detail":"no\n\u001b[31mway"}"#), "the authority refuses: no  [31mway");
        assert_eq!(reason(r#"{"type":"urn:x"}"#), "the authority refuses: urn:x");
        assert_eq!(reason("{}"), "the authority refuses: it does not say why");
        let long = reason(&format!("{{\"detail\":\"{}\"}}", "x".repeat(2000)));
        assert_eq!((long.len(), long.ends_with('…')), (LONGEST, true));
        let wide = reason(&format!("{{\"detail\":\"{}\"}}", "ü".repeat(2000)));
        assert!(wide.len() <= LONGEST && wide.ends_with('…'), "{wide}");
    }

    #[test]
    fn when_to_come_back_is_for_the_name_or_for_all() {
        let of_status = |status| {
            let later = Later { status, until: 7, said: "busy".to_owned() };
            of(&instant_acme::Error::Other(Box::new(later)))
        };
        assert_eq!(of_status(429).pause, Some(Pause::Name(Timestamp(7))));
        assert_eq!(of_status(503).pause, Some(Pause::All(Timestamp(7))));
        assert_eq!(of_status(503).reason, "the authority says to come back later (status 503): busy");
    }
}
