//! Who stays with which release while two are judged beside each other.

use bowline_core::route::Cohort;

use crate::h1::RequestHead;
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
