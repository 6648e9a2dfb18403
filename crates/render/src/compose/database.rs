//! Databases of the project, each with its volume and on a network of its own kind.

use bowline_core::app::ResourceKind;
use bowline_core::id::ServiceName;
use bowline_core::resource::own_name;
use serde_json::{Map, Value, json};

use super::{Composed, FILES, Out, asked, held, plain, plain_words, word};
use crate::server::{self, Server, kind_of};

/// What the images' beginnings need before they become the database's own user.
const CAPABILITIES: [&str; 5] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"];
/// Of parallel queries, which Docker bounds to 64 MiB unless told.
const SHARED_MEMORY: &str = "256m";

pub(super) fn service(input: &Composed<'_>, server: &Server, out: &mut Out) -> Value {
    let (id, kind, name) = (&server.id, kind_of(server.id.kind), word(&server.id));
    let (secret, own) = (format!("{name}-password"), own_name(&server.id.name));
    asked(id, out);
    out.secrets.insert(secret.clone(), json!({ "environment": held(id) }));
    // Read where it is used: an environment is shown by `docker inspect`.
    let read = format!("$(cat {FILES}/{secret})");
    let mut tmpfs: Vec<&str> = kind.scratch.iter().map(|(_, path)| *path).collect();
    if !server.persists {
        tmpfs.push(kind.data);
    }
    let test = [vec!["CMD".to_owned()], plain_words(&server::is_ready(id.kind, &own, &read))].concat();
    let mut body = json!({
        "image": image(input, server, out),
        "restart": "unless-stopped",
        "read_only": true,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "tmpfs": tmpfs,
        "secrets": [secret],
        "networks": ["back"],
        "stop_grace_period": format!("{}s", server::GRACE),
        "healthcheck": {
            "test": test,
            "interval": "5s", "timeout": "5s", "retries": 3, "start_period": "10m",
        },
    });
    if server.persists {
        out.volumes.insert(name.clone());
        body["volumes"] = json!([{ "type": "volume", "source": name, "target": kind.data }]);
    }
    match id.kind {
        // Its image becomes another user for its own command alone.
        ResourceKind::Redis => {
            body["user"] = json!("redis");
            body["entrypoint"] = json!(plain_words(&server::redis(&read, server.persists)));
        }
        ResourceKind::Postgres | ResourceKind::MariaDb => body["cap_add"] = json!(CAPABILITIES),
    }
    if id.kind == ResourceKind::Postgres {
        body["shm_size"] = json!(SHARED_MEMORY);
    }
    server::arguments(id.kind).iter().for_each(|words| body["command"] = json!(plain_words(words)));
    let environment = environment(id.kind, &own, &format!("{FILES}/{secret}"));
    if !environment.is_empty() {
        body["environment"] = json!(environment);
    }
    configs(input, server, &own, &mut body, out);
    body
}

fn image(input: &Composed<'_>, server: &Server, out: &mut Out) -> String {
    let id = &server.id;
    if let Some(image) = input.images.get(&ServiceName::of_resource(id.kind.as_str(), &id.name)) {
        return image.to_string();
    }
    let image = format!("{}:{}", kind_of(id.kind).repository, server.tag());
    out.note(format!("{id} runs {image}, a tag that moves: pin it with --image {id}=…@sha256:…"));
    image
}

fn environment(kind: ResourceKind, own: &str, file: &str) -> Map<String, Value> {
    let all: &[(&str, &str)] = match kind {
        ResourceKind::Postgres => &[("PGDATA", server::PGDATA), ("POSTGRES_PASSWORD_FILE", file)],
        ResourceKind::MariaDb => &[
            ("MARIADB_DATABASE", own),
            ("MARIADB_USER", own),
            ("MARIADB_PASSWORD_FILE", file),
            ("MARIADB_RANDOM_ROOT_PASSWORD", "1"),
            ("MARIADB_ROOT_HOST", "localhost"),
        ],
        ResourceKind::Redis => &[],
    };
    all.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect()
}

/// The files that it starts from; what the image runs once lies where that looks, too.
fn configs(input: &Composed<'_>, server: &Server, own: &str, body: &mut Value, out: &mut Out) {
    let script = input.scripts.get(&server.id).map(String::as_str);
    let mut mounts = Vec::new();
    for (file, text) in server::files(server.id.kind, own, script) {
        let source = format!("{}-{}", word(&server.id), file.replace(['.', '_'], "-"));
        out.configs.insert(source.clone(), json!({ "content": plain(&text) }));
        mounts.push(json!({ "source": source, "target": format!("{}/{file}", server::CONFIG) }));
        if file == server::once(server.id.kind) {
            mounts.push(json!({ "source": source, "target": format!("{}/{file}", server::INIT) }));
        }
    }
    if !mounts.is_empty() {
        body["configs"] = json!(mounts);
    }
}
