//! Reads the environment, listens, and leaves when it is asked to.

use std::process::ExitCode;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;
use users::{Config, Database, Metrics, router};

fn main() -> ExitCode {
    let filter = std::env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let json = tracing_subscriber::fmt::layer().json().flatten_event(true).with_current_span(false);
    tracing_subscriber::registry().with(json.with_filter(filter)).init();
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "cannot serve");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), String> {
    let config = Config::from_environment(|name| std::env::var(name).ok())?;
    let mut runtime = Builder::new_multi_thread();
    if let Some(workers) = config.workers {
        runtime.worker_threads(workers.get());
    }
    let runtime = runtime.enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(serve(&config))
}

async fn serve(config: &Config) -> Result<(), String> {
    let metrics = Arc::new(Metrics::default());
    let database = Database::new(config, Arc::clone(&metrics))?;

    let listener =
        TcpListener::bind(("0.0.0.0", config.port)).await.map_err(|e| format!("port {}: {e}", config.port))?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
    let workers = tokio::runtime::Handle::current().metrics().num_workers();
    let tls = if config.ca.is_some() { "verified" } else { "off" };
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(%address, database = config.address(), tls, workers, version, "serving");

    let leave = async move {
        let signal = tokio::select! {
            _ = terminate.recv() => "TERM",
            _ = interrupt.recv() => "INT",
        };
        tracing::info!(signal, "finishing what is under way");
    };
    // No time limit of its own: whoever sent TERM knows how long it will wait, and then sends KILL.
    axum::serve(listener, router(database, metrics)).with_graceful_shutdown(leave).await.map_err(|e| e.to_string())?;
    tracing::info!("done");
    Ok(())
}
