//! Answers that the edge gives itself, and who is to blame for them.

use bowline_core::upload::UploadFault;

use crate::h1::write::reason;
use crate::h1::{BadUpstream, Refusal, RequestHead};

/// When to look again whether maintenance is over, in seconds.
const MAINTENANCE: u32 = 60;

/// Who made it necessary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame {
    Client,
    Upstream,
    Bowline,
}

impl Blame {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Bowline => "bowline",
        }
    }
}

/// Why a request got no answer of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Refused(Refusal),
    /// No table was given yet.
    Starting,
    UnknownHost,
    NoRoute,
    /// The TLS connection is for another host.
    Misdirected,
    Denied,
    /// Tokens are taken over TLS only.
    TlsWanted,
    /// The client's address is on no list of the route.
    NotAllowed,
    Maintenance,
    /// The route's header holds no token, or another one.
    TokenRefused,
    /// It was let in, and would not be any more.
    Revoked,
    BearerWanted,
    BasicWanted,
    TooManyRequests {
        seconds: u32,
    },
    Upload(UploadFault),
    NoReadyInstance,
    /// It was held until an instance has started, and none has in time.
    StartTimeout,
    /// As many requests as may wait for an instance that is being started.
    TooManyWait,
    ConnectRefused,
    ConnectFailed,
    ConnectTimeout,
    /// The instance closed or reset the connection before it answered.
    UpstreamClosed,
    BadUpstream(BadUpstream),
    /// The instance said that it has not read the request: it has too much to do.
    StreamRefused,
    /// The instance said that it has not read the request: it takes no more on this connection.
    UpstreamLeaving,
    /// The instance broke off the request by itself, with this code of HTTP/2.
    StreamReset(u32),
    /// The client of a call said how long it waits, and that is over.
    DeadlineExceeded,
    /// The edge has ended the connection to the instance, which had more to take than it bounds (`ENHANCE_YOUR_CALM`).
    Http2Bounds,
    /// No answer in time.
    ResponseTimeout,
    /// The instance does not read the request, or stopped in the middle of its answer.
    UpstreamStalled,
    /// The client went away.
    ClientGone,
    /// The client does not read its answer.
    ClientStalled,
    FileNotFound,
    /// `If-Match`, `If-Unmodified-Since`: another is wanted.
    FileChanged,
    FileMethod,
    FileUnreadable,
    /// The disk does not answer.
    DiskTimeout,
    /// The disk does not answer others, or has as much to do as may wait for it.
    DiskBusy,
    /// No daemon answers behind the API's host: the request has reached nobody.
    DaemonAway,
    /// The daemon has ended, or broke off, before it answered.
    DaemonLost,
    /// As many requests of this client as may be at the daemon, or wait for an instance that is being started.
    TooManyAtOnce,
    /// The daemon has as many requests of clients that it does not know yet as it takes.
    DaemonBusy,
    /// No descriptor is left for a connection to the instance.
    Shortage,
    Internal,
}

