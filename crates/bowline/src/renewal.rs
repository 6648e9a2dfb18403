//! Certificates in files that others renew: taken when they have changed, without a restart.
//!
//! The files are looked at, not watched: what renews them may replace links, folders or a whole file system.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use bowline_core::fault::Fault;
use bowline_core::route::Certificate;
use bowline_spec::server::CertificateFiles;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::settings::{self, Api};

/// How often the files are looked at. A chain and its key change one after the other: they are read when they were the same for so
/// long.
const LOOK: Duration = Duration::from_secs(5);

/// What the files of the API's certificate come to hold, each time that it is something else than what is served, or why it cannot be.
pub(crate) fn watch(api: Option<&Api>) -> mpsc::Receiver<Result<Certificate, Fault>> {
    let (told, renewals) = mpsc::channel(1);
    if let Some((files, served)) = api.and_then(|api| Some((api.files.clone()?, api.certificate.clone()))) {
        tokio::spawn(follow(files, served, told));
    }
    renewals
}

/// `served`: what the files held last that can be served, if that is what they held when the daemon started.
async fn follow(
    files: CertificateFiles,
    mut served: Option<Certificate>,
    told: mpsc::Sender<Result<Certificate, Fault>>,
) {
    let mut refused = served.is_none();
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut judged) = (None, None);
    loop {
        ticks.tick().await;
        let looked = files.clone();
        // A disk that hangs keeps this task waiting alone.
        let Ok(now) = tokio::task::spawn_blocking(move || stamps(&looked)).await else { return };
        let rests = seen.replace(now) == Some(now);
        if !rests || judged == Some(now) {
            continue;
        }
        judged = Some(now);
        let read = files.clone();
        let Ok(renewed) = tokio::task::spawn_blocking(move || settings::certificate(&read)).await else { return };
        match &renewed {
            // Touched.
            Ok(certificate) if !refused && served.as_ref() == Some(certificate) => continue,
            Ok(certificate) => served = Some(certificate.clone()),
            Err(_) => {}
        }
        refused = renewed.is_err();
        if told.send(renewed).await.is_err() {
            return;
        }
    }
}

/// What changes when a file does, or another one takes its place; `None`: it is not there.
type Stamp = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

fn stamps(files: &CertificateFiles) -> [Stamp; 2] {
    let stamp = |meta: Metadata| {
        (meta.dev(), meta.ino(), meta.len(), (meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()))
    };
    [&files.chain, &files.key].map(|file| std::fs::metadata(file).ok().map(stamp))
}
