//! Databases that run in the cluster: CloudNativePG's where it is, else one pod with its disk.

use std::collections::BTreeMap;

use bowline_core::app::{Limits, ResourceKind};
use bowline_core::id::ServiceName;
use bowline_core::resource::{ResourceId, own_name};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, ExecAction, KeyToPath, PodSecurityContext,
    PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SecurityContext, Service, ServicePort, ServiceSpec, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::{Ctx, config, matching, pod, storage};
use crate::input::Api;
use crate::names;
use crate::need::Needed;
use crate::object::{Out, Wave};
use crate::server::{self, Server, kind_of};

/// What the disk of a database holds: the file has no key for it.
const SIZE: &str = "8Gi";
/// The key of the object that holds its password.
pub(super) const PASSWORD: &str = "password";
/// CloudNativePG's own, which hold what it needs.
const OPERATED: &str = "ghcr.io/cloudnative-pg/postgresql";
/// The variable that holds the password within its container, of each kind.
const HELD: [(ResourceKind, &str); 3] = [
    (ResourceKind::Postgres, "POSTGRES_PASSWORD"),
    (ResourceKind::MariaDb, "MARIADB_PASSWORD"),
    (ResourceKind::Redis, "REDISCLI_AUTH"),
];

pub(super) fn port(kind: ResourceKind) -> i32 {
    kind_of(kind).port.into()
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
    server::servers(ctx.app).into_iter().map(|server| server.id).collect()
}

/// Its value of the label `app.kubernetes.io/component`.
pub(super) fn component(id: &ResourceId) -> String {
    format!("{}-{}", id.kind, id.name)
}

pub(super) fn put(ctx: &Ctx<'_>, out: &mut Out) {
    for server in server::servers(ctx.app) {
        if server.persists {
            out.note(format!("{} has a disk of {SIZE}: for another size change what claims it", server.id));
        }
        need_password(ctx, &server.id, out);
        match is_operated(ctx, &server.id) {
            true => {
                let cluster = cluster(ctx, &server, out);
                out.put(Wave::Data, &cluster);
            }
            false => alone(ctx, &server, out),
        }
    }
    for (name, ca) in server::externals(ctx.app) {
        out.note(format!("{name} is elsewhere: the app verifies it with {ca} itself, nothing in the cluster asks it"));
    }
}

fn need_password(ctx: &Ctx<'_>, id: &ResourceId, out: &mut Out) {
    let user = is_operated(ctx, id).then(|| own_name(&id.name));
    out.need(object(ctx, id), PASSWORD, Needed::Password { of: id.clone(), user });
}

/// The ConfigMap that it starts from. It keeps its name: another text is no reason to start the database anew.
fn config(ctx: &Ctx<'_>, id: &ResourceId, data: BTreeMap<String, String>, out: &mut Out) -> bool {
    let is_there = !data.is_empty();
    if is_there {
        let metadata = ctx.meta(object(ctx, id), &component(id));
        out.put(Wave::Config, &ConfigMap { metadata, data: Some(data), ..ConfigMap::default() });
    }
    is_there
}

/// What it runs: what was said, else the tag of a repository.
fn image(ctx: &Ctx<'_>, server: &Server, out: &mut Out) -> String {
    let said = ctx.input.images.get(&ServiceName::of_resource(server.id.kind.as_str(), &server.id.name));
    let (operated, tag) = (is_operated(ctx, &server.id), server.tag());
    match said {
        // CloudNativePG reads the version in the tag, and wants one beside a digest.
        Some(image) if operated => format!("{}:{tag}@{}", image.repository, image.digest),
        Some(image) => image.to_string(),
        None => {
            let repository = if operated { OPERATED } else { kind_of(server.id.kind).repository };
            let image = format!("{repository}:{tag}");
            out.note(format!("{0} runs {image}, a tag that moves: pin it with --image {0}=…@sha256:…", server.id));
            image
        }
    }
}

