//! One request as its upload is judged: what Envoy says of it in, what is said to Envoy out.
//!
//! Nothing of a request goes on, not even its head, until the first bytes of its body are judged, and of a body that is refused never all.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bowline_core::upload::{Claims, Extensions, Filter, UploadFault};
use bytes::Bytes;

/// What a route says of uploads. It comes with the route, and no client has a word in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wants {
    /// Whose it is, and who sends it.
    pub(super) app: String,
    pub(super) client: IpAddr,
    /// How long a client is waited for that sends too little.
    pub(super) patience: Duration,
    pub(super) extensions: Arc<Extensions>,
    /// Bytes of a body.
    pub(super) most: u64,
}

/// What Envoy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    Head(Head),
    Body {
        bytes: Bytes,
        is_last: bool,
    },
    /// The body has ended, and these come behind it.
    Trailers,
}

/// Of a request's head, as much as is looked at. Names are in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Head {
    pub(super) fields: Vec<(String, Vec<u8>)>,
    /// There is no body.
    pub(super) is_whole: bool,
}

/// What is said to Envoy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Say {
    /// The head may go on, with this length: Envoy has dropped it, since a body might have changed.
    Head {
        length: Option<String>,
    },
    /// Judged, and may go on.
    Body {
        bytes: Bytes,
        is_last: bool,
    },
    Trailers,
    Refuse(Refusal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Upload(UploadFault),
    TooLarge,
    /// It came too slowly.
    Late,
}

/// What does not follow from what was heard before. Nothing of it is let on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfOrder;

#[derive(Debug)]
pub(super) struct Judge {
    wants: Wants,
    state: State,
}

#[derive(Debug)]
enum State {
    Head,
    Body(Box<Body>),
    /// All that is to be said was said.
    Over,
}

#[derive(Debug)]
struct Body {
    filter: Filter,
    /// Bytes that have come.
    bytes: u64,
    length: Option<String>,
    /// Something of it has gone on.
    is_let_on: bool,
}

impl Judge {
    pub(super) fn new(wants: Wants) -> Self {
        Self { wants, state: State::Head }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    pub(super) fn wants(&self) -> &Wants {
        &self.wants
    }

    /// The client is waited for no longer.
    pub(super) fn give_up(&mut self) -> Say {
        self.state = State::Over;
        Say::Refuse(Refusal::Late)
    }

    /// What is said to it, in this order.
    pub(super) fn handle(&mut self, heard: Heard) -> Result<Vec<Say>, OutOfOrder> {
        let most = self.wants.most;
        let (said, state) = match (std::mem::replace(&mut self.state, State::Over), heard) {
            (State::Head, Heard::Head(head)) => self.begin(&head),
            (State::Body(body), Heard::Body { bytes, is_last }) => body.go_on(&bytes, is_last, most),
            (State::Body(mut body), Heard::Trailers) => body.before_trailers(),
            (State::Head | State::Over, Heard::Body { .. } | Heard::Trailers)
            | (State::Body(_) | State::Over, Heard::Head(_)) => return Err(OutOfOrder),
        };
        self.state = state;
        Ok(said)
    }

    fn begin(&self, head: &Head) -> (Vec<Say>, State) {
        let length = head.all("content-length").next().map(|value| String::from_utf8_lossy(value).into_owned());
        if head.is_whole {
            return (vec![Say::Head { length }], State::Over);
        }
        match Filter::new(head.claims(), &self.wants.extensions) {
            Ok(filter) => (Vec::new(), State::Body(Box::new(Body { filter, bytes: 0, length, is_let_on: false }))),
            Err(fault) => refuse(Refusal::Upload(fault)),
        }
    }
}

impl Body {
    fn go_on(mut self: Box<Self>, bytes: &Bytes, is_last: bool, most: u64) -> (Vec<Say>, State) {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if self.bytes > most {
            return refuse(Refusal::TooLarge);
        }
        let mut said = Vec::new();
        // Piece by piece: the filter holds one at most, and what comes of it goes on by itself.
        let fed = bytes.chunks(PIECE).try_for_each(|piece| self.feed(piece, &mut said));
        match fed.and_then(|()| if is_last { self.end(true, &mut said) } else { Ok(()) }) {
            Err(fault) => refuse(Refusal::Upload(fault)),
            Ok(()) if is_last => (said, State::Over),
            Ok(()) => (said, State::Body(self)),
        }
    }

    fn before_trailers(&mut self) -> (Vec<Say>, State) {
        let mut said = Vec::new();
        if let Err(fault) = self.end(false, &mut said) {
            return refuse(Refusal::Upload(fault));
        }
        said.push(Say::Trailers);
        (said, State::Over)
    }

