//! What engines of others read, from the same file: an app becomes typed objects of Kubernetes, their JSON, and text.
//!
//! Architecture invariant: pure. Nothing here asks a cluster, a registry, a clock or a file; what is written is all in what is given.
//! Architecture invariant: a key that a cluster does not carry is refused by its name; none is left out silently.

mod argocd;
mod input;
mod kubernetes;
mod kustomize;
mod names;
mod need;
mod object;
mod sealed;
mod targets;
mod unsupported;
pub mod yaml;

pub use argocd::{NoSource, Source, application, in_waves};
pub use input::{Api, Input, Secrets};
pub use kubernetes::{Refused, kubernetes};
pub use kustomize::{File, files};
pub use need::{Need, Needed};
pub use object::{Manifests, Object, ObjectId, Wave};
pub use sealed::{Salt, secret_object};
pub use targets::{Carried, KEYS, Key, reference};
pub use unsupported::unsupported;
