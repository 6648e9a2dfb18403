//! How many instances there are, and how many may be taken away at once.

use bowline_core::id::ServiceName;
use bowline_core::units::MilliCpu;
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec, MetricTarget,
    ResourceMetricSource,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Ctx, matching, pod, rollout};
use crate::object::{Out, Wave};

pub(super) fn put(ctx: &Ctx<'_>, name: &ServiceName, out: &mut Out) {
    let Some(service) = ctx.app.services.get(name) else { return };
    let (word, object) = (name.as_str(), ctx.named(&[name.as_str()]));
    let scale = service.scale;
    if scale.min > 1 {
        let spec = PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(matching(ctx.selector(word))),
            // A pod that is not ready serves nobody: it holds up no node.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        };
        let metadata = ctx.meta(object.clone(), word);
        out.put(Wave::Workload, &PodDisruptionBudget { metadata, spec: Some(spec), status: None });
    }
    let Some(cpu) = scale.cpu.filter(|_| scale.is_automatic()) else { return };
    let target = match service.limits.cpu {
        // What is asked for is the limit.
        Some(_) => MetricTarget {
            type_: "Utilization".to_owned(),
            average_utilization: i32::try_from(cpu.ppm().div_ceil(10_000)).ok(),
            ..MetricTarget::default()
        },
        // Of one core.
        None => MetricTarget {
            type_: "AverageValue".to_owned(),
            average_value: Some(pod::cores(MilliCpu(cpu.ppm().div_ceil(1000)))),
            ..MetricTarget::default()
        },
    };
    let metric = MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource { name: "cpu".to_owned(), target }),
        ..MetricSpec::default()
    };
    let (version, kind) = rollout::target(ctx, name);
    let spec = HorizontalPodAutoscalerSpec {
        scale_target_ref: CrossVersionObjectReference {
            api_version: Some(version.to_owned()),
            kind: kind.to_owned(),
            name: object.clone(),
        },
        min_replicas: Some(scale.min.into()),
        max_replicas: scale.max.into(),
        metrics: Some(vec![metric]),
        behavior: None,
    };
    let metadata = ctx.meta(object, word);
    out.put(Wave::Workload, &HorizontalPodAutoscaler { metadata, spec, status: None });
}
