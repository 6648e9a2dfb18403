//! Who stays with which release while two are judged beside each other.
//!
//! What says so is between a browser and the edge: an instance sees neither the cookie nor, as of all `X-Bowline-*`, the field.

use bowline_core::route::Cohort;

use crate::h1::{Field, RequestHead};
use crate::route::Backend;

/// Says which release a browser has had. It is nobody's secret: whoever sets it chooses among what is on its way anyhow.
const COOKIE: &str = "bowline-release";

/// Asks for a release by its number, whatever its weight: to look at it before others do.
const PREVIEW: &str = "x-bowline-preview";

/// The backend that this request belongs to, if it says so: one with instances, and, but for a look, with a weight.
pub(crate) fn chosen(backends: &[Backend], head: &RequestHead) -> Option<usize> {
    if !backends.iter().any(|backend| backend.judged) {
        return None;
    }
    let ready = |backend: &Backend| !backend.endpoints.is_empty();
    if let Some(number) = head.all(PREVIEW).next() {
        let is_it = |backend: &Backend| backend.cohort == Cohort::Whole && backend.release.as_bytes() == number;
        return backends.iter().position(|backend| is_it(backend) && ready(backend));
    }
    let pool = cookie(head)?;
    backends.iter().position(|backend| backend.weight > 0 && ready(backend) && name(backend).as_bytes() == pool)
}

/// What a browser is to keep of this answer; nothing where it has that already, or where there is nothing to choose.
pub(crate) fn set_cookie(backends: &[Backend], answered: &Backend, head: &RequestHead, tls: bool) -> Option<String> {
    let is_split = answered.judged && backends.iter().filter(|backend| backend.weight > 0).count() > 1;
    let pool = name(answered);
    let known = || head.all(PREVIEW).next().is_some() || cookie(head) == Some(pool.as_bytes());
    (is_split && !known()).then(|| {
        let secure = if tls { "; Secure" } else { "" };
        format!("{COOKIE}={pool}; Path=/; HttpOnly; SameSite=Lax{secure}")
    })
}

/// `7`, or `6-baseline`
fn name(backend: &Backend) -> String {
    match backend.cohort {
        Cohort::Whole => backend.release.clone(),
        Cohort::Baseline => format!("{}-baseline", backend.release),
    }
}

/// The first of its name (RFC 6265, 5.4).
fn cookie(head: &RequestHead) -> Option<&[u8]> {
    let pairs = head.all("cookie").flat_map(|line| line.split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| pair.strip_prefix(COOKIE.as_bytes())?.strip_prefix(b"="))
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
    let pairs = || cookies.split(|byte| *byte == b';');
    pairs().any(|pair| is_own(&pair)).then(|| {
        let others: Vec<&[u8]> = pairs().filter(|pair| !is_own(pair)).collect();
        others.join(&b';').trim_ascii().to_vec()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
