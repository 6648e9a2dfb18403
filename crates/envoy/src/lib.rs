//! A real Envoy as the edge: the same table, said over xDS, and what it observes, read back.
//!
//! [`resources`] turns a table into Envoy's resources, written as the JSON of its own documentation; [`schema`] holds them to Envoy's API and
//! encodes them; [`delta`] decides what one stream of delta ADS is sent next; [`ads`] is the server on a Unix socket; [`record`] adds up
//! the lines of Envoy's access log. The daemon's half of it all is [`link`]. [`upload`] is a
//! process of its own, which judges uploads for Envoy.
//!
//! Architecture invariant: nothing that a request needs passes through the daemon: an Envoy whose daemon is gone serves what it was last
//! told, tokens and shares included.
//! Architecture invariant: this crate and the embedded edge know nothing of each other.

mod admin;
mod ads;
mod bootstrap;
mod bounds;
mod delta;
pub mod link;
mod record;
mod resources;
mod schema;
mod streamed;
mod tail;
mod upload;

pub use bootstrap::{Administration, Files, fixed};
pub use bounds::Bounds;
pub use resources::{Input, Listen, Resources};
pub use upload::{FilterArgs, FilterError, Hold, run as judge_uploads};
