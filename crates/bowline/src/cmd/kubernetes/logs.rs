//! `bowline logs` of a cluster: what the pods of an app have written, by time.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Duration;

use bowline_api::wire::{LogLine, LogSource};
use bowline_core::fault::{Fault, FaultKind};
use bowline_kube::{Cluster, Owner, Refusal, look};
use futures_util::io::{AsyncBufRead, AsyncBufReadExt};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Place, only_app, owner};
use crate::args::Logs;
use crate::cmd::logs::print;
use crate::interrupts::INTERRUPTED;
use crate::ui::Ui;

/// Logs that are read at once.
const AT_ONCE: usize = 8;
/// How often pods that have come meanwhile are looked for.
const LOOK: Duration = Duration::from_secs(2);
/// A server may be away for so long while its logs are followed: one that is upgraded is.
const AWAY: Duration = Duration::from_secs(60);

pub(super) async fn run(args: Logs, place: Place<'_>, ui: &Ui) -> Result<ExitCode, Fault> {
    let unfit = [(args.release.is_some(), "--release"), (args.access, "--access")];
    if let Some((_, flag)) = unfit.into_iter().find(|(is_said, _)| *is_said) {
        return Err(Fault::new(FaultKind::Invalid, format!("{flag} is not for Kubernetes")).hint(
            "pods of past releases are gone, and access logs are those of the cluster's gateway or ingress controller",
        ));
    }
    let pattern = args.grep.as_deref().map(|pattern| {
        bowline_node::matcher(pattern)
            .map_err(|why| Fault::new(FaultKind::Invalid, "--grep is no regular expression").detail(why))
    });
    let cluster = place.join().await?;
    let app = match args.app {
        Some(app) => app,
        None => only_app(&cluster, &args.env, "logs APP").await?,
    };
    let (_, owner) = owner(&args.env, &app)?;
    let wanted = Wanted {
        cluster: &cluster,
        owner: &owner,
        // As objects are labelled: `postgres.db` is `postgres-db` there.
        service: args.service.as_ref().map(|service| service.replace('.', "-")),
        tail: args.tail,
        since: args.since,
    };
    let pattern = pattern.transpose()?;
    let show = |line: &LogLine| {
        if pattern.as_ref().is_none_or(|matches| matches(&line.text)) {
            print(line, None, ui);
        }
    };
    let shown = async {
        match args.follow {
            true => wanted.follow(show).await,
            false => wanted.all().await.map(|lines| {
                let first = args.tail.map_or(0, |tail| lines.len().saturating_sub(tail as usize));
                lines[first..].iter().for_each(show);
            }),
        }
    };
    tokio::select! {
        shown = shown => {
            shown.map_err(|refusal| refusal.fault(format!("the logs of {owner} cannot be read")))?;
            Ok(ExitCode::SUCCESS)
        }
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(INTERRUPTED)),
    }
}

struct Wanted<'a> {
    cluster: &'a Cluster,
    owner: &'a Owner,
    service: Option<String>,
    tail: Option<u32>,
    since: Option<Duration>,
}

/// One container of a pod.
type Source = (String, String);

