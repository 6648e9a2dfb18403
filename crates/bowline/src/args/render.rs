//! What other engines and servers read.

use clap::Subcommand;

use super::engine::RenderEnvoy;
use super::monitoring::{RenderAlertmanager, RenderGrafana, RenderPrometheus};

#[derive(Debug, Subcommand)]
pub(crate) enum Render {
    /// An Envoy that serves an app's routes and asks nobody
    ///
    /// Prints what Envoy is started with (`envoy -c FILE`, checked with `--mode validate`): the routes of bowline.toml, with instances where
    /// --endpoint says. Certificates are read from files, HOST.pem and HOST.key. Of secrets that --secret names there are salted digests in it, salted anew each
    /// time: what can be guessed can be guessed from them, so keep it from others. Uploads are judged by `bowline uploads`, a process to be kept beside Envoy.
    Envoy(RenderEnvoy),
    /// prometheus.yml with recording and alert rules
    Prometheus(RenderPrometheus),
    /// alertmanager.yml, which tells a webhook that takes Slack's messages
    Alertmanager(RenderAlertmanager),
    /// Dashboards, and the provisioning of them and of their data source
    Grafana(RenderGrafana),
}
