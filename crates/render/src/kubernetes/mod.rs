//! From an app to the objects of a namespace.

mod access;
mod config;
mod database;
mod edge;
mod job;
mod network;
mod pod;
mod probe;
mod rollout;
mod run;
mod scale;
mod schedule;
mod storage;
mod watch;
mod workload;

use std::collections::{BTreeMap, BTreeSet};

use bowline_core::app::{App, KubernetesSettings, Origin, Reference, Value, Variables};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, JobName, ResourceName, SecretName, ServiceName};
use bowline_core::release::{Reference as ImageReference, Unsupported, has_volume, job_variables, variables};
use bowline_core::route::routed;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::input::{Api, Input, Secrets};
use crate::names;
use crate::need::Needed;
use crate::object::{Manifests, Out};
use crate::unsupported::unsupported;

/// The one key of an object that holds a secret of the file.
pub(crate) const SECRET_KEY: &str = "value";
/// Where an app listens that has no `port`.
const PORT: u16 = 8080;
/// The name of that port.
const HTTP: &str = "http";

pub use access::{role, roles};
pub(crate) use edge::{Edge, Url, address_refused, backend, certificate, expressions, is_named, size};
pub(crate) use rollout::beside;
pub(crate) use run::words;
pub(crate) use schedule::written;
pub(crate) use storage::{is_held_alone, is_shared};
pub(crate) use watch::Seen;

/// Why an app is not rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Keys that a cluster does not carry.
    Keys(Vec<Unsupported>),
    /// Nobody has said which images these run.
    Images(Vec<ServiceName>),
}

impl Refused {
    /// As it is shown for an app in this environment.
    pub fn fault(&self, key: &AppKey) -> Fault {
        self.fault_of("a cluster", key)
    }

    /// The same of another target than a cluster.
    pub fn fault_of(&self, target: &str, key: &AppKey) -> Fault {
        match self {
            Self::Keys(all) => {
                let message = match all.as_slice() {
                    [one] => format!("{target} does not carry {}", one.path),
                    all => format!("{target} does not carry {} things that the file asks for", all.len()),
                };
                let fault = Fault::new(FaultKind::Invalid, message);
                let fault = all.iter().fold(fault, |fault, one| fault.caused_by(one.to_string()));
                fault.hint(format!("say it otherwise for this environment alone: [environment.{}.…]", key.env))
            }
            Self::Images(services) => {
                let names: Vec<String> = services.iter().map(ServiceName::spelled).collect();
                let message = format!("nobody says which image {} runs", names.join(" and "));
                let first = names.first().map_or("", String::as_str);
                Fault::new(FaultKind::Invalid, message)
                    .hint(format!("say what was pushed, by its digest: --image {first}=REGISTRY/REPOSITORY@sha256:…"))
            }
        }
    }
}

/// Services of which nobody says which image they run.
pub fn lacking(input: &Input<'_>) -> Vec<ServiceName> {
    let ctx = Ctx::of(input);
    ctx.app.services.keys().filter(|service| ctx.image(service).is_none()).cloned().collect()
}

/// The objects of an app.
///
/// # Errors
/// Keys that a cluster does not carry, else services without an image: all of them at once.
pub fn kubernetes(input: &Input<'_>) -> Result<Manifests, Refused> {
    let refused = unsupported(input);
    if !refused.is_empty() {
        return Err(Refused::Keys(refused));
    }
    let missing = lacking(input);
    if !missing.is_empty() {
        return Err(Refused::Images(missing));
    }
    let ctx = Ctx::of(input);
    let mut out = Out::default();
    for service in ctx.app.services.keys() {
        workload::put(&ctx, service, &mut out);
        scale::put(&ctx, service, &mut out);
    }
    storage::put(&ctx, &mut out);
    database::put(&ctx, &mut out);
    job::put(&ctx, &mut out);
    network::put(&ctx, &mut out);
    config::put_external(&ctx, &mut out);
    edge::put(&ctx, &mut out);
    watch::put(&ctx, &mut out);
    settings(&ctx, &mut out);
    Ok(out.done())
}

/// What of the cluster's settings somebody else carries out.
fn settings(ctx: &Ctx<'_>, out: &mut Out) {
    if let Some(login) = ctx.app.image.as_ref().and_then(|image| image.login.as_ref()) {
        let what = Needed::Login { of: login.clone() };
        out.need(ctx.named(&["registry"]), ".dockerconfigjson", what);
    }
}

/// What an object is called and whose it is.
pub(crate) fn meta(key: &AppKey, name: String, component: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name), labels: Some(labels(key, component)), ..ObjectMeta::default() }
}

/// Kubernetes' recommended labels, and those by which Bowline knows its own.
fn labels(key: &AppKey, component: &str) -> BTreeMap<String, String> {
    let mut labels = selector(key, component);
    labels.insert("app.kubernetes.io/managed-by".to_owned(), "bowline".to_owned());
    labels.insert("bowline.dev/app".to_owned(), label(key.app.as_str()));
    labels.insert("bowline.dev/env".to_owned(), label(key.env.as_str()));
    labels
}

