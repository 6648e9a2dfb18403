//! What a build would give, told without running it: for whoever wants to know before anything is done.
//!
//! Architecture invariant: what is foreseen and what is built are decided by the same code, `Build::prepare`. Nothing is
//! built or fetched here, and nothing of the source is run.

use std::collections::BTreeMap;

use bowline_core::app::Service;
use bowline_core::fault::Fault;
use bowline_core::id::ServiceName;
use bowline_core::release::{BuildRequest, Foreseen, Shape};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::artifact::{Artifacts, Known};
use super::detect::Serve;
use super::place::Machine;
use super::{Build, BuildConfig, Outcome, Prepared, maker, state_fault};

/// Looks at every service's source as a build would. `uid` of the request is not looked at: a root's node always builds as
/// another user.
///
/// # Errors
/// Those of a build that come before its first command: the source, the file, a missing interpreter or tool.
pub async fn foresee(request: BuildRequest, config: &BuildConfig) -> Result<BTreeMap<ServiceName, Foreseen>, Fault> {
    let is_root = nix::unistd::geteuid().is_root();
    let build = Build {
        artifacts: Artifacts::open(&config.state_dir).map_err(|e| state_fault(&config.state_dir, &e))?,
        uid: None,
        machine: Machine::look(config, is_root),
        is_root,
        request: &request,
        // Nobody follows a look.
        progress: mpsc::channel(1).0,
        config,
        deadline: Instant::now() + request.time_limit,
    };
    let mut makers: BTreeMap<&ServiceName, Look> = BTreeMap::new();
    let mut foreseen = BTreeMap::new();
    for (name, service) in &request.app.services {
        let maker = maker(&request.app, name)?;
        if !makers.contains_key(maker) {
            let prepared = Box::pin(build.prepare(maker, &request.app.services[maker])).await?;
            let whole = match build.look_up(prepared.digest).await {
                Known::Whole(seal) => Some(Outcome { digest: prepared.digest, seal: *seal, cached: true }),
                Known::Absent | Known::Damaged(_) => None,
            };
            makers.insert(maker, Look { prepared, whole });
        }
        foreseen.insert(name.clone(), makers[maker].of(&build, service));
    }
    Ok(foreseen)
}

struct Look {
    prepared: Prepared,
    whole: Option<Outcome>,
}

impl Look {
    /// For one of the services that share the build.
    fn of(&self, build: &Build<'_>, service: &Service) -> Foreseen {
        if let Some(outcome) = &self.whole {
            return build.artifact(service, outcome).into();
        }
        let shape = match (&service.run, &self.prepared.plan.serve) {
            (Some(_), _) | (None, Serve::Run(_) | Serve::Python) => Shape::Process,
            (None, Serve::Files { fallback, .. }) => Shape::Files { fallback: fallback.clone() },
            (None, Serve::AsWritten) => Shape::Files { fallback: None },
        };
        Foreseen { digest: self.prepared.digest, runtime: self.prepared.runtime.clone(), shape, artifact: None }
    }
}