/// Containers that end when each database is there that runs in the cluster: what runs once must not come before them.
pub(super) fn waits(ctx: &Ctx<'_>, out: &mut Out) -> Option<Vec<Container>> {
    let wait = |server: Server| Container {
        name: names::join(&["wait", &component(&server.id)], names::LABEL),
        image: Some(image(ctx, &server, out)),
        command: Some(server::wait_for(server.id.kind, &host(ctx, &server.id))),
        resources: Some(ResourceRequirements {
            requests: Some(
                [("cpu", "10m"), ("memory", "32Mi")].map(|(a, b)| (a.to_owned(), Quantity(b.to_owned()))).into(),
            ),
            ..ResourceRequirements::default()
        }),
        // These images are root's by themselves.
        security_context: Some(SecurityContext { run_as_user: Some(server::USER), ..pod::confined() }),
        ..Container::default()
    };
    let all: Vec<Container> = server::servers(ctx.app).into_iter().map(wait).collect();
    Some(all).filter(|all| !all.is_empty())
}

/// One pod, its disk and the name by which it is found.
fn alone(ctx: &Ctx<'_>, server: &Server, out: &mut Out) {
    let (name, component) = (object(ctx, &server.id), component(&server.id));
    let image = image(ctx, server, out);
    let script = ctx.input.scripts.get(&server.id).map(String::as_str);
    let files = server::files(server.id.kind, &own_name(&server.id.name), script);
    let filled = files.contains_key(server::once(server.id.kind));
    let started = Started { image, configured: config(ctx, &server.id, files, out), filled };
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
            spec: Some(pod_spec(ctx, server, started)),
        },
        ..StatefulSetSpec::default()
    };
    let metadata = ctx.meta(name, &component);
    out.put(Wave::Data, &StatefulSet { metadata, spec: Some(spec), status: None });
}

/// What a pod of a database starts from.
struct Started {
    image: String,
    /// It has a ConfigMap.
    configured: bool,
    /// The image runs something of it on an empty disk.
    filled: bool,
}

/// Its files: all of them where its configuration lies, and what the image runs once where that looks.
fn configured(ctx: &Ctx<'_>, id: &ResourceId, started: &Started) -> Vec<(VolumeMount, Volume)> {
    let read = |name: &str, path: &str| VolumeMount { read_only: Some(true), ..pod::mount(name, path) };
    let from = |name: &str, items: Option<Vec<KeyToPath>>| {
        let source = ConfigMapVolumeSource { name: object(ctx, id), items, ..ConfigMapVolumeSource::default() };
        Volume { name: name.to_owned(), config_map: Some(source), ..Volume::default() }
    };
    let once = server::once(id.kind).to_owned();
    let item = KeyToPath { key: once.clone(), path: once, mode: None };
    let config = (read("config", server::CONFIG), from("config", None));
    let init = (read("init", server::INIT), from("init", Some(vec![item])));
    let config = Some(config).filter(|_| started.configured);
    config.into_iter().chain(Some(init).filter(|_| started.filled)).collect()
}

