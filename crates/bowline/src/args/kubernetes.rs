//! What is said of a cluster that is rendered for.

use std::path::PathBuf;

use bowline_core::id::{ResourceName, ServiceName};
use bowline_core::release::{ImageRef, Reference};
use bowline_render::{Api, Source};
use clap::Args;

use super::monitoring::Out;

#[derive(Debug, Args)]
pub(crate) struct RenderKubernetes {
    /// The folder of an app
    #[arg(default_value = ".", value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The environment
    #[arg(long, default_value = "production")]
    pub(crate) env: String,
    /// What a service runs, by its digest; of a database by its kind and name, `postgres.db`. May be said again
    #[arg(long, value_name = "SERVICE=REGISTRY/REPOSITORY@sha256:…", value_parser = image)]
    pub(crate) image: Vec<Image>,
    /// What the cluster has beside Kubernetes: cert-manager, cloudnative-pg, envoy-gateway, external-secrets, ingress-nginx, prometheus. May be said again
    #[arg(long, value_name = "NAME")]
    pub(crate) api: Vec<Api>,
    /// An Application of Argo CD for what is written, too, and the order in which it applies it
    #[arg(long, value_name = "REPOSITORY#PATH@REVISION", requires = "out")]
    pub(crate) argocd: Option<Source>,
    #[command(flatten)]
    pub(crate) out: Out,
}

/// Which image a service runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) service: ServiceName,
    pub(crate) image: ImageRef,
}

fn image(text: &str) -> Result<Image, String> {
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
    Ok(Image { service, image })
}
