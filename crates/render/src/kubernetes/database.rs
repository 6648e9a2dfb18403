//! Databases that run in the cluster: CloudNativePG's where it is, else one pod with its disk.

use std::collections::BTreeMap;

use bowline_core::app::{DatabaseSource, Limits, RedisSource, ResourceKind};
use bowline_core::id::ServiceName;
use bowline_core::resource::{ResourceId, own_name};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, ExecAction, PodSecurityContext, PodSpec,
    PodTemplateSpec, Probe, Service, ServicePort, ServiceSpec, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::{Ctx, config, matching, pod, storage};
use crate::input::Api;
use crate::names;
use crate::need::Needed;
use crate::object::{Out, Wave};

/// What the disk of a database holds: the file has no key for it.
const SIZE: &str = "8Gi";
/// The user of the official images.
const USER: i64 = 999;
/// To write everything down, in seconds.
const GRACE: i64 = 60;
/// Where the images run what is there once, on an empty database.
const INIT: &str = "/docker-entrypoint-initdb.d";
/// The key of the object that holds its password.
pub(super) const PASSWORD: &str = "password";
const INIT_FILE: &str = "init.sql";

/// One database of the app that the cluster runs.
struct Server {
    id: ResourceId,
    version: Option<u16>,
    /// Its data outlive its pod.
    persists: bool,
}

/// What is particular to a kind.
struct Kind {
    repository: &'static str,
    /// Where the file names none: the newest that the image's tags knew when this was written.
    version: u16,
    data: &'static str,
    /// Folders that it writes to beside its data.
    scratch: &'static [(&'static str, &'static str)],
}

const POSTGRES: Kind = Kind {
    repository: "docker.io/library/postgres",
    version: 17,
    // Not where the image looks by itself: that differs from version to version.
    data: "/data",
    scratch: &[("tmp", "/tmp"), ("run", "/var/run/postgresql")],
};
const MARIADB: Kind = Kind {
    repository: "docker.io/library/mariadb",
    version: 11,
    data: "/var/lib/mysql",
    scratch: &[("tmp", "/tmp"), ("run", "/run/mysqld")],
};
/// CloudNativePG's own, which hold what it needs.
const OPERATED: &str = "ghcr.io/cloudnative-pg/postgresql";
const REDIS: Kind =
    Kind { repository: "docker.io/library/redis", version: 7, data: "/data", scratch: &[("tmp", "/tmp")] };

fn kind_of(kind: ResourceKind) -> &'static Kind {
    match kind {
        ResourceKind::Postgres => &POSTGRES,
        ResourceKind::MariaDb => &MARIADB,
        ResourceKind::Redis => &REDIS,
    }
}

pub(super) fn port(kind: ResourceKind) -> i32 {
    match kind {
        ResourceKind::Postgres => 5432,
        ResourceKind::MariaDb => 3306,
        ResourceKind::Redis => 6379,
    }
}

/// What its objects are called, the secret with its password among them.
pub(super) fn object(ctx: &Ctx<'_>, id: &ResourceId) -> String {
    ctx.named_within(&[id.kind.as_str(), id.name.as_str()], names::CONTROLLED)
}

/// By which the app reaches it.
pub(super) fn host(ctx: &Ctx<'_>, id: &ResourceId) -> String {
    let object = object(ctx, id);
    match is_operated(ctx, id) {
        true => format!("{object}-rw"),
        false => object,
    }
}

/// CloudNativePG runs it.
pub(super) fn is_operated(ctx: &Ctx<'_>, id: &ResourceId) -> bool {
    id.kind == ResourceKind::Postgres && ctx.has(Api::CloudNativePg)
}

/// The databases of the app that run in the cluster.
pub(super) fn managed(ctx: &Ctx<'_>) -> Vec<ResourceId> {
    servers(ctx).into_iter().map(|server| server.id).collect()
}

fn servers(ctx: &Ctx<'_>) -> Vec<Server> {
    let databases = ctx.app.databases.iter().filter_map(|((kind, name), database)| match database.source {
        DatabaseSource::Managed { version } => {
            let id = ResourceId { kind: ResourceKind::from(*kind), name: name.clone() };
            Some(Server { id, version, persists: true })
        }
        DatabaseSource::External { .. } => None,
    });
    let redis = ctx.app.redis.iter().filter_map(|(name, redis)| match redis.source {
        RedisSource::Managed { version, persist } => {
            let id = ResourceId { kind: ResourceKind::Redis, name: name.clone() };
            Some(Server { id, version, persists: persist })
        }
        RedisSource::External { .. } => None,
    });
    databases.chain(redis).collect()
}

/// Its value of the label `app.kubernetes.io/component`.
pub(super) fn component(id: &ResourceId) -> String {
    format!("{}-{}", id.kind, id.name)
}

