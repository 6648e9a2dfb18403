//! What brings releases out, and steers those that are.

use std::path::PathBuf;

use bowline_core::id::Digest;
use bowline_render::Api;
use clap::Args;

use super::kubernetes::{PodImage, image};

#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// The folder of the app
    #[arg(default_value = ".", value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The environment
    #[arg(long)]
    pub(crate) env: String,
    /// Build nothing there: DIR holds what was built, laid out as the app's folder; bowline.toml is still the app's
    #[arg(long, value_name = "DIR", conflicts_with = "attach")]
    pub(crate) artifact: Option<PathBuf>,
    /// Return when the release is accepted; it goes on
    #[arg(long, conflicts_with = "attach")]
    pub(crate) detach: bool,
    /// Send nothing, and follow what is under way
    #[arg(long)]
    pub(crate) attach: bool,
    /// Only if it does what `bowline plan` showed; else nothing is done
    #[arg(long, value_name = "HASH", value_parser = plan_hash, conflicts_with = "attach")]
    pub(crate) plan: Option<Digest>,
    #[command(flatten)]
    pub(crate) cluster: ToCluster,
}

/// What is said of a cluster alone.
#[derive(Debug, Args)]
pub(crate) struct ToCluster {
    /// To Kubernetes: what a service runs, by its digest, in the place of what is built; of a database by its kind and name, `postgres.db`. May be said again
    #[arg(long, value_name = "SERVICE=REGISTRY/REPOSITORY@sha256:…", value_parser = image)]
    pub(crate) image: Vec<PodImage>,
    /// To Kubernetes: what the cluster has beside it, where that is not found: cert-manager, cloudnative-pg, envoy-gateway, external-secrets, ingress-nginx, prometheus. May be said again
    #[arg(long, value_name = "NAME")]
    pub(crate) api: Vec<Api>,
    /// To Kubernetes: a PEM file of authorities that are believed for registries, in the place of this machine's
    #[arg(long, value_name = "FILE")]
    pub(crate) registry_ca: Option<PathBuf>,
    /// To Kubernetes: fields that others have set become Bowline's
    #[arg(long)]
    pub(crate) take_over: bool,
}

impl ToCluster {
    pub(crate) fn is_said(&self) -> bool {
        let Self { image, api, registry_ca, take_over } = self;
        !image.is_empty() || !api.is_empty() || registry_ca.is_some() || *take_over
    }
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// The folder of the app
    #[arg(default_value = ".", value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The environment
    #[arg(long, default_value = "local")]
    pub(crate) env: String,
    /// Build nothing there: DIR holds what was built, laid out as the app's folder; bowline.toml is still the app's
    #[arg(long, value_name = "DIR")]
    pub(crate) artifact: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) cluster: ToCluster,
}

/// What `bowline plan` prints at its end.
pub(super) fn plan_hash(text: &str) -> Result<Digest, String> {
    text.parse().map_err(|_| "the hash of a plan has 64 hexadecimal digits: `bowline plan` prints it".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct Releases {
    /// The app; may be left out when one is known
    pub(crate) app: Option<String>,
    /// The environment
    #[arg(long, default_value = "local")]
    pub(crate) env: String,
}

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// The app; may be left out when one is known
    pub(crate) app: Option<String>,
    /// Its number [default: the one that served before]
    pub(crate) release: Option<u32>,
    /// The environment
    #[arg(long, default_value = "local")]
    pub(crate) env: String,
    /// On Kubernetes: fields that others have set become Bowline's
    #[arg(long)]
    pub(crate) take_over: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    /// The app to be stopped [default: all, and the daemon]
    pub(crate) app: Option<String>,
    /// Its environment
    #[arg(long, default_value = "local", requires = "app")]
    pub(crate) env: String,
}

#[derive(Debug, Args)]
pub(crate) struct Restart {
    /// The app, or one service of it
    #[arg(value_name = "APP[.SERVICE]")]
    pub(crate) target: String,
    /// The environment
    #[arg(long, default_value = "local")]
    pub(crate) env: String,
}

#[derive(Debug, Args)]
pub(crate) struct Scale {
    /// The service; of an app that has one, the app is enough
    #[arg(value_name = "APP.SERVICE")]
    pub(crate) target: String,
    /// How many instances: at least 1
    #[arg(value_name = "N")]
    pub(crate) replicas: u16,
    /// The environment
    #[arg(long, default_value = "local")]
    pub(crate) env: String,
    /// On Kubernetes: fields that others have set become Bowline's
    #[arg(long)]
    pub(crate) take_over: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Promote {
    /// The app; may be left out when one is known
    pub(crate) app: Option<String>,
    /// The environment
    #[arg(long, default_value = "local")]
    pub(crate) env: String,
}

#[derive(Debug, Args)]
pub(crate) struct Abort {
    /// The app; may be left out when one is known
    pub(crate) app: Option<String>,
    /// The environment
    #[arg(long, default_value = "local")]
    pub(crate) env: String,
}
