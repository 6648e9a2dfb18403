//! What other engines and servers read.

use clap::Subcommand;

use super::engine::RenderEnvoy;
use super::kubernetes::{RenderCompose, RenderHelm, RenderKubernetes};
use super::monitoring::{RenderAlertmanager, RenderGrafana, RenderPrometheus};

#[derive(Debug, Subcommand)]
pub(crate) enum Render {
    /// An Envoy that serves an app's routes and asks nobody
    ///
    /// Prints what Envoy is started with (`envoy -c FILE`, checked with `--mode validate`): the routes of bowline.toml, with instances where
    /// --endpoint says. Certificates are read from files, HOST.pem and HOST.key. Of secrets that --secret names there are salted digests in it, salted anew each
    /// time: what can be guessed can be guessed from them, so keep it from others. Uploads are judged by `bowline uploads`, a process to be kept beside Envoy.
    Envoy(RenderEnvoy),
    /// The objects of an app in a namespace of Kubernetes
    ///
    /// Prints one stream for `kubectl apply -n NAMESPACE -f -`, or writes a file per object and a kustomization.yaml. What must be there before
    /// it works, secrets among it, is said beside. What a cluster does not carry is refused by its key: docs/reference/targets.md has them all.
    Kubernetes(RenderKubernetes),
    /// The same objects as a chart of Helm
    ///
    /// What teams say per installation is in its values: images, numbers, resources, variables, hosts, classes and issuers. With the values that it has
    /// it is what `bowline render kubernetes` prints. --out writes it; a key that Helm does not carry is refused.
    Helm(RenderHelm),
    /// The app as a compose.yaml
    ///
    /// Its services, databases, volumes and networks; secrets are variables of whoever starts it. The ports of services that routes lead to are open on loopback,
    /// for a proxy of the machine: what is asked of requests there is refused by its key.
    Compose(RenderCompose),
    /// prometheus.yml with recording and alert rules
    Prometheus(RenderPrometheus),
    /// alertmanager.yml, which tells a webhook that takes Slack's messages
    Alertmanager(RenderAlertmanager),
    /// Dashboards, and the provisioning of them and of their data source
    Grafana(RenderGrafana),
}
