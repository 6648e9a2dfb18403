//! What ties a request's lines in different logs together: W3C Trace Context and `X-Request-Id`.

use bowline_core::route::{RANDOM_BITS, rejection_threshold};
use bowline_core::units::Share;

use crate::balance::Dice;
use crate::h1::RequestHead;

/// Longest `X-Request-Id` of a client that is passed on.
const MAX_REQUEST_ID: usize = 128;

/// Of a `traceparent`: it is recorded; its id is random.
const SAMPLED: u8 = 1;
const RANDOM: u8 = 2;

/// Of which traces the edge is a span.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Sampling {
    #[default]
    None,
    /// Of those whose parent is sampled, and of those that begin here and whose random bits are not less than this.
    From(u64),
}

impl Sampling {
    pub(crate) fn of(sample: Option<Share>) -> Self {
        sample.map_or(Self::None, |share| Self::From(rejection_threshold(share)))
    }

    fn takes(self, low: u64) -> bool {
        match self {
            Self::None => false,
            Self::From(threshold) => low & ((1 << RANDOM_BITS) - 1) >= threshold,
        }
    }
}

/// `traceparent` and `X-Request-Id`, passed on as they came or begun. What else is said of a trace (`tracestate`) goes with its
/// `traceparent` or not at all. If the edge is a span of it, what is passed on names that span.
///
/// Each request has one, so it is small.
#[derive(Debug)]
pub(crate) struct Trace {
    /// In hexadecimal digits.
    id: [u8; 32],
    span: u64,
    /// The span that this one's parent is; 0: none.
    before: u64,
    flags: u8,
    is_recorded: bool,
    pub(crate) begun: bool,
    /// `None`: the trace's id.
    given_id: Option<Box<str>>,
}

/// One request as a span, in hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) id: [u8; 16],
    /// `None`: the trace begins with it.
    pub(crate) parent: Option<[u8; 16]>,
    /// The trace's id is random.
    pub(crate) is_random: bool,
}

impl Trace {
    pub(crate) fn of(head: &RequestHead, dice: &Dice, sampling: Sampling) -> Self {
        let mut trace = Self::begun(dice, sampling);
        let mut said = head.all("traceparent");
        // Of two, nobody knows which is meant.
        let only = said.next().filter(|_| said.next().is_none());
        if let Some(parent) = only.and_then(valid_parent) {
            trace.go_on(&parent, sampling);
        }
        trace.given_id = head.first("x-request-id").and_then(valid_id).map(Into::into);
        trace
    }

    fn begun(dice: &Dice, sampling: Sampling) -> Self {
        let (trace, low) = Self::begin(dice);
        if sampling == Sampling::None {
            return trace;
        }
        let is_recorded = sampling.takes(low);
        Self { is_recorded, flags: RANDOM | u8::from(is_recorded), ..trace }
    }

    /// Of a request that is none.
    pub(crate) fn fresh(dice: &Dice) -> Self {
        Self::begin(dice).0
    }

    /// With the last half of its id.
    fn begin(dice: &Dice) -> (Self, u64) {
        let mut id = [0; 32];
        let (high, low) = (dice.next(), dice.next());
        hex(high, &mut id[..16]);
        hex(low, &mut id[16..]);
        let span = dice.next();
        (Self { id, span, before: 0, flags: SAMPLED, is_recorded: false, begun: true, given_id: None }, low)
    }

    /// The client is a span of a trace. The edge is one where that is sampled.
    fn go_on(&mut self, parent: &[u8; 55], sampling: Sampling) {
        self.begun = false;
        self.id.copy_from_slice(&parent[3..35]);
        self.before = number(&parent[36..52]);
        self.flags = digit(parent[54]) & (SAMPLED | RANDOM);
        self.is_recorded = sampling != Sampling::None && self.flags & SAMPLED != 0;
    }

    /// `00-TRACE-SPAN-FLAGS`, for whom [`Self::is_told`] of it.
    pub(crate) fn parent(&self) -> [u8; 55] {
        let mut parent = *b"00-00000000000000000000000000000000-0000000000000000-00";
        parent[3..35].copy_from_slice(&self.id);
        hex(self.span, &mut parent[36..52]);
        parent[54] = b'0' + self.flags;
        parent
    }

    /// What the client says of a trace is not what instances are told.
    pub(crate) fn is_told(&self) -> bool {
        self.begun || self.is_recorded
    }

    pub(crate) fn trace_id(&self) -> &[u8] {
        &self.id
    }

    /// `None`: the edge is none, or nobody wants to know.
    pub(crate) fn span(&self) -> Option<Span> {
        let digits = |span: u64| {
            let mut digits = [0; 16];
            hex(span, &mut digits);
            digits
        };
        let parent = (self.before != 0).then(|| digits(self.before));
        let is_random = self.flags & RANDOM != 0;
        self.is_recorded.then(|| Span { id: digits(self.span), parent, is_random })
    }

    pub(crate) fn request_id(&self) -> &str {
        std::str::from_utf8(self.request_id_bytes()).expect("ASCII, as are ids that are begun here and those that pass")
    }

    /// The same where no text is asked for: every request is asked.
    pub(crate) fn request_id_bytes(&self) -> &[u8] {
        self.given_id.as_ref().map_or_else(|| self.trace_id(), |given| given.as_bytes())
    }
}

fn hex(value: u64, out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (two, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(value.to_be_bytes()) {
        *two = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    }
}

/// Of hexadecimal digits in lower case.
fn digit(byte: u8) -> u8 {
    if byte.is_ascii_digit() { byte - b'0' } else { byte - b'a' + 10 }
}

fn number(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |number, byte| number << 4 | u64::from(digit(*byte)))
}

