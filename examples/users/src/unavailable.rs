//! Why the database gives no answer, in a word for dashboards and a sentence for people.

use std::error::Error;

use deadpool_postgres::{PoolError, TimeoutType};
use tokio_postgres::error::SqlState;

/// Each of them can pass without a restart of the service, so the client is asked to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unavailable {
    #[error("the database cannot be reached")]
    Unreachable,
    #[error("the database does not answer in time")]
    Timeout,
    #[error("all connections to the database are in use")]
    Busy,
    #[error("the database is starting or stopping")]
    Starting,
    #[error("the database does not accept user or password")]
    Password,
    #[error("the database's certificate cannot be verified, or it speaks no TLS")]
    Tls,
    #[error("the database has no table of users yet")]
    Schema,
    #[error("the database refuses the query")]
    Refused,
}

impl Unavailable {
    /// Label of the metric, and of the answer.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Unreachable => "database_unreachable",
            Self::Timeout => "database_timeout",
            Self::Busy => "database_busy",
            Self::Starting => "database_starting",
            Self::Password => "database_password",
            Self::Tls => "database_tls",
            Self::Schema => "database_schema",
            Self::Refused => "database_refused",
        }
    }

    pub(crate) fn of(error: &PoolError) -> Self {
        match error {
            PoolError::Timeout(TimeoutType::Wait) => Self::Busy,
            PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle) => Self::Timeout,
            PoolError::Backend(error) => Self::of_query(error),
            PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => Self::Unreachable,
        }
    }

    pub(crate) fn of_query(error: &tokio_postgres::Error) -> Self {
        match error.code() {
            Some(code) => Self::of_code(code),
            None if is_tls(error) => Self::Tls,
            None => Self::Unreachable,
        }
    }

    fn of_code(code: &SqlState) -> Self {
        match *code {
            SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => Self::Password,
            SqlState::TOO_MANY_CONNECTIONS | SqlState::CONFIGURATION_LIMIT_EXCEEDED => Self::Busy,
            SqlState::CANNOT_CONNECT_NOW | SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN => Self::Starting,
            SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_COLUMN => Self::Schema,
            SqlState::QUERY_CANCELED | SqlState::LOCK_NOT_AVAILABLE => Self::Timeout,
            _ => Self::Refused,
        }
    }
}

/// Whether the connection that this came over is of no more use, and another one may do better.
pub(crate) fn is_lost(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => matches!(*code, SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN),
        None => error.is_closed() || causes(error).any(|cause| cause.is::<std::io::Error>()),
    }
}

/// The driver does not tell its kinds of errors apart but by their text.
fn is_tls(error: &tokio_postgres::Error) -> bool {
    error.to_string().starts_with("error performing TLS handshake")
}

fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// The whole chain on one line, for the log.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut chain = String::new();
    for cause in causes(error).map(ToString::to_string) {
        // Some errors repeat their source, some do not.
        if !chain.ends_with(&cause) {
            let colon = if chain.is_empty() { "" } else { ": " };
            chain = format!("{chain}{colon}{cause}");
        }
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_the_server_have_reasons() {
        let check = |code: &str, expected: &str| {
            assert_eq!(Unavailable::of_code(&SqlState::from_code(code)).reason(), expected, "{code}");
        };
        check("28P01", "database_password");
        check("53300", "database_busy");
        check("57P03", "database_starting");
        check("57P01", "database_starting");
        check("42P01", "database_schema");
        check("57014", "database_timeout");
        check("42501", "database_refused");
        check("3D000", "database_refused");
    }
}
