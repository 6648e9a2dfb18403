//! What a variable of the file is told, wherever the app runs: text, a secret, or a URL around a password.

use bowline_core::app::{App, DatabaseSource, Delivery, RedisSource, Reference, ReferenceField, ResourceKind, Value};
use bowline_core::id::{AppKey, ResourceName, SecretName, ServiceName};
use bowline_core::resource::{ResourceId, own_name};

use crate::server::kind_of;

/// The value of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Text(String),
    /// A secret of the file.
    Secret(SecretName),
    /// The same as a file, whose path the variable holds.
    File(SecretName),
    /// That of a database which runs beside the app.
    Password(ResourceId),
    /// The password of a database with what is around it.
    Url {
        before: String,
        of: ResourceId,
        after: String,
    },
}

/// By which names an app reaches what is around it.
pub(crate) trait Place {
    fn host(&self, id: &ResourceId) -> String;
    fn service(&self, name: &ServiceName) -> String;
    /// Where whoever has the variable has the volume.
    fn volume(&self, name: &ResourceName) -> Option<String>;
}

/// `None`: what is refused by its key before anything is rendered.
pub(crate) fn told(key: &AppKey, app: &App, place: &impl Place, value: Value) -> Option<Told> {
    match value {
        Value::Text(text) => Some(Told::Text(text)),
        Value::Secret { name, delivery: Delivery::Environment } => Some(Told::Secret(name)),
        Value::Secret { name, delivery: Delivery::File } => Some(Told::File(name)),
        Value::From(reference) => referred(key, app, place, &reference),
    }
}

fn referred(key: &AppKey, app: &App, place: &impl Place, reference: &Reference) -> Option<Told> {
    match reference {
        Reference::AppName => Some(Told::Text(key.app.to_string())),
        Reference::AppEnv => Some(Told::Text(key.env.to_string())),
        Reference::ServiceUrl(name) => Some(Told::Text(place.service(name))),
        Reference::VolumePath(name) => place.volume(name).map(Told::Text),
        Reference::Database(kind, name, field) => match &app.databases.get(&(*kind, name.clone()))?.source {
            DatabaseSource::External { url, ca: _ } => Some(Told::Secret(url.clone())),
            DatabaseSource::Managed { .. } => part(place, ResourceKind::from(*kind), name, *field),
        },
        Reference::Redis(name, field) => match &app.redis.get(name)?.source {
            RedisSource::External { url, ca: _ } => Some(Told::Secret(url.clone())),
            RedisSource::Managed { .. } => part(place, ResourceKind::Redis, name, *field),
        },
        Reference::Bucket(name, ReferenceField::Url) => app.buckets.get(name)?.external.clone().map(Told::Secret),
        Reference::Bucket(..) | Reference::AppRelease | Reference::Metrics => None,
    }
}

fn part(place: &impl Place, kind: ResourceKind, name: &ResourceName, field: ReferenceField) -> Option<Told> {
    let id = ResourceId { kind, name: name.clone() };
    let (host, port, own) = (place.host(&id), kind_of(kind).port, own_name(name));
    let database = if kind == ResourceKind::Redis { "0".to_owned() } else { own.clone() };
    match field {
        ReferenceField::Host => Some(Told::Text(host)),
        ReferenceField::Port => Some(Told::Text(port.to_string())),
        ReferenceField::Database => Some(Told::Text(database)),
        ReferenceField::User => Some(Told::Text(own)),
        ReferenceField::Password => Some(Told::Password(id)),
        ReferenceField::Url => {
            let before = match kind {
                ResourceKind::Postgres => format!("postgresql://{own}:"),
                ResourceKind::MariaDb => format!("mysql://{own}:"),
                ResourceKind::Redis => "redis://:".to_owned(),
            };
            Some(Told::Url { before, of: id, after: format!("@{host}:{port}/{database}") })
        }
        // No part of these kinds.
        ReferenceField::Endpoint
        | ReferenceField::Name
        | ReferenceField::Region
        | ReferenceField::Key
        | ReferenceField::Secret => None,
    }
}
