//! Places at the daemon's API: few for one client, and few for requests whose token may be none that holds. Whoever has no token takes
//! the API away from nobody.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use bowline_core::route::network;

use crate::answer::Reason;

/// Requests of one client that the daemon has at once. One client is one address, or an IPv6 network of 2⁶⁴.
const OF_CLIENT: usize = 64;

/// Requests at the daemon, of all clients, of which is not known whether their token holds: a quarter of the connections that it takes.
/// The rest are for those that it has let in.
const UNKNOWN: usize = 128;

/// How long a request waits for a place. A place is given back as soon as the daemon has refused, so this is long.
const WAIT: Duration = Duration::from_secs(3);

/// Shared by the workers; what is taken outlives a table.
#[derive(Debug)]
pub(crate) struct Places {
    unknown: Arc<Semaphore>,
    wait: Duration,
    /// Those of whom a request waits or is at the daemon; no others are remembered.
    clients: Mutex<HashMap<u64, Client>>,
}

#[derive(Debug)]
struct Client {
    requests: usize,
    places: Arc<Semaphore>,
}

/// One request's place at the daemon.
#[derive(Debug)]
pub(crate) struct Place {
    unknown: Option<OwnedSemaphorePermit>,
    _own: OwnedSemaphorePermit,
    _entry: Entry,
}

/// A client is remembered while it has one.
#[derive(Debug)]
struct Entry {
    places: Arc<Places>,
    network: u64,
}

impl Default for Places {
    fn default() -> Self {
        Self { unknown: Arc::new(Semaphore::new(UNKNOWN)), wait: WAIT, clients: Mutex::default() }
    }
}

impl Places {
    /// Waits for a place, behind those of this client that wait already: neighbours behind one address take turns.
    ///
    /// # Errors
    /// This client, or all that are not known, have had theirs for too long.
    pub(crate) async fn take(self: &Arc<Self>, client: IpAddr) -> Result<Place, Reason> {
        let (entry, own) = self.enter(network(client));
        let own = timeout(self.wait, own.acquire_owned()).await.map_err(|_| Reason::TooManyAtOnce)?;
        let unknown = Arc::clone(&self.unknown).acquire_owned();
        let unknown = timeout(self.wait, unknown).await.map_err(|_| Reason::DaemonBusy)?;
        let (own, unknown) = own.and_then(|own| Ok((own, unknown?))).map_err(|_| Reason::Internal)?;
        Ok(Place { unknown: Some(unknown), _own: own, _entry: entry })
    }

    fn enter(self: &Arc<Self>, network: u64) -> (Entry, Arc<Semaphore>) {
        let mut clients = self.clients();
        let client = clients
            .entry(network)
            .or_insert_with(|| Client { requests: 0, places: Arc::new(Semaphore::new(OF_CLIENT)) });
        client.requests += 1;
        (Entry { places: Arc::clone(self), network }, Arc::clone(&client.places))
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<u64, Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The daemon has answered: where it has let the request in, others of whom is not known may come. Whether it has.
    pub(crate) fn answered(&mut self, status: u16) -> bool {
        let is_known = !matches!(status, 401 | 429);
        if is_known {
            self.unknown = None;
        }
        is_known
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut clients = self.places.clients();
        if let Some(client) = clients.get_mut(&self.network) {
            client.requests -= 1;
            if client.requests == 0 {
                clients.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use tokio::task::unconstrained;

    use super::*;

    fn now(places: &Arc<Places>, client: &str) -> Option<Place> {
        // Without the runtime's own measure of how often one task may have what it asks for.
        match pin!(unconstrained(places.take(client.parse().unwrap()))).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(place) => Some(place.unwrap()),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn a_client_has_its_share_and_no_more() {
        let places = Arc::new(Places::default());
        let mut taken: Vec<_> = (0..OF_CLIENT).map(|_| now(&places, "192.0.2.1").unwrap()).collect();
        assert!(now(&places, "192.0.2.1").is_none());
        assert!(now(&places, "::ffff:192.0.2.1").is_none(), "the same one");
        assert!(now(&places, "192.0.2.2").is_some(), "another one");
        taken.pop();
        assert!(now(&places, "192.0.2.1").is_some());
        taken.clear();
        assert!(places.clients().is_empty(), "nobody is remembered");
        let six: Vec<_> = (0..OF_CLIENT).map(|n| now(&places, &format!("2001:db8::{n:x}")).unwrap()).collect();
        assert!(now(&places, "2001:db8::ffff").is_none(), "one network is one client");
        drop(six);
    }

    #[tokio::test]
    async fn those_who_are_not_known_leave_room_for_those_who_are() {
        let places = Arc::new(Places::default());
        let mut taken: Vec<_> = (0..UNKNOWN).map(|n| now(&places, &format!("192.0.2.{n}")).unwrap()).collect();
        assert!(now(&places, "198.51.100.1").is_none());
        assert!(taken.iter_mut().all(|place| !place.answered(401)));
        assert!(now(&places, "198.51.100.1").is_none(), "who is refused stays unknown");
        assert!(taken[0].answered(200));
        let next = now(&places, "198.51.100.1");
        assert!(next.is_some(), "who was let in takes no place of theirs");
        drop(taken);
        assert_eq!(places.clients().len(), 1);
    }

    #[tokio::test]
    async fn who_waits_in_vain_is_told_whose_fault_it_is() {
        let places = Arc::new(Places { wait: Duration::ZERO, ..Places::default() });
        let own: Vec<_> = (0..OF_CLIENT).map(|_| now(&places, "192.0.2.1").unwrap()).collect();
        let rest: Vec<_> = (OF_CLIENT..UNKNOWN).map(|n| now(&places, &format!("203.0.113.{n}")).unwrap()).collect();
        let (same, other) = ("192.0.2.1".parse().unwrap(), "198.51.100.1".parse().unwrap());
        let (same, other) = (unconstrained(places.take(same)).await, unconstrained(places.take(other)).await);
        assert_eq!((same.unwrap_err(), other.unwrap_err()), (Reason::TooManyAtOnce, Reason::DaemonBusy));
        drop((own, rest));
        assert!(places.clients().is_empty());
    }
}
