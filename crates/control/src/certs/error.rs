//! Why there is no certificate, and what an operator does next.

use std::path::{Path, PathBuf};

use bowline_core::app::HostName;
use bowline_core::fault::{Fault, FaultKind};

use crate::secrets::{KeyError, SealError};

#[derive(Debug, thiserror::Error)]
pub enum CertError {
    #[error("cannot {what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the local CA is incomplete: {missing} is missing")]
    Incomplete { missing: PathBuf },
    #[error("the local CA is damaged: {path}: {what}")]
    Damaged { path: PathBuf, what: &'static str },
    #[error("the local CA's key is not kept to its owner: {path} has mode {mode:04o}")]
    Mode { path: PathBuf, mode: u32 },
    #[error("the local CA has expired: {path}")]
    Expired { path: PathBuf },
    #[error("a certificate needs at least one host")]
    NoHosts,
    #[error("{0} cannot be in a certificate")]
    Host(HostName),
    #[error("the certificate could not be made")]
    Make(#[source] rcgen::Error),
    #[error("the system gives no random numbers")]
    Random,
    #[error("the certificate could not be sealed")]
    Seal(#[source] SealError),
    #[error("{path} would be longer than the {limit} bytes that are read of it")]
    TooLong { path: PathBuf, limit: u64 },
}

impl CertError {
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Incomplete { missing: path } | Self::Damaged { path, .. } | Self::Expired { path } => {
                let dir = path.parent().unwrap_or(path).display();
                Some(format!(
                    "restore {dir} from a backup; or start a new CA: bowline trust remove, move {dir} away, \
                     bowline trust install"
                ))
            }
            Self::Mode { path, .. } => Some(format!(
                "whoever could read it can pose as your local sites: chmod 0600 {}, and in doubt start a new CA",
                path.display()
            )),
            Self::Io { .. }
            | Self::NoHosts
            | Self::Host(_)
            | Self::Make(_)
            | Self::Random
            | Self::Seal(_)
            | Self::TooLong { .. } => None,
        }
    }
}

impl From<KeyError> for CertError {
    fn from(_: KeyError) -> Self {
        Self::Random
    }
}

impl From<CertError> for Fault {
    fn from(error: CertError) -> Self {
        let kind = match &error {
            CertError::Mode { .. } => FaultKind::Refused,
            CertError::NoHosts | CertError::Host(_) => FaultKind::Invalid,
            CertError::Io { .. }
            | CertError::Incomplete { .. }
            | CertError::Damaged { .. }
            | CertError::Expired { .. }
            | CertError::Make(_)
            | CertError::Random
            | CertError::Seal(_)
            | CertError::TooLong { .. } => FaultKind::Failed,
        };
        let mut fault = Self::new(kind, error.to_string());
        if let Some(cause) = std::error::Error::source(&error) {
            fault = fault.source(cause);
        }
        match error.hint() {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    }
}