/// What all versions of a `traceparent` begin with; one later than 00 may go on behind another `-`, and `ff` is none (W3C Trace Context, 3.2 and
/// 4.3).
fn valid_parent(value: &[u8]) -> Option<[u8; 55]> {
    let (parent, more) = value.split_first_chunk::<55>()?;
    let form = parent.iter().enumerate().all(|(i, byte)| match i {
        2 | 35 | 52 => *byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    });
    let zero = |range: std::ops::Range<usize>| parent[range].iter().all(|byte| *byte == b'0');
    let is_known = match &parent[..2] {
        b"ff" => false,
        b"00" => more.is_empty(),
        _ => more.first().is_none_or(|byte| *byte == b'-'),
    };
    (form && is_known && !zero(3..35) && !zero(36..52)).then_some(*parent)
}

fn valid_id(value: &[u8]) -> Option<&str> {
    let form = value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:+/=@".contains(byte));
    let valid = form && (1..=MAX_REQUEST_ID).contains(&value.len());
    if valid { std::str::from_utf8(value).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_begun_in_the_form_that_is_accepted() {
        let trace = Trace::fresh(&Dice::new(1));
        assert_eq!(valid_parent(&trace.parent()), Some(trace.parent()));
        assert_eq!(trace.request_id().len(), 32);
        assert_ne!(trace.trace_id(), Trace::fresh(&Dice::new(3)).trace_id());
    }

    #[test]
    fn a_share_of_the_traces_is_taken_by_their_random_bits() {
        let check = |ppm: u32, low: u64, expected: bool| {
            assert_eq!(Sampling::of(Share::from_ppm(ppm)).takes(low), expected, "{ppm} {low:x}");
        };
        check(1_000_000, u64::MAX, true);
        check(0, 0, false);
        check(500_000, 0xff7f_ffff_ffff_ffff, false);
        check(500_000, 0x0080_0000_0000_0000, true);
        // `th:c` and `th:fd70a` of OpenTelemetry's `tracestate`: of a quarter and, to the digits that it has, of a hundredth.
        check(250_000, 0x00bf_ffff_ffff_ffff, false);
        check(250_000, 0x00c0_0000_0000_0000, true);
        check(10_000, 0x00fd_6fff_ffff_ffff, false);
        check(10_000, 0x00fd_710f_ffff_ffff, true);
        assert!(!Sampling::of(None).takes(0));
        let (dice, half) = (Dice::new(5), Sampling::of(Share::from_ppm(500_000)));
        let taken = (0..10_000).filter(|_| half.takes(dice.next())).count();
        assert!((4_700..5_300).contains(&taken), "{taken}");
    }

    #[test]
    fn what_begins_here_says_that_its_id_is_random() {
        let check = |ppm: u32, end: &str, recorded: Option<bool>| {
            let sampling = Sampling::of(Share::from_ppm(ppm));
            let trace = Trace::begun(&Dice::new(1), sampling);
            assert_eq!(&trace.parent()[52..], end.as_bytes(), "{ppm}");
            assert_eq!(trace.span().map(|span| span.is_random), recorded, "{ppm}");
        };
        check(1_000_000, "-03", Some(true));
        check(0, "-02", None);
    }

    #[test]
    fn the_edge_is_a_span_of_what_is_sampled_and_of_nothing_else() {
        const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        let all = Sampling::of(Some(Share::WHOLE));
        let check = |version: &str, flags: &str, sampling: Sampling, expected: Option<&str>| {
            let given = format!("{version}-{ID}-00f067aa0ba902b7-{flags}");
            let mut trace = Trace::fresh(&Dice::new(1));
            trace.go_on(&valid_parent(given.as_bytes()).unwrap(), sampling);
            let told = trace.parent();
            let told = std::str::from_utf8(&told).unwrap();
            match (trace.span(), expected) {
                (None, None) => assert_eq!((trace.trace_id(), trace.is_told()), (ID.as_bytes(), false)),
                (Some(span), Some(flags)) => {
                    assert_eq!((span.parent, span.is_random), (Some(*b"00f067aa0ba902b7"), flags == "03"));
                    let id = std::str::from_utf8(&span.id).unwrap();
                    assert_eq!((told, trace.is_told()), (&*format!("00-{ID}-{id}-{flags}"), true));
                    assert_ne!(Some(span.id), span.parent);
                }
                other => panic!("{given}: {other:?}"),
            }
        };
        check("00", "01", Sampling::None, None);
        check("00", "00", all, None);
        check("00", "02", all, None);
        check("00", "01", all, Some("01"));
        check("00", "03", all, Some("03"));
        check("cc", "ff", all, Some("03"));
        check("00", "01", Sampling::of(Share::from_ppm(0)), Some("01"));
    }

    #[test]
    fn only_well_formed_ids_are_passed_on() {
        let check = |value: &str, expected: bool| assert_eq!(valid_parent(value.as_bytes()).is_some(), expected);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true);
        check("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false);
        check("00-4BF92F3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", true);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0", false);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-", false);
        check("00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false);
        // A later version says at least as much.
        check("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true);
        check("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes", true);
        check("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what", false);
        check("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false);
        check("FF-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false);
        assert_eq!(valid_id(b"abc-1"), Some("abc-1"));
        assert_eq!((valid_id(b""), valid_id(b"a b"), valid_id(&[b'a'; 129])), (None, None, None));
    }
}
