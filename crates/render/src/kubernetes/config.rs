//! Variables: text in a ConfigMap, secrets and what holds them by reference, files beside.

use std::collections::{BTreeMap, BTreeSet};

use bowline_core::app::{SecretSource, Value, Variables};
use bowline_core::id::{ResourceName, SecretName, ServiceName};
use bowline_core::release::wanted_secrets;
use bowline_core::resource::ResourceId;
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapEnvSource, EnvFromSource, EnvVar, EnvVarSource, SecretKeySelector,
};
use serde_json::json;

use super::{Ctx, SECRET_KEY, database};
use crate::names;
use crate::need::Needed;
use crate::object::{Out, Wave};
use crate::told::{Place, Told, told};

/// Where files of secrets lie.
pub(super) const FILES: &str = "/run/secrets";

/// What a container is given.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) env: Vec<EnvVar>,
    pub(super) env_from: Option<Vec<EnvFromSource>>,
    /// Secrets that are files below [`FILES`].
    pub(super) files: BTreeSet<SecretName>,
}

/// `service`: the one whose volumes it has. `parts`: what its ConfigMap is called by.
pub(super) fn given(
    ctx: &Ctx<'_>,
    service: &ServiceName,
    parts: &[&str],
    variables: Variables,
    out: &mut Out,
) -> Given {
    let mut found = Found {
        ctx,
        text: BTreeMap::new(),
        passwords: BTreeMap::new(),
        env: Vec::new(),
        secrets: BTreeSet::new(),
        files: BTreeSet::new(),
    };
    for (name, path) in ctx.volumes(service) {
        let variable = name.as_str().replace('-', "_").to_ascii_uppercase();
        found.text.insert(format!("BOWLINE_VOLUME_{variable}"), path);
    }
    for (variable, value) in variables {
        found.variable(service, variable.as_str(), value);
    }
    let Found { ctx: _, text, passwords, env, secrets, files } = found;
    secrets.iter().chain(&files).for_each(|name| need(ctx, name, out));
    // A reference to another variable is to one before it.
    let before = passwords.into_iter().map(|(variable, id)| password(ctx, variable, &id));
    let env = before.chain(env).collect();
    let env_from = (!text.is_empty()).then(|| vec![config_map(ctx, parts, text, out)]);
    Given { env, env_from, files }
}

struct Found<'a, 'c> {
    ctx: &'c Ctx<'a>,
    text: BTreeMap<String, String>,
    /// Variables that hold passwords of databases which URLs are made of.
    passwords: BTreeMap<String, ResourceId>,
    env: Vec<EnvVar>,
    /// Those of variables.
    secrets: BTreeSet<SecretName>,
    files: BTreeSet<SecretName>,
}

impl Found<'_, '_> {
    fn variable(&mut self, service: &ServiceName, variable: &str, value: Value) {
        let place = Here { ctx: self.ctx, service };
        match told(self.ctx.key, self.ctx.app, &place, value) {
            Some(Told::Text(text)) => self.plain(variable, text),
            Some(Told::Secret(name)) => {
                self.env.push(from_secret(variable.to_owned(), self.ctx.secret(&name), SECRET_KEY));
                self.secrets.insert(name);
            }
            Some(Told::File(name)) => {
                self.plain(variable, format!("{FILES}/{name}"));
                self.files.insert(name);
            }
            Some(Told::Password(id)) => self.env.push(password(self.ctx, variable.to_owned(), &id)),
            Some(Told::Url { before, of, after }) => {
                let word = format!("{}_{}", of.kind, of.name).replace('-', "_").to_ascii_uppercase();
                let held = format!("BOWLINE_{word}_PASSWORD");
                let url = format!("{before}$({held}){after}");
                self.passwords.insert(held, of);
                self.env.push(EnvVar { name: variable.to_owned(), value: Some(url), value_from: None });
            }
            None => {}
        }
    }

    fn plain(&mut self, variable: &str, text: String) {
        self.text.insert(variable.to_owned(), text);
    }
}

/// Names within the namespace.
struct Here<'a, 'c> {
    ctx: &'c Ctx<'a>,
    service: &'c ServiceName,
}

