//! Jobs: on a schedule, on demand, and before a release.

use std::time::Duration;

use bowline_core::id::ServiceName;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, Job, JobSpec, JobTemplateSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::json;

use super::schedule::written;
use super::{Ctx, database, pod, probe, run};
use crate::names;
use crate::object::{Out, Wave};

/// Of a run that was missed, in seconds: it is made up within that, once.
const LATE: i64 = 3600;
/// What runs before a release is killed after this long.
const BEFORE: Duration = Duration::from_secs(3600);
/// Of a job that is run on demand. It never comes due: it is suspended.
const NEVER: &str = "0 0 1 1 *";

pub(super) fn put(ctx: &Ctx<'_>, out: &mut Out) {
    for (name, job) in &ctx.app.jobs {
        let Some(home) = ctx.home_of(name) else { continue };
        // One that cannot be written is refused by its key.
        let Some(schedule) = job.schedule.as_ref().map_or_else(|| Some(NEVER.to_owned()), written) else { continue };
        let component = format!("job-{name}");
        let wanted = pod::Wanted {
            component: &component,
            parts: &["job", name.as_str()],
            service: home,
            variables: ctx.job_variables(name),
            command: Some(run::words(&job.run.0)),
        };
        let template = once(pod::of(ctx, wanted, out));
        let object = ctx.named_within(&[name.as_str()], names::CONTROLLED);
        if job.schedule.is_none() {
            out.note(format!("job {name} is run on demand: kubectl create job {name}-1 --from=cronjob/{object}"));
        }
        let spec = cron(schedule, job.schedule.is_some(), spec(template, job.timeout));
        let metadata = ctx.meta(object, &component);
        out.put(Wave::Workload, &CronJob { metadata, spec, status: None });
    }
    before(ctx, out);
}

/// `comes_due`: by itself.
fn cron(schedule: String, comes_due: bool, spec: JobSpec) -> CronJobSpec {
    CronJobSpec {
        schedule,
        suspend: (!comes_due).then_some(true),
        time_zone: Some("Etc/UTC".to_owned()),
        concurrency_policy: Some("Forbid".to_owned()),
        starting_deadline_seconds: Some(LATE),
        job_template: JobTemplateSpec { metadata: None, spec: Some(spec) },
        ..CronJobSpec::default()
    }
}

/// Tried once: whether it may be repeated, only its author knows.
fn spec(template: PodTemplateSpec, timeout: Duration) -> JobSpec {
    JobSpec {
        active_deadline_seconds: Some(probe::seconds(timeout).into()),
        backoff_limit: Some(0),
        template,
        ..JobSpec::default()
    }
}

fn once(mut template: PodTemplateSpec) -> PodTemplateSpec {
    if let Some(spec) = &mut template.spec {
        spec.restart_policy = Some("Never".to_owned());
    }
    template
}

/// Named by all that it is: the same is not run again.
fn before(ctx: &Ctx<'_>, out: &mut Out) {
    let Some((command, home)) = ctx.app.release.before.as_ref().zip(ctx.app.home()) else { return };
    let wanted = pod::Wanted {
        component: "release-before",
        parts: &[home.as_str()],
        service: home,
        variables: ctx.variables(home),
        command: Some(run::words(&command.0)),
    };
    let mut template = once(pod::of(ctx, wanted, out));
    if let Some(spec) = &mut template.spec {
        spec.init_containers = database::waits(ctx, out);
    }
    let spec = spec(template, BEFORE);
    let content = json!([ctx.key.env.as_str(), spec]).to_string();
    let name = names::hashed(&[ctx.key.app.as_str(), "before"], &names::hash(content.as_bytes()));
    out.note_by_hand(order(&name, home));
    let metadata = ctx.meta(name, "release-before");
    out.put(Wave::Before, &Job { metadata, spec: Some(spec), status: None });
}

fn order(name: &str, home: &ServiceName) -> String {
    format!(
        "job {name} is to end before the new {home} starts: apply what stands before it, then it, and \
         kubectl wait --for=condition=complete job/{name} --timeout=1h before the rest"
    )
}