pub(super) fn put(ctx: &Ctx<'_>, out: &mut Out) {
    for server in servers(ctx) {
        let init = init(ctx, &server.id, out);
        if server.persists {
            out.note(format!("{} has a disk of {SIZE}: for another size change what claims it", server.id));
        }
        need_password(ctx, &server.id, out);
        match is_operated(ctx, &server.id) {
            true => {
                let cluster = cluster(ctx, &server, init.as_deref(), out);
                out.put(Wave::Data, &cluster);
            }
            false => alone(ctx, &server, init, out),
        }
    }
    for (name, ca) in externals(ctx) {
        out.note(format!("{name} is elsewhere: the app verifies it with {ca} itself, nothing in the cluster asks it"));
    }
}

/// Servers elsewhere whose CA is said.
fn externals<'a>(ctx: &Ctx<'a>) -> Vec<(String, &'a bowline_core::id::SecretName)> {
    let databases = ctx.app.databases.iter().filter_map(|((kind, name), one)| match &one.source {
        DatabaseSource::External { url: _, ca } => Some((format!("{kind}.{name}"), ca.as_ref()?)),
        DatabaseSource::Managed { .. } => None,
    });
    let redis = ctx.app.redis.iter().filter_map(|(name, one)| match &one.source {
        RedisSource::External { url: _, ca } => Some((format!("redis.{name}"), ca.as_ref()?)),
        RedisSource::Managed { .. } => None,
    });
    databases.chain(redis).collect()
}

fn need_password(ctx: &Ctx<'_>, id: &ResourceId, out: &mut Out) {
    let user = is_operated(ctx, id).then(|| own_name(&id.name));
    out.need(object(ctx, id), PASSWORD, Needed::Password { of: id.clone(), user });
}

/// The ConfigMap that holds what is run once. It keeps its name: another text is no reason to start the database anew.
fn init(ctx: &Ctx<'_>, id: &ResourceId, out: &mut Out) -> Option<String> {
    let script = ctx.input.scripts.get(id)?;
    let name = object(ctx, id);
    let data = BTreeMap::from([(INIT_FILE.to_owned(), script.clone())]);
    let metadata = ctx.meta(name.clone(), &component(id));
    out.put(Wave::Config, &ConfigMap { metadata, data: Some(data), ..ConfigMap::default() });
    Some(name)
}

/// `repository`: where it comes from if nobody says which it is.
fn image(ctx: &Ctx<'_>, server: &Server, repository: &str, out: &mut Out) -> String {
    let said = ctx.input.images.get(&ServiceName::of_resource(server.id.kind.as_str(), &server.id.name));
    if let Some(image) = said {
        return image.to_string();
    }
    let kind = kind_of(server.id.kind);
    let image = format!("{repository}:{}", server.version.unwrap_or(kind.version));
    out.note(format!("{0} runs {image}, a tag that moves: pin it with --image {0}=…@sha256:…", server.id));
    image
}

/// One pod, its disk and the name by which it is found.
fn alone(ctx: &Ctx<'_>, server: &Server, init: Option<String>, out: &mut Out) {
    let (name, component) = (object(ctx, &server.id), component(&server.id));
    let image = image(ctx, server, kind_of(server.id.kind).repository, out);
    if server.persists {
        storage::put_claim(ctx, name.clone(), &component, "ReadWriteOnce", Quantity(SIZE.to_owned()), out);
    }
    let port = ServicePort {
        name: Some(server.id.kind.as_str().to_owned()),
        port: port(server.id.kind),
        target_port: Some(IntOrString::String(server.id.kind.as_str().to_owned())),
        ..ServicePort::default()
    };
    let spec =
        ServiceSpec { selector: Some(ctx.selector(&component)), ports: Some(vec![port]), ..ServiceSpec::default() };
    let metadata = ctx.meta(name.clone(), &component);
    out.put(Wave::Data, &Service { metadata, spec: Some(spec), status: None });
    let spec = StatefulSetSpec {
        service_name: Some(name.clone()),
        replicas: Some(1),
        selector: matching(ctx.selector(&component)),
        template: PodTemplateSpec {
            metadata: Some(pod::labelled(ctx, &component)),
            spec: Some(pod_spec(ctx, server, image, init)),
        },
        ..StatefulSetSpec::default()
    };
    let metadata = ctx.meta(name, &component);
    out.put(Wave::Data, &StatefulSet { metadata, spec: Some(spec), status: None });
}

