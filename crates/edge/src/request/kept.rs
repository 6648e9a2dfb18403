//! What is kept of a request's body while its instance may still say that it has not read it.

use std::cell::Cell;
use std::rc::Rc;

use http::HeaderMap;

/// What is kept of a body until an answer comes: as much as a client of HTTP/2 sends ahead.
const MAX_KEPT: usize = 64 << 10;

/// What is kept of all bodies of a worker. Beyond it a request goes on as any other, and is not sent twice.
const MAX_ALL_KEPT: usize = 8 << 20;

/// The beginning of a request's body, to be sent once more.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) payload: Vec<u8>,
    pub(crate) ended: bool,
    pub(crate) trailers: Option<HeaderMap>,
    /// There was more than is kept.
    over: bool,
    /// Bytes that the worker keeps, this one's among them.
    all: Rc<Cell<usize>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.forget();
    }
}

impl Kept {
    /// `all`: the worker's count.
    pub(crate) fn new(all: Rc<Cell<usize>>) -> Self {
        Self { payload: Vec::new(), ended: false, trailers: None, over: false, all }
    }

    /// Nothing of it is missing.
    pub(crate) fn is_all(&self) -> bool {
        !self.over
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.payload.is_empty() && !self.ended
    }

    pub(crate) fn keep(&mut self, payload: &[u8]) {
        let is_full = self.payload.len() + payload.len() > MAX_KEPT || self.all.get() + payload.len() > MAX_ALL_KEPT;
        if self.over || is_full {
            self.over = true;
            return self.forget();
        }
        let before = self.payload.capacity();
        self.payload.extend_from_slice(payload);
        self.all.set(self.all.get() + self.payload.capacity() - before);
    }

    fn forget(&mut self) {
        self.all.set(self.all.get() - self.payload.capacity());
        self.payload = Vec::new();
    }

    pub(crate) fn end(&mut self, trailers: Option<&HeaderMap>) {
        (self.ended, self.trailers) = (true, trailers.cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_for_each_and_for_all() {
        let all = Rc::new(Cell::new(0));
        let fill = || {
            let mut kept = Kept::new(Rc::clone(&all));
            kept.keep(&[1; MAX_KEPT]);
            kept
        };
        let mut first = fill();
        assert!((MAX_KEPT..=2 * MAX_KEPT).contains(&all.get()) && !first.over);
        first.keep(b"x");
        assert!(first.over && first.payload.is_empty());
        assert_eq!(all.get(), 0);
        let many = (0..2 * MAX_ALL_KEPT / MAX_KEPT).map(|_| fill()).collect::<Vec<_>>();
        assert!(all.get() <= MAX_ALL_KEPT + MAX_KEPT, "{} bytes", all.get());
        assert!(many.iter().filter(|kept| kept.over).count() >= MAX_ALL_KEPT / MAX_KEPT);
        drop(many);
        assert_eq!(all.get(), 0);
    }
}
