//! Who stays with which release while two are judged beside each other.
//!
//! A browser keeps a place among 100, not a release. The candidate has the places from the first one on, its baseline
//! those from the last one back, the stable release what is between: as a share grows a place goes over to what is new
//! and never back, and each share is what it says, however many have been there before.
//!
//! What says so is between a browser and the edge: an instance sees neither the cookie nor, as of all `X-Bowline-*`, the field.

use std::sync::LazyLock;

use bowline_core::route::Cohort;
use memchr::memmem::Finder;

use crate::balance::{self, Dice};
use crate::h1::{Field, RequestHead, Scheme};
use crate::route::Backend;

/// Holds a browser's place. It is nobody's secret: whoever sets it chooses among what is on its way anyhow.
const COOKIE: &str = "bowline-release";

/// Asks for a release by its number, whatever its weight: to look at it before others do.
const PREVIEW: &str = "x-bowline-preview";

const PLACES: u8 = 100;

static OWN: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(COOKIE));

/// From one candidate to the next the places are turned by so much, so that it is not always the same ones who are the
/// first to get what is new. It has no factor in common with their number.
const TURN: u64 = 37;

/// Somebody looks at a release of their choice: that is no request that might as well have come to another one.
pub(crate) fn is_look(head: &RequestHead) -> bool {
    head.all(PREVIEW).next().is_some()
}

/// The backend that this request belongs to: the one that it asks for, or the one that has its place. For a request that
/// brings no place one is `drawn`, and kept over all its tries.
pub(crate) fn chosen(
    backends: &[Backend],
    head: &RequestHead,
    tried: &[u32],
    (drawn, dice): (&mut Option<u8>, &Dice),
) -> Option<usize> {
    if !backends.iter().any(|backend| backend.judged) {
        return None;
    }
    if let Some(number) = head.all(PREVIEW).next() {
        let is_it = |backend: &Backend| backend.cohort == Cohort::Whole && backend.release.as_bytes() == number;
        return backends.iter().position(|backend| is_it(backend) && !backend.endpoints.is_empty());
    }
    let place = cookie(head).unwrap_or_else(|| *drawn.get_or_insert_with(|| dice.percent()));
    holder(backends, place, tried)
}

/// What a browser is to keep of this answer: the place that was drawn for it, where there is something to choose.
/// By `scheme` the request has left its browser, which keeps no secure one that it got over plain HTTP.
pub(crate) fn set_cookie(
    backends: &[Backend],
    answered: &Backend,
    drawn: Option<u8>,
    scheme: Scheme,
) -> Option<String> {
    let is_split = answered.judged && backends.iter().filter(|backend| backend.weight > 0).count() > 1;
    let place = drawn.filter(|_| is_split)?;
    let secure = match scheme {
        Scheme::Http => "",
        Scheme::Https => "; Secure",
    };
    Some(format!("{COOKIE}={place}; Path=/; HttpOnly; SameSite=Lax{secure}"))
}

/// Who has a place, among those with a weight and an instance that was not tried yet, if there are such.
fn holder(backends: &[Backend], place: u8, tried: &[u32]) -> Option<usize> {
    let all_tried = !backends.iter().any(|backend| backend.weight > 0 && backend.has_untried(tried));
    let weight = |backend: &Backend| match (all_tried && !backend.endpoints.is_empty()) || backend.has_untried(tried) {
        true => u64::from(backend.weight),
        false => 0,
    };
    let total: u64 = backends.iter().map(weight).sum();
    let candidate = balance::candidate(backends)?;
    let places = u64::from(PLACES);
    let turn = backends[candidate].release.parse::<u64>().unwrap_or_default() * TURN;
    let mut at = (u64::from(place) + turn) % places * total / places;
    let others = |cohort| move |position: &usize| *position != candidate && backends[*position].cohort == cohort;
    let stable = (0..backends.len()).filter(others(Cohort::Whole));
    let baselines = (0..backends.len()).filter(others(Cohort::Baseline));
    [candidate].into_iter().chain(stable).chain(baselines).find(|position| {
        let weight = weight(&backends[*position]);
        let found = at < weight;
        at = at.saturating_sub(weight);
        found
    })
}

/// The first of its name (RFC 6265, 5.4), if it is a place.
fn cookie(head: &RequestHead) -> Option<u8> {
    let pairs = head.all("cookie").flat_map(|line| line.split(|byte| *byte == b';'));
    let mut named = pairs.map(<[u8]>::trim_ascii).filter_map(|pair| pair.strip_prefix(COOKIE.as_bytes()));
    let value = named.find_map(|rest| rest.strip_prefix(b"="))?;
    std::str::from_utf8(value).ok()?.parse().ok().filter(|place| *place < PLACES)
}

/// Of each `Cookie` field that has the edge's own cookie: its value, and the same without it.
pub(crate) fn stripped(head: &RequestHead) -> Vec<(&[u8], Vec<u8>)> {
    head.all("cookie").filter_map(|value| Some((value, without_own(value)?))).collect()
}

