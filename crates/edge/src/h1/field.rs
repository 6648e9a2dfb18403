//! Header fields, told apart once when they are read.

use super::MAX_CONNECTION_OPTIONS;

/// A stretch of a head's own text. Heads are at most 32 KiB long, so 16 bits are enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    pub(super) start: u16,
    pub(super) end: u16,
}

impl Span {
    /// `part` must be a stretch of `text`, which is a head.
    pub(super) fn of(text: &[u8], part: &[u8]) -> Self {
        let start = part.as_ptr().addr() - text.as_ptr().addr();
        Self::new(start, start + part.len())
    }

    #[expect(clippy::cast_possible_truncation, reason = "a head is at most MAX_HEAD bytes, which fits")]
    pub(super) fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && end <= super::MAX_HEAD, "a stretch of a head");
        Self { start: start as u16, end: end as u16 }
    }

    pub(super) fn range(self) -> std::ops::Range<usize> {
        usize::from(self.start)..usize::from(self.end)
    }

    pub(super) fn bytes(self, text: &[u8]) -> &[u8] {
        &text[self.range()]
    }

    /// For tokens, which the parser has checked.
    pub(super) fn token(self, text: &[u8]) -> &str {
        str::from_utf8(self.bytes(text)).expect("a token is ASCII")
    }
}

/// What a field means to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FieldKind {
    /// Passed on as it came.
    EndToEnd,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Expect,
    KeepAlive,
    /// `TE`, `Trailer`, `Proxy-*`, `HTTP2-Settings`: for this hop only.
    HopByHop,
    /// Named by a `Connection` line, so for this hop only.
    Nominated,
    ForwardedFor,
    ForwardedProto,
    ForwardedHost,
    Forwarded,
    /// Says whom or what a request came from or through, which only an edge may say: other `X-Forwarded-*`, `X-Real-IP`.
    Identity,
    /// `X-Bowline-*`: set by Bowline only, in both directions.
    Reserved,
    /// A name with `_`. Servers that turn `-` into `_` (CGI, WSGI) would take it for another one.
    Underscored,
    Date,
    Cookie,
    RequestId,
    TraceParent,
    TraceState,
}

impl FieldKind {
    /// Tells a name, in any case.
    pub fn of(name: &[u8]) -> Self {
        // Most names are told from their length and first letter alone.
        let known = match (name.len(), name.first().map_or(0, |b| b | 0x20)) {
            (2, b't') if is(name, b"te") => Self::HopByHop,
            (4, b'h') if is(name, b"host") => Self::Host,
            (4, b'd') if is(name, b"date") => Self::Date,
            (6, b'e') if is(name, b"expect") => Self::Expect,
            (6, b'c') if is(name, b"cookie") => Self::Cookie,
            (7, b'u') if is(name, b"upgrade") => Self::Upgrade,
            (7, b't') if is(name, b"trailer") => Self::HopByHop,
            (9, b'f') if is(name, b"forwarded") => Self::Forwarded,
            (10, b'c') if is(name, b"connection") => Self::Connection,
            (10, b'k') if is(name, b"keep-alive") => Self::KeepAlive,
            (10, b't') if is(name, b"tracestate") => Self::TraceState,
            (11, b't') if is(name, b"traceparent") => Self::TraceParent,
            (14, b'c') if is(name, b"content-length") => Self::ContentLength,
            (14, b'h') if is(name, b"http2-settings") => Self::HopByHop,
            (17, b't') if is(name, b"transfer-encoding") => Self::TransferEncoding,
            (9.., b'x') => Self::of_x(name),
            (6.., b'p') if starts(name, b"proxy-") => Self::HopByHop,
            _ => Self::EndToEnd,
        };
        if known == Self::EndToEnd && has_underscore(name) { Self::of_underscored(name) } else { known }
    }

    /// A reserved name is reserved however it is spelled: who turns `_` into `-` must not read an app's word as ours.
    fn of_underscored(name: &[u8]) -> Self {
        const RESERVED: &[u8] = b"x-bowline-";
        let dashed = name.iter().map(|b| if *b == b'_' { b'-' } else { b.to_ascii_lowercase() });
        match dashed.take(RESERVED.len()).eq(RESERVED.iter().copied()) {
            true => Self::Reserved,
            false => Self::Underscored,
        }
    }

    fn of_x(name: &[u8]) -> Self {
        match name {
            _ if is(name, b"x-forwarded-for") => Self::ForwardedFor,
            _ if is(name, b"x-forwarded-proto") => Self::ForwardedProto,
            _ if is(name, b"x-forwarded-host") => Self::ForwardedHost,
            _ if is(name, b"x-request-id") => Self::RequestId,
            _ if starts(name, b"x-forwarded-") || is(name, b"x-real-ip") => Self::Identity,
            _ if starts(name, b"x-bowline-") => Self::Reserved,
            _ => Self::EndToEnd,
        }
    }

