//! Metrics, logs and traces to an OpenTelemetry collector, over OTLP/HTTP in protobuf.
//!
//! Each signal has a task, an outbox and a connection of its own: one that is not taken holds up no other. Logs and traces are read from the
//! files that shims and the edge write anyway, so that neither knows of a collector.
//!
//! Architecture invariant: nobody waits for a collector. What finds no room is dropped and counted.

mod attribute;
mod collector;
mod logs;
mod mark;
mod metrics;
mod outbox;
mod send;
mod spans;
mod tally;

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bowline_core::fault::Fault;
use bowline_core::log::{Fed, LogFeed, LogLine};
use bowline_core::route::EdgeDesired;
use bowline_core::time::{Mono, Timestamp};
use bowline_core::units::Share;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use self::attribute::Origin;
use self::collector::Collector;
use self::mark::Marks;
use self::metrics::Beginnings;
use self::outbox::{Answer, Batch, Bounds, Effect, Outbox, Reason};
use self::send::Connection;
use self::spans::Routes;
use crate::config::{ControlConfig, FeedCall, Links};
use crate::http::scrape::Metrics;
use crate::reconcile::effects::Input;
use crate::run::wall;
pub(crate) use outbox::Health;
pub(crate) use tally::{Counts, Tally};

/// What waits of a signal: in all, less than what a busy daemon uses anyway.
const BOUNDS: Bounds = Bounds { batches: 512, bytes: 8 << 20 };

/// Metrics say how much there is in all: of those that were not taken, few say more than the newest.
const BOUNDS_OF_METRICS: Bounds = Bounds { batches: 20, bytes: 8 << 20 };

/// While others wait, lines are gathered until there are so many bytes of them: of a quiet server, each look at its files finds one.
const GATHERED: usize = 64 << 10;

/// Pieces of a log on their way, each of 64 KiB at most.
const PIECES: usize = 4;

/// How long the loop may take to say what only it knows; metrics then go without.
const VITALS: Duration = Duration::from_secs(5);

/// At the end, how long lines are waited for that were written just before: longer than files are looked at apart.
const LAST_LINES: Duration = Duration::from_millis(700);

/// And how long what waits may take to be sent.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// Where telemetry goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Base URL.
    pub endpoint: String,
    /// File with the fields of each request.
    pub headers: Option<PathBuf>,
    /// PEM file of those who are trusted to have signed its certificate; `None`: the machine's.
    pub ca: Option<PathBuf>,
    /// How often metrics are sent.
    pub interval: Duration,
    /// Of the traces that begin at the edge, those that are recorded.
    pub sample: Share,
}

impl Settings {
    /// Whether they name a collector that could be sent to, whatever their files say.
    ///
    /// # Errors
    /// They do not.
    pub fn check(&self) -> Result<(), Fault> {
        Collector::new(self).map(drop)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signal {
    Metrics,
    Logs,
    Traces,
}

impl Signal {
    pub(crate) const ALL: [Self; 3] = [Self::Metrics, Self::Logs, Self::Traces];

    /// As the path of a request ends.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Logs => "logs",
            Self::Traces => "traces",
        }
    }
}

/// Nanoseconds since 1970.
fn nanos(at: Timestamp) -> u64 {
    at.0.saturating_mul(1_000_000)
}

/// The tasks that send.
#[derive(Debug)]
pub(crate) struct Exporter {
    end: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    marks: Arc<Marks>,
    keeping: JoinHandle<()>,
}

impl Exporter {
    /// `None`: telemetry goes nowhere.
    ///
    /// # Errors
    /// The settings name no collector that could be sent to.
    pub(crate) async fn start(
        config: &ControlConfig,
        links: &Links,
        metrics: &Metrics,
        inputs: &mpsc::Sender<Input>,
    ) -> Result<Option<Self>, Fault> {
        let (Some(settings), Some(tally)) = (&config.otlp, &metrics.world.exported) else { return Ok(None) };
        let collector = Arc::new(Collector::new(settings)?);
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let origin = Origin {
            host: host.unwrap_or_else(|| "localhost".to_owned()),
            version: metrics.world.version.clone(),
            state: config.state_dir.display().to_string(),
        };
        let marks = Arc::new(Marks::open(&config.state_dir));
        let (end, ends) = watch::channel(false);
        let mut tasks = Vec::new();
        for signal in Signal::ALL {
            let source = match signal {
                Signal::Metrics => Source::metrics(metrics.clone(), settings.interval),
                Signal::Logs => Source::Lines { lines: feed(&links.feeds, Fed::Output, &marks).await, spans: None },
                Signal::Traces => {
                    let spans = Some((links.edge_desired.subscribe(), Routes::default()));
                    Source::Lines { lines: feed(&links.feeds, Fed::Spans, &marks).await, spans }
                }
            };
            let bounds = if signal == Signal::Metrics { BOUNDS_OF_METRICS } else { BOUNDS };
            let exporting = Exporting {
                signal,
                source,
                gathered: Vec::new(),
                outbox: Outbox::new(bounds),
                connection: Some(Connection::new(Arc::clone(&collector), signal)),
                collector: Arc::clone(&collector),
                sending: JoinSet::new(),
                tally: Arc::clone(tally),
                inputs: inputs.clone(),
                origin: origin.clone(),
                marks: Arc::clone(&marks),
                zero: Instant::now(),
                last_call: None,
            };
            tasks.push(tokio::spawn(exporting.run(ends.clone())));
        }
        let keeping = tokio::spawn(mark::keep(Arc::clone(&marks)));
        Ok(Some(Self { end, tasks, marks, keeping }))
    }

