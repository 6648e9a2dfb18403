//! What a request is answered with, and how a refusal becomes a status code.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bowline_api::{NOT_BEGUN, wire};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::AppKey;
use serde::Serialize;

use crate::config::Ended;

/// A fault with the status code it is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: RefusalReason,
    pub(crate) fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusalReason {
    /// By the kind of the fault.
    Fault,
    NotFound,
    /// Another change runs.
    Conflict,
    /// The store is refused, or the daemon is about to exit.
    Unavailable,
    /// The daemon is about to exit, and has not begun with it: the next one may be asked the same.
    Leaving,
    TooLarge,
    /// No token, or none that holds.
    Unauthenticated,
    /// Too many of those. In a second there may be room again, where nothing else is said.
    TooMany,
}

impl Refusal {
    pub(crate) fn not_found(fault: Fault) -> Self {
        Self { reason: RefusalReason::NotFound, fault }
    }

    pub(crate) fn unknown_app(key: &AppKey) -> Self {
        Self::not_found(
            Fault::new(FaultKind::Invalid, format!("there is no app {key}"))
                .hint("`bowline status` lists the apps; one of another environment wants `--env`"),
        )
    }

    pub(crate) fn conflict(fault: Fault) -> Self {
        Self { reason: RefusalReason::Conflict, fault }
    }

    pub(crate) fn unavailable(fault: Fault) -> Self {
        Self { reason: RefusalReason::Unavailable, fault }
    }

    /// Of a daemon that ends, to whoever asks for something that only one that goes on can do, and of which nothing was done.
    pub(crate) fn ending(how: Ended) -> Self {
        match how {
            Ended::LeftRunning | Ended::HandedOver(_) => Self::leaving(),
            // Nobody is meant to take its place.
            Ended::Stopped => {
                let fault = Fault::new(FaultKind::Unreachable, "the daemon is stopping");
                Self::unavailable(fault.hint("run the command again"))
            }
        }
    }

    pub(crate) fn leaving() -> Self {
        let fault = Fault::new(FaultKind::Unreachable, "the daemon is about to exit").hint("run the command again");
        Self { reason: RefusalReason::Leaving, fault }
    }

    fn status(&self) -> StatusCode {
        match self.reason {
            RefusalReason::NotFound => StatusCode::NOT_FOUND,
            RefusalReason::Conflict => StatusCode::CONFLICT,
            RefusalReason::Unavailable | RefusalReason::Leaving => StatusCode::SERVICE_UNAVAILABLE,
            RefusalReason::Unauthenticated => StatusCode::UNAUTHORIZED,
            RefusalReason::TooMany => StatusCode::TOO_MANY_REQUESTS,
            RefusalReason::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            RefusalReason::Fault => match self.fault.kind {
                FaultKind::Invalid => StatusCode::BAD_REQUEST,
                FaultKind::Refused => StatusCode::FORBIDDEN,
                FaultKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
                FaultKind::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
            },
        }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self { reason: RefusalReason::Fault, fault }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (is_too_many, is_leaving) = (self.reason == RefusalReason::TooMany, self.reason == RefusalReason::Leaving);
        let mut response = json(self.status(), &wire::Fault::from(self.fault));
        if is_too_many {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if is_leaving {
            response.headers_mut().insert(NOT_BEGUN, HeaderValue::from_static("1"));
        }
        response
    }
}

/// `value` as one JSON document.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    let text = serde_json::to_vec(value).expect("wire types have string keys and no failing serialisers");
    (status, [(header::CONTENT_TYPE, "application/json")], Body::from(text)).into_response()
}
