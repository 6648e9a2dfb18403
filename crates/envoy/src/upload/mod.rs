//! The upload filter: a process that Envoy asks about each body of a route with `upload`, over a Unix socket, while it streams
//! (`envoy.filters.http.ext_proc`).
//!
//! [`judge`] is one request, pure; what it judges by is [`bowline_core::upload`], as in the embedded edge. What a route asks for comes with
//! each request's stream, from the route that Envoy was told: no client has a word in it, and the process knows nothing by itself. So it
//! outlives the daemon, and a second one may take its place at any time.
//!
//! Architecture invariant: a stream that is not over is never closed as if it were: Envoy lets on what follows then.

mod judge;
mod message;
mod places;
mod process;
mod service;
mod socket;

use bowline_core::route::Rule;

pub use process::{FilterArgs, FilterError, run};
pub use socket::Hold;

/// What Envoy calls the filter, its cluster, and what is said to the filters behind it.
pub(crate) const NAME: &str = "bowline.upload";
/// A field of what is said to the filters behind: the length that the client has announced.
pub(crate) const LENGTH: &str = "length";

/// Why a request is refused that nobody judges. What has gone on of its body says nothing of the instance that it has gone to.
pub(crate) const AWAY: &str = "upload-filter-away";

/// Metadata of a stream: whose body it is, the client's address, the extensions that are taken, with commas between, the most bytes of a body, and how many milliseconds
/// its client is waited for ([`bowline_core::patience`]).
const APP: &str = "bowline-app";
const CLIENT: &str = "bowline-client";
const EXTENSIONS: &str = "bowline-extensions";
const MOST: &str = "bowline-most";
const PATIENCE: &str = "bowline-patience-ms";

/// Bodies that are judged at once; more are refused. One holds a message of Envoy's, up to 256 KiB, as it comes and as it goes.
const AT_ONCE: u32 = 512;

/// Requests that are asked about at once: there is room for such as have no body beside all that may be judged.
pub(crate) const ASKED_AT_ONCE: u32 = 2 * AT_ONCE;

/// What a rule says of uploads, as metadata; `None`: nothing.
pub(crate) fn metadata(rule: &Rule) -> Option<[(&'static str, String); 5]> {
    let upload = rule.policies.upload.as_ref()?;
    let patience = rule.idle.min(rule.timeout);
    Some([
        (APP, rule.id.key.to_string()),
        (CLIENT, "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%".to_owned()),
        (EXTENSIONS, upload.extensions.join(",")),
        (MOST, rule.body.0.0.to_string()),
        (PATIENCE, patience.as_millis().to_string()),
    ])
}