    /// Whether a request's field goes upstream as it came. What does not is dropped or written anew.
    pub const fn goes_upstream(self) -> bool {
        matches!(
            self,
            Self::EndToEnd | Self::Date | Self::Cookie | Self::RequestId | Self::TraceParent | Self::TraceState
        )
    }

    /// Whether a response's field goes to the client as it came.
    pub const fn goes_downstream(self) -> bool {
        match self {
            Self::ContentLength
            | Self::TransferEncoding
            | Self::Connection
            | Self::Upgrade
            | Self::KeepAlive
            | Self::HopByHop
            | Self::Nominated
            | Self::Reserved => false,
            Self::EndToEnd
            | Self::Host
            | Self::Expect
            | Self::ForwardedFor
            | Self::ForwardedProto
            | Self::ForwardedHost
            | Self::Forwarded
            | Self::Identity
            | Self::Underscored
            | Self::Date
            | Self::Cookie
            | Self::RequestId
            | Self::TraceParent
            | Self::TraceState => true,
        }
    }
}

/// `name.contains(&b'_')`, eight bytes at a time: names are short, and each one is asked.
fn has_underscore(name: &[u8]) -> bool {
    const EACH: u64 = u64::MAX / 255;
    let in_eight = |eight: [u8; 8]| {
        let zero_where_found = u64::from_ne_bytes(eight) ^ (EACH * b'_' as u64);
        zero_where_found.wrapping_sub(EACH) & !zero_where_found & (EACH * 0x80) != 0
    };
    match (name.as_chunks::<8>().0, name.last_chunk::<8>()) {
        (all, Some(last)) => all.iter().any(|eight| in_eight(*eight)) || in_eight(*last),
        (_, None) => name.iter().fold(false, |found, b| found | (*b == b'_')),
    }
}

/// `name` is `wanted`, which is in lower case and has only letters, digits and dashes. A token differs from such a name
/// in that one bit only where it differs in case.
fn is<const N: usize>(name: &[u8], wanted: &[u8; N]) -> bool {
    <&[u8; N]>::try_from(name)
        .is_ok_and(|name| name.iter().zip(wanted).fold(0, |differ, (a, b)| differ | ((a | 0x20) ^ b)) == 0)
}

fn starts<const N: usize>(name: &[u8], prefix: &[u8; N]) -> bool {
    name.first_chunk::<N>().is_some_and(|head| is(head, prefix))
}

/// A header line as read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// A token (ASCII), in the case it came in.
    pub name: &'a [u8],
    /// Without surrounding blanks; no control bytes but tab; not necessarily UTF-8.
    pub value: &'a [u8],
    pub kind: FieldKind,
    /// `name: value CRLF`, where the line came in exactly as it would be written.
    pub(super) written: Option<&'a [u8]>,
}

impl<'a> Field<'a> {
    /// A field from elsewhere (HTTP/2). The caller vouches that name and value are well-formed.
    pub fn new(name: &'a str, value: &'a [u8]) -> Self {
        Self { name: name.as_bytes(), value, kind: FieldKind::of(name.as_bytes()), written: None }
    }

    /// The same with another value, for which the caller vouches, too.
    pub fn with_value<'b>(self, value: &'b [u8]) -> Field<'b>
    where
        'a: 'b,
    {
        Field { value, written: None, ..self }
    }
}

/// A header line as stretches of its head's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) name: Span,
    pub(super) value: Span,
    pub(super) kind: FieldKind,
    as_written: bool,
}

impl Line {
    pub(super) fn field(self, text: &[u8]) -> Field<'_> {
        let (name, value) = (self.name.bytes(text), self.value.bytes(text));
        let written = self.as_written.then(|| &text[self.name.range().start..self.value.range().end + 2]);
        Field { name, value, kind: self.kind, written }
    }
}

/// Which kinds of fields a head has, so that what is not there is not looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Kinds(u32);

impl Kinds {
    pub(super) fn has(self, kind: FieldKind) -> bool {
        self.0 & (1 << kind as u32) != 0
    }

    fn add(&mut self, kind: FieldKind) {
        self.0 |= 1 << kind as u32;
    }
}