    fn feed(&mut self, piece: &[u8], said: &mut Vec<Say>) -> Result<(), UploadFault> {
        let mut out = Vec::new();
        self.filter.feed(piece, &mut out)?;
        if !out.is_empty() {
            self.let_on(out, false, said);
        }
        Ok(())
    }

    /// `is_last`: nothing follows.
    fn end(&mut self, is_last: bool, said: &mut Vec<Say>) -> Result<(), UploadFault> {
        let mut out = Vec::new();
        self.filter.end(&mut out)?;
        self.let_on(out, is_last, said);
        Ok(())
    }

    fn let_on(&mut self, out: Vec<u8>, is_last: bool, said: &mut Vec<Say>) {
        if !std::mem::replace(&mut self.is_let_on, true) {
            said.push(Say::Head { length: self.length.take() });
        }
        if is_last || !out.is_empty() {
            said.push(Say::Body { bytes: out.into(), is_last });
        }
    }
}

/// What is judged at once. What comes of it, with what was held back before, is less than the 64 KiB that Envoy's documentation advises.
const PIECE: usize = 48 << 10;

fn refuse(refusal: Refusal) -> (Vec<Say>, State) {
    (vec![Say::Refuse(refusal)], State::Over)
}

impl Head {
    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |(one, _)| one == name).map(|(_, value)| value.as_slice())
    }

    /// Fields that came twice are one by now, with commas between.
    fn claims(&self) -> Claims<'_> {
        let path = self.all(":path").next().and_then(|path| str::from_utf8(path).ok()).unwrap_or_default();
        let plain = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"identity");
        Claims {
            media_type: self.all("content-type").next(),
            media_types: self.all("content-type").map(values).sum(),
            is_encoded: self
                .all("content-encoding")
                .flat_map(|value| value.split(|b| *b == b','))
                .any(|one| !plain(one)),
            path: path.split(['?', '#']).next().unwrap_or_default(),
        }
    }
}

