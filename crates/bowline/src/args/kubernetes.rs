//! What is said of a cluster that is rendered for.

use std::path::PathBuf;

use bowline_core::id::{ResourceName, ServiceName};
use bowline_core::release::{ImageRef, Reference};
use bowline_render::{Api, Source};
use clap::Args;

use super::monitoring::Out;

/// An app, and the cluster that it is rendered for.
#[derive(Debug, Args)]
pub(crate) struct OfCluster {
    /// The folder of an app
    #[arg(default_value = ".", value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The environment
    #[arg(long, default_value = "production")]
    pub(crate) env: String,
    /// What a service runs, by its digest; of a database by its kind and name, `postgres.db`. May be said again
    #[arg(long, value_name = "SERVICE=REGISTRY/REPOSITORY@sha256:…", value_parser = image)]
    pub(crate) image: Vec<PodImage>,
    /// What the cluster has beside Kubernetes: cert-manager, cloudnative-pg, envoy-gateway, external-secrets, ingress-nginx, prometheus. May be said again
    #[arg(long, value_name = "NAME")]
    pub(crate) api: Vec<Api>,
}

#[derive(Debug, Args)]
pub(crate) struct RenderKubernetes {
    #[command(flatten)]
    pub(crate) app: OfCluster,
    /// The namespace that the objects are applied to, which some of them name [default: that of `server`, else APP-ENV]
    #[arg(long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// Instead, the roles of viewers, deployers and admins of the app, which whoever keeps the namespace applies
    #[arg(long, conflicts_with_all = ["argocd", "image", "api"])]
    pub(crate) roles: bool,
    /// An Application of Argo CD for what is written, too, and the order in which it applies it
    #[arg(long, value_name = "REPOSITORY#PATH@REVISION", requires = "out")]
    pub(crate) argocd: Option<Source>,
    /// The namespace in which Argo CD looks for Applications
    #[arg(long, value_name = "NAME", default_value = "argocd", requires = "argocd")]
    pub(crate) argocd_namespace: String,
    #[command(flatten)]
    pub(crate) out: Out,
}

#[derive(Debug, Args)]
pub(crate) struct RenderHelm {
    #[command(flatten)]
    pub(crate) app: OfCluster,
    /// The version of the chart
    #[arg(long, value_name = "VERSION", default_value = "0.1.0", value_parser = version)]
    pub(crate) chart_version: String,
    #[command(flatten)]
    pub(crate) out: Out,
}

#[derive(Debug, Args)]
pub(crate) struct RenderCompose {
    /// The folder of an app
    #[arg(default_value = ".", value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The environment
    #[arg(long, default_value = "production")]
    pub(crate) env: String,
    /// What a service runs, by its digest; of a database by its kind and name, `postgres.db`. May be said again
    #[arg(long, value_name = "SERVICE=REGISTRY/REPOSITORY@sha256:…", value_parser = image)]
    pub(crate) image: Vec<PodImage>,
    /// The Dockerfile that a service is built with, below the folder of the app. May be said again
    #[arg(long, value_name = "SERVICE=FILE", value_parser = build)]
    pub(crate) build: Vec<Build>,
    /// The folder of the app as it is reached from where compose.yaml lies
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) context: String,
    #[command(flatten)]
    pub(crate) out: Out,
}

/// Which Dockerfile builds a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Build {
    pub(crate) service: ServiceName,
    pub(crate) file: String,
}

fn build(text: &str) -> Result<Build, String> {
    let (service, file) = text.split_once('=').ok_or("say SERVICE=FILE")?;
    let service = ServiceName::new(service).map_err(|error| error.to_string())?;
    Ok(Build { service, file: file.to_owned() })
}

/// As SemVer has it (2.0.0): three numbers, and what may follow them.
fn version(text: &str) -> Result<String, String> {
    semver::Version::parse(text)
        .map(|_| text.to_owned())
        .map_err(|error| format!("a chart's version is as 1.2.3: {error}"))
}

/// Which image a service runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodImage {
    pub(crate) service: ServiceName,
    pub(crate) image: ImageRef,
}

pub(super) fn image(text: &str) -> Result<PodImage, String> {
    let (service, image) = text.split_once('=').ok_or("say SERVICE=REGISTRY/REPOSITORY@sha256:…")?;
    let service = match service.split_once('.') {
        Some((kind, name)) => {
            let name = ResourceName::new(name).map_err(|error| error.to_string())?;
            ServiceName::of_resource(kind, &name)
        }
        None => ServiceName::new(service).map_err(|error| error.to_string())?,
    };
    let reference: Reference = image.parse().map_err(|error| format!("{error}"))?;
    let image = reference.pinned().ok_or("a tag moves: say the digest, REGISTRY/REPOSITORY@sha256:…")?;
    Ok(PodImage { service, image })
}