/// What never changes from release to release: a selector cannot be changed.
fn selector(key: &AppKey, component: &str) -> BTreeMap<String, String> {
    let label_of = |name: &str, value: &str| (format!("app.kubernetes.io/{name}"), label(value));
    BTreeMap::from([label_of("name", key.app.as_str()), label_of("component", component)])
}

/// As a value of a label, which ends with a letter or a digit. That of what it gives is the same.
pub fn label(text: &str) -> String {
    names::join(&[text], names::LABEL)
}

fn matching(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}

/// One app on its way.
pub(crate) struct Ctx<'a> {
    pub(crate) input: &'a Input<'a>,
    pub(crate) key: &'a AppKey,
    pub(crate) app: &'a App,
    /// Services to which a route leads.
    pub(crate) routed: BTreeSet<ServiceName>,
    /// Services that others of the app call.
    pub(crate) called: BTreeSet<ServiceName>,
}

impl<'a> Ctx<'a> {
    pub(crate) fn of(input: &'a Input<'a>) -> Self {
        let app = input.app;
        let all = app.services.values().map(|service| &service.env).chain(app.jobs.values().map(|job| &job.env));
        let called = |value: &Value| match value {
            Value::From(Reference::ServiceUrl(service)) => Some(service.clone()),
            Value::From(_) | Value::Text(_) | Value::Secret { .. } => None,
        };
        let called = all.chain([&app.env]).flat_map(BTreeMap::values).filter_map(called).collect();
        Self { input, key: input.key, app, routed: routed(app), called }
    }

    pub(crate) fn has(&self, api: Api) -> bool {
        self.input.apis.contains(&api)
    }

    pub(crate) fn settings(&self) -> KubernetesSettings {
        self.app.environment.kubernetes.clone().unwrap_or_default()
    }

    /// A name that begins with the app's.
    pub(crate) fn named(&self, parts: &[&str]) -> String {
        self.named_within(parts, names::LABEL)
    }

    fn named_within(&self, parts: &[&str], most: usize) -> String {
        names::join(&[&[self.key.app.as_str()], parts].concat(), most)
    }

    pub(crate) fn meta(&self, name: String, component: &str) -> ObjectMeta {
        meta(self.key, name, component)
    }

    pub(crate) fn selector(&self, component: &str) -> BTreeMap<String, String> {
        selector(self.key, component)
    }

    /// Of all pods of the app.
    fn all_pods(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("app.kubernetes.io/name".to_owned(), label(self.key.app.as_str()))])
    }

    /// The object that holds a secret of the file.
    pub(crate) fn secret(&self, name: &SecretName) -> String {
        match self.input.secrets {
            Secrets::Named => self.named(&[name.as_str()]),
            Secrets::Hashed(all) => all.get(name).cloned().unwrap_or_else(|| self.named(&[name.as_str()])),
        }
    }

    /// What a service runs: what was said, that of the build which it shares, or what the file itself pins.
    pub(crate) fn image(&self, service: &ServiceName) -> Option<String> {
        if let Some(image) = self.input.images.get(service) {
            return Some(image.to_string());
        }
        match &self.app.services.get(service)?.origin {
            Origin::BuildOf(of) => self.input.images.get(of).map(ToString::to_string),
            Origin::Image(text) => {
                let reference: ImageReference = text.parse().ok()?;
                reference.pinned().map(|image| image.to_string())
            }
            Origin::Folder { .. } | Origin::Dockerfile { .. } | Origin::Static { .. } => None,
        }
    }

    /// It has a port that somebody asks.
    pub(crate) fn listens(&self, name: &ServiceName) -> bool {
        let said = self.app.services.get(name).is_some_and(|service| {
            service.health.is_some()
                || service.alive.is_some()
                || service.metrics.is_some()
                || service.fixed_port.is_some()
        });
        said || self.routed.contains(name) || self.called.contains(name)
    }

    /// The service in whose build a job runs.
    pub(crate) fn home_of(&self, job: &JobName) -> Option<&'a ServiceName> {
        let said = self.app.jobs.get(job)?.build_of.as_ref();
        said.or_else(|| self.app.home())
    }

    pub(crate) fn variables(&self, service: &ServiceName) -> Variables {
        variables(self.app, service)
    }

    pub(crate) fn job_variables(&self, job: &JobName) -> Variables {
        job_variables(self.app, job)
    }

    /// The volumes that a service's pods have, and where.
    pub(crate) fn volumes(&self, service: &ServiceName) -> Vec<(&'a ResourceName, String)> {
        let mine = self.app.volumes.iter().filter(|(name, _)| has_volume(self.app, service, name));
        mine.map(|(name, volume)| (name, volume.path.clone().unwrap_or_else(|| format!("/volumes/{name}")))).collect()
    }
}
