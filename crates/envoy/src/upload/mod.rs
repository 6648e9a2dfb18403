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
mod process;
mod service;

use bowline_core::app::Upload;

pub use process::{FilterArgs, FilterError, run};

/// What Envoy calls the filter, its cluster, and what is said to the filters behind it.
pub(crate) const NAME: &str = "bowline.upload";
/// A field of what is said to the filters behind: the length that the client has announced.
pub(crate) const LENGTH: &str = "length";

/// Why a request is refused that nobody judges. What has gone on of its body says nothing of the instance that it has gone to.
pub(crate) const AWAY: &str = "upload-filter-away";

/// Metadata of a stream: the extensions that are taken, with commas between, and the most bytes of a body.
const EXTENSIONS: &str = "bowline-extensions";
const MOST: &str = "bowline-most";

/// Bodies that are judged at once; more are refused. One holds a message of Envoy's, up to 256 KiB, as it comes and as it goes.
pub(crate) const AT_ONCE: u32 = 512;

/// What a route says of uploads, as metadata.
pub(crate) fn metadata(upload: &Upload, most: u64) -> [(&'static str, String); 2] {
    [(EXTENSIONS, upload.extensions.join(",")), (MOST, most.to_string())]
}
