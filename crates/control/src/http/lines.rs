//! Answers that are streamed line by line.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bowline_api::wire;
use bowline_core::log::{LogLine, LogSource};
use bowline_core::release::Stream;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::mpsc;

use super::journal::Reader;
use super::seats::Seat;

pub(super) fn of_change(reader: Reader) -> Response {
    let body = Body::from_stream(stream::unfold(reader, |mut reader| async move {
        let piece = reader.next().await?;
        Some((Ok::<_, Infallible>(piece), reader))
    }));
    ([(header::CONTENT_TYPE, wire::NDJSON)], body).into_response()
}

/// Dropping the answer gives the seat back and drops the receiver, which ends the node's work.
pub(super) fn of_logs(receiver: mpsc::Receiver<Vec<LogLine>>, seat: Seat) -> Response {
    let body = Body::from_stream(stream::unfold((receiver, seat), |(mut receiver, seat)| async move {
        let lines: Vec<_> = receiver.recv().await?.into_iter().map(log_line).collect();
        Some((Ok::<_, Infallible>(frame(&lines)), (receiver, seat)))
    }));
    ([(header::CONTENT_TYPE, wire::NDJSON)], body).into_response()
}

fn frame<T: Serialize>(lines: &[T]) -> Bytes {
    let mut out = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut out, line).expect("wire types have string keys and no failing serialisers");
        out.push(b'\n');
    }
    out.into()
}

fn log_line(line: LogLine) -> wire::LogLine {
    let (source, instance) = match line.source {
        LogSource::App { instance, stream: Stream::Stdout } => (wire::LogSource::Stdout, Some(instance)),
        LogSource::App { instance, stream: Stream::Stderr } => (wire::LogSource::Stderr, Some(instance)),
        LogSource::Access => (wire::LogSource::Access, None),
        LogSource::Bowline { instance } => (wire::LogSource::Bowline, Some(instance)),
    };
    wire::LogLine { at: line.at.0, source, instance: instance.map(|i| i.to_string()), text: line.text }
}