impl Wanted<'_> {
    /// Those that have begun.
    async fn sources(&self) -> Result<BTreeSet<Source>, Refusal> {
        let query = format!("&labelSelector={}", self.owner.selector());
        let pods = self.cluster.list(&self.cluster.core("pods"), &query).await?;
        let mine =
            pods.iter().filter(|pod| self.service.as_ref().is_none_or(|service| look::component(pod) == *service));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let all = mine.flat_map(|pod| {
            let containers = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
            let has_begun =
                |one: &&Value| one["state"]["waiting"].is_null() || !one["lastState"]["terminated"].is_null();
            containers.filter(has_begun).map(move |one| (text(&pod["metadata"]["name"]), text(&one["name"])))
        });
        Ok(all.collect())
    }

    fn path(&self, (pod, container): &Source, more: &str) -> String {
        let tail = self.tail.map(|tail| format!("&tailLines={tail}")).unwrap_or_default();
        let since = self.since.map(|since| format!("&sinceSeconds={}", since.as_secs().max(1))).unwrap_or_default();
        self.cluster.core(&format!("pods/{pod}/log?container={container}&timestamps=true{tail}{since}{more}"))
    }

    /// What there is, in the order in which it was written.
    async fn all(&self) -> Result<Vec<LogLine>, Refusal> {
        let read = |source: Source| async move {
            match self.cluster.text(&self.path(&source, "")).await {
                Ok(text) => Ok(text.lines().map(|text| line(&source, text)).collect::<Vec<_>>()),
                // It has ended since.
                Err(refusal) if refusal.is_absent() || refusal.code() == 400 => Ok(Vec::new()),
                Err(refusal) => Err(refusal),
            }
        };
        let all: Vec<Vec<LogLine>> =
            stream::iter(self.sources().await?).map(read).buffered(AT_ONCE).try_collect().await?;
        let mut lines: Vec<LogLine> = all.into_iter().flatten().collect();
        lines.sort_by_key(|line| line.at);
        Ok(lines)
    }

    /// As it is written, also by pods that come later and containers that begin again.
    async fn follow(&self, show: impl Fn(&LogLine)) -> Result<(), Refusal> {
        let (lines, mut told) = mpsc::channel::<(Source, String)>(256);
        let mut followed: BTreeMap<Source, JoinHandle<()>> = BTreeMap::new();
        // When the last line of each was written.
        let mut last: BTreeMap<Source, String> = BTreeMap::new();
        let mut looks = tokio::time::interval(LOOK);
        let mut listed: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = looks.tick() => {
                    let sources = match self.sources().await {
                        Ok(sources) => sources,
                        Err(refusal) if is_borne(&refusal, listed.map(|at| at.elapsed())) => continue,
                        Err(refusal) => return Err(refusal),
                    };
                    listed = Some(Instant::now());
                    for source in sources {
                        if followed.get(&source).is_some_and(|reads| !reads.is_finished()) {
                            continue;
                        }
                        let path = match last.get(&source) {
                            Some(time) => self.after(&source, time),
                            None => self.path(&source, "&follow=true"),
                        };
                        match self.cluster.stream(&path).await {
                            Ok(log) => drop(followed.insert(source.clone(), tokio::spawn(read(source, log, lines.clone())))),
                            // It has ended since, has not begun, or is asked for again with the next look.
                            Err(refusal) if refusal.is_absent() || refusal.code() == 400 || refusal.is_away() => {}
                            Err(refusal) => return Err(refusal),
                        }
                    }
                }
                Some((source, text)) = told.recv() => {
                    let time = text.split_once(' ').map_or(text.as_str(), |(time, _)| time);
                    // A log that is taken up again begins with the line that was seen last.
                    if last.get(&source).is_none_or(|seen| seen.as_str() < time) {
                        show(&line(&source, &text));
                        last.insert(source, time.to_owned());
                    }
                }
            }
        }
    }

    fn after(&self, (pod, container): &Source, time: &str) -> String {
        let time = time.replace(':', "%3A").replace('+', "%2B");
        self.cluster.core(&format!("pods/{pod}/log?container={container}&timestamps=true&sinceTime={time}&follow=true"))
    }
}

/// Whether a look that failed is made up for by the next one. `listed`: since when none was answered; `None`: none ever was.
fn is_borne(refusal: &Refusal, listed: Option<Duration>) -> bool {
    refusal.is_away() && listed.is_some_and(|since| since < AWAY)
}

async fn read(source: Source, log: impl AsyncBufRead, lines: mpsc::Sender<(Source, String)>) {
    let mut log = std::pin::pin!(log);
    let mut bytes = Vec::new();
    while let Ok(1..) = log.read_until(b'\n', &mut bytes).await {
        // A byte that is no text is shown as such.
        let text = String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned();
        bytes.clear();
        if lines.send((source.clone(), text)).await.is_err() {
            return;
        }
    }
}

/// `2026-01-01T00:00:00.123456789Z text`
fn line((pod, container): &Source, text: &str) -> LogLine {
    let (time, text) = text.split_once(' ').unwrap_or((text, ""));
    let at = time.parse::<jiff::Timestamp>().map_or(0, |time| time.as_millisecond());
    LogLine {
        at: u64::try_from(at).unwrap_or_default(),
        // The engine does not say which stream it was.
        source: LogSource::Stdout,
        instance: Some(format!("{pod}/{container}")),
        text: text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_followed_while_a_server_is_upgraded() {
        let away = Refusal::Slow(Duration::from_secs(30));
        let check = |refusal: &Refusal, seconds: Option<u64>, expected: bool| {
            assert_eq!(is_borne(refusal, seconds.map(Duration::from_secs)), expected, "{refusal} {seconds:?}");
        };
        check(&away, Some(2), true);
        check(&away, Some(61), false);
        check(&away, None, false);
        check(&Refusal::Newer("it".to_owned()), Some(2), false);
    }
}
