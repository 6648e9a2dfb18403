//! Which of its rules a head breaks, for the reason code. Only ever called for a head that was already refused.

use super::field::is_token;
use super::refusal::Refusal;

/// `head` ends with a blank line and has no bare LF.
#[cold]
pub(super) fn diagnose(head: &[u8], error: httparse::Error) -> Refusal {
    if error == httparse::Error::TooManyHeaders {
        return Refusal::TooManyFields;
    }
    let mut lines = head.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    if let Some(refusal) = request_line(lines.next().unwrap_or_default()) {
        return refusal;
    }
    lines.find_map(field_line).unwrap_or(Refusal::RequestLine)
}

fn request_line(line: &[u8]) -> Option<Refusal> {
    if let Some(refusal) = forbidden_byte(line) {
        return Some(refusal);
    }
    let mut parts = line.split(|b| *b == b' ');
    let (method, target, version) = (parts.next()?, parts.next(), parts.next());
    if !method.iter().all(|b| is_token(*b)) {
        return Some(Refusal::Method);
    }
    let (Some(target), Some(version), None) = (target, version, parts.next()) else {
        return Some(Refusal::RequestLine);
    };
    match version {
        _ if target.is_empty() => Some(Refusal::RequestLine),
        _ if !target.iter().all(|b| matches!(b, b'!'..=b'~')) => Some(Refusal::TargetByte),
        b"HTTP/1.0" | b"HTTP/1.1" => None,
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Some(Refusal::VersionNotSupported),
        _ => Some(Refusal::Version),
    }
}

fn field_line(line: &[u8]) -> Option<Refusal> {
    let colon = match line {
        [] => return None,
        [b' ' | b'\t', ..] => return Some(Refusal::ObsFold),
        [b':', ..] => return Some(Refusal::EmptyFieldName),
        _ => memchr::memchr(b':', line),
    };
    let Some(colon) = colon else { return forbidden_byte(line).or(Some(Refusal::FieldName)) };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    match name {
        [.., b' ' | b'\t'] => Some(Refusal::SpaceBeforeColon),
        _ if !name.iter().all(|b| is_token(*b)) => forbidden_byte(name).or(Some(Refusal::FieldName)),
        _ if value.iter().all(|b| matches!(b, b'\t' | b' '..=b'~' | 0x80..)) => None,
        _ => forbidden_byte(value).or(Some(Refusal::FieldValue)),
    }
}

fn forbidden_byte(line: &[u8]) -> Option<Refusal> {
    line.iter().find_map(|b| match b {
        b'\r' => Some(Refusal::BareCr),
        0 => Some(Refusal::Nul),
        _ => None,
    })
}
