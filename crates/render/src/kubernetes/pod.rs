//! What all pods of an app's own have in common.

use std::collections::BTreeMap;

use bowline_core::app::{Limits, Origin, Service, Variables};
use bowline_core::id::ServiceName;
use bowline_core::units::{Bytes, MilliCpu};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, KeyToPath, LocalObjectReference, PersistentVolumeClaimVolumeSource,
    PodSecurityContext, PodSpec, PodTemplateSpec, ProjectedVolumeSource, ResourceRequirements, SeccompProfile,
    SecretProjection, SecurityContext, Toleration, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::config::{self, Given};
use super::{Ctx, SECRET_KEY, label, run, storage};
use crate::object::Out;

/// The user of images that Bowline builds.
const USER: i64 = 65532;
/// What a folder holds that ends with its pod. A kubelet ends a pod that holds more, so it is what no app needs that is well.
const SCRATCH: &str = "2Gi";
/// Asked for where the file says no limit: enough to be placed, not enough to fill a node.
const REQUESTS: [(&str, &str); 2] = [("cpu", "100m"), ("memory", "128Mi")];

/// A pod of the app.
pub(super) struct Wanted<'a> {
    /// Its value of the label `app.kubernetes.io/component`.
    pub(super) component: &'a str,
    /// What its ConfigMap is called by.
    pub(super) parts: &'a [&'a str],
    /// Whose image, limits and volumes it has.
    pub(super) service: &'a ServiceName,
    pub(super) variables: Variables,
    /// `None`: the image's own.
    pub(super) command: Option<Vec<String>>,
}

/// With one container, which runs what is wanted in the image of its service.
pub(super) fn of(ctx: &Ctx<'_>, wanted: Wanted<'_>, out: &mut Out) -> PodTemplateSpec {
    let Wanted { component, parts, service: name, variables, command } = wanted;
    let Some(service) = ctx.app.services.get(name) else { return PodTemplateSpec::default() };
    let given = config::given(ctx, name, parts, variables, out);
    let mounted = mounted(ctx, name, service, &given, out);
    let has_files = !ctx.volumes(name).is_empty() || !given.files.is_empty();
    let Given { env, env_from, files: _ } = given;
    let container = Container {
        name: label(component),
        image: ctx.image(name),
        command: command.map(run::literal),
        env: Some(env).filter(|env| !env.is_empty()),
        env_from,
        resources: Some(resources(service.limits)),
        security_context: Some(confined()),
        volume_mounts: Some(mounted.iter().map(|(mount, _)| mount.clone()).collect()),
        ..Container::default()
    };
    let is_built = match service.origin {
        Origin::Folder { .. } | Origin::BuildOf(_) | Origin::Static { .. } => true,
        Origin::Image(_) | Origin::Dockerfile { .. } => false,
    };
    let user = is_built.then_some(USER);
    let (node_selector, tolerations) = pool(ctx);
    let spec = PodSpec {
        containers: vec![container],
        volumes: Some(mounted.into_iter().map(|(_, volume)| volume).collect()),
        security_context: Some(PodSecurityContext {
            fs_group: has_files.then_some(USER),
            fs_group_change_policy: has_files.then(|| "OnRootMismatch".to_owned()),
            ..secure(user)
        }),
        service_account_name: Some(ctx.named(&[name.as_str()])),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        image_pull_secrets: pull(ctx),
        node_selector,
        tolerations,
        ..PodSpec::default()
    };
    PodTemplateSpec { metadata: Some(labelled(ctx, component)), spec: Some(spec) }
}

/// Of a template of pods: they have names of their own.
pub(super) fn labelled(ctx: &Ctx<'_>, component: &str) -> ObjectMeta {
    ObjectMeta { name: None, ..ctx.meta(String::new(), component) }
}

/// As the level `restricted` of the Pod Security Standards asks of a pod. `user`: `None`: the image's, which must not be root.
pub(super) fn secure(user: Option<i64>) -> PodSecurityContext {
    let seccomp = SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() };
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: user,
        run_as_group: user,
        seccomp_profile: Some(seccomp),
        ..PodSecurityContext::default()
    }
}

/// The same of a container, and nothing that it writes to but what is mounted.
pub(super) fn confined() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".to_owned()]) }),
        ..SecurityContext::default()
    }
}

/// What is asked for is what it may use at most, where the file says so.
pub(super) fn resources(limits: Limits) -> ResourceRequirements {
    let Limits { memory, cpu } = limits;
    let said = [("cpu", cpu.map(cores)), ("memory", memory.map(bytes))];
    let limits: BTreeMap<String, Quantity> =
        said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    let mut requests: BTreeMap<String, Quantity> =
        REQUESTS.map(|(name, value)| (name.to_owned(), Quantity(value.to_owned()))).into();
    requests.extend(limits.clone());
    let limits = Some(limits).filter(|limits| !limits.is_empty());
    ResourceRequirements { requests: Some(requests), limits, claims: None }
}

