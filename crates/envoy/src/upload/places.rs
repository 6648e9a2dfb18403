//! How many bodies are judged at once, and how apps and clients share that.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bowline_core::route::network;

use super::AT_ONCE;

/// An app takes another place as long as it has fewer than so many times what is free (Choudhury and Hahne's dynamic thresholds, 1998). So one alone
/// has three quarters of all, two have three sevenths each, and some are free for whoever comes next.
const OF_APP: u32 = 3;

/// A client does as long as what is free is more than so many times what it has: one alone has a fifth.
const OF_CLIENT: u32 = 4;

#[derive(Debug, Default)]
pub(super) struct Places(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: u32,
    by_app: BTreeMap<String, u32>,
    by_client: BTreeMap<u64, u32>,
}

impl Places {
    /// `None`: the app has its share, or the client.
    pub(super) fn take(self: &Arc<Self>, app: &str, client: IpAddr) -> Option<Place> {
        let client = network(client);
        let mut taken = self.taken();
        let free = AT_ONCE.saturating_sub(taken.all);
        let of_app = taken.by_app.get(app).copied().unwrap_or_default();
        let of_client = taken.by_client.get(&client).copied().unwrap_or_default();
        if of_app >= free.saturating_mul(OF_APP) || of_client.saturating_mul(OF_CLIENT) >= free {
            return None;
        }
        taken.all += 1;
        taken.by_app.insert(app.to_owned(), of_app + 1);
        taken.by_client.insert(client, of_client + 1);
        Some(Place { of: Arc::clone(self), app: app.to_owned(), client })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    of: Arc<Places>,
    app: String,
    client: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.taken();
        taken.all = taken.all.saturating_sub(1);
        give_back(&mut taken.by_app, &self.app);
        give_back(&mut taken.by_client, &self.client);
    }
}

fn give_back<K: Ord>(taken: &mut BTreeMap<K, u32>, of: &K) {
    match taken.get_mut(of) {
        Some(own) if *own > 1 => *own -= 1,
        Some(_) | None => drop(taken.remove(of)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many as an app gets for clients of whom each takes one.
    fn all(places: &Arc<Places>, app: &str) -> Vec<Place> {
        (0..).map_while(|n: u32| places.take(app, IpAddr::V4(n.into()))).collect()
    }

    #[test]
    fn no_app_has_all_places() {
        let places = Arc::new(Places::default());
        let of_one = all(&places, "one");
        assert_eq!(of_one.len(), 384);
        let of_two = all(&places, "two");
        assert_eq!(of_two.len(), 96, "three quarters of what one has left");
        let client = [192, 0, 2, 1].into();
        assert!(places.take("one", client).is_none());
        assert!(places.take("three", client).is_some());
        drop(of_one);
        assert_eq!(all(&places, "one").len(), 312);
    }

    #[test]
    fn no_client_has_all_places_of_an_app() {
        let places = Arc::new(Places::default());
        let of = |client: &str| -> Vec<Place> {
            let client: IpAddr = client.parse().unwrap();
            std::iter::from_fn(|| places.take("one", client)).collect()
        };
        let first = of("2001:db8::1");
        assert_eq!(first.len(), 103);
        assert!(of("2001:db8::2").is_empty(), "the same network");
        assert_eq!(of("2001:db8:0:1::1").len(), 82);
        assert_eq!(of("192.0.2.1").len(), 82, "others have gone again");
        drop(first);
        assert_eq!(of("::ffff:192.0.2.1").len(), 103);
    }

    #[test]
    fn places_are_given_back() {
        let places = Arc::new(Places::default());
        drop(all(&places, "one"));
        let taken = places.taken();
        assert!(taken.all == 0 && taken.by_app.is_empty() && taken.by_client.is_empty(), "{taken:?}");
    }
}
