//! A load: started, watched, stopped, reported.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use tokio::runtime::Builder;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::connect::Remote;
use crate::exchange::Requests;
use crate::expected::Expected;
use crate::plan::{Expect, MAX_CONNECTIONS, Pace, Plan, Protocol};
use crate::report::Report;
use crate::tally::{Kind, Tally};
use crate::worker::{self, Done, Setting};

/// Descriptors besides those of kept connections, per thread: of new connections that linger, timers, event queues.
const MARGIN: usize = 64;
const MAX_STREAMS: usize = 1_000;
/// Requests under way at once: each has a task and its buffers.
const MAX_AT_ONCE: usize = 1 << 17;
const MAX_THREADS: usize = 64;

/// A run that is under way on threads of its own. Dropping it stops it.
pub struct Load {
    plan: Arc<Plan>,
    address: String,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    /// Once the run has begun.
    clock: Arc<OnceLock<Clock>>,
    threads: Vec<JoinHandle<io::Result<(Done, Duration, Duration)>>>,
}

/// How far a run is, the warm-up included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    pub offered: u64,
    pub succeeded: u64,
    pub failed: u64,
}

/// Counters that are read while the run goes on.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) expected: Expected,
    offered: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

impl Shared {
    fn new(first: Expect) -> Self {
        let [offered, succeeded, failed] = [const { AtomicU64::new(0) }; 3];
        Self { expected: Expected::new(first), offered, succeeded, failed }
    }

