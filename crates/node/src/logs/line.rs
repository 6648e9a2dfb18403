//! Lines as they stand in files.

use bowline_core::id::{AppKey, Incarnation, InstanceId, ReleaseNumber, ServiceName, SlotId};
use bowline_core::log::{LogLine, LogSource};
use bowline_core::release::Stream;
use bowline_core::time::Timestamp;
use serde::Deserialize;

/// What a file holds.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// Lines of a shim: `<unix ms> <o|e|b><incarnation> <text>`.
    App(SlotId),
    /// JSON objects of the edge, of all apps.
    Access { key: AppKey, service: Option<ServiceName>, release: Option<ReleaseNumber> },
    /// The same, those that are spans.
    Span,
}

impl Kind {
    /// `None`: not a line of this kind, or of another app.
    pub(super) fn parse(&self, bytes: &[u8]) -> Option<LogLine> {
        let text = String::from_utf8_lossy(bytes);
        match self {
            Self::App(slot) => parse_app(slot, &text),
            Self::Access { key, service, release } => parse_access(key, service.as_ref(), *release, text.into_owned()),
            Self::Span => parse_span(&text),
        }
    }
}

/// Time, tag, incarnation and text.
fn split(line: &str) -> Option<(u64, char, u32, &str)> {
    let (at, rest) = line.split_once(' ')?;
    let (tag, text) = rest.split_once(' ')?;
    let letter = tag.chars().next()?;
    Some((at.parse().ok()?, letter, tag[letter.len_utf8()..].parse().ok()?, text))
}

fn parse_app(slot: &SlotId, line: &str) -> Option<LogLine> {
    let (at, letter, incarnation, text) = split(line)?;
    let instance = InstanceId { slot: slot.clone(), incarnation: Incarnation(incarnation) };
    let source = match letter {
        'o' => LogSource::App { instance, stream: Stream::Stdout },
        'e' => LogSource::App { instance, stream: Stream::Stderr },
        'b' => LogSource::Bowline { instance },
        _ => return None,
    };
    Some(LogLine { at: Timestamp(at), source, text: text.to_owned() })
}

/// What the app itself printed in this incarnation.
pub(super) fn printed_by(line: &str, incarnation: Incarnation) -> Option<&str> {
    let (_, letter, number, text) = split(line)?;
    (number == incarnation.0 && matches!(letter, 'o' | 'e')).then_some(text)
}

/// The fields of an access log line that queries look at.
#[derive(Deserialize)]
struct Access<'a> {
    ts: &'a str,
    app: Option<&'a str>,
    env: Option<&'a str>,
    service: Option<&'a str>,
    release: Option<u32>,
}

fn parse_access(
    key: &AppKey,
    service: Option<&ServiceName>,
    release: Option<ReleaseNumber>,
    text: String,
) -> Option<LogLine> {
    // The log is everyone's, and most lines are another app's: they are not taken apart.
    if !text.contains(key.app.as_str()) {
        return None;
    }
    let line: Access<'_> = serde_json::from_str(&text).ok()?;
    let of_app = line.app == Some(key.app.as_str()) && line.env == Some(key.env.as_str());
    let of_service = service.is_none_or(|service| line.service == Some(service.as_str()));
    let of_release = release.is_none_or(|release| line.release == Some(release.0));
    if !(of_app && of_service && of_release) {
        return None;
    }
    let at = moment(line.ts)?;
    Some(LogLine { at, source: LogSource::Access, text })
}

fn moment(ts: &str) -> Option<Timestamp> {
    let at: jiff::Timestamp = ts.parse().ok()?;
    Some(Timestamp(u64::try_from(at.as_millisecond()).ok()?))
}

/// Lines are not taken apart here, so that none is twice. These are keys, wherever they stand: what quotes there are in a value stand behind a `\`.
fn parse_span(text: &str) -> Option<LogLine> {
    let is_span = text.starts_with('{') && text.ends_with('}') && text.contains(",\"span_id\":\"");
    let (_, rest) = text.split_once("\"ts\":\"").filter(|_| is_span)?;
    let (ts, _) = rest.split_once('"')?;
    Some(LogLine { at: moment(ts)?, source: LogSource::Access, text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Files are written by other processes and may hold anything.
        #[test]
        fn no_line_makes_the_reader_panic(bytes: Vec<u8>, at: u64, incarnation: u32, text in "[^\n]{0,40}") {
            let id: InstanceId = "local/a.web.r1.0.1".parse().unwrap();
            let access = Kind::Access { key: id.slot.key.clone(), service: None, release: None };
            let app = Kind::App(id.slot.clone());
            app.parse(&bytes);
            Kind::Span.parse(&bytes);
            access.parse(&bytes);
            let line = app.parse(format!("{at} e{incarnation} {text}").as_bytes()).unwrap();
            let instance = InstanceId { slot: id.slot, incarnation: Incarnation(incarnation) };
            let source = LogSource::App { instance, stream: Stream::Stderr };
            prop_assert_eq!(line, LogLine { at: Timestamp(at), source, text });
        }
    }
}