fn pod_spec(ctx: &Ctx<'_>, server: &Server, image: String, init: Option<String>) -> PodSpec {
    let kind = kind_of(server.id.kind);
    let mut volumes: Vec<Volume> = kind.scratch.iter().map(|(name, _)| pod::scratch(name)).collect();
    let mut mounts: Vec<VolumeMount> = kind.scratch.iter().map(|(name, path)| pod::mount(name, path)).collect();
    // A folder below the disk's own, which may hold `lost+found`.
    mounts.push(VolumeMount { sub_path: server.persists.then(|| "data".to_owned()), ..pod::mount("data", kind.data) });
    volumes.push(match server.persists {
        true => pod::claim("data", object(ctx, &server.id)),
        false => pod::scratch("data"),
    });
    if let Some(name) = init {
        let source = ConfigMapVolumeSource { name, ..ConfigMapVolumeSource::default() };
        volumes.push(Volume { name: "init".to_owned(), config_map: Some(source), ..Volume::default() });
        mounts.push(VolumeMount { read_only: Some(true), ..pod::mount("init", INIT) });
    }
    let word = server.id.kind.as_str().to_owned();
    let port =
        ContainerPort { name: Some(word.clone()), container_port: port(server.id.kind), ..ContainerPort::default() };
    let asked = |failures: i32, period: i32| Probe {
        exec: Some(ExecAction { command: Some(question(server.id.kind)) }),
        period_seconds: Some(period),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    };
    let container = Container {
        name: word,
        image: Some(image),
        command: command(server),
        env: Some(variables(ctx, &server.id)),
        ports: Some(vec![port]),
        resources: Some(pod::resources(Limits::default())),
        security_context: Some(pod::confined()),
        // The first start makes its files, or takes up what a crash has left.
        startup_probe: Some(asked(120, 5)),
        readiness_probe: Some(asked(3, 5)),
        liveness_probe: Some(asked(6, 10)),
        volume_mounts: Some(mounts),
        ..Container::default()
    };
    let (node_selector, tolerations) = pod::pool(ctx);
    PodSpec {
        containers: vec![container],
        volumes: Some(volumes),
        security_context: Some(PodSecurityContext {
            fs_group: Some(USER),
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            ..pod::secure(Some(USER))
        }),
        termination_grace_period_seconds: Some(GRACE),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        node_selector,
        tolerations,
        ..PodSpec::default()
    }
}

/// Asked within the container, and answered by a server that takes requests.
fn question(kind: ResourceKind) -> Vec<String> {
    let words: &[&str] = match kind {
        ResourceKind::Postgres => {
            &["/bin/sh", "-c", "pg_isready -h 127.0.0.1 -U \"$POSTGRES_USER\" -d \"$POSTGRES_DB\""]
        }
        ResourceKind::MariaDb => &["healthcheck.sh", "--connect", "--innodb_initialized"],
        ResourceKind::Redis => &["/bin/sh", "-c", "redis-cli ping | grep -q PONG"],
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Redis knows no file for its password, and arguments are seen by whoever lists processes.
fn command(server: &Server) -> Option<Vec<String>> {
    let durable = if server.persists { "--appendonly yes" } else { "--appendonly no --save \"\"" };
    let script = format!(
        "umask 077; printf 'requirepass %s\\n' \"$REDISCLI_AUTH\" > /tmp/redis.conf; exec redis-server /tmp/redis.conf {durable}"
    );
    match server.id.kind {
        ResourceKind::Postgres | ResourceKind::MariaDb => None,
        ResourceKind::Redis => Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), script]),
    }
}

fn variables(ctx: &Ctx<'_>, id: &ResourceId) -> Vec<EnvVar> {
    let own = own_name(&id.name);
    let plain =
        |name: &str, value: &str| EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None };
    let password = |name: &str| config::password(ctx, name.to_owned(), id);
    match id.kind {
        ResourceKind::Postgres => vec![
            plain("PGDATA", "/data/pgdata"),
            plain("POSTGRES_DB", &own),
            plain("POSTGRES_USER", &own),
            password("POSTGRES_PASSWORD"),
        ],
        ResourceKind::MariaDb => vec![
            plain("MARIADB_DATABASE", &own),
            plain("MARIADB_USER", &own),
            password("MARIADB_PASSWORD"),
            // Its image prints that password: who reads the log is to get nowhere with it.
            plain("MARIADB_RANDOM_ROOT_PASSWORD", "1"),
            plain("MARIADB_ROOT_HOST", "localhost"),
        ],
        ResourceKind::Redis => vec![password("REDISCLI_AUTH")],
    }
}

/// CloudNativePG's resource: three instances would be three disks, which the file does not ask for.
fn cluster(ctx: &Ctx<'_>, server: &Server, init: Option<&str>, out: &mut Out) -> Value {
    let image = image(ctx, server, OPERATED, out);
    let (name, own) = (object(ctx, &server.id), own_name(&server.id.name));
    let mut initdb = json!({ "database": own, "owner": own, "secret": { "name": name } });
    if let Some(init) = init {
        let reference = json!({ "configMapRefs": [{ "name": init, "key": INIT_FILE }] });
        initdb["postInitApplicationSQLRefs"] = reference;
    }
    let mut storage = json!({ "size": SIZE });
    if let Some(class) = ctx.settings().storage_class {
        storage["storageClass"] = json!(class);
    }
    json!({
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        "metadata": ctx.meta(name, &component(&server.id)),
        "spec": { "instances": 1, "imageName": image, "bootstrap": { "initdb": initdb }, "storage": storage },
    })
}
