//! The certificate of the API's host where it is in files: no authority is asked for that host, whatever the files hold.

use std::sync::Arc;

use bowline_core::app::HostName;
use bowline_core::fault::Fault;
use bowline_core::route::{Certificate, EdgeDesired};
use bowline_core::time::Timestamp;

use super::effects::Now;
use super::{Loop, events};
use crate::certs::{self, LocalCa};
use crate::config::Outside;

/// What the files hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) host: HostName,
    /// The last that could be served. `None`: there was none, and the local CA's stands in.
    pub(crate) certificate: Option<Arc<Certificate>>,
    /// Why they hold none that can be served now.
    pub(crate) refused: Option<Fault>,
}

impl Given {
    /// `None`: no files are named. `served`: what the edge has served last, which goes on where they hold none that can be served; one of
    /// `ca` stood in for them, and is renewed like any other.
    pub(crate) fn of(way: &Outside, served: Option<&EdgeDesired>, ca: &LocalCa, now: Timestamp) -> Option<Self> {
        let last = || {
            let certificates = &served?.certificates;
            let last = certificates.get(&way.host).filter(|_| !ca.signed(certificates).contains(&way.host))?;
            certs::end(last).filter(|end| *end > now).map(|_| Arc::clone(last))
        };
        let certificate = match (&way.certificate, &way.refused) {
            (Some(certificate), _) => Some(Arc::new(certificate.clone())),
            (None, Some(_)) => last(),
            (None, None) => return None,
        };
        Some(Self { host: way.host.clone(), certificate, refused: way.refused.clone() })
    }

    /// When it ends, if it can be read.
    pub(crate) fn end(&self) -> Option<Timestamp> {
        certs::end(self.certificate.as_ref()?)
    }
}

impl Loop {
    /// The files of this host, if its certificate is in files.
    pub(crate) fn files_of(&self, host: &HostName) -> Option<&Given> {
        self.place.given.as_ref().filter(|given| given.host == *host)
    }

    /// The files have changed. A pair that cannot be served leaves the one before in its place.
    pub(crate) fn renewed(&mut self, renewed: Result<Certificate, Fault>, now: Now) {
        let Some(given) = &mut self.place.given else { return };
        let host = given.host.clone();
        let event = match renewed {
            Ok(certificate) => {
                (given.certificate, given.refused) = (Some(Arc::new(certificate)), None);
                tracing::info!(%host, "a renewed certificate is taken");
                events::renewed(&host, now.wall)
            }
            Err(fault) => {
                tracing::warn!(%host, error = %fault, causes = ?fault.causes, "a renewed certificate is refused");
                let event = events::not_renewed(&host, &fault, now.wall);
                given.refused = Some(fault);
                event
            }
        };
        self.record(vec![event]);
    }
}
