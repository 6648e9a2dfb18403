//! The table as a worker looks it up: compiled once, where it arrives; only hosts that changed are compiled again.

mod compiler;
mod uses;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bowline_core::app::{BodyLimit, PathPrefix};
use bowline_core::id::{AppKey, Generation, ReleaseNumber, ServiceName};
use bowline_core::resource::data::MAX_ARCHIVE;
use bowline_core::route::{CHALLENGE_PATH, Cohort, PoolId};
use bowline_core::units::Bytes;
use tokio::sync::Notify;

use crate::balance::Endpoint;
use crate::by_name::ByName;
use crate::files::Folder;
use crate::places::Places;
use crate::policy::{Guard, Networks};
use crate::trace::Sampling;
pub(crate) use compiler::Compiler;

/// How long the daemon may take, and say nothing: logs and changes are followed, and jobs waited for. It ends by itself what it does
/// not want to go on, and a request without a token at once.
const API_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// How long whoever asks the daemon may leave what it says unread.
const API_READING: Duration = Duration::from_secs(30);

/// The same for whom it has let in: a person who scrolls back in a log. The daemon gives as long.
pub(crate) const API_RESTING: Duration = Duration::from_secs(10 * 60);

/// What fills a volume is the largest that the daemon takes. It bounds each by itself, and by what there is room for.
const API_BODY: BodyLimit = BodyLimit(Bytes(MAX_ARCHIVE));

/// A whole table. Shared by the workers, never changed; what is the same in the next one is shared by both.
#[derive(Debug, Clone, Default)]
pub(crate) struct Routes {
    pub(crate) generation: Option<Generation>,
    exact: ByName<Arc<Host>>,
    /// `*.example.com` under `example.com`.
    wildcard: ByName<Arc<Host>>,
    pub(crate) trusted: Arc<Networks>,
    /// Connections of `trusted` begin with a PROXY header.
    pub(crate) proxied: bool,
    /// By host, the token that an authority asks for over plain HTTP, and the answer.
    challenges: HashMap<Box<str>, (Box<str>, Arc<str>)>,
    /// An instance is drained.
    leaving: bool,
    /// Counts the tables that let in others than the one before: who is in looks again whether it would still be let in.
    pub(crate) admission: u32,
    /// Of what traces the edge is a span.
    pub(crate) sampling: Sampling,
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) https: bool,
    rules: Vec<Arc<Route>>,
}

/// One rule.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) prefix: PathPrefix,
    pub(crate) strip: bool,
    pub(crate) target: Target,
    /// What does not come over HTTPS is sent there.
    pub(crate) https_only: bool,
    /// Answers are compressed for whoever takes it.
    pub(crate) compress: bool,
    /// `Strict-Transport-Security` of its answers.
    pub(crate) hsts: Option<String>,
    /// `None`: everyone gets in.
    pub(crate) guard: Option<Box<Guard>>,
    pub(crate) body: BodyLimit,
    pub(crate) timeout: Duration,
    pub(crate) idle: Duration,
    /// How long a client may read nothing of an answer that waits for it, whatever else moves.
    pub(crate) reading: Duration,
    /// `None`: the number of instances behind it does not change with the load.
    pub(crate) counting: Option<Counting>,
    /// The series of what has no release: redirects, refusals. `None`: of no app.
    pub(crate) labels: Option<LabelId>,
    /// All series that it counts in are kept for as long as somebody has it.
    pub(crate) series: Vec<(LabelId, Arc<Labels>)>,
    /// `"app":"…","env":"…","route":"…"` for the access log.
    pub(crate) log: String,
}

impl Route {
    /// One of those that it is forwarded to, by its position.
    pub(crate) fn backend(&self, position: Option<usize>) -> Option<&Backend> {
        self.backends()?.get(position?)
    }

    /// `None`: it is not forwarded to instances.
    pub(crate) fn backends(&self) -> Option<&[Backend]> {
        match &self.target {
            Target::Forward(backends) => Some(backends),
            Target::Files { .. } | Target::Redirect(_) | Target::Deny | Target::Api { .. } => None,
        }
    }

    /// What finds no instance is held.
    pub(crate) fn holds(&self) -> bool {
        self.counting.as_ref().is_some_and(|counting| counting.held)
    }

