//! What gRPC says in HTTP/2, as far as an edge has to know it: which request is a call, how long its client waits, and how it ended
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::fmt::Write;
use std::time::Duration;

use h2::Reason as Reset;

use crate::answer::Reason;
use crate::h1::RequestHead;

/// The content type of every call and its answer.
pub(crate) const TYPE: &str = "application/grpc";

/// How a call ended (`google.rpc.Code`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) u16);

impl Code {
    const CANCELLED: Self = Self(1);
    pub(crate) const UNKNOWN: Self = Self(2);
    pub(crate) const DEADLINE_EXCEEDED: Self = Self(4);
    const PERMISSION_DENIED: Self = Self(7);
    const RESOURCE_EXHAUSTED: Self = Self(8);
    const UNIMPLEMENTED: Self = Self(12);
    pub(crate) const INTERNAL: Self = Self(13);
    const UNAVAILABLE: Self = Self(14);
    const UNAUTHENTICATED: Self = Self(16);

    /// As `grpc-status` says it; what is no code says nothing.
    pub(crate) fn said(value: &[u8]) -> Self {
        str::from_utf8(value).ok().and_then(|value| value.parse().ok()).map_or(Self::UNKNOWN, Self)
    }

    /// How a call ends that this keeps from its instance or from its client: by the code that clients take the same status of HTTP for
    /// (`http-grpc-status-mapping.md`), and the same reset.
    pub(crate) fn of(reason: Reason) -> Self {
        if let Reason::StreamReset(code) = reason {
            return match Reset::from(code) {
                Reset::CANCEL => Self::CANCELLED,
                Reset::ENHANCE_YOUR_CALM => Self::RESOURCE_EXHAUSTED,
                Reset::INADEQUATE_SECURITY => Self::PERMISSION_DENIED,
                _ => Self::INTERNAL,
            };
        }
        if reason == Reason::DeadlineExceeded {
            return Self::DEADLINE_EXCEEDED;
        }
        if matches!(reason, Reason::ClientGone | Reason::ClientStalled) {
            return Self::CANCELLED;
        }
        match reason.status() {
            400 => Self::INTERNAL,
            401 => Self::UNAUTHENTICATED,
            403 => Self::PERMISSION_DENIED,
            404 => Self::UNIMPLEMENTED,
            429 | 502..=504 => Self::UNAVAILABLE,
            _ => Self::UNKNOWN,
        }
    }

    /// The status of HTTP that means the same (`google/rpc/code.proto`). But for `UNIMPLEMENTED`, which is what a method is answered with
    /// that is not there: anyone can ask for one, so it is not held against a server.
    pub(crate) fn status(self) -> u16 {
        match self.0 {
            0 => 200,
            1 => 499,
            3 | 9 | 11 => 400,
            4 => 504,
            5 | 12 => 404,
            6 | 10 => 409,
            7 => 403,
            8 => 429,
            14 => 503,
            16 => 401,
            // UNKNOWN, INTERNAL, DATA_LOSS, and what is no code.
            _ => 500,
        }
    }
}

/// Whether it is a call: `application/grpc`, with or without a `+format`, and nothing that only begins like it.
pub(crate) fn is_call(head: &RequestHead) -> bool {
    let rest = head.first("content-type").and_then(|value| {
        let (kind, rest) = value.split_at_checked(TYPE.len())?;
        kind.eq_ignore_ascii_case(TYPE.as_bytes()).then_some(rest)
    });
    rest.is_some_and(|rest| matches!(rest.trim_ascii_start(), [] | [b'+' | b';', ..]))
}

/// How long the client waits, as `grpc-timeout` says: at most eight digits and a unit.
pub(crate) fn timeout(head: &RequestHead) -> Option<Duration> {
    let value = head.first("grpc-timeout")?;
    let (unit, digits) = value.split_last()?;
    let is_number = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let count: u64 = str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// A sentence as `grpc-message` has it: percent-encoded where it is not plain.
pub(crate) fn message(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..b' ' | 0x7f.. => write!(out, "%{byte:02X}").expect("a string takes all"),
            plain => out.push(char::from(plain)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{GateStep, Refusal, RequestGate};

    fn head(field: &str) -> RequestHead {
        let text = format!("POST /a.B/C HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
        match RequestGate::new().read(text.as_bytes(), &mut Default::default()) {
            GateStep::Head { head, .. } => head,
            step @ (GateStep::NeedMore | GateStep::Refuse(_)) => panic!("{text}: {step:?}"),
        }
    }

    #[test]
    fn a_call_is_told_by_its_type() {
        let check =
            |kind: &str, expected| assert_eq!(is_call(&head(&format!("Content-Type: {kind}"))), expected, "{kind}");
        check("application/grpc", true);
        check("application/grpc+proto", true);
        check("Application/GRPC; charset=x", true);
        check("application/grpc-web", false);
        check("application/grpc-web+proto", false);
        check("application/json", false);
        check("application/grp", false);
    }

    #[test]
    fn a_client_waits_as_long_as_it_says() {
        let check = |value: &str, expected: Option<Duration>| {
            assert_eq!(timeout(&head(&format!("Grpc-Timeout: {value}"))), expected, "{value}");
        };
        check("1H", Some(Duration::from_secs(3600)));
        check("5S", Some(Duration::from_secs(5)));
        check("250m", Some(Duration::from_millis(250)));
        check("99999999n", Some(Duration::from_nanos(99_999_999)));
        for bad in ["", "5", "S", "5s", "+5S", "5 S", "999999999S", "0x5S"] {
            check(bad, None);
        }
    }

    #[test]
    fn what_an_edge_answers_is_what_clients_take_its_status_for() {
        let check = |reason: Reason, code| assert_eq!(Code::of(reason).0, code, "{reason:?}");
        check(Reason::NoReadyInstance, 14);
        check(Reason::StreamRefused, 14);
        check(Reason::UpstreamClosed, 14);
        check(Reason::ResponseTimeout, 14);
        check(Reason::DeadlineExceeded, 4);
        check(Reason::ClientGone, 1);
        check(Reason::UnknownHost, 12);
        check(Reason::TokenRefused, 7);
        check(Reason::BearerWanted, 16);
        check(Reason::Refused(Refusal::Body), 13);
        check(Reason::Internal, 2);
        check(Reason::StreamReset(Reset::CANCEL.into()), 1);
        check(Reason::StreamReset(Reset::ENHANCE_YOUR_CALM.into()), 8);
        check(Reason::StreamReset(Reset::INTERNAL_ERROR.into()), 13);
    }

    #[test]
    fn faults_of_a_server_count_as_such_and_those_of_a_caller_do_not() {
        let faults = (0..=17).filter(|code| Code(*code).status() >= 500).collect::<Vec<_>>();
        assert_eq!(faults, [2, 4, 13, 14, 15, 17]);
        assert_eq!(Code::said(b"7"), Code::PERMISSION_DENIED);
        assert_eq!(Code::said(b"x"), Code::UNKNOWN);
    }

    #[test]
    fn a_message_is_one_plain_line() {
        assert_eq!(message("100% of\nit é."), "100%25 of%0Ait %C3%A9.");
    }
}
