//! Secrets that objects name and nobody has rendered: whoever applies the objects makes them first.

use std::fmt;

use bowline_core::app::{HostName, SecretSource};
use bowline_core::id::SecretName;
use bowline_core::resource::ResourceId;

/// An object of kind Secret that must be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// What it is called.
    pub object: String,
    /// The key in it that is read.
    pub key: &'static str,
    pub what: Needed,
}

/// What it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Needed {
    /// A secret of the file as it is. `source`: `None`: the file says nothing of it.
    Secret { name: SecretName, source: Option<SecretSource> },
    /// The password of a database that runs in the cluster, safe in a URL; it never changes. `user`: the object is of the type
    /// `kubernetes.io/basic-auth`, and holds this `username`, too.
    Password { of: ResourceId, user: Option<String> },
    /// `Bearer ` and the secret.
    Bearer { of: SecretName },
    /// The lines of `user:password` of the secret, each password as `{SHA}` and its digest.
    Users { of: SecretName },
    /// Docker's configuration with the login to a registry, of the type `kubernetes.io/dockerconfigjson`.
    Login { of: SecretName },
    /// Chain and key of a host, of the type `kubernetes.io/tls`.
    Certificate { host: HostName },
}

/// As a person is told it, with the command that makes it.
impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said("kubectl"))
    }
}

impl Need {
    /// The same of one cluster: `kubectl` with what names it.
    pub fn said(&self, kubectl: &str) -> String {
        const RANDOM: &str = "\"$(openssl rand -hex 32)\"";
        let Self { object, key, what } = self;
        let generic = format!("{kubectl} create secret generic {object}");
        match what {
            Needed::Secret { name: _, source: Some(SecretSource::File(path)) } => {
                format!("secret {object} must be there: {generic} --from-file={key}={path}")
            }
            Needed::Secret { name: _, source: Some(SecretSource::Store { generate: true }) } => {
                format!("secret {object} must be there: {generic} --from-literal={key}={RANDOM}")
            }
            Needed::Secret { .. } => format!("secret {object} must be there: {generic} --from-file={key}=FILE"),
            Needed::Password { of, user } => {
                let typed = user
                    .as_ref()
                    .map(|user| format!(" --type=kubernetes.io/basic-auth --from-literal=username={user}"));
                let typed = typed.unwrap_or_default();
                format!(
                    "secret {object} must be there and stay, the password of {of}: {generic}{typed} --from-literal={key}={RANDOM}"
                )
            }
            Needed::Bearer { of } => format!(
                "secret {object} must hold what requests carry, made of {of}: {generic} --from-literal={key}=\"Bearer TOKEN\""
            ),
            Needed::Users { of } => format!(
                "secret {object} must hold the users of {of} as `htpasswd -s` writes them: {generic} --from-file={key}=FILE"
            ),
            Needed::Login { of } => format!(
                "secret {object} must hold the login of the registry, {of} of the file: {kubectl} create secret docker-registry {object} \
                 --docker-server=… --docker-username=… --docker-password=…"
            ),
            Needed::Certificate { host } => format!(
                "secret {object} must hold the certificate of {host}: {kubectl} create secret tls {object} --cert=FILE --key=FILE, or say \
                 `kubernetes.issuer` of cert-manager"
            ),
        }
    }
}
