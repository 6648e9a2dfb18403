//! A daemon that is away for a moment, replaced or started again, seen from elsewhere: it is waited for, and somebody is told.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bowline_core::fault::FaultKind;
use http::Method;
use tokio::time::Instant;

use crate::client::ClientError;
use crate::patience::Impatience;

/// How long a daemon may be away before a command gives up: whoever supervises it has started it again by then.
const LIMIT: Duration = Duration::from_secs(30);
/// The same on the daemon's machine, where nobody answers in its place: one that says that it leaves is replaced in a moment, or was told
/// to end.
const LIMIT_HERE: Duration = Duration::from_secs(3);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(250);

/// What a command waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// A daemon that is replaced or started again.
    Daemon,
    /// One that is there, and has as much to do as it takes.
    Turn,
}

/// Is called when a command begins to wait for a daemon: once, however many of its requests do.
#[derive(Clone)]
pub(crate) struct Told {
    tell: Arc<dyn Fn(Awaited) + Send + Sync>,
    is_told: Arc<AtomicBool>,
}

impl Told {
    pub(crate) fn new(tell: impl Fn(Awaited) + Send + Sync + 'static) -> Self {
        Self { tell: Arc::new(tell), is_told: Arc::default() }
    }

    fn begins(&self, what: Awaited) {
        if !self.is_told.swap(true, Ordering::Relaxed) {
            (self.tell)(what);
        }
    }

    /// Somebody has answered: another absence is told anew.
    fn ends(&self) {
        self.is_told.store(false, Ordering::Relaxed);
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told")
    }
}

/// Of one request: since when nobody was there.
#[derive(Debug)]
pub(crate) struct Absence<'a> {
    told: Option<&'a Told>,
    since: Option<Instant>,
}

impl<'a> Absence<'a> {
    /// `None`: nobody answers in a daemon's place, and only one that says that it leaves is waited for.
    pub(crate) fn new(told: Option<&'a Told>) -> Self {
        Self { told, since: None }
    }

    /// Whether to ask again, after a pause. What may have been done is not asked for twice, unless it is the same done twice.
    pub(crate) async fn is_waited_for(&mut self, error: &ClientError, (method, path): (&Method, &str)) -> bool {
        let once_more = is_repeatable(method, path).then_some(Awaited::Daemon);
        let awaited = match error {
            ClientError::NoDaemon { reached: Reached::Nobody, .. } | ClientError::NotBegun(_) => Some(Awaited::Daemon),
            ClientError::NoDaemon { reached: Reached::Busy, .. } => Some(Awaited::Turn),
            // One that ends has begun with it.
            ClientError::Refused(fault) if fault.kind == FaultKind::Unreachable => once_more,
            // Whoever said nothing for so long is not away.
            ClientError::Broken(error) if error.is::<Impatience>() => None,
            ClientError::NoDaemon { reached: Reached::Lost, .. } | ClientError::Broken(_) => once_more,
            // Between the one that has said that it leaves and the next one.
            ClientError::Unreachable { .. } | ClientError::Dial { .. } => self.since.map(|_| Awaited::Daemon),
            ClientError::NoDaemon { reached: Reached::Unknown, .. }
            | ClientError::Https { .. }
            | ClientError::Unreadable(_)
            | ClientError::Refused(_)
            | ClientError::Busy(_) => None,
        };
        let Some(awaited) = awaited else { return false };
        let is_waited_for = self.told.is_some() || self.since.is_some() || matches!(error, ClientError::NotBegun(_));
        if !is_waited_for {
            return false;
        }
        if let (Some(told), None) = (self.told, self.since) {
            told.begins(awaited);
        }
        let limit = if self.told.is_some() { LIMIT } else { LIMIT_HERE };
        if self.since.get_or_insert_with(Instant::now).elapsed() >= limit {
            return false;
        }
        tokio::time::sleep(PAUSE).await;
        true
    }

    /// Somebody has answered.
    pub(crate) fn is_over(&self) {
        if let Some(told) = self.told.filter(|_| self.since.is_some()) {
            told.ends();
        }
    }
}

/// What the edge says of a request that no daemon has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// No daemon was there: nothing was done.
    Nobody,
    /// One is there, and this was not passed on to it: nothing was done.
    Busy,
    /// A daemon had it, and ended before it answered.
    Lost,
    /// It was no edge of Bowline that answered, or it says something else.
    Unknown,
}

