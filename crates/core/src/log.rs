//! Lines of output: what is asked of a node's logs, and what comes back.

use crate::id::{AppKey, InstanceId, ReleaseNumber, ServiceName};
use crate::release::Stream;
use crate::time::Timestamp;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    pub key: AppKey,
    pub service: Option<ServiceName>,
    pub release: Option<ReleaseNumber>,
    pub since: Option<Timestamp>,
    /// At most so many of the last lines that match; `None`: all.
    pub tail: Option<u32>,
    /// Keep sending lines as they are written, until the receiver is dropped.
    pub follow: bool,
    /// A regular expression that the text must match.
    pub grep: Option<String>,
    /// Access log lines too.
    pub access: bool,
}

/// What is written from a moment on, of all apps, for who passes it on. It does not end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogFeed {
    pub since: Timestamp,
    pub what: Fed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fed {
    /// What instances print, and what is said about them.
    Output,
    /// Lines of the access log that are spans of a trace.
    Spans,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub at: Timestamp,
    pub source: LogSource,
    /// Without the line's end; invalid UTF-8 replaced. At most 16 KiB, longer lines are split.
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogSource {
    App {
        instance: InstanceId,
        stream: Stream,
    },
    /// One JSON object per request, written by the edge.
    Access,
    /// Said by Bowline about this instance: started, exited, lines dropped.
    Bowline {
        instance: InstanceId,
    },
}
