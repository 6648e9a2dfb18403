//! Which proxy is the edge, and what is said of one that runs elsewhere.

use std::net::SocketAddr;
use std::path::PathBuf;

use bowline_core::id::ServiceName;
use bowline_core::route::EdgeEngine;
use clap::{Args, ValueEnum};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// Bowline's own edge
    Bowline,
    /// A real Envoy
    Envoy,
}

impl From<Engine> for EdgeEngine {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Bowline => Self::Bowline,
            Engine::Envoy => Self::Envoy,
        }
    }
}

/// Started by the daemon, with listening sockets that it inherits.
#[derive(Debug, Args)]
pub(crate) struct Edge {
    #[arg(long)]
    pub(crate) control_fd: i32,
    #[arg(long)]
    pub(crate) http_fd: Option<i32>,
    #[arg(long)]
    pub(crate) https_fd: Option<i32>,
    #[arg(long)]
    pub(crate) log_dir: PathBuf,
    #[arg(long, default_value_t = 0)]
    pub(crate) workers: usize,
    #[arg(long)]
    pub(crate) successor: bool,
}

/// Started by the daemon beside an Envoy.
#[derive(Debug, Args)]
pub(crate) struct UploadFilter {
    #[arg(long)]
    pub(crate) socket: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RenderEnvoy {
    /// The folder of an app
    #[arg(default_value = ".", value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The environment
    #[arg(long, default_value = "production")]
    pub(crate) env: String,
    /// Where an instance of a service is; may be said again
    #[arg(long, value_name = "SERVICE=ADDRESS:PORT", value_parser = endpoint)]
    pub(crate) endpoint: Vec<Endpoint>,
    /// Where Envoy listens for plain HTTP
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:80")]
    pub(crate) http: SocketAddr,
    /// Where Envoy listens for HTTPS
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:443")]
    pub(crate) https: SocketAddr,
    /// Where Envoy's administration listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9901")]
    pub(crate) admin: SocketAddr,
    /// HOST.pem and HOST.key of each host of HTTPS; of a wildcard, with `_` for its `*`
    #[arg(long, value_name = "DIR", default_value = "/etc/envoy/certificates")]
    pub(crate) certificates: PathBuf,
    /// Lines of the access log are written here
    #[arg(long, value_name = "FILE", default_value = "/dev/stdout")]
    pub(crate) access_log: PathBuf,
}

/// An instance of a service that somebody else runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) service: ServiceName,
    pub(crate) at: SocketAddr,
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let (service, at) = text.split_once('=').ok_or("say SERVICE=ADDRESS:PORT")?;
    let service = ServiceName::new(service).map_err(|error| error.to_string())?;
    Ok(Endpoint { service, at: at.parse().map_err(|_| format!("{at} is no ADDRESS:PORT"))? })
}
