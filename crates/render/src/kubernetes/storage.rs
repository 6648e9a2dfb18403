//! Volumes: claims, which outlive releases.

use std::collections::BTreeMap;

use bowline_core::id::{ResourceName, ServiceName};
use bowline_core::release::has_volume;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{Ctx, pod};
use crate::object::{Out, Wave};

/// Of a volume without `size`.
const SIZE: &str = "1Gi";

pub(super) fn put(ctx: &Ctx<'_>, out: &mut Out) {
    for (name, volume) in &ctx.app.volumes {
        let size = volume.size.map_or_else(|| Quantity(SIZE.to_owned()), pod::bytes);
        if volume.size.is_none() {
            out.note(format!("volume.{name} says no `size`: {SIZE} is claimed"));
        }
        let shared = is_shared(ctx, name);
        if shared {
            out.note(format!(
                "volume.{name} is for several pods: storage class {} must have ReadWriteMany (NFS, CephFS, EFS, Azure Files)",
                ctx.settings().storage_class.unwrap_or_default()
            ));
        }
        let mode = if shared { "ReadWriteMany" } else { "ReadWriteOnce" };
        put_claim(ctx, claim(ctx, name), &format!("volume-{name}"), mode, size, out);
    }
}

/// What a volume's claim is called.
pub(super) fn claim(ctx: &Ctx<'_>, name: &ResourceName) -> String {
    ctx.named(&["volume", name.as_str()])
}

pub(super) fn put_claim(ctx: &Ctx<'_>, name: String, component: &str, mode: &str, size: Quantity, out: &mut Out) {
    let resources =
        VolumeResourceRequirements { requests: Some(BTreeMap::from([("storage".to_owned(), size)])), limits: None };
    let spec = PersistentVolumeClaimSpec {
        access_modes: Some(vec![mode.to_owned()]),
        resources: Some(resources),
        storage_class_name: ctx.settings().storage_class,
        ..PersistentVolumeClaimSpec::default()
    };
    let metadata = ctx.meta(name, component);
    out.put(Wave::Data, &PersistentVolumeClaim { metadata, spec: Some(spec), status: None });
}

/// More than one pod has it at a time.
pub(crate) fn is_shared(ctx: &Ctx<'_>, name: &ResourceName) -> bool {
    let has = |service: &ServiceName| has_volume(ctx.app, service, name);
    let pods = ctx.app.services.iter().filter(|(service, _)| has(service)).map(|(_, service)| service.scale.max);
    let jobs = ctx.app.jobs.keys().filter_map(|job| ctx.home_of(job)).filter(|home| has(home)).count();
    let before = ctx.app.release.before.as_ref().and_then(|_| ctx.app.home()).filter(|home| has(home)).into_iter();
    pods.map(usize::from).sum::<usize>() + jobs + before.count() > 1
}

/// It has a volume that one node at a time may have.
pub(crate) fn is_held_alone(ctx: &Ctx<'_>, service: &ServiceName) -> bool {
    ctx.volumes(service).into_iter().any(|(volume, _)| !is_shared(ctx, volume))
}
