//! What a kubelet asks of a container.

use std::time::Duration;

use bowline_core::app::{GrpcCheck, Health, HttpCheck, Probe as Times, Service};
use k8s_openapi::api::core::v1::{GRPCAction, HTTPGetAction, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{HTTP, PORT};

/// In a row, until an instance that does not answer gets no requests, or is started again.
const FAILURES: i32 = 3;

pub(super) struct Probes {
    pub(super) readiness: Option<Probe>,
    pub(super) liveness: Option<Probe>,
    pub(super) startup: Option<Probe>,
}

/// `listens`: somebody asks it for something.
pub(super) fn of(service: &Service, listens: bool) -> Probes {
    let liveness = service.alive.as_ref().map(|check| times(http(check), check.probe));
    let ready = match &service.health {
        Some(Health::Http(check)) => Some((http(check), check.probe)),
        Some(Health::Grpc(check)) => Some((grpc(check, port(service)), check.probe)),
        Some(Health::Tcp(times)) => Some((tcp(), *times)),
        None => listens.then(|| (tcp(), Times::default())),
    };
    let Some((action, asked)) = ready else { return Probes { readiness: None, liveness, startup: None } };
    let readiness = times(action.clone(), asked);
    // A container that is not ready in time is started again, and until it is, nothing else is asked.
    let failures = seconds(asked.grace).div_euclid(seconds(asked.interval)).max(1);
    let startup = Probe { failure_threshold: Some(failures), ..times(action, asked) };
    Probes { readiness: Some(readiness), liveness, startup: Some(startup) }
}

pub(super) fn port(service: &Service) -> i32 {
    service.fixed_port.map_or(PORT, |port| port.get()).into()
}

/// Whole seconds, at least one: kubelets know no less.
pub(super) fn seconds(duration: Duration) -> i32 {
    let whole = duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0));
    i32::try_from(whole.max(1)).unwrap_or(i32::MAX)
}

fn times(action: Probe, times: Times) -> Probe {
    let (period, timeout) = (seconds(times.interval), seconds(times.timeout));
    Probe { period_seconds: Some(period), timeout_seconds: Some(timeout), failure_threshold: Some(FAILURES), ..action }
}

fn http(check: &HttpCheck) -> Probe {
    let port = IntOrString::String(HTTP.to_owned());
    let get = HTTPGetAction { path: Some(check.path.clone()), port, ..HTTPGetAction::default() };
    Probe { http_get: Some(get), ..Probe::default() }
}

fn grpc(check: &GrpcCheck, port: i32) -> Probe {
    let service = Some(check.service.clone()).filter(|service| !service.is_empty());
    Probe { grpc: Some(GRPCAction { port, service }), ..Probe::default() }
}

fn tcp() -> Probe {
    let port = IntOrString::String(HTTP.to_owned());
    Probe { tcp_socket: Some(TCPSocketAction { port, ..TCPSocketAction::default() }), ..Probe::default() }
}