impl Place for Here<'_, '_> {
    fn host(&self, id: &ResourceId) -> String {
        database::host(self.ctx, id)
    }

    fn service(&self, name: &ServiceName) -> String {
        format!("http://{}", self.ctx.named(&[name.as_str()]))
    }

    fn volume(&self, name: &ResourceName) -> Option<String> {
        self.ctx.volumes(self.service).into_iter().find(|(known, _)| *known == name).map(|(_, path)| path)
    }
}

fn from_secret(name: String, object: String, key: &str) -> EnvVar {
    let secret_key_ref = Some(SecretKeySelector { name: object, key: key.to_owned(), optional: None });
    EnvVar { name, value: None, value_from: Some(EnvVarSource { secret_key_ref, ..EnvVarSource::default() }) }
}

/// That of a database which runs in the cluster.
pub(super) fn password(ctx: &Ctx<'_>, variable: String, id: &ResourceId) -> EnvVar {
    from_secret(variable, database::object(ctx, id), database::PASSWORD)
}

/// Immutable and named by its content: what pods of a release are given never changes, and a way back has it again.
fn config_map(ctx: &Ctx<'_>, parts: &[&str], text: BTreeMap<String, String>, out: &mut Out) -> EnvFromSource {
    let name = hashed(ctx, parts, &text);
    let object = ConfigMap {
        metadata: ctx.meta(name.clone(), &parts.join("-")),
        immutable: Some(true),
        data: Some(text),
        ..ConfigMap::default()
    };
    out.put(Wave::Config, &object);
    let config_map_ref = Some(ConfigMapEnvSource { name, optional: None });
    EnvFromSource { config_map_ref, ..EnvFromSource::default() }
}

/// What a ConfigMap of these texts is called: a chart reckons the same by its functions.
fn hashed(ctx: &Ctx<'_>, parts: &[&str], text: &BTreeMap<String, String>) -> String {
    let lines = text.iter().map(|(variable, value)| format!("{variable}={}\n", names::digest(value.as_bytes())));
    let content: String = std::iter::once(format!("{}\n", ctx.key.env)).chain(lines).collect();
    names::hashed(&[&[ctx.key.app.as_str()], parts].concat(), &names::hash(content.as_bytes()))
}

/// A secret of the file is read from its object, which an ExternalSecret makes or somebody else.
pub(super) fn need(ctx: &Ctx<'_>, name: &SecretName, out: &mut Out) {
    let source = ctx.app.secrets.get(name);
    match source {
        Some(SecretSource::Aws(_) | SecretSource::Vault(_)) => {}
        Some(SecretSource::Store { .. } | SecretSource::File(_)) | None => {
            let what = Needed::Secret { name: name.clone(), source: source.cloned() };
            out.need(ctx.secret(name), SECRET_KEY, what);
        }
    }
}

/// Secrets that a store elsewhere holds, brought by the External Secrets Operator.
pub(super) fn put_external(ctx: &Ctx<'_>, out: &mut Out) {
    let Some(store) = ctx.settings().secret_store else { return };
    let (kind, store) = match store.split_once('/') {
        Some((kind, store)) => (kind.to_owned(), store.to_owned()),
        None => ("SecretStore".to_owned(), store),
    };
    for name in wanted_secrets(ctx.app) {
        let key = match ctx.app.secrets.get(&name) {
            Some(SecretSource::Aws(key) | SecretSource::Vault(key)) => key,
            Some(SecretSource::Store { .. } | SecretSource::File(_)) | None => continue,
        };
        let object = ctx.secret(&name);
        let body = json!({
            "apiVersion": "external-secrets.io/v1",
            "kind": "ExternalSecret",
            "metadata": ctx.meta(object.clone(), name.as_str()),
            "spec": {
                "refreshInterval": "1h",
                "secretStoreRef": { "kind": kind, "name": store },
                "target": { "name": object, "creationPolicy": "Owner" },
                "data": [{ "secretKey": SECRET_KEY, "remoteRef": { "key": key } }],
            },
        });
        out.put(Wave::Config, &body);
    }
}