    pub(crate) fn offered(&self) {
        self.offered.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self, succeeded: bool) {
        let counter = if succeeded { &self.succeeded } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Load {
    /// Resolves the target, and begins.
    ///
    /// # Errors
    /// A plan that cannot be carried out: an unknown host, nothing to trust, more connections than descriptors.
    pub fn start(plan: Plan) -> Result<Self, Fault> {
        check(&plan)?;
        let remote = Remote::of(&plan)?;
        let requests = Requests::of(&plan).map(Arc::new).ok_or_else(|| {
            Fault::new(FaultKind::Invalid, "the request cannot be written").hint("look at the URL and the headers")
        })?;
        let address = remote.address.to_string();
        let plan = Arc::new(plan);
        let shared = Arc::new(Shared::new(plan.expect.clone()));
        let (stop, stopped) = watch::channel(false);
        // All begin at once: a clock that ran while threads are made would make the first requests late.
        let (begin, clock) = (Arc::new(Barrier::new(plan.threads)), Arc::new(OnceLock::new()));
        let threads = (0..plan.threads).map(|index| {
            let (plan, remote, requests) = (Arc::clone(&plan), remote.clone(), Arc::clone(&requests));
            let (shared, stop) = (Arc::clone(&shared), stopped.clone());
            let (begin, clock) = (Arc::clone(&begin), Arc::clone(&clock));
            std::thread::Builder::new().name(format!("load-{index}")).spawn(move || {
                let runtime = Builder::new_current_thread().enable_all().build();
                begin.wait();
                let clock = *clock.get_or_init(Clock::start);
                let done =
                    runtime?.block_on(worker::run(Setting { plan, remote, requests, shared, stop, clock, index }))?;
                Ok((done, thread_time()?, clock.now()))
            })
        });
        let threads = threads.collect::<io::Result<Vec<_>>>().map_err(|error| cannot_run(&error))?;
        Ok(Self { plan, address, shared, stop, clock, threads })
    }

    pub fn progress(&self) -> Progress {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Progress {
            offered: load(&self.shared.offered),
            succeeded: load(&self.shared.succeeded),
            failed: load(&self.shared.failed),
        }
    }

    /// Of requests that are due from now on, answers must be one of these. One that was due before may be answered as was expected until
    /// now, or as it is from now on.
    pub fn expect(&self, any_of: Vec<Expect>) {
        let now = self.clock.get().map_or(Duration::ZERO, |clock| clock.now());
        self.shared.expected.change(now, any_of);
    }

    /// Whether all has ended.
    pub fn is_over(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Asks for nothing more; what is under way goes on to its answer or its timeout.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits for the end: of the plan, or after [`Self::stop`].
    ///
    /// # Panics
    /// If a thread of the load did.
    pub fn report(mut self) -> Result<Report, Fault> {
        let (mut sum, mut until, mut busy) = (Tally::new(self.plan.warm_up), Duration::ZERO, 0.0_f64);
        for thread in self.threads.drain(..) {
            let done = thread.join().expect("a thread of the load does not panic");
            let (done, processor, elapsed) = done.map_err(|error| cannot_run(&error))?;
            sum.merge(done.tally);
            until = until.max(done.until);
            busy = busy.max(processor.as_secs_f64() / elapsed.as_secs_f64().max(1e-9));
        }
        let measured = until.saturating_sub(self.plan.warm_up);
        Ok(Report::new(&self.plan, std::mem::take(&mut self.address), &sum, measured, busy))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load").field("address", &self.address).field("progress", &self.progress()).finish()
    }
}

/// Makes one connection as the plan would, and sends nothing on it. Gives the address.
///
/// # Errors
/// As [`Load::start`]; nobody listens there; the certificate is not trusted.
pub fn probe(plan: &Plan) -> Result<String, Fault> {
    check(plan)?;
    let remote = Remote::of(plan)?;
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| cannot_run(&error))?;
    let connected = runtime.block_on(async { tokio::time::timeout(plan.timeout, remote.connect()).await });
    let unreachable = || {
        let target = &plan.target;
        Fault::new(FaultKind::Unreachable, format!("{} does not answer at {}", target.authority(), remote.address))
    };
    match connected {
        Ok(Ok(_)) => Ok(remote.address.to_string()),
        Ok(Err(error)) => {
            let hint = if error.kind == Kind::Tls && error.detail.contains("corrupt message") {
                "does it speak TLS there? say http:// if it does not"
            } else if error.kind == Kind::Tls {
                "say the file of the CA that signed its certificate with --ca"
            } else if error.kind == Kind::Protocol {
                "leave out --http2"
            } else {
                "is it running, and is the port right?"
            };
            Err(unreachable().caused_by(error.detail).hint(hint))
        }
        Err(_) => Err(unreachable()
            .caused_by(format!("no connection within {} ms", plan.timeout.as_millis()))
            .hint("is it running, and is the port right?")),
    }
}

fn check(plan: &Plan) -> Result<(), Fault> {
    let wrong = |message: &str, hint: &str| Err(Fault::new(FaultKind::Invalid, message).hint(hint));
    if plan.duration.is_zero() {
        return wrong("a run of no time measures nothing", "say how long: --duration 10s");
    }
    if plan.requests.is_empty() || plan.requests.iter().all(|template| template.weight == 0) {
        return wrong("there is no request to send", "give one a weight");
    }
    if let Pace::Open { from, to, .. } = plan.pace
        && from.get() + to.get() <= 0.0
    {
        return wrong("a rate of nothing measures nothing", "say more: --rate 100/s");
    }
    if !(1..=MAX_CONNECTIONS).contains(&plan.connections) {
        return wrong("so many connections cannot be had", "from 1 to 20000 are possible: --connections 64");
    }
    let at_once = if plan.protocol == Protocol::Http2 { plan.connections.saturating_mul(plan.streams) } else { 0 };
    if !(1..=MAX_STREAMS).contains(&plan.streams) || at_once > MAX_AT_ONCE {
        return wrong(
            "so many requests at once cannot be had",
            "from 1 to 1000 streams, and with all connections 131072",
        );
    }
    if !(1..=MAX_THREADS).contains(&plan.threads) || plan.threads > plan.connections {
        return wrong("so many threads cannot be had", "from 1 to 64, and not more than connections");
    }
    descriptors(plan)
}

/// Makes room for the connections, as far as this process may.
fn descriptors(plan: &Plan) -> Result<(), Fault> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let failed = |error: nix::Error| cannot_run(&error);
    // A request with a connection of its own leaves a kept one idle beside it.
    let wanted = u64::try_from(2 * plan.connections + plan.threads * MARGIN).unwrap_or(u64::MAX);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    if soft >= wanted {
        return Ok(());
    }
    if hard < wanted {
        return Err(Fault::new(FaultKind::Invalid, format!("{} connections are too many here", plan.connections))
            .caused_by(format!("this process may have {hard} descriptors, and {wanted} are needed"))
            .hint("say fewer with --connections, or allow more: ulimit -n"));
    }
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).map_err(failed)
}

fn cannot_run(error: &(dyn std::error::Error + 'static)) -> Fault {
    Fault::new(FaultKind::Failed, "the load cannot be generated")
        .source(error)
        .hint("this machine is short of threads or descriptors")
}

/// Processor time of the calling thread.
fn thread_time() -> io::Result<Duration> {
    Ok(Duration::from(nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)?))
}