fn pod_spec(ctx: &Ctx<'_>, server: &Server, started: Started) -> PodSpec {
    let kind = kind_of(server.id.kind);
    let mut volumes: Vec<Volume> = kind.scratch.iter().map(|(name, _)| pod::scratch(name)).collect();
    let mut mounts: Vec<VolumeMount> = kind.scratch.iter().map(|(name, path)| pod::mount(name, path)).collect();
    // A folder below the disk's own, which may hold `lost+found`.
    mounts.push(VolumeMount { sub_path: server.persists.then(|| "data".to_owned()), ..pod::mount("data", kind.data) });
    volumes.push(match server.persists {
        true => pod::claim("data", object(ctx, &server.id)),
        false => pod::scratch("data"),
    });
    for (mount, volume) in configured(ctx, &server.id, &started) {
        mounts.push(mount);
        volumes.push(volume);
    }
    let word = server.id.kind.as_str().to_owned();
    let port =
        ContainerPort { name: Some(word.clone()), container_port: port(server.id.kind), ..ContainerPort::default() };
    let (own, held) = (own_name(&server.id.name), format!("${}", held(server.id.kind)));
    let ready = server::is_ready(server.id.kind, &own, &held);
    let alive = server::is_alive(server.id.kind, &own, &held);
    let asked = |command: &Vec<String>, failures: i32, period: i32| Probe {
        exec: Some(ExecAction { command: Some(command.clone()) }),
        period_seconds: Some(period),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    };
    let container = Container {
        name: word,
        image: Some(started.image),
        command: (server.id.kind == ResourceKind::Redis).then(|| server::redis(&held, server.persists)),
        args: server::arguments(server.id.kind),
        env: Some(variables(ctx, &server.id)),
        ports: Some(vec![port]),
        resources: Some(pod::resources(Limits::default())),
        security_context: Some(pod::confined()),
        // The first start makes its files, or takes up what a crash has left.
        startup_probe: Some(asked(&ready, 120, 5)),
        readiness_probe: Some(asked(&ready, 3, 5)),
        liveness_probe: Some(asked(&alive, 6, 10)),
        volume_mounts: Some(mounts),
        ..Container::default()
    };
    let (node_selector, tolerations) = pod::pool(ctx);
    PodSpec {
        containers: vec![container],
        volumes: Some(volumes),
        security_context: Some(PodSecurityContext {
            fs_group: Some(server::USER),
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            ..pod::secure(Some(server::USER))
        }),
        termination_grace_period_seconds: Some(server::GRACE),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        image_pull_secrets: pod::pull(ctx),
        node_selector,
        tolerations,
        ..PodSpec::default()
    }
}

fn held(kind: ResourceKind) -> &'static str {
    HELD.iter().find(|(of, _)| *of == kind).map_or("", |(_, name)| name)
}

fn variables(ctx: &Ctx<'_>, id: &ResourceId) -> Vec<EnvVar> {
    let own = own_name(&id.name);
    let plain =
        |name: &str, value: &str| EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None };
    let password = config::password(ctx, held(id.kind).to_owned(), id);
    match id.kind {
        ResourceKind::Postgres => vec![
            plain("PGDATA", server::PGDATA),
            // The image wants one for its administrator, too, whom nobody but this pod is let in as.
            password,
        ],
        ResourceKind::MariaDb => vec![
            plain("MARIADB_DATABASE", &own),
            plain("MARIADB_USER", &own),
            password,
            // Its image prints that password: who reads the log is to get nowhere with it.
            plain("MARIADB_RANDOM_ROOT_PASSWORD", "1"),
            plain("MARIADB_ROOT_HOST", "localhost"),
        ],
        ResourceKind::Redis => vec![password],
    }
}

/// CloudNativePG's resource: three instances would be three disks, which the file does not ask for.
fn cluster(ctx: &Ctx<'_>, server: &Server, out: &mut Out) -> Value {
    let image = image(ctx, server, out);
    let (name, own) = (object(ctx, &server.id), own_name(&server.id.name));
    let mut initdb = json!({
        "database": own, "owner": own, "secret": { "name": name }, "encoding": "UTF8", "dataChecksums": true,
    });
    if let Some(script) = ctx.input.scripts.get(&server.id) {
        // The operator runs it as its administrator, whose the tables would be.
        let script = format!("SET ROLE {own};\n{}\nRESET ROLE;\n", script.trim_end());
        config(ctx, &server.id, BTreeMap::from([(server::INIT_FILE.to_owned(), script)]), out);
        let reference = json!({ "configMapRefs": [{ "name": name, "key": server::INIT_FILE }] });
        initdb["postInitApplicationSQLRefs"] = reference;
    }
    let mut storage = json!({ "size": SIZE });
    if let Some(class) = ctx.settings().storage_class {
        storage["storageClass"] = json!(class);
    }
    let mut spec = json!({
        "instances": 1,
        "imageName": image,
        "bootstrap": { "initdb": initdb },
        "storage": storage,
        "resources": pod::resources(Limits::default()),
    });
    if let (Some(selector), tolerations) = pod::pool(ctx) {
        spec["affinity"] = json!({ "nodeSelector": selector, "tolerations": tolerations });
    }
    if let Some(secrets) = pod::pull(ctx) {
        spec["imagePullSecrets"] = json!(secrets);
    }
    json!({
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        "metadata": ctx.meta(name, &component(&server.id)),
        "spec": spec,
    })
}
