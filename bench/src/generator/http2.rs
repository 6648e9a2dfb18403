//! The client's end of HTTP/2 (RFC 9113), as far as small requests need it: what is asked is encoded once, and of an answer the status,
//! the body and its end are read. The peer may keep nothing of fields, so that no table has to be followed.

use std::time::Instant;

use anyhow::{Context, bail, ensure};

use super::{Tally, upstream};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// No table of fields, no pushes.
const WISHES: &[u8] = &[0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0];
/// What may come on all streams together before more is allowed: more than comes in a round.
const WINDOW: u32 = 1 << 30;

/// `:status: 200` as one entry of the static table (RFC 7541, appendix A).
const STATUS_200: u8 = 0x88;

/// Places of requests under way: more than there are at once.
const PLACES: usize = 1024;

/// A request's fields, encoded.
#[derive(Debug, Clone)]
pub(crate) struct Fields(Vec<u8>);

impl Fields {
    /// GET over HTTPS; names in lower case, values shorter than 127 bytes.
    pub(crate) fn new(host: &str, path: &str, fields: &[(&str, &str)]) -> Self {
        let mut block = vec![0x82, 0x87, 0x04];
        push(&mut block, path);
        block.push(0x01);
        push(&mut block, host);
        for (name, value) in fields {
            block.push(0);
            push(&mut block, name);
            push(&mut block, value);
        }
        Self(block)
    }
}

fn push(block: &mut Vec<u8>, text: &str) {
    block.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("short fields"));
    block.extend_from_slice(text.as_bytes());
}

/// One connection's state.
#[derive(Debug)]
pub(super) struct Http2 {
    fields: Fields,
    streams: usize,
    input: Vec<u8>,
    next: u32,
    places: Vec<Option<Stream>>,
}

#[derive(Debug, Clone, Copy)]
struct Stream {
    id: u32,
    since: Instant,
    has_status: bool,
    /// How much of the body has come.
    came: usize,
}

impl Http2 {
    pub(super) fn new(fields: Fields, streams: usize) -> Self {
        Self { fields, streams, input: Vec::new(), next: 1, places: vec![None; PLACES] }
    }

    /// The preface and the first requests.
    pub(super) fn begin(&mut self, now: Instant, out: &mut Vec<u8>) {
        out.extend_from_slice(PREFACE);
        frame(out, SETTINGS, 0, 0, WISHES);
        frame(out, WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
        for _ in 0..self.streams {
            self.ask(now, out);
        }
    }

    fn ask(&mut self, now: Instant, out: &mut Vec<u8>) {
        let id = self.next;
        self.next += 2;
        self.places[place(id)] = Some(Stream { id, since: now, has_status: false, came: 0 });
        frame(out, HEADERS, END_STREAM | END_HEADERS, id, &self.fields.0);
    }

    pub(super) fn heard(
        &mut self,
        bytes: &[u8],
        now: Instant,
        out: &mut Vec<u8>,
        tally: &mut Tally,
    ) -> anyhow::Result<()> {
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        let mut used = 0;
        while let Some((head, rest)) = input[used..].split_first_chunk::<FRAME_HEAD>() {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let Some(payload) = rest.get(..length) else { break };
            let id = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            self.frame(Frame { kind: head[3], flags: head[4], id, payload }, now, out, tally)?;
            used += FRAME_HEAD + length;
        }
        input.drain(..used);
        self.input = input;
        Ok(())
    }

    fn frame(&mut self, it: Frame<'_>, now: Instant, out: &mut Vec<u8>, tally: &mut Tally) -> anyhow::Result<()> {
        match it.kind {
            HEADERS => {
                ensure!(it.flags & END_HEADERS != 0, "a head in pieces");
                let first = first_field(it.unpadded()?);
                ensure!(first == Some(STATUS_200), "no status 200: its fields begin with {first:x?}");
                self.stream(it.id)?.has_status = true;
            }
            DATA => {
                let data = it.unpadded()?;
                let stream = self.stream(it.id)?;
                ensure!(stream.has_status, "a body without a head");
                let expected = upstream::SMALL.get(stream.came..stream.came + data.len());
                ensure!(expected == Some(data), "another body than the app's");
                stream.came += data.len();
            }
            RST_STREAM => bail!("a stream was reset: {:x?}", it.payload),
            GOAWAY => bail!("the proxy said goodbye: {:x?}", it.payload.get(4..8)),
            SETTINGS if it.flags & ACK == 0 => frame(out, SETTINGS, ACK, 0, &[]),
            PING if it.flags & ACK == 0 => frame(out, PING, ACK, 0, it.payload),
            // Windows are never used up by what is sent, and what is not known is to be ignored.
            _ => {}
        }
        if matches!(it.kind, HEADERS | DATA) && it.flags & END_STREAM != 0 {
            let stream = *self.stream(it.id)?;
            ensure!(stream.came == upstream::SMALL.len(), "an answer of {} bytes", stream.came);
            self.places[place(it.id)] = None;
            tally.answered(now - stream.since);
            self.ask(now, out);
        }
        Ok(())
    }

    fn stream(&mut self, id: u32) -> anyhow::Result<&mut Stream> {
        let stream = self.places[place(id)].as_mut().filter(|stream| stream.id == id);
        stream.context("a frame of a stream that nobody waits for")
    }
}

fn place(id: u32) -> usize {
    usize::try_from(id / 2).unwrap_or_default() % PLACES
}

struct Frame<'a> {
    kind: u8,
    flags: u8,
    id: u32,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    fn unpadded(&self) -> anyhow::Result<&'a [u8]> {
        let mut payload = self.payload;
        if self.flags & PADDED != 0 {
            let (padding, rest) = payload.split_first().context("a frame without its padding")?;
            let length = rest.len().checked_sub(usize::from(*padding)).context("more padding than there is")?;
            payload = &rest[..length];
        }
        let priority = if self.kind == HEADERS && self.flags & PRIORITY != 0 { 5 } else { 0 };
        payload.get(priority..).context("a frame without its priority")
    }
}