/// A field as an instance gets it: nothing if the edge's cookie was all that it had.
pub(crate) fn passed<'a>(field: Field<'a>, stripped: &'a [(&[u8], Vec<u8>)]) -> Option<Field<'a>> {
    let is_cookie = field.name.eq_ignore_ascii_case(b"cookie");
    match stripped.iter().find(|(was, _)| is_cookie && *was == field.value) {
        Some((_, left)) => (!left.is_empty()).then(|| field.with_value(left)),
        None => Some(field),
    }
}

/// `None`: it is not among them. All others stay as they are, to the byte.
fn without_own(cookies: &[u8]) -> Option<Vec<u8>> {
    let is_own = |pair: &&[u8]| {
        let value = pair.trim_ascii().strip_prefix(COOKIE.as_bytes());
        value.is_some_and(|value| value.starts_with(b"="))
    };
    // Almost never: apps have cookies of their own, and each request brings them.
    OWN.find(cookies)?;
    let pairs = || cookies.split(|byte| *byte == b';');
    pairs().any(|pair| is_own(&pair)).then(|| {
        let others: Vec<&[u8]> = pairs().filter(|pair| !is_own(pair)).collect();
        others.join(&b';').trim_ascii().to_vec()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bowline_core::app::Protocol;
    use bowline_core::id::ReleaseNumber;
    use tokio::sync::Notify;

    use super::*;
    use crate::balance::Endpoint;

    /// Stable release 1, its baseline and a candidate, each with one instance whose serial is its position.
    fn shares(candidate: u32, weights: [u8; 3]) -> Vec<Backend> {
        let of = [(1, Cohort::Whole), (1, Cohort::Baseline), (candidate, Cohort::Whole)];
        let backend = |(serial, ((release, cohort), weight)): (u32, ((u32, Cohort), u8))| {
            let id = format!("local/a.web.r{release}.{serial}.1").parse().unwrap();
            let at = ("127.0.0.1:1".parse().unwrap(), Protocol::Http1);
            let endpoint = Endpoint::new(id, serial, at, Arc::new(Notify::new()));
            Backend { cohort, ..Backend::for_test(ReleaseNumber(release), weight, vec![Arc::new(endpoint)]) }
        };
        (0..).zip(of.into_iter().zip(weights)).map(backend).collect()
    }

    fn holders(backends: &[Backend], tried: &[u32]) -> Vec<usize> {
        (0..PLACES).map(|place| holder(backends, place, tried).unwrap()).collect()
    }

    fn count(holders: &[usize]) -> [usize; 3] {
        [0, 1, 2].map(|one| holders.iter().filter(|position| **position == one).count())
    }

    #[test]
    fn shares_are_kept_and_nobody_goes_back_as_they_grow() {
        let mut before = vec![0; usize::from(PLACES)];
        for weights in [[100, 0, 0], [90, 5, 5], [50, 25, 25], [0, 50, 50], [0, 20, 80], [0, 0, 100]] {
            let now = holders(&shares(7, weights), &[]);
            assert_eq!(count(&now), weights.map(usize::from));
            // Stable, baseline, candidate: 0, 1, 2.
            assert!(now.iter().zip(&before).all(|(now, before)| now >= before), "{weights:?}");
            before = now;
        }
    }

    #[test]
    fn it_is_not_always_the_same_who_are_first() {
        let first = |release| holders(&shares(release, [90, 5, 5]), &[]).iter().position(|one| *one == 2);
        assert_ne!(first(2), first(3));
    }

    #[test]
    fn what_was_tried_in_vain_leaves_its_places_to_the_others() {
        let shares = shares(2, [80, 10, 10]);
        assert_eq!(count(&holders(&shares, &[2]))[2], 0);
        assert_eq!(count(&holders(&shares, &[0, 1, 2])), [80, 10, 10], "nothing else is left");
    }

    #[test]
    fn the_edges_cookie_is_taken_out_and_no_other_byte() {
        let check = |cookies: &str, expected: Option<&str>| {
            let left = without_own(cookies.as_bytes()).map(|left| String::from_utf8(left).unwrap());
            assert_eq!(left.as_deref(), expected, "{cookies:?}");
        };
        check("a=1; b=2", None);
        check("bowline-release=7", Some(""));
        check("bowline-release=6-baseline; a=1", Some("a=1"));
        check("a=1; bowline-release=7", Some("a=1"));
        check("a=1; bowline-release=7; b=2", Some("a=1; b=2"));
        check("a=1;bowline-release=7;b=\"2 = 3\" ;c", Some("a=1;b=\"2 = 3\" ;c"));
        check("bowline-release=7; a=1; bowline-release=8", Some("a=1"));
        check("bowline-release=;", Some(""));
        // Others only look like it.
        check("bowline-released=7; xbowline-release=7; bowline-release; Bowline-Release=7", None);
        check("a=bowline-release=7", None);
        check("", None);
    }
}
