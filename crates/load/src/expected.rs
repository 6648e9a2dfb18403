//! What answers must be, from when on.

use std::sync::RwLock;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::exchange::TOLD_BODY;
use crate::plan::{Expect, MAX_EXPECTED_BODY, Wrong};

/// An answer is right if it is what was expected at any time between when its request was due and its end: what changes meanwhile may
/// have met it before or after.
#[derive(Debug)]
pub(crate) struct Expected {
    all: RwLock<Vec<Epoch>>,
}

/// Holds until the next one; the first one from the beginning.
#[derive(Debug)]
struct Epoch {
    from: Duration,
    any_of: Vec<Expect>,
}

const UNBROKEN: &str = "nothing panics while it is held";

impl Expected {
    pub(crate) fn new(first: Expect) -> Self {
        Self { all: RwLock::new(vec![Epoch { from: Duration::ZERO, any_of: vec![first] }]) }
    }

    /// One of these, from now on.
    pub(crate) fn change(&self, now: Duration, any_of: Vec<Expect>) {
        self.all.write().expect(UNBROKEN).push(Epoch { from: now, any_of });
    }

    /// How much of the body is looked at.
    pub(crate) fn keeps(&self, due: Duration, status: StatusCode) -> usize {
        let all = self.all.read().expect(UNBROKEN);
        let mut possible = since(&all, due).filter(|expect| !expect.refuses(status)).peekable();
        match (possible.peek().is_none(), possible.any(|expect| expect.body.is_some())) {
            (true, _) => TOLD_BODY,
            (false, true) => MAX_EXPECTED_BODY,
            (false, false) => 0,
        }
    }

    /// How an answer that has ended just now is wrong; by what is expected last, where it is none of all.
    pub(crate) fn judge(&self, due: Duration, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Option<Wrong> {
        let mut wrong = None;
        for expect in since(&self.all.read().expect(UNBROKEN), due) {
            wrong = Some(expect.judge(status, headers, body)?);
        }
        wrong
    }
}

/// Of a request that was due then, the latest last.
fn since(all: &[Epoch], due: Duration) -> impl Iterator<Item = &Expect> {
    let first = all.partition_point(|epoch| epoch.from <= due).saturating_sub(1);
    all[first..].iter().flat_map(|epoch| &epoch.any_of)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn an_answer_is_what_was_expected_at_some_time_since_its_request_was_due() {
        let text = |text: &'static str| Expect { body: Some(Bytes::from_static(text.as_bytes())), ..Expect::default() };
        let expected = Expected::new(text("one"));
        let check = |due: u64, body: &str, right: bool| {
            let is_right =
                expected.judge(Duration::from_secs(due), StatusCode::OK, &HeaderMap::new(), body.as_bytes()).is_none();
            assert_eq!(is_right, right, "due at {due}: {body}");
        };
        check(5, "one", true);
        check(5, "two", false);
        expected.change(Duration::from_secs(10), vec![text("one"), text("two")]);
        check(5, "two", true);
        check(10, "one", true);
        expected.change(Duration::from_secs(20), vec![text("two")]);
        check(9, "one", true);
        check(19, "one", true);
        check(20, "one", false);
        check(20, "two", true);
        check(20, "three", false);
    }

    #[test]
    fn of_a_refused_status_only_what_is_told_is_kept() {
        let expected = Expected::new(Expect { body: Some(Bytes::from_static(b"x")), ..Expect::default() });
        assert_eq!(expected.keeps(Duration::ZERO, StatusCode::OK), MAX_EXPECTED_BODY);
        assert_eq!(expected.keeps(Duration::ZERO, StatusCode::NOT_FOUND), TOLD_BODY);
        assert_eq!(Expected::new(Expect::default()).keeps(Duration::ZERO, StatusCode::OK), 0);
    }
}