    /// Sends what there is, for a bounded time.
    pub(crate) async fn end(self) {
        self.end.send_replace(true);
        // Each bounds itself; here they are bounded whatever happens.
        let by = tokio::time::Instant::now() + 2 * (LAST_LINES + LAST_REQUESTS);
        for task in self.tasks {
            let abort = task.abort_handle();
            if tokio::time::timeout_at(by, task).await.is_err() {
                abort.abort();
            }
        }
        self.keeping.abort();
        self.marks.save().await;
    }
}

async fn feed(feeds: &mpsc::Sender<FeedCall>, what: Fed, marks: &Marks) -> mpsc::Receiver<Vec<LogLine>> {
    let (out, lines) = mpsc::channel(PIECES);
    let since = marks.since(what, wall());
    // The node is gone only when the daemon ends.
    let _ = feeds.send((LogFeed { since, what }, out)).await;
    lines
}

/// Where a signal comes from.
#[derive(Debug)]
enum Source {
    Metrics {
        metrics: Metrics,
        ticks: tokio::time::Interval,
        beginnings: Beginnings,
    },
    /// `spans`: they are such, of these routes.
    Lines {
        lines: mpsc::Receiver<Vec<LogLine>>,
        spans: Option<(watch::Receiver<Arc<EdgeDesired>>, Routes)>,
    },
}

#[derive(Debug)]
enum Due {
    Metrics,
    Lines(Vec<LogLine>),
    /// The node has ended.
    Over,
}

impl Source {
    fn metrics(metrics: Metrics, interval: Duration) -> Self {
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self::Metrics { metrics, ticks, beginnings: Beginnings::default() }
    }

    /// What it gives up when it is not waited for any more is nothing.
    async fn due(&mut self) -> Due {
        match self {
            Self::Metrics { ticks, .. } => {
                ticks.tick().await;
                Due::Metrics
            }
            Self::Lines { lines, .. } => lines.recv().await.map_or(Due::Over, Due::Lines),
        }
    }
}

/// One signal on its way.
struct Exporting {
    signal: Signal,
    source: Source,
    /// Read, and not offered yet.
    gathered: Vec<LogLine>,
    outbox: Outbox,
    collector: Arc<Collector>,
    /// `None`: with the request that is under way.
    connection: Option<Connection>,
    sending: JoinSet<(Connection, Answer)>,
    tally: Arc<Tally>,
    inputs: mpsc::Sender<Input>,
    origin: Origin,
    marks: Arc<Marks>,
    zero: Instant,
    /// The daemon ends, and lines are waited for until then.
    last_call: Option<Instant>,
}

impl Exporting {
    async fn run(mut self, mut ends: watch::Receiver<bool>) {
        let (mut is_over, mut is_ending) = (false, false);
        while !self.outbox.is_over() {
            let deadline = self.outbox.next_deadline().map(|at| self.zero + at.0);
            let input = tokio::select! {
                due = self.source.due(), if !is_over && !self.holds_back() => match due {
                    Due::Over => { is_over = true; continue }
                    Due::Metrics => self.batch_of_metrics(true).await.map(outbox::Input::Offered),
                    Due::Lines(lines) => { self.gathered.extend(lines); None }
                },
                Some(done) = self.sending.join_next(), if !self.sending.is_empty() => Some(self.answered(done)),
                () = sleep_until(deadline) => Some(outbox::Input::Tick),
                () = sleep_until(self.last_call), if self.last_call.is_some() => {
                    (self.last_call, is_over) = (None, true);
                    let last = self.batch_of_lines();
                    self.take(last.map(outbox::Input::Offered)).await;
                    Some(outbox::Input::End(self.now() + LAST_REQUESTS))
                }
                // A sender that is gone says the same.
                _ = ends.changed(), if !is_ending => {
                    is_ending = true;
                    let wait = match self.source {
                        // The loop has ended: what it alone knows is as it was.
                        Source::Metrics { .. } => {
                            let last = self.batch_of_metrics(false).await;
                            self.take(last.map(outbox::Input::Offered)).await;
                            Duration::ZERO
                        }
                        Source::Lines { .. } => LAST_LINES,
                    };
                    self.last_call = Some(Instant::now() + wait);
                    None
                }
            };
            self.take(input).await;
            let gathered: usize = self.gathered.iter().map(|line| size_of::<LogLine>() + line.text.len()).sum();
            if self.outbox.is_idle() || gathered >= GATHERED {
                let batch = self.batch_of_lines();
                self.take(batch.map(outbox::Input::Offered)).await;
            }
        }
    }

