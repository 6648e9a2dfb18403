//! What engines of others read, from the same file: an app becomes typed objects of Kubernetes, their JSON, and text.
//!
//! Architecture invariant: pure. Nothing here asks a cluster, a registry, a clock or a file; what is written is all in what is given.
//! Architecture invariant: a key that a cluster does not carry is refused by its name; none is left out silently.

mod argocd;
mod compose;
mod file;
mod helm;
mod input;
mod kubernetes;
mod kustomize;
pub mod monitoring;
mod names;
mod need;
mod object;
mod sealed;
mod server;
mod targets;
mod told;
mod unsupported;
pub mod yaml;

pub use argocd::{NoSource, Source, application, in_waves};
pub use compose::{Composed, Project, compose};
pub use file::File;
pub use helm::{Chart, helm};
pub use input::{Api, Input, Secrets};
pub use kubernetes::{Refused, kubernetes, label, lacking, role, roles};
pub use kustomize::files;
pub use names::namespace;
pub use need::{Need, Needed};
pub use object::{Manifests, Object, ObjectId, Wave};
pub use sealed::{Salt, secret_object};
pub use targets::{COMPOSE, Carried, KEYS, Key, reference};
pub use unsupported::unsupported;
