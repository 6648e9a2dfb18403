//! Routing: listener → host → rule → policies → splits. Precedence is computed once, here; an edge only looks up.

mod change;
mod claim;
mod client;
mod compile;
mod compiler;
mod observation;
pub mod outlier;
mod policy;
pub mod retry;
mod sample;
mod table;
mod tables;

pub use change::{Changes, Gone};
pub(crate) use claim::is_reached;
pub use claim::{Claim, Conflict, Foreign, Holder, LOCAL, check_claims, check_owners, claims, places, routed};
pub use client::network;
pub use compile::Serving;
pub use compiler::{Compiler, compile};
pub use observation::{
    DURATION_BOUNDS, EdgeObservation, EdgeStatus, Held, Histogram, Method, Part, Refusal, SIZE_BOUNDS, Series,
    SeriesKey,
};
pub use policy::{Credentials, Gate, Maintenance, Policies, Proof, RateLimit, canonical};
pub use sample::{RANDOM_BITS, rejection_threshold};
pub use table::{
    Action, ApiSite, CHALLENGE_PATH, CLIENT_FIELD, Certificate, Certificates, Challenge, Cohort, EdgeDesired,
    EdgeEngine, Files, Flow, Pool, PoolId, Rule, RuleId, Site, SiteTls, Split, Table, Transfer,
};
pub use tables::{Reachable, Tables};