    /// The files keep what is not read yet, as long as the collector takes what is.
    fn holds_back(&self) -> bool {
        matches!(self.source, Source::Lines { .. }) && self.outbox.has_enough()
    }

    fn now(&self) -> Mono {
        Mono(self.zero.elapsed())
    }

    fn answered(&mut self, done: Result<(Connection, Answer), tokio::task::JoinError>) -> outbox::Input {
        let (connection, answer) = done.unwrap_or_else(|error| {
            tracing::error!(%error, "a request to the collector broke off");
            let connection = Connection::new(Arc::clone(&self.collector), self.signal);
            (connection, Answer::Later { why: "a request broke off".to_owned(), after: None })
        });
        self.connection = Some(connection);
        outbox::Input::Answered(answer)
    }

    async fn take(&mut self, input: Option<outbox::Input>) {
        let Some(input) = input else { return };
        // Random numbers only spread tries.
        let random = getrandom::u64().unwrap_or(0);
        let effects = self.outbox.handle(input, self.now(), random);
        let signal = self.signal;
        for effect in effects {
            match effect {
                Effect::Send(body) => {
                    if let Some(mut connection) = self.connection.take() {
                        self.sending.spawn(async move {
                            let answer = connection.post(body).await;
                            (connection, answer)
                        });
                    }
                }
                Effect::Exported(items) => self.tally.count(signal, |counts| {
                    counts.requests += 1;
                    counts.exported += items;
                }),
                Effect::Failed => self.tally.count(signal, |counts| counts.failures += 1),
                Effect::Dropped(reason, items) => {
                    if reason == Reason::Ended {
                        let signal = signal.as_str();
                        tracing::warn!(signal, items, "the daemon ends before the collector has taken all");
                    }
                    self.tally.count(signal, |counts| *counts.dropped.entry(reason).or_default() += items);
                }
                Effect::Settled(newest) => self.settled(newest),
                // The loop is gone only when the daemon ends.
                Effect::Became(health) => drop(self.inputs.send(Input::Collector(signal, health)).await),
            }
        }
        let waiting = self.outbox.bytes() as u64;
        self.tally.count(signal, |counts| counts.waiting = waiting);
    }

    fn settled(&self, newest: Timestamp) {
        match self.signal {
            Signal::Metrics => {}
            Signal::Logs => self.marks.note(Fed::Output, newest, wall()),
            Signal::Traces => self.marks.note(Fed::Spans, newest, wall()),
        }
    }

    /// `asks`: the loop what only it knows.
    async fn batch_of_metrics(&mut self, asks: bool) -> Option<Batch> {
        let Source::Metrics { metrics, beginnings, .. } = &mut self.source else { return None };
        if asks && !matches!(tokio::time::timeout(VITALS, metrics.look()).await, Ok(Ok(()))) {
            tracing::debug!("metrics are sent without what only the loop knows");
        }
        let (request, items) = metrics::request(&metrics.world.families(), beginnings, &self.origin, wall());
        Some(Batch { body: compressed(&request), items, newest: None })
    }

    /// Of those that are gathered.
    fn batch_of_lines(&mut self) -> Option<Batch> {
        let lines = std::mem::take(&mut self.gathered);
        let newest = Some(lines.iter().map(|line| line.at).max()?);
        let Source::Lines { spans, .. } = &mut self.source else { return None };
        let (body, items) = match spans {
            None => {
                let (request, items) = logs::request(lines, &self.origin, wall());
                (compressed(&request), items)
            }
            Some((edge, routes)) => {
                if edge.has_changed().unwrap_or(false) || routes.is_empty() {
                    *routes = spans::routes(&edge.borrow_and_update().table);
                }
                let (request, items) = spans::request(&lines, routes, &self.origin);
                (compressed(&request), items)
            }
        };
        (items > 0).then_some(Batch { body, items, newest })
    }
}

fn compressed(message: &impl Message) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&message.encode_to_vec()).expect("memory takes what is written");
    encoder.finish().expect("memory takes what is written").into()
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
