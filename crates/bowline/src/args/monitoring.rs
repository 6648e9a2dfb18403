//! Servers that watch: files for those that a team has, and those that Bowline runs.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use bowline_render::monitoring::METRICS;
use bowline_render::monitoring::service::Server;

/// Where files go.
#[derive(Debug, Args)]
pub(crate) struct Out {
    /// The folder to write to; without it they are printed
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RenderPrometheus {
    #[command(flatten)]
    pub(crate) out: Out,
    /// The admin port of the daemon, which answers on its own machine only; or its API behind the edge, from elsewhere
    #[arg(long, value_name = "HOST:PORT|https://HOST", default_value = METRICS)]
    pub(crate) metrics: String,
    /// With https://: a file that holds a token for all apps, of any role but secret-writer
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<String>,
    /// With https://: a file of the authorities that have signed its certificate [default: the machine's]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<String>,
    /// An Alertmanager, and the path that it serves below [default: those that files in `alertmanagers` name]
    #[arg(long, value_name = "HOST:PORT[/PATH]")]
    pub(crate) alertmanager: Option<String>,
    /// Another server that gets all samples, too
    #[arg(long, value_name = "URL")]
    pub(crate) remote_write: Option<String>,
    /// A file that holds the bearer token that it asks for
    #[arg(long, value_name = "FILE", requires = "remote_write")]
    pub(crate) remote_write_token: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RenderAlertmanager {
    #[command(flatten)]
    pub(crate) out: Out,
    /// A file that holds the webhook's URL, as Alertmanager reads it
    #[arg(long, value_name = "FILE", default_value = "/etc/alertmanager/webhook")]
    pub(crate) webhook_file: String,
}

#[derive(Debug, Args)]
pub(crate) struct RenderGrafana {
    #[command(flatten)]
    pub(crate) out: Out,
    /// The Prometheus that is asked
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090")]
    pub(crate) prometheus: String,
    /// Where Grafana finds the folder `dashboards`
    #[arg(long, value_name = "DIR", default_value = "/var/lib/grafana/dashboards")]
    pub(crate) dashboards: String,
}

/// By their names.
fn servers() -> impl TypedValueParser<Value = Server> {
    let named = |name: String| Server::ALL.into_iter().find(|server| server.name() == name);
    PossibleValuesParser::new(Server::ALL.map(Server::name))
        .try_map(move |name| named(name).ok_or_else(|| "no such server".to_owned()))
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// The server
    #[arg(value_parser = servers())]
    pub(crate) server: Server,
    /// The folder whose bowline.toml it is added to; one that is empty, or not there, becomes an app of its own
    #[arg(default_value = ".", value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The port of loopback that it listens on [default: 19090 prometheus, 19093 alertmanager, 13000 grafana]
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// Of prometheus: another server that gets all samples, too
    #[arg(long, value_name = "URL")]
    pub(crate) remote_write: Option<String>,
    /// The secret of the app that holds the bearer token that it asks for
    #[arg(long, value_name = "NAME", requires = "remote_write")]
    pub(crate) remote_write_secret: Option<String>,
}
