//! Reads the environment, listens, and leaves when it is asked to.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;
use uploads::{Config, Metrics, Store, router};

/// From one count of all files to the next; what comes here is counted at once.
const COUNTED: Duration = Duration::from_secs(300);

#[tokio::main]
async fn main() -> ExitCode {
    // The one that is compiled in.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let filter = std::env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let json = tracing_subscriber::fmt::layer().json().flatten_event(true).with_current_span(false);
    tracing_subscriber::registry().with(json.with_filter(filter)).init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "cannot serve");
            ExitCode::FAILURE
        }
    }
}

/// Other instances may share the place.
async fn keep_counting(store: Store, metrics: Arc<Metrics>) {
    loop {
        tokio::time::sleep(COUNTED).await;
        match store.count().await {
            Ok(files) => _ = metrics.stored.set(files),
            Err(error) => tracing::warn!(%error, "the files cannot be counted"),
        }
    }
}

async fn run() -> Result<(), String> {
    let config = Config::from_environment(|name| std::env::var(name).ok())?;
    let metrics = Arc::new(Metrics::default());
    let place = config.place.to_string();
    let store = Store::open(&config.place).await.map_err(|e| format!("{place}: {e}"))?;
    let files = store.count().await.map_err(|e| format!("{place}: {e}"))?;
    metrics.stored.set(files);
    tokio::spawn(keep_counting(store.clone(), Arc::clone(&metrics)));

    let listener =
        TcpListener::bind(("0.0.0.0", config.port)).await.map_err(|e| format!("port {}: {e}", config.port))?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
    tracing::info!(%address, place, files, "serving");

    let leave = async move {
        let signal = tokio::select! {
            _ = terminate.recv() => "TERM",
            _ = interrupt.recv() => "INT",
        };
        tracing::info!(signal, "finishing what is under way");
    };
    // No time limit of its own: whoever sent TERM knows how long it will wait, and then sends KILL.
    axum::serve(listener, router(config, store, metrics))
        .with_graceful_shutdown(leave)
        .await
        .map_err(|e| e.to_string())?;
    tracing::info!("done");
    Ok(())
}
