//! An HTTP service that accepts file uploads. See the README for what it promises.

mod config;
mod content;
mod http;
mod metrics;
mod name;
mod page;
mod store;

pub use config::{Config, Place};
pub use http::router;
pub use metrics::Metrics;
pub use store::Store;
