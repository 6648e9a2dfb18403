//! Certificates of an ACME authority (RFC 8555): which names want one, when one is ordered, and when the authority may look.
//!
//! One certificate per name, so that a name which cannot be proven holds up no other. Time is the wall clock's: what is waited for
//! outlives the daemon.
//!
//! Architecture invariant: an order is in the ledger, and the ledger durable, before the authority hears of it; the authority hears
//! that it may look only after the edge has acknowledged the table that answers it.

mod ledger;
mod orders;
mod renewal;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

pub use ledger::{Ledger, Pace, Tries};
pub use orders::{Effect, Failure, Orders, Pause, Report, STALE, Stage, World};
pub use renewal::{Advice, Said, Window};

use crate::app::{App, HostName, Tls};
use crate::id::AppKey;
use crate::instance::backoff::mix;
use crate::route::{LOCAL, places};
use crate::time::Timestamp;

/// How a name is proven to lead here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// A file over plain HTTP, asked on port 80 (RFC 8555, 8.3).
    Http01,
    /// A certificate in a TLS handshake of its own protocol, asked on port 443 (RFC 8737).
    TlsAlpn01,
}

impl Method {
    pub const ALL: [Self; 2] = [Self::Http01, Self::TlsAlpn01];

    /// As the standard calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        }
    }

    /// On which the authority asks.
    pub fn port(self) -> u16 {
        match self {
            Self::Http01 => 80,
            Self::TlsAlpn01 => 443,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a server that listens there can answer, the likeliest first. `only`: the one that its settings name.
pub fn methods(http: Option<SocketAddr>, https: Option<SocketAddr>, only: Option<Method>) -> Vec<Method> {
    let listens = |method: &Method| match method {
        Method::Http01 => http,
        Method::TlsAlpn01 => https,
    };
    let mut able: Vec<Method> = Method::ALL.into_iter().filter(|method| listens(method).is_some()).collect();
    able.retain(|method| only.is_none_or(|only| only == *method));
    // What listens elsewhere may be led to by a router in front.
    able.sort_by_key(|method| listens(method).is_none_or(|address| address.port() != method.port()));
    able
}

/// When a certificate is good, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl Validity {
    fn life(self) -> Duration {
        self.not_after.since(self.not_before)
    }

    /// Whoever had just got it would order the next one.
    pub fn is_stale(self, now: Timestamp) -> bool {
        now >= self.renew_at(0)
    }

    /// When two thirds of its life are over, or up to a thirtieth of it earlier by `random`, so that many names which were ordered
    /// together are not renewed together.
    pub fn renew_at(self, random: u64) -> Timestamp {
        let jitter = self.life() / 30 * u32::try_from(random % 1024).unwrap_or(0) / 1024;
        self.not_before + (self.life() * 2 / 3).saturating_sub(jitter)
    }
}

/// What is to be had for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Want {
    /// A certificate of an authority; where another one was served before, that goes on until it is there.
    Better,
    /// One of an authority or none: a route of it says so.
    Only,
}

/// The names of these apps whose certificates come from an authority: none of the environment `local`, none of several names at once.
pub fn names<'a>(apps: impl IntoIterator<Item = (&'a AppKey, &'a App)>) -> BTreeMap<HostName, Want> {
    let apps = apps.into_iter().filter(|(key, _)| key.env.as_str() != LOCAL);
    let mut names = BTreeMap::new();
    for ((host, _), (_, route)) in apps.flat_map(|(key, app)| places(key, app)) {
        let want = match route.tls {
            Tls::Acme => is_provable(&host).then_some(Want::Only),
            Tls::Auto => host.is_public().then_some(Want::Better),
            Tls::Local | Tls::Off => None,
        };
        if let Some(want) = want {
            let known = names.entry(host).or_insert(want);
            *known = want.max(*known);
        }
    }
    names
}

/// Whether any of the methods can prove it: a wildcard is proven by DNS alone.
pub fn is_provable(host: &HostName) -> bool {
    !host.is_wildcard() && host.address().is_none()
}

/// A number of a name's own.
fn of_name(host: &HostName, salt: u64) -> u64 {
    host.as_str().bytes().fold(salt, |number, byte| mix(number, u64::from(byte)))
}

/// Names and what is known of each.
type ByName<T> = BTreeMap<HostName, T>;
