//! The connections of one thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use hyper::client::conn::{http1, http2};
use tokio::sync::Notify;

use crate::connect::{ConnectError, Connection, Remote};
use crate::payload::Payload;

/// Kept connections. Over HTTP/1.1 there are as many as requests were under way at once; over HTTP/2 up to the limit.
pub(super) struct Pool {
    remote: Remote,
    limit: usize,
    /// HTTP/1.1: not in use; taken in turn, so that none is left long enough for the server to give it up.
    idle: RefCell<VecDeque<http1::SendRequest<Payload>>>,
    /// HTTP/2: all of them.
    shared: RefCell<Vec<Rc<Shared>>>,
    /// HTTP/2: being opened.
    opening: Cell<usize>,
    /// Told when one is opened, or failed to.
    opened: Notify,
}

struct Shared {
    sender: http2::SendRequest<Payload>,
    /// Requests under way on it.
    active: Cell<usize>,
}

/// A connection that one request uses.
pub(super) struct Lease {
    connection: Connection,
    origin: Origin,
}

enum Origin {
    /// For one request only.
    Fresh,
    /// Opened for this request, and kept.
    New,
    Kept,
    /// Of HTTP/2, with other requests.
    Shared(Active),
}

/// Counts a request on a shared connection while it is under way, however it ends.
struct Active(Rc<Shared>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}

/// Counts a connection that is being opened, also if that is given up.
struct Opening<'pool>(&'pool Pool);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.opening.set(self.0.opening.get() - 1);
        self.0.opened.notify_waiters();
    }
}

impl Lease {
    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// No request was sent on it before.
    pub(super) fn is_new(&self) -> bool {
        matches!(self.origin, Origin::Fresh | Origin::New)
    }
}

impl Pool {
    pub(super) fn new(remote: Remote, limit: usize) -> Self {
        Self {
            remote,
            limit,
            idle: RefCell::default(),
            shared: RefCell::default(),
            opening: Cell::new(0),
            opened: Notify::new(),
        }
    }

    /// A connection of its own.
    pub(super) async fn fresh(&self) -> Result<Lease, ConnectError> {
        let connection = self.remote.connect().await?;
        Ok(Lease { connection, origin: Origin::Fresh })
    }

    /// One of the kept ones, or a new one.
    pub(super) async fn kept(&self) -> Result<Lease, ConnectError> {
        while let Some(sender) = self.next_idle() {
            if sender.is_ready() {
                return Ok(Lease { connection: Connection::Http1(sender), origin: Origin::Kept });
            }
        }
        loop {
            match self.least_active() {
                Some(shared) => return Ok(Self::share(shared)),
                None if self.shared.borrow().len() + self.opening.get() < self.limit || !self.remote.shares() => break,
                None => self.opened.notified().await,
            }
        }
        self.opening.set(self.opening.get() + 1);
        let _opening = Opening(self);
        let connection = self.remote.connect().await?;
        if let Connection::Http2(sender) = &connection {
            let shared = Rc::new(Shared { sender: sender.clone(), active: Cell::new(0) });
            self.shared.borrow_mut().push(Rc::clone(&shared));
            return Ok(Self::share(shared));
        }
        Ok(Lease { connection, origin: Origin::New })
    }

    fn next_idle(&self) -> Option<http1::SendRequest<Payload>> {
        self.idle.borrow_mut().pop_front()
    }

    /// Unless one more is to be opened first.
    fn least_active(&self) -> Option<Rc<Shared>> {
        let mut all = self.shared.borrow_mut();
        all.retain(|shared| !shared.sender.is_closed());
        let full = all.len() + self.opening.get() >= self.limit;
        let least = all.iter().min_by_key(|shared| shared.active.get())?;
        (full || least.active.get() == 0).then(|| Rc::clone(least))
    }

    fn share(shared: Rc<Shared>) -> Lease {
        shared.active.set(shared.active.get() + 1);
        let connection = Connection::Http2(shared.sender.clone());
        Lease { connection, origin: Origin::Shared(Active(shared)) }
    }

    /// No further request goes over it.
    pub(super) fn discard(&self, lease: &Lease) {
        if let Origin::Shared(Active(gone)) = &lease.origin {
            self.shared.borrow_mut().retain(|shared| !Rc::ptr_eq(shared, gone));
        }
    }

    /// Keeps a connection whose answer was read to the end, once it can take another request.
    pub(super) async fn give_back(&self, lease: Lease) {
        let keeps = matches!(lease.origin, Origin::New | Origin::Kept);
        if let (true, Connection::Http1(mut sender)) = (keeps, lease.connection)
            && sender.ready().await.is_ok()
        {
            self.idle.borrow_mut().push_back(sender);
        }
    }
}
