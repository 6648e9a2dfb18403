//! What a server of Kubernetes answers instead of doing what it was asked, and what is made of it.

use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use kube::core::Status;

/// A request that came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{}", said(.0))]
    Status(Box<Status>),
    /// Nobody answered, or not what was asked.
    #[error("the cluster does not answer")]
    Away(#[source] Box<kube::Error>),
    #[error("the cluster has not answered for {} s", .0.as_secs())]
    Slow(Duration),
    /// What it keeps is of a form that is not known here.
    #[error("a newer Bowline has written {0}: deploy with that one")]
    Newer(String),
    #[error("the request cannot be written")]
    Request(#[source] http::Error),
}

impl From<kube::Error> for Refusal {
    #[expect(clippy::wildcard_enum_match_arm, reason = "whatever is no answer of the server is a way that is broken")]
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Status(status),
            other => Self::Away(Box::new(other)),
        }
    }
}

/// A field that somebody else has set to something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub field: String,
    pub manager: String,
}

impl Refusal {
    pub fn code(&self) -> u16 {
        match self {
            Self::Status(status) => status.code,
            Self::Away(_) | Self::Slow(_) | Self::Request(_) => 0,
            Self::Newer(_) => 422,
        }
    }

    pub fn is_absent(&self) -> bool {
        self.code() == 404
    }

    pub fn is_forbidden(&self) -> bool {
        self.code() == 403
    }

    /// The same request may be answered soon: nobody answered, or the server could not just then.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Status(status) => status.code >= 500 || status.code == 429,
            Self::Away(_) | Self::Slow(_) => true,
            Self::Newer(_) | Self::Request(_) => false,
        }
    }

    /// It is there already, or is not as it was.
    pub fn is_taken(&self) -> bool {
        self.code() == 409
    }

    /// Of an apply, whose fields are in the way.
    pub fn conflicts(&self) -> Vec<Conflict> {
        let Self::Status(status) = self else { return Vec::new() };
        let causes = status.details.iter().flat_map(|details| &details.causes);
        let fields = causes.filter(|cause| cause.reason == "FieldManagerConflict");
        fields.map(|cause| Conflict { field: cause.field.clone(), manager: manager(&cause.message) }).collect()
    }

    /// As it is shown: `doing` is what could not be done.
    pub fn fault(&self, doing: impl Into<String>) -> Fault {
        let kind = match self.code() {
            0 => FaultKind::Unreachable,
            _ if self.is_away() => FaultKind::Unreachable,
            401 | 403 => FaultKind::Refused,
            _ => FaultKind::Failed,
        };
        let fault = Fault::new(kind, doing).source(self);
        match self.code() {
            0 => fault.hint(
                "`kubectl cluster-info` of the same context asks the same server; the way to it is in your kubeconfig",
            ),
            _ if self.is_away() => fault.hint("it could not just then: run this again"),
            401 => fault.hint("log in again: the server does not know who you are"),
            _ => fault,
        }
    }
}

/// A server's words without those of its own machinery.
fn said(status: &Status) -> String {
    match status.message.is_empty() {
        true => format!("{} {}", status.code, status.reason),
        false => status.message.clone(),
    }
}

/// `conflict with "kubectl-scale" using apps/v1`
fn manager(message: &str) -> String {
    message.split('"').nth(1).unwrap_or(message).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_cannot_just_now_is_away() {
        let check = |code: u16, expected: bool| {
            let status: Status = serde_json::from_value(serde_json::json!({ "code": code })).unwrap();
            let refusal = Refusal::Status(Box::new(status));
            assert_eq!(refusal.is_away(), expected, "{code}");
            // Nothing is taken back of what nobody knows how it stands.
            assert_eq!(refusal.fault("it").kind == FaultKind::Unreachable, expected, "{code}");
        };
        check(500, true);
        check(503, true);
        check(429, true);
        check(409, false);
        check(403, false);
    }

    #[test]
    fn a_conflict_says_who_has_which_field() {
        let status: Status = serde_json::from_value(serde_json::json!({
            "status": "Failure", "code": 409, "reason": "Conflict", "message": "Apply failed with 1 conflict: …",
            "details": { "causes": [
                { "reason": "FieldManagerConflict", "message": "conflict with \"kubectl-scale\" using apps/v1", "field": ".spec.replicas" },
                { "reason": "Other", "message": "no conflict", "field": ".spec" },
            ] },
        }))
        .unwrap();
        let refusal = Refusal::Status(Box::new(status));
        let expected = Conflict { field: ".spec.replicas".to_owned(), manager: "kubectl-scale".to_owned() };
        assert_eq!(refusal.conflicts(), [expected]);
        assert_eq!(refusal.fault("it").kind, FaultKind::Failed);
    }
}
