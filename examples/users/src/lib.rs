//! An HTTP API that lists the users of a PostgreSQL database. See the README for what it promises.

mod config;
mod database;
mod http;
mod metrics;
mod page;
mod unavailable;

pub use config::Config;
pub use database::Database;
pub use http::router;
pub use metrics::Metrics;