/// Fills `lines` with the headers of `head`, which they are stretches of. `None`: a line does not end with CRLF.
pub(super) fn collect(head: &[u8], headers: &[httparse::Header<'_>], lines: &mut Vec<Line>) -> Option<Kinds> {
    lines.clear();
    lines.reserve(headers.len());
    let mut kinds = Kinds::default();
    if !head.ends_with(b"\r\n\r\n") {
        return None;
    }
    for header in headers {
        let (name, value) = (Span::of(head, header.name.as_bytes()), Span::of(head, header.value));
        let kind = FieldKind::of(header.name.as_bytes());
        kinds.add(kind);
        // A name stands right behind the end of the line before it.
        if head[..name.range().start].last_chunk() != Some(b"\r\n") {
            return None;
        }
        let as_written = head[name.range().end..value.range().start] == *b": "
            && head[value.range().end..].first_chunk() == Some(b"\r\n");
        lines.push(Line { name, value, kind, as_written });
    }
    Some(kinds)
}

/// Memory of heads, to be used again. One per core or per connection: as many heads as are under way at once allocate,
/// later ones do not.
#[derive(Debug, Default)]
pub struct Spare {
    pub(super) targets: Shelf<u8>,
    pub(super) texts: Shelf<u8>,
    pub(super) lines: Shelf<Line>,
}

/// What is kept of one kind. Bounded: at most 64 times 4 KiB of text, 64 times 4 KiB of targets and about as much of lines.
#[derive(Debug)]
pub(super) struct Shelf<T>(Vec<Vec<T>>);

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Shelf<T> {
    /// Most pieces kept: as many requests as a busy core has under way.
    const PIECES: usize = 64;
    /// Largest piece kept, in bytes: heads that are larger are rare.
    const BYTES: usize = 4 << 10;

    /// An empty piece.
    pub(super) fn take(&mut self) -> Vec<T> {
        self.0.pop().unwrap_or_default()
    }

    pub(super) fn give(&mut self, mut piece: Vec<T>) {
        if self.0.len() < Self::PIECES && (1..=Self::BYTES / size_of::<T>()).contains(&piece.capacity()) {
            piece.clear();
            self.0.push(piece);
        }
    }
}

/// What the `Connection` lines of a head say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Options {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
}

/// `Connection` lines that are not lists of tokens, or have too many of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadOptions;

/// Reads all `Connection` lines and marks the fields they nominate. Fields that frame, route or identify a message are
/// no one's to nominate: their kinds are treated by themselves.
pub(super) fn read_options(text: &[u8], lines: &mut [Line], kinds: Kinds) -> Result<Options, BadOptions> {
    let mut options = Options::default();
    let mut count = 0;
    if !kinds.has(FieldKind::Connection) {
        return Ok(options);
    }
    for at in 0..lines.len() {
        if lines[at].kind != FieldKind::Connection {
            continue;
        }
        if lines[at].value.bytes(text) == b"keep-alive" {
            options.keep_alive = true;
            continue;
        }
        for option in lines[at].value.bytes(text).split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            count += 1;
            if count > MAX_CONNECTION_OPTIONS || !option.iter().all(|b| is_token(*b)) {
                return Err(BadOptions);
            }
            if option.eq_ignore_ascii_case(b"keep-alive") {
                options.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"close") {
                options.close = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                options.upgrade = true;
            } else {
                nominate(text, lines, option);
            }
        }
    }
    Ok(options)
}

fn nominate(text: &[u8], lines: &mut [Line], name: &[u8]) {
    for line in lines {
        if line.kind.goes_upstream() && line.name.bytes(text).eq_ignore_ascii_case(name) {
            line.kind = FieldKind::Nominated;
        }
    }
}

/// `1*DIGIT` that fits 63 bits, and nothing else (RFC 9110, 8.6; lists of equal lengths are refused). Readers further on hold lengths
/// with a sign, or reserve the highest: what they would make of such a one is nobody's to know.
pub(super) fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    let length = value.iter().try_fold(0i64, |sum, b| {
        let digit = b.is_ascii_digit().then(|| i64::from(b - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    });
    length.map(i64::cast_unsigned)
}

/// `tchar` of RFC 9110 (5.6.2).
pub(crate) const fn is_token(b: u8) -> bool {
    matches!(b, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
        || b.is_ascii_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_names_are_reserved_however_they_are_spelled() {
        let check = |name: &str, expected| assert_eq!(FieldKind::of(name.as_bytes()), expected, "{name}");
        check("X-Bowline-Release", FieldKind::Reserved);
        check("X_Bowline-Release", FieldKind::Reserved);
        check("x_bowline_anything", FieldKind::Reserved);
        check("X-Bowline_Release", FieldKind::Reserved);
        check("X_Forwarded_For", FieldKind::Underscored);
        check("x_bowl", FieldKind::Underscored);
        check("X-Bowls", FieldKind::EndToEnd);
    }

    #[test]
    fn as_many_pieces_are_kept_as_were_out_at_once() {
        let mut shelf = Shelf::<u8>::default();
        let (mut one, mut two) = (shelf.take(), shelf.take());
        one.push(1);
        two.push(2);
        let mut given = [one.as_ptr(), two.as_ptr()];
        shelf.give(one);
        shelf.give(two);
        shelf.give(Vec::with_capacity(Shelf::<u8>::BYTES + 1));
        shelf.give(Vec::new());
        let (one, two) = (shelf.take(), shelf.take());
        let mut taken = [one.as_ptr(), two.as_ptr()];
        given.sort_unstable();
        taken.sort_unstable();
        assert_eq!((given, one.len(), two.len()), (taken, 0, 0));
        assert_eq!(shelf.take().capacity(), 0, "what is empty or large is not kept");
        (0..=Shelf::<u8>::PIECES).for_each(|_| shelf.give(vec![1]));
        assert_eq!(shelf.0.len(), Shelf::<u8>::PIECES);
    }
}
