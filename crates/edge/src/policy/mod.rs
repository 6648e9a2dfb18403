//! What a request must pass before it is answered: maintenance → allow → auth → rate, from its head alone; then the size
//! of its body and the files in it, while that comes.

mod address;
mod auth;
mod rate;
mod upload;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bowline_core::app::BodyLimit;
use bowline_core::route::Policies;
use bowline_core::upload::{Extensions, UploadFault};

pub(crate) use address::{Networks, Origin, origin};
pub(crate) use rate::{Limiter, site};

use crate::answer::Reason;
use crate::h1::{Field, Framing, Refusal, RequestHead};
use auth::Auth;
pub(crate) use upload::Upload;

/// The policies of one route, as a worker asks them.
#[derive(Debug)]
pub(crate) struct Guard {
    maintenance: Option<Networks>,
    allow: Option<Networks>,
    auth: Option<Auth>,
    limiter: Option<Arc<Limiter>>,
    upload: Option<Arc<Extensions>>,
}

impl Guard {
    /// `None`: the route asks for nothing.
    pub(crate) fn new(policies: &Policies, limiter: Option<Arc<Limiter>>) -> Option<Box<Self>> {
        let guard = Self {
            maintenance: policies.maintenance.as_ref().map(|maintenance| Networks::new(&maintenance.allow)),
            allow: (!policies.allow.is_empty()).then(|| Networks::new(&policies.allow)),
            auth: policies.auth.as_ref().map(Auth::new),
            limiter,
            upload: policies.upload.as_ref().map(|upload| Arc::new(Extensions::new(&upload.extensions))),
        };
        let asks = guard.maintenance.is_some() || guard.allow.is_some() || guard.auth.is_some();
        (asks || guard.limiter.is_some() || guard.upload.is_some()).then(|| Box::new(guard))
    }

    /// Asks all of them. A wrong proof counts against its client's rate: guessing is limited, too. It does not count
    /// against a route's, which strangers could use up.
    pub(crate) fn check(&self, client: IpAddr, head: &RequestHead, now: Instant) -> Result<(), Reason> {
        self.place(client)?;
        let proven = self.auth.as_ref().map_or(Ok(()), |auth| auth.check(head));
        let counts = |limiter: &&Arc<Limiter>| proven.is_ok() || limiter.is_by_client();
        if let Some(limiter) = self.limiter.as_ref().filter(counts) {
            limiter.take(client, now).map_err(|wait| Reason::TooManyRequests { seconds: wait.0 })?;
        }
        proven
    }

    /// Asks once more, of a request that has been counted: time has passed, and another table is served.
    pub(crate) fn check_again(&self, client: IpAddr, head: &RequestHead) -> Result<(), Reason> {
        self.place(client)?;
        self.auth.as_ref().map_or(Ok(()), |auth| auth.check(head))
    }

    /// Whether who was let in once would be let in still, by its address and its proof. Maintenance ends nothing that has begun.
    pub(crate) fn admits(&self, client: IpAddr, head: &RequestHead) -> bool {
        let is_allowed = self.allow.as_ref().is_none_or(|inside| inside.contain(client));
        is_allowed && self.auth.as_ref().is_none_or(|auth| auth.check(head).is_ok())
    }

    /// Where the client is.
    fn place(&self, client: IpAddr) -> Result<(), Reason> {
        let outside = |networks: &Option<Networks>| networks.as_ref().is_some_and(|inside| !inside.contain(client));
        if outside(&self.maintenance) {
            return Err(Reason::Maintenance);
        }
        if outside(&self.allow) {
            return Err(Reason::NotAllowed);
        }
        Ok(())
    }

    /// What a request may bring, if it brings anything: `None`, if it brings nothing or may bring anything.
    pub(crate) fn upload(&self, head: &RequestHead) -> Result<Option<Box<Upload>>, Reason> {
        let Some(extensions) = &self.upload else { return Ok(None) };
        if head.upgrade().is_some() {
            // What passes through a tunnel is not seen.
            return Err(Reason::Upload(UploadFault::Tunnel));
        }
        Upload::of(extensions, head).map_err(Reason::Upload)
    }

    /// Whether a field stays here: a password is the edge's business, not the app's.
    pub(crate) fn keeps(&self, field: &Field<'_>) -> bool {
        self.auth.as_ref().is_some_and(|auth| auth.keeps(field))
    }

    pub(crate) fn keeps_any(&self) -> bool {
        self.auth.as_ref().is_some_and(Auth::keeps_any)
    }
}

/// Refuses a body that is announced to be too large.
pub(crate) fn announced(limit: BodyLimit, body: Framing) -> Result<(), Refusal> {
    match body.length() {
        Some(length) => room(limit, length),
        None => Ok(()),
    }
}

/// Refuses a body of which `received` bytes came.
pub(crate) fn room(limit: BodyLimit, received: u64) -> Result<(), Refusal> {
    if received <= limit.0.0 { Ok(()) } else { Err(Refusal::BodyTooLarge) }
}