/// `256Mi`
pub(super) fn bytes(bytes: Bytes) -> Quantity {
    Quantity(bytes.to_string().trim_end_matches('B').to_owned())
}

/// `250m`, `2`
pub(super) fn cores(MilliCpu(cpu): MilliCpu) -> Quantity {
    Quantity(if cpu.is_multiple_of(1000) { (cpu / 1000).to_string() } else { format!("{cpu}m") })
}

/// `KEY=VALUE` is a label as it is; a word alone is the value of `bowline.dev/pool`.
pub(super) fn pool(ctx: &Ctx<'_>) -> (Option<BTreeMap<String, String>>, Option<Vec<Toleration>>) {
    let Some(pool) = ctx.settings().node_pool else { return (None, None) };
    let (key, value) = pool.split_once('=').unwrap_or(("bowline.dev/pool", &pool));
    let toleration = Toleration {
        key: Some(key.to_owned()),
        operator: Some("Equal".to_owned()),
        value: Some(value.to_owned()),
        ..Toleration::default()
    };
    (Some(BTreeMap::from([(key.to_owned(), value.to_owned())])), Some(vec![toleration]))
}

/// By which images are pulled where `image.login` says so: one registry may hold those of databases, too.
pub(super) fn pull(ctx: &Ctx<'_>) -> Option<Vec<LocalObjectReference>> {
    let login = ctx.app.image.as_ref().and_then(|image| image.login.as_ref());
    login.map(|_| vec![LocalObjectReference { name: ctx.named(&["registry"]) }])
}

/// A folder in memory, half of what the pod may have: what is written beyond that is refused, and the pod goes on.
fn memory(name: &str, limit: Bytes) -> Volume {
    let size_limit = Some(bytes(Bytes(limit.0 / 2)));
    let empty = EmptyDirVolumeSource { size_limit, medium: Some("Memory".to_owned()) };
    Volume { name: name.to_owned(), empty_dir: Some(empty), ..Volume::default() }
}

/// A folder on the node's disk that ends with the pod.
pub(super) fn scratch(name: &str) -> Volume {
    let empty = EmptyDirVolumeSource { size_limit: Some(Quantity(SCRATCH.to_owned())), medium: None };
    Volume { name: name.to_owned(), empty_dir: Some(empty), ..Volume::default() }
}

pub(super) fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

pub(super) fn claim(name: &str, claim: String) -> Volume {
    let source = PersistentVolumeClaimVolumeSource { claim_name: claim, read_only: None };
    Volume { name: name.to_owned(), persistent_volume_claim: Some(source), ..Volume::default() }
}

/// All that it may write to, and its files of secrets.
fn mounted(
    ctx: &Ctx<'_>,
    name: &ServiceName,
    service: &Service,
    given: &Given,
    out: &mut Out,
) -> Vec<(VolumeMount, Volume)> {
    let tmp = service.limits.memory.map_or_else(|| scratch("tmp"), |limit| memory("tmp", limit));
    let mut all = vec![(mount("tmp", "/tmp"), tmp)];
    for (index, path) in service.writable.iter().enumerate() {
        let volume = format!("writable-{index}");
        let at = format!("/app/{path}");
        out.note(format!("{at} of {name} is an empty folder in each pod: what the image has there is not seen"));
        all.push((mount(&volume, &at), scratch(&volume)));
    }
    for (volume, path) in ctx.volumes(name) {
        let word = label(&format!("volume-{volume}"));
        all.push((mount(&word, &path), claim(&word, storage::claim(ctx, volume))));
    }
    if !given.files.is_empty() {
        let read_only = VolumeMount { read_only: Some(true), ..mount("secrets", config::FILES) };
        all.push((read_only, secrets(ctx, given)));
    }
    all
}

/// Files on a tmpfs, each named as its secret is in the file.
fn secrets(ctx: &Ctx<'_>, given: &Given) -> Volume {
    let one = |name: &bowline_core::id::SecretName| {
        let item = KeyToPath { key: SECRET_KEY.to_owned(), path: name.as_str().to_owned(), mode: None };
        let secret = SecretProjection { name: ctx.secret(name), items: Some(vec![item]), optional: None };
        VolumeProjection { secret: Some(secret), ..VolumeProjection::default() }
    };
    // Root's, and read by the group that the pod's files are given.
    let sources = Some(given.files.iter().map(one).collect());
    let projected = ProjectedVolumeSource { default_mode: Some(0o440), sources };
    Volume { name: "secrets".to_owned(), projected: Some(projected), ..Volume::default() }
}
