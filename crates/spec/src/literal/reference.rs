use bowline_core::app::{DatabaseKind, Reference, ReferenceField};

use super::{Read, Wrong, name};
use crate::nearest::nearest;

const KINDS: [&str; 8] = ["postgres", "mariadb", "redis", "volume", "bucket", "service", "app", "bowline"];

/// What can be asked of each kind.
fn fields(kind: &str) -> &'static [(&'static str, ReferenceField)] {
    use ReferenceField::{Database, Endpoint, Host, Key, Name, Password, Port, Region, Secret, Url, User};
    match kind {
        "postgres" | "mariadb" => &[
            ("url", Url),
            ("host", Host),
            ("port", Port),
            ("database", Database),
            ("user", User),
            ("password", Password),
        ],
        "redis" => &[("url", Url), ("host", Host), ("port", Port), ("password", Password)],
        "bucket" => &[
            ("url", Url),
            ("endpoint", Endpoint),
            ("name", Name),
            ("region", Region),
            ("key", Key),
            ("secret", Secret),
        ],
        _ => &[],
    }
}

/// `postgres.NAME.url`, `service.NAME.url`, `app.name`, …
pub(crate) fn reference(text: &str) -> Read<Reference> {
    let parts: Vec<&str> = text.split('.').collect();
    match parts[..] {
        ["app", "name"] => Ok(Reference::AppName),
        ["app", "env"] => Ok(Reference::AppEnv),
        ["app", "release"] => Ok(Reference::AppRelease),
        ["app", ..] => Err(Wrong::new("of the app there is app.name, app.env and app.release")),
        ["bowline", "metrics"] => Ok(Reference::Metrics),
        ["bowline", ..] => Err(Wrong::new("of Bowline there is bowline.metrics")),
        ["volume", of, "path"] => Ok(Reference::VolumePath(name(of)?)),
        ["volume", of, ..] => Err(Wrong::new(format!("of a volume there is volume.{of}.path"))),
        ["service", of, "url"] => Ok(Reference::ServiceUrl(name(of)?)),
        ["service", of, ..] => Err(Wrong::new(format!("of a service there is service.{of}.url"))),
        ["postgres", of, field] => Ok(Reference::Database(DatabaseKind::Postgres, name(of)?, part("postgres", field)?)),
        ["mariadb", of, field] => Ok(Reference::Database(DatabaseKind::MariaDb, name(of)?, part("mariadb", field)?)),
        ["redis", of, field] => Ok(Reference::Redis(name(of)?, part("redis", field)?)),
        ["bucket", of, field] => Ok(Reference::Bucket(name(of)?, part("bucket", field)?)),
        [kind @ ("postgres" | "mariadb" | "redis" | "bucket"), ..] => {
            Err(Wrong::hint("a reference has three parts", format!("for example {kind}.NAME.url")))
        }
        [kind, ..] => Err(Wrong {
            message: format!("nothing can be taken from {kind:?}"),
            hint: Some(match nearest(kind, KINDS) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("there is {}", KINDS.join(", ")),
            }),
        }),
        [] => Err(Wrong::new("a reference cannot be empty")),
    }
}

fn part(kind: &str, field: &str) -> Read<ReferenceField> {
    let known = fields(kind);
    known.iter().find(|(name, _)| *name == field).map(|(_, field)| *field).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        Wrong::hint(format!("{kind} has no {field:?}"), format!("there is {}", names.join(", ")))
    })
}

pub(crate) fn print_reference(reference: &Reference) -> String {
    match reference {
        Reference::Database(kind, name, field) => format!("{kind}.{name}.{}", print_field(*field)),
        Reference::Redis(name, field) => format!("redis.{name}.{}", print_field(*field)),
        Reference::VolumePath(name) => format!("volume.{name}.path"),
        Reference::Bucket(name, field) => format!("bucket.{name}.{}", print_field(*field)),
        Reference::ServiceUrl(name) => format!("service.{name}.url"),
        Reference::AppName => "app.name".to_owned(),
        Reference::AppEnv => "app.env".to_owned(),
        Reference::AppRelease => "app.release".to_owned(),
        Reference::Metrics => "bowline.metrics".to_owned(),
    }
}

fn print_field(field: ReferenceField) -> &'static str {
    match field {
        ReferenceField::Url => "url",
        ReferenceField::Host => "host",
        ReferenceField::Port => "port",
        ReferenceField::Database => "database",
        ReferenceField::User => "user",
        ReferenceField::Password => "password",
        ReferenceField::Endpoint => "endpoint",
        ReferenceField::Name => "name",
        ReferenceField::Region => "region",
        ReferenceField::Key => "key",
        ReferenceField::Secret => "secret",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_print_to_what_they_were_read_from() {
        let databases = ["postgres", "mariadb", "redis", "bucket"]
            .into_iter()
            .flat_map(|kind| fields(kind).iter().map(move |(field, _)| format!("{kind}.db.{field}")));
        let others = ["volume.v.path", "service.web.url", "app.name", "app.env", "app.release", "bowline.metrics"];
        let others = others.map(str::to_owned);
        for text in databases.chain(others) {
            assert_eq!(print_reference(&reference(&text).unwrap()), text);
        }
    }

    #[test]
    fn what_is_no_reference_says_what_there_is() {
        let check = |text: &str, message: &str| assert_eq!(reference(text).unwrap_err().message, message, "{text}");
        check("postgres.db", "a reference has three parts");
        check("postgres.db.uri", "postgres has no \"uri\"");
        check("redis.cache.user", "redis has no \"user\"");
        check("postgre.db.url", "nothing can be taken from \"postgre\"");
        check("", "nothing can be taken from \"\"");
        check("app.version", "of the app there is app.name, app.env and app.release");
        check("service.web.url.x", "of a service there is service.web.url");
        check("bowline.logs", "of Bowline there is bowline.metrics");
    }
}
