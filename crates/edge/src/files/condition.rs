//! What a client holds of a file already, and which part of it it asks for.

use std::time::SystemTime;

use crate::h1::RequestHead;

/// Whether the client wants one that this is not (RFC 9110, 13.1.1 and 13.1.4): of two releases, parts do not fit.
pub(super) fn is_another(head: &RequestHead, etag: &str, modified: Option<SystemTime>) -> bool {
    if head.first("if-match").is_some() {
        return !tags(head.all("if-match")).any(|tag| tag == b"*" || tag == etag.as_bytes());
    }
    let since = head.first("if-unmodified-since").and_then(|since| std::str::from_utf8(since).ok());
    // As exact as the date is.
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let since = since.and_then(|since| httpdate::parse_http_date(since).ok());
    since.zip(modified).is_some_and(|(since, modified)| seconds(modified) > seconds(since))
}

fn tags<'a>(lists: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    lists.flat_map(|list| list.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

/// Whether what the client holds is still right (RFC 9110, 13.1.2 and 13.1.3).
pub(super) fn unchanged<'a>(
    none_match: impl Iterator<Item = &'a [u8]>,
    since: Option<&[u8]>,
    etag: &str,
    modified: Option<&str>,
) -> bool {
    let mut none_match = none_match.peekable();
    if none_match.peek().is_some() {
        return tags(none_match).any(|tag| tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == etag.as_bytes());
    }
    since.is_some() && since == modified.map(str::as_bytes)
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Range {
    Whole,
    Part { from: u64, length: u64 },
    Unsatisfiable,
}

impl Range {
    /// A single range (RFC 9110, 14.1.2). Several, or what is not understood, mean the whole.
    pub(super) fn parse(text: &[u8], size: u64) -> Self {
        let spec = std::str::from_utf8(text).ok().and_then(|text| text.strip_prefix("bytes="));
        let Some((first, last)) = spec.and_then(|spec| spec.trim().split_once('-')) else { return Self::Whole };
        // Beyond what can be counted is beyond any end.
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = |text: &str| is_number(text).then(|| text.parse().unwrap_or(u64::MAX));
        match (number(first), number(last)) {
            (Some(from), _) if last.is_empty() => Self::between(from, size.saturating_sub(1), size),
            (Some(from), Some(last)) if from <= last => Self::between(from, last.min(size.saturating_sub(1)), size),
            (None, Some(0)) if first.is_empty() => Self::Unsatisfiable,
            (None, Some(suffix)) if first.is_empty() => {
                Self::between(size.saturating_sub(suffix), size.saturating_sub(1), size)
            }
            (_, _) => Self::Whole,
        }
    }

    fn between(from: u64, last: u64, size: u64) -> Self {
        if from >= size { Self::Unsatisfiable } else { Self::Part { from, length: last - from + 1 } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let check = |text: &str, expected| assert_eq!(Range::parse(text.as_bytes(), 10), expected, "{text}");
        check("bytes=0-0", Range::Part { from: 0, length: 1 });
        check("bytes=3-", Range::Part { from: 3, length: 7 });
        check("bytes=-4", Range::Part { from: 6, length: 4 });
        check("bytes=-40", Range::Part { from: 0, length: 10 });
        check("bytes=8-99", Range::Part { from: 8, length: 2 });
        check("bytes=99999999999999999999-", Range::Unsatisfiable);
        check("bytes=8-99999999999999999999", Range::Part { from: 8, length: 2 });
        check("bytes=10-", Range::Unsatisfiable);
        check("bytes=-0", Range::Unsatisfiable);
        check("bytes=0-1,3-4", Range::Whole);
        check("bytes=5-3", Range::Whole);
        check("bytes=-", Range::Whole);
        check("lines=1-2", Range::Whole);
        assert_eq!(Range::parse(b"bytes=0-", 0), Range::Unsatisfiable);
    }

    #[test]
    fn what_the_client_holds() {
        let check = |none_match: &[&str], since: Option<&str>, expected| {
            let lines = none_match.iter().map(|line| line.as_bytes());
            let got = unchanged(lines, since.map(str::as_bytes), "\"a\"", Some("date"));
            assert_eq!(got, expected, "{none_match:?} {since:?}");
        };
        check(&["\"b\", W/\"a\""], None, true);
        check(&["\"b\"", "\"a\""], None, true);
        check(&["\"b\""], Some("date"), false);
        check(&[], Some("date"), true);
        check(&[], Some("other"), false);
        check(&["*"], None, true);
        check(&[], None, false);
    }
}