/// Values in a field: those between commas that stand in no quotes. Where a quote does not end, nobody knows.
fn values(field: &[u8]) -> usize {
    let mut is_quoted = false;
    let is_between = |byte: &&u8| {
        is_quoted ^= **byte == b'"';
        **byte == b',' && !is_quoted
    };
    let between = field.iter().filter(is_between).count();
    between + if is_quoted { 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";

    fn judge(most: u64) -> Judge {
        let extensions = ["png", "txt"].map(str::to_owned);
        let extensions = Arc::new(Extensions::new(&extensions));
        let (app, client) = ("local/a".to_owned(), [192, 0, 2, 1].into());
        Judge::new(Wants { app, client, patience: Duration::from_secs(60), extensions, most })
    }

    fn head(fields: &[(&str, &str)]) -> Head {
        let field = |(name, value): &(&str, &str)| ((*name).to_owned(), value.as_bytes().to_vec());
        Head { fields: fields.iter().map(field).collect(), is_whole: false }
    }

    fn body(bytes: &[u8], is_last: bool) -> Heard {
        Heard::Body { bytes: Bytes::copy_from_slice(bytes), is_last }
    }

    fn on(bytes: &[u8], is_last: bool) -> Say {
        Say::Body { bytes: Bytes::copy_from_slice(bytes), is_last }
    }

    /// What is said to all of it, and whether that was the end.
    fn said(most: u64, all: Vec<Heard>) -> (Vec<Say>, bool) {
        let mut judge = judge(most);
        let said = all.into_iter().flat_map(|heard| judge.handle(heard).expect("it follows")).collect();
        (said, judge.is_over())
    }

    fn refused(most: u64, all: Vec<Heard>) -> Refusal {
        let (said, is_over) = said(most, all);
        assert!(is_over);
        match said.last() {
            Some(Say::Refuse(refusal)) => *refusal,
            other => panic!("it is not refused: {other:?}"),
        }
    }

    #[test]
    fn a_head_waits_for_the_first_bytes_that_are_judged() {
        let put = head(&[(":path", "/in/a.txt?b.exe"), ("content-length", "1000")]);
        let mut judge = judge(1000);
        assert_eq!(judge.handle(Heard::Head(put)), Ok(vec![]));
        assert_eq!(judge.handle(body(&[b'a'; 500], false)), Ok(vec![]));
        let first = vec![Say::Head { length: Some("1000".into()) }, on(&[b'a'; 896], false)];
        assert_eq!(
            judge.handle(body(&[b'a'; 400], false)),
            Ok(first),
            "but for the bytes that might begin a character"
        );
        assert!(!judge.is_over());
        assert_eq!(judge.handle(body(&[b'a'; 100], true)), Ok(vec![on(&[b'a'; 100], false), on(b"aaaa", true)]));
        assert!(judge.is_over());
        assert_eq!(judge.handle(body(b"more", true)), Err(OutOfOrder));
    }

    #[test]
    fn a_client_that_is_given_up_is_heard_no_more() {
        let mut judge = judge(1000);
        assert_eq!(judge.handle(Heard::Head(head(&[(":path", "/a.txt")]))), Ok(vec![]));
        assert_eq!(judge.give_up(), Say::Refuse(Refusal::Late));
        assert!(judge.is_over());
        assert_eq!(judge.handle(body(b"late", true)), Err(OutOfOrder));
    }

    #[test]
    fn what_has_no_body_goes_on() {
        let get = Head { is_whole: true, ..head(&[(":path", "/in/a.exe"), ("content-length", "0")]) };
        assert_eq!(said(9, vec![Heard::Head(get)]), (vec![Say::Head { length: Some("0".into()) }], true));
        let empty = vec![Heard::Head(head(&[(":path", "/in/a.txt")])), body(b"", true)];
        assert_eq!(said(9, empty), (vec![Say::Head { length: None }, on(b"", true)], true));
    }

    #[test]
    fn a_body_ends_with_its_trailers_too() {
        let begun = vec![Heard::Head(head(&[(":path", "/a.png")])), body(PNG, false), Heard::Trailers];
        assert_eq!(said(99, begun), (vec![Say::Head { length: None }, on(PNG, false), Say::Trailers], true));
        let cut = [PNG, &[0; 100], b"<?php x();"].concat();
        let late = vec![Heard::Head(head(&[(":path", "/a.png")])), body(&cut, false), Heard::Trailers];
        assert_eq!(refused(999, late), Refusal::Upload(UploadFault::Polyglot));
    }

    #[test]
    fn what_is_given_back_at_once_is_bounded() {
        let large = vec![b'a'; (3 * PIECE) + 10];
        let (said, _) = said(u64::MAX, vec![Heard::Head(head(&[(":path", "/a.txt")])), body(&large, true)]);
        let sizes: Vec<_> = said
            .iter()
            .filter_map(|say| match say {
                Say::Body { bytes, .. } => Some(bytes.len()),
                Say::Head { .. } | Say::Trailers | Say::Refuse(_) => None,
            })
            .collect();
        assert_eq!(sizes.iter().sum::<usize>(), large.len());
        assert!(sizes.len() == 5 && sizes.iter().all(|size| *size < 64 << 10), "{sizes:?}");
        let late = [&large[..], b"\xff"].concat();
        let all = vec![Heard::Head(head(&[(":path", "/a.txt")])), body(&late, true)];
        assert_eq!(self::said(u64::MAX, all).0.len(), 1, "of what comes with what is refused nothing goes on");
    }

    #[test]
    fn a_head_alone_may_be_refused_and_a_body_that_is_too_large_is() {
        let check = |fields: &[(&str, &str)], fault| {
            assert_eq!(refused(9, vec![Heard::Head(head(fields))]), Refusal::Upload(fault), "{fields:?}");
        };
        check(&[(":path", "/a.exe")], UploadFault::Extension);
        check(&[(":path", "/a.png"), ("content-encoding", "gzip")], UploadFault::Encoded);
        check(&[(":path", "/a.png"), ("content-encoding", "identity,gzip")], UploadFault::Encoded);
        check(&[(":path", "/a.png"), ("content-type", "image/png,text/plain")], UploadFault::MediaType);
        check(&[(":path", "/a.png"), ("content-type", "image/png;a=\"b,text/plain")], UploadFault::MediaType);
        check(&[(":path", "/a.png"), ("content-type", "multipart/form-data")], UploadFault::Boundary);
        let quoted = head(&[("content-type", "multipart/form-data; boundary=\"a,b\"")]);
        let form = b"--a,b\r\nContent-Disposition: form-data; name=f\r\n\r\n1\r\n--a,b--";
        let (said, is_over) = said(999, vec![Heard::Head(quoted), body(form, true)]);
        assert_eq!((said.last(), is_over), (Some(&on(b"\r\n--a,b--", true)), true));
        let all = vec![Heard::Head(head(&[(":path", "/a.txt")])), body(b"12345", false), body(b"67890", true)];
        assert_eq!(refused(9, all), Refusal::TooLarge);
    }

    #[test]
    fn what_does_not_follow_is_not_let_on() {
        assert_eq!(judge(9).handle(body(b"a", true)), Err(OutOfOrder));
        let mut judge = judge(9);
        judge.handle(Heard::Head(head(&[(":path", "/a.txt")]))).unwrap();
        assert_eq!(judge.handle(Heard::Head(Head::default())), Err(OutOfOrder));
        assert_eq!(judge.handle(body(b"a", true)), Err(OutOfOrder), "nor what follows then");
    }
}
