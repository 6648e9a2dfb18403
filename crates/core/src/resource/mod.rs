//! Resources: PostgreSQL, MariaDB and Redis, run by Bowline or elsewhere.
//!
//! A resource belongs to (environment, app, name) and outlives releases. A server that Bowline runs is one slot of
//! release 0 under a service name that no file can spell ([`ResourceKey::slot`]): the machine of slots restarts it, the
//! driver adopts it, and its logs and limits are those of any instance. [`Resources`] puts around it what only a
//! database needs: its folder before, its roles and its contents after.

mod bucket;
pub mod data;
mod encryption;
mod endpoint;
mod machine;
mod spec;

pub use bucket::BucketUrl;
pub use encryption::Encryption;
pub use endpoint::{Endpoint, UrlError, own_name};
pub use machine::{Effect, Input, Resources, Round};
pub use spec::{
    Access, External, InitScript, Left, Managed, Nature, Prepared, ResourceId, ResourceKey, ResourceObservation,
    ResourcePhase, ResourceSpec, Server, Trouble,
};