impl Reason {
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Starting => "starting",
            Self::UnknownHost => "unknown-host",
            Self::NoRoute => "no-route",
            Self::Misdirected => "misdirected",
            Self::Denied => "denied",
            Self::TlsWanted => "tls-wanted",
            Self::NotAllowed => "not-allowed",
            Self::Maintenance => "maintenance",
            Self::TokenRefused => "token-refused",
            Self::Revoked => "revoked",
            Self::BearerWanted => "bearer-wanted",
            Self::BasicWanted => "basic-wanted",
            Self::TooManyRequests { .. } => "too-many-requests",
            Self::Upload(fault) => fault.code(),
            Self::NoReadyInstance => "no-ready-instance",
            Self::StartTimeout => "start-timeout",
            Self::TooManyWait => "too-many-wait",
            Self::ConnectRefused => "connect-refused",
            Self::ConnectFailed => "connect-failed",
            Self::ConnectTimeout => "connect-timeout",
            Self::UpstreamClosed => "upstream-closed",
            Self::BadUpstream(bad) => bad.code(),
            Self::StreamRefused => "stream-refused",
            Self::UpstreamLeaving => "upstream-leaving",
            Self::StreamReset(_) => "stream-reset",
            Self::DeadlineExceeded => "deadline-exceeded",
            Self::Http2Bounds => "http2-bounds",
            Self::ResponseTimeout => "response-timeout",
            Self::UpstreamStalled => "upstream-stalled",
            Self::ClientGone => "client-gone",
            Self::ClientStalled => "client-stalled",
            Self::FileNotFound => "file-not-found",
            Self::FileChanged => "file-changed",
            Self::FileMethod => "method-not-allowed",
            Self::FileUnreadable => "file-unreadable",
            Self::DiskTimeout => "disk-timeout",
            Self::DiskBusy => "disk-busy",
            Self::DaemonAway => "daemon-away",
            Self::DaemonLost => "daemon-lost",
            Self::TooManyAtOnce => "too-many-at-once",
            Self::DaemonBusy => "daemon-busy",
            Self::Shortage => "shortage",
            Self::Internal => "internal",
        }
    }

    /// The status to answer with. 499 is never sent: nobody is there to read it.
    pub(crate) const fn status(self) -> u16 {
        match self {
            Self::Refused(refusal) => refusal.status(),
            Self::Starting
            | Self::NoReadyInstance
            | Self::StartTimeout
            | Self::TooManyWait
            | Self::DaemonAway
            | Self::DaemonBusy
            | Self::Shortage
            | Self::StreamRefused
            | Self::UpstreamLeaving
            | Self::Http2Bounds
            | Self::DiskBusy
            | Self::Maintenance => 503,
            Self::UnknownHost | Self::NoRoute | Self::FileNotFound => 404,
            Self::Misdirected => 421,
            Self::Denied | Self::TlsWanted | Self::NotAllowed | Self::TokenRefused | Self::Revoked => 403,
            Self::BearerWanted | Self::BasicWanted => 401,
            Self::TooManyRequests { .. } | Self::TooManyAtOnce => 429,
            Self::Upload(_) => 415,
            Self::ConnectRefused
            | Self::ConnectFailed
            | Self::UpstreamClosed
            | Self::BadUpstream(_)
            | Self::StreamReset(_)
            | Self::DaemonLost => 502,
            Self::ConnectTimeout | Self::ResponseTimeout | Self::UpstreamStalled | Self::DiskTimeout => 504,
            Self::ClientGone | Self::ClientStalled | Self::DeadlineExceeded => 499,
            Self::FileMethod => 405,
            Self::FileChanged => 412,
            Self::FileUnreadable | Self::Internal => 500,
        }
    }

    pub(crate) const fn blame(self) -> Blame {
        match self {
            Self::Refused(_)
            | Self::UnknownHost
            | Self::NoRoute
            | Self::Misdirected
            | Self::Denied
            | Self::TlsWanted
            | Self::NotAllowed
            | Self::TokenRefused
            | Self::Revoked
            | Self::BearerWanted
            | Self::BasicWanted
            | Self::TooManyRequests { .. }
            | Self::TooManyAtOnce
            | Self::Upload(_)
            | Self::ClientGone
            | Self::ClientStalled
            | Self::DeadlineExceeded
            | Self::FileNotFound
            | Self::FileChanged
            | Self::FileMethod => Blame::Client,
            Self::NoReadyInstance
            | Self::StartTimeout
            | Self::TooManyWait
            | Self::ConnectRefused
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::UpstreamClosed
            | Self::BadUpstream(_)
            | Self::StreamRefused
            | Self::UpstreamLeaving
            | Self::StreamReset(_)
            | Self::ResponseTimeout
            | Self::UpstreamStalled => Blame::Upstream,
            Self::Starting
            | Self::Maintenance
            | Self::FileUnreadable
            | Self::DiskTimeout
            | Self::DiskBusy
            | Self::DaemonAway
            | Self::DaemonLost
            | Self::DaemonBusy
            | Self::Shortage
            | Self::Http2Bounds
            | Self::Internal => Blame::Bowline,
        }
    }

    /// Seconds after which it is worth trying again.
    pub(crate) fn retry_after(self) -> Option<u32> {
        if let Self::TooManyRequests { seconds } = self {
            return Some(seconds);
        }
        let maintenance = matches!(self, Self::Maintenance);
        matches!(self.status(), 429 | 503).then_some(if maintenance { MAINTENANCE } else { 1 })
    }

    /// How to prove who asks (RFC 9110, 11.6.1).
    pub(crate) const fn challenge(self) -> Option<&'static str> {
        if matches!(self, Self::BearerWanted) {
            return Some("Bearer realm=\"restricted\"");
        }
        if matches!(self, Self::BasicWanted) {
            return Some("Basic realm=\"restricted\", charset=\"UTF-8\"");
        }
        None
    }

    /// One sentence for whoever reads the page.
    pub(crate) const fn sentence(self) -> &'static str {
        match self {
            Self::Refused(Refusal::BodyTooLarge) => "The request's body is larger than this address accepts.",
            Self::Refused(Refusal::HeadTimeout | Refusal::BodyTimeout) => "The request did not arrive in time.",
            Self::Refused(_) => "The request is not well-formed, or asks for something that is not supported.",
            Self::Starting => "The edge is up, but was not told yet what to serve. Try again in a moment.",
            Self::UnknownHost => "No app is served under this host name here.",
            Self::NoRoute => "The app behind this host has no route for this path.",
            Self::Misdirected => "This connection was opened for another host name.",
            Self::Denied => "Nobody is let in here.",
            Self::TlsWanted => "This address is answered over HTTPS only. A token that was sent here is to be revoked.",
            Self::NotAllowed => "Your address is not among those that are let in here.",
            Self::Maintenance => "The app is being worked on and will be back.",
            Self::TokenRefused => "This address wants a token, and the request has none or another one.",
            Self::Revoked => "What let this in lets nobody in any more.",
            Self::BearerWanted => "This address wants a bearer token.",
            Self::BasicWanted => "This address wants a name and a password.",
            Self::TooManyAtOnce => "Too many requests of this client are under way at once.",
            Self::TooManyRequests { .. } => "Too many requests came in too short a time.",
            Self::Upload(fault) => fault.sentence(),
            Self::StartTimeout => "The app was not running, and did not start in time. Try again in a moment.",
            Self::TooManyWait => "The app is being started, and many wait for it. Try again in a moment.",
            Self::NoReadyInstance => "The app has no instance that is ready. Try again in a moment.",
            Self::ConnectRefused | Self::ConnectFailed => "The app's instance does not accept connections.",
            Self::ConnectTimeout => "The app's instance did not accept a connection in time.",
            Self::UpstreamClosed => "The app's instance closed the connection without an answer.",
            Self::BadUpstream(_) => "The app's instance answered with something that is not well-formed HTTP.",
            Self::StreamRefused => "The app's instance has too much to do. Try again in a moment.",
            Self::UpstreamLeaving => "The app's instance is about to end. Try again in a moment.",
            Self::StreamReset(_) => "The app's instance broke off the request.",
            Self::Http2Bounds => {
                "The edge has ended the connection to the app's instance that carried this. Try again in a moment."
            }
            Self::DeadlineExceeded => "The call took longer than its client waits.",
            Self::ResponseTimeout => "The app's instance did not answer in time.",
            Self::UpstreamStalled => "The app's instance stopped in the middle of the exchange.",
            Self::ClientGone | Self::ClientStalled => "The client did not read the answer.",
            Self::FileNotFound => "There is no such file.",
            Self::FileChanged => "It is not the one that is asked for any more.",
            Self::FileMethod => "Files are only read: GET and HEAD.",
            Self::FileUnreadable => "The file could not be read.",
            Self::DiskTimeout => "The disk did not answer in time.",
            Self::DiskBusy => "The disk does not answer, or is asked by too many at once. Try again in a moment.",
            Self::DaemonAway => "The daemon does not run, or is just being replaced. Try again in a moment.",
            Self::DaemonLost => "The daemon ended before it answered. What it has done of what was asked is not known.",
            Self::DaemonBusy => "The daemon is asked by too many others at once. Try again in a moment.",
            Self::Shortage => "The edge holds as many connections as this machine lets it. Try again in a moment.",
            Self::Internal => "The edge failed. This is a defect of Bowline.",
        }
    }

    /// Whose turn it is, as the page says it.
    const fn whose(self) -> &'static str {
        match self.blame() {
            Blame::Client => "The request has to change.",
            Blame::Upstream => "The app has to be looked at: bowline status and bowline logs say more.",
            Blame::Bowline => "The app is not to blame.",
        }
    }

    /// The body of the answer: HTML where a browser asks, else one line of text.
    pub(crate) fn page(self, html: bool, request_id: &str) -> String {
        let (status, code) = (self.status(), self.code());
        let (name, sentence, whose, blame) = (reason(status), self.sentence(), self.whose(), self.blame().as_str());
        if !html {
            return format!("{status} {name}: {sentence}\n{blame}: {code} ({request_id})\n");
        }
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width\"><meta name=\"color-scheme\" content=\"light dark\"><title>{status} {name}\
             </title><style>body{{font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:15vh auto;padding:0 1.5em}}\
             h1{{font-size:1.4em}}small{{opacity:.75}}</style></head><body><main><h1>{status} {name}</h1>\
             <p>{sentence}</p><p>{whose}</p><p><small>{blame} · {code} · {request_id}</small></p></main></body></html>\n"
        )
    }
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<BadUpstream> for Reason {
    fn from(bad: BadUpstream) -> Self {
        Self::BadUpstream(bad)
    }
}

/// Whether a person's browser asks.
pub(crate) fn wants_html(head: &RequestHead) -> bool {
    head.all("accept").any(|value| memchr::memmem::find(value, b"text/html").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_what_happened_and_who_is_to_blame() {
        let check = |reason: Reason, status: &str, blame: &str| {
            let (text, html) = (reason.page(false, "id-1"), reason.page(true, "id-1"));
            for page in [&text, &html] {
                for part in [status, blame, reason.code(), "id-1"] {
                    assert!(page.contains(part), "{page} has no {part}");
                }
            }
            assert!(html.starts_with("<!doctype html>") && !text.contains('<'));
        };
        check(Reason::NoReadyInstance, "503", "upstream");
        check(Reason::Refused(Refusal::BodyTooLarge), "413", "client");
        check(Reason::Starting, "503", "bowline");
    }
}