impl Reached {
    /// `code`: the field `X-Bowline-Error`.
    pub(crate) fn of(code: Option<&str>) -> Self {
        match code {
            Some("daemon-away") => Self::Nobody,
            Some("daemon-busy") => Self::Busy,
            Some("daemon-lost") => Self::Lost,
            Some(_) | None => Self::Unknown,
        }
    }
}

/// Looks, and what says by its digest what it is.
fn is_repeatable(method: &Method, path: &str) -> bool {
    *method == Method::GET || ["/v1/contents/", "/v1/sources/", "/v1/plans"].iter().any(|sent| path.starts_with(sent))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bowline_core::fault::Fault;

    use super::*;

    fn away(code: &str) -> ClientError {
        ClientError::NoDaemon { status: 503, said: String::new(), reached: Reached::of(Some(code)) }
    }

    /// What was told, in its order.
    fn told() -> (Told, Arc<Mutex<Vec<Awaited>>>) {
        let all = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&all);
        (Told::new(move |awaited| kept.lock().unwrap().push(awaited)), all)
    }

    const APPLY: (&Method, &str) = (&Method::POST, "/v1/apps");

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_is_away_is_waited_for_and_not_for_ever() {
        let (told, all) = told();
        let (mut absence, began) = (Absence::new(Some(&told)), Instant::now());
        while absence.is_waited_for(&away("daemon-away"), APPLY).await {}
        assert!((LIMIT..LIMIT + 2 * PAUSE).contains(&began.elapsed()), "{:?}", began.elapsed());
        assert_eq!(*all.lock().unwrap(), [Awaited::Daemon], "it is said once");
    }

    #[tokio::test(start_paused = true)]
    async fn many_requests_of_a_command_say_once_what_they_wait_for() {
        let (told, all) = told();
        let mut many: Vec<Absence<'_>> = (0..32).map(|_| Absence::new(Some(&told))).collect();
        for absence in &mut many {
            assert!(absence.is_waited_for(&away("daemon-busy"), APPLY).await);
        }
        many.iter().for_each(Absence::is_over);
        assert_eq!(*all.lock().unwrap(), [Awaited::Turn], "one that is busy is not away");
        let mut later = Absence::new(Some(&told));
        assert!(later.is_waited_for(&away("daemon-away"), APPLY).await);
        assert_eq!(*all.lock().unwrap(), [Awaited::Turn, Awaited::Daemon], "hours later it is news again");
    }

    #[tokio::test(start_paused = true)]
    async fn on_its_machine_a_daemon_that_leaves_is_waited_for_until_the_next_one_listens() {
        let request = (&Method::POST, "/v1/apps");
        let leaving = ClientError::NotBegun(Fault::new(FaultKind::Unreachable, "the daemon is about to exit"));
        let nobody = || ClientError::Unreachable { path: "api.sock".into(), source: std::io::Error::other("refused") };
        assert!(!Absence::new(None).is_waited_for(&nobody(), request).await, "there was none in the first place");
        let (mut absence, began) = (Absence::new(None), Instant::now());
        assert!(absence.is_waited_for(&leaving, request).await);
        while absence.is_waited_for(&nobody(), request).await {}
        assert!((LIMIT_HERE..LIMIT_HERE + 2 * PAUSE).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_is_the_same_done_twice_is_asked_for_again() {
        let check = async |error: ClientError, method: Method, path: &str, expected: bool| {
            let (told, _) = told();
            let again = Absence::new(Some(&told)).is_waited_for(&error, (&method, path)).await;
            assert!(!Absence::new(None).is_waited_for(&error, (&method, path)).await);
            assert_eq!(again, expected, "{error:?} {method} {path}");
        };
        let broken = || ClientError::Broken("cut".into());
        check(away("daemon-lost"), Method::GET, "/v1/status", true).await;
        check(away("daemon-lost"), Method::POST, "/v1/apps", false).await;
        check(away("daemon-busy"), Method::POST, "/v1/apps", true).await;
        check(away("starting"), Method::GET, "/v1/status", false).await;
        check(broken(), Method::GET, "/v1/status", true).await;
        check(broken(), Method::PUT, "/v1/contents/production/a/00", true).await;
        check(broken(), Method::POST, "/v1/apps/production/a/restart", false).await;
        check(broken(), Method::PUT, "/v1/secrets/production/a/key", false).await;
    }
}