/// The first byte behind what says how large a table may be (RFC 7541, 6.3).
fn first_field(mut block: &[u8]) -> Option<u8> {
    loop {
        let (first, rest) = block.split_first()?;
        if first & 0xe0 != 0x20 {
            return Some(*first);
        }
        let more = if first & 0x1f == 0x1f { rest.iter().position(|byte| byte & 0x80 == 0)? + 1 } else { 0 };
        block = &rest[more..];
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("short frames").to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend([kind, flags]);
    out.extend(id.to_be_bytes());
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many answers are counted of these frames, which come byte by byte; or why they are none.
    fn check(frames: &[(u8, u8, &[u8])], expected: Result<u64, &str>) {
        let mut http = Http2::new(Fields::new("a", "/small", &[("x-auth-token", "t")]), 1);
        let (mut out, mut tally, now) = (Vec::new(), Tally::default(), Instant::now());
        http.begin(now, &mut out);
        let mut bytes = Vec::new();
        for (kind, flags, payload) in frames {
            frame(&mut bytes, *kind, *flags, 1, payload);
        }
        let heard = bytes.iter().try_for_each(|byte| http.heard(&[*byte], now, &mut out, &mut tally));
        let found = heard.map(|()| tally.answers()).map_err(|error| error.to_string());
        match (&found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(*found, expected, "{frames:?}"),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found} for {frames:?}"),
            (Ok(_) | Err(_), _) => panic!("{found:?} instead of {expected:?} for {frames:?}"),
        }
    }

    #[test]
    fn only_the_apps_answer_counts() {
        let body = upstream::SMALL;
        check(&[(HEADERS, END_HEADERS, &[0x88]), (DATA, END_STREAM, body)], Ok(1));
        check(&[(HEADERS, END_HEADERS, &[0x3f, 0x81, 0x01, 0x20, 0x88]), (DATA, 0, body), (DATA, 1, &[])], Ok(1));
        check(
            &[
                (HEADERS, END_HEADERS | PADDED, &[1, 0x88, 0]),
                (DATA, END_STREAM | PADDED, &[&[2], body, &[0, 0]].concat()),
            ],
            Ok(1),
        );
        check(&[(HEADERS, END_HEADERS, &[0x88]), (DATA, 0, body)], Ok(0));
        check(&[(HEADERS, END_HEADERS, &[0x8d]), (DATA, END_STREAM, body)], Err("no status 200"));
        check(&[(HEADERS, END_HEADERS, &[0x88]), (DATA, END_STREAM, b"HELLO world\n")], Err("another body"));
        check(&[(HEADERS, END_HEADERS, &[0x88]), (DATA, END_STREAM, &body[1..])], Err("another body"));
        check(&[(HEADERS, END_HEADERS | END_STREAM, &[0x88])], Err("0 bytes"));
        check(&[(DATA, END_STREAM, body)], Err("without a head"));
        check(&[(RST_STREAM, 0, &[0, 0, 0, 1])], Err("reset"));
    }
}
