//! An HTTP API that sets, gets and resets a timestamp kept in Redis. See the README for what it promises.

mod config;
mod http;
mod metrics;
mod store;
mod version;

pub use config::Config;
pub use http::router;
pub use metrics::Metrics;
pub use store::Store;