    fn is_guarded(&self) -> bool {
        self.guard.is_some() || matches!(self.target, Target::Deny)
    }
}

/// How requests for a service are counted whose number of instances changes with the load.
#[derive(Debug)]
pub(crate) struct Counting {
    pub(crate) labels: LabelId,
    /// What finds no instance is held.
    pub(crate) held: bool,
    /// Told when somebody waits.
    pub(crate) news: Arc<Notify>,
}

#[derive(Debug)]
pub(crate) enum Target {
    Forward(Vec<Backend>),
    Files {
        folder: Arc<Folder>,
        release: ReleaseNumber,
        labels: LabelId,
        log: String,
    },
    Redirect(String),
    Deny,
    /// The daemon, on this socket.
    Api {
        socket: PathBuf,
        places: Arc<Places>,
    },
}

/// The instances of one release.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) weight: u8,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// The number, as `x-bowline-release` says it.
    pub(crate) release: String,
    pub(crate) cohort: Cohort,
    /// A rollout goes by what it answers.
    pub(crate) judged: bool,
    pub(crate) labels: LabelId,
    /// `"service":"…","release":N` for the access log.
    pub(crate) log: String,
}

impl Backend {
    /// Whether it has an endpoint that is none of these.
    pub(crate) fn has_untried(&self, tried: &[u32]) -> bool {
        self.endpoints.iter().any(|endpoint| !tried.contains(&endpoint.serial))
    }
}

#[cfg(test)]
impl Backend {
    pub(crate) fn for_test(release: ReleaseNumber, weight: u8, endpoints: Vec<Arc<Endpoint>>) -> Self {
        let (cohort, judged) = (Cohort::Whole, false);
        Self { weight, endpoints, release: release.to_string(), cohort, judged, labels: LabelId(0), log: String::new() }
    }
}

/// What a lookup found.
#[derive(Debug)]
pub(crate) enum Lookup<'r> {
    NoHost,
    /// The host is known, but no rule matches the path.
    NoRule,
    Route(&'r Arc<Route>),
}

impl Routes {
    /// The first rule that matches, a guarded one also where an app may take the path for one of its own: no spelling
    /// leads past it. `host`: lower case, without port and trailing dot. `path`: canonical.
    pub(crate) fn lookup(&self, host: &str, path: &str) -> Lookup<'_> {
        let Some(host) = self.host(host) else { return Lookup::NoHost };
        let applies = |rule: &&Arc<Route>| match rule.is_guarded() {
            true => rule.prefix.covers(path),
            false => rule.prefix.matches(path),
        };
        host.rules.iter().find(applies).map_or(Lookup::NoRule, Lookup::Route)
    }

    /// An exact name before a wildcard.
    pub(crate) fn host(&self, name: &str) -> Option<&Arc<Host>> {
        self.exact.get(name).or_else(|| self.wildcard.get(name.split_once('.')?.1))
    }

    /// What an authority is answered that asks whether this host leads here.
    pub(crate) fn challenge(&self, host: &str, path: &str) -> Option<&Arc<str>> {
        if self.challenges.is_empty() {
            return None;
        }
        let asked = path.strip_prefix(CHALLENGE_PATH)?;
        self.challenges.get(host).filter(|(token, _)| **token == *asked).map(|(_, answer)| answer)
    }

    pub(crate) fn has_leaving(&self) -> bool {
        self.leaving
    }

    /// No table was given yet.
    pub(crate) fn is_initial(&self) -> bool {
        self.generation.is_none()
    }
}

/// Stands for the labels of a series but method and status; see [`Labels`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LabelId(pub(crate) u32);

/// The labels of a series that a route determines.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Labels {
    pub(crate) key: AppKey,
    pub(crate) service: Option<ServiceName>,
    pub(crate) release: Option<ReleaseNumber>,
    pub(crate) cohort: Cohort,
    pub(crate) prefix: PathPrefix,
}

impl Labels {
    /// `None`: what no pool answered.
    pub(crate) fn pool(&self) -> Option<PoolId> {
        let (service, release) = (self.service.clone()?, self.release?);
        Some(PoolId { key: self.key.clone(), service, release, cohort: self.cohort })
    }
}
