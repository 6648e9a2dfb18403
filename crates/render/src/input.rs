//! What is rendered, and for which kind of cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use bowline_core::app::App;
use bowline_core::id::{AppKey, SecretName, ServiceName};
use bowline_core::release::ImageRef;
use bowline_core::resource::ResourceId;

/// One app, and all that its objects are made of.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    pub key: &'a AppKey,
    pub app: &'a App,
    /// By service; of a database by [`ServiceName::of_resource`].
    pub images: &'a BTreeMap<ServiceName, ImageRef>,
    pub secrets: Secrets<'a>,
    /// What `init` of databases names, as text.
    pub scripts: &'a BTreeMap<ResourceId, String>,
    pub apis: &'a BTreeSet<Api>,
}

/// What the objects are called that hold the secrets of the file. Each holds one, under the key `value`.
#[derive(Debug, Clone, Copy)]
pub enum Secrets<'a> {
    /// `APP-NAME`: somebody else makes them.
    Named,
    /// As [`crate::secret_object`] has called them; one that is not there is called as in [`Secrets::Named`].
    Hashed(&'a BTreeMap<SecretName, String>),
}

/// An API that a cluster may have beside its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Api {
    CertManager,
    CloudNativePg,
    EnvoyGateway,
    ExternalSecrets,
    IngressNginx,
    Prometheus,
}

impl Api {
    pub const ALL: [Self; 6] = [
        Self::CertManager,
        Self::CloudNativePg,
        Self::EnvoyGateway,
        Self::ExternalSecrets,
        Self::IngressNginx,
        Self::Prometheus,
    ];

    /// As a command says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CertManager => "cert-manager",
            Self::CloudNativePg => "cloudnative-pg",
            Self::EnvoyGateway => "envoy-gateway",
            Self::ExternalSecrets => "external-secrets",
            Self::IngressNginx => "ingress-nginx",
            Self::Prometheus => "prometheus",
        }
    }
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an API is cert-manager, cloudnative-pg, envoy-gateway, external-secrets, ingress-nginx or prometheus")]
pub struct UnknownApi;

impl FromStr for Api {
    type Err = UnknownApi;

    fn from_str(text: &str) -> Result<Self, UnknownApi> {
        Self::ALL.into_iter().find(|api| api.as_str() == text).ok_or(UnknownApi)
    }
}
