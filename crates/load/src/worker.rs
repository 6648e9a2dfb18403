//! One thread of a run: takes up what is due, and counts what became of it.

mod pool;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinSet, LocalSet, spawn_local, yield_now};
use tokio::time::timeout;

use crate::arrivals::{Arrival, Arrivals, Draw, Draws};
use crate::clock::{Alarm, Clock};
use crate::connect::{ConnectError, Remote};
use crate::exchange::{Answer, NoAnswer, Requests, exchange};
use crate::payload::Payload;
use crate::plan::{Pace, Plan};
use crate::run::Shared;
use crate::tally::{Kind, Outcome, Tally};
use pool::{Lease, Pool};

/// Requests that wait for a connection, at most, per thread; a further one is dropped at once.
const MAX_WAITING: usize = 1 << 17;
/// After so many requests that are due at once, connections get their turn.
const BATCH: u32 = 64;
/// How long a closed loop waits after a request without an answer: it would ask a server that is gone as fast as it can.
const PAUSE: Duration = Duration::from_millis(10);

/// So many connections may give a request back unsent before it counts as failed: a server that closes them all is no server.
const UNSENT: u32 = 16;

/// What the threads of a run have in common.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) plan: Arc<Plan>,
    pub(crate) remote: Remote,
    pub(crate) requests: Arc<Requests>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) clock: Clock,
    /// This one's number, from 0.
    pub(crate) index: usize,
}

/// What a thread came to.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) tally: Tally,
    /// When the schedule ended, or was ended.
    pub(crate) until: Duration,
}

/// Runs one thread's part of the plan to its end.
pub(crate) async fn run(setting: Setting) -> io::Result<Done> {
    let plan = Arc::clone(&setting.plan);
    let worker = Rc::new(Worker {
        pool: Pool::new(setting.remote.clone(), plan.connections_of(setting.index)),
        tally: RefCell::new(Tally::new(plan.warm_up)),
        waiting: RefCell::default(),
        busy: Cell::new(0),
        rest: Notify::new(),
        setting,
    });
    let set = LocalSet::new();
    let until = match plan.pace {
        Pace::Open { .. } => set.run_until(Rc::clone(&worker).open()).await?,
        Pace::Closed => set.run_until(Rc::clone(&worker).closed()).await?,
    };
    let tally = worker.tally.replace(Tally::new(Duration::ZERO));
    Ok(Done { tally, until })
}

struct Worker {
    setting: Setting,
    pool: Pool,
    tally: RefCell<Tally>,
    /// Due, and no connection is free for them.
    waiting: RefCell<VecDeque<Arrival>>,
    /// Requests under way.
    busy: Cell<usize>,
    /// Told when none is.
    rest: Notify,
}

impl Worker {
    async fn open(self: Rc<Self>) -> io::Result<Duration> {
        let Setting { plan, clock, index, .. } = &self.setting;
        let (threads, index) = (as_u64(plan.threads), as_u64(*index));
        let mut stop = self.setting.stop.clone();
        let alarm = Alarm::new(*clock)?;
        let mut at_once = 0;
        let mut until = plan.warm_up + plan.duration;
        for arrival in Arrivals::new(plan).filter(|arrival| arrival.number % threads == index) {
            if clock.now() < arrival.at {
                at_once = 0;
                tokio::select! {
                    reached = alarm.at(arrival.at) => reached?,
                    _ = stop.wait_for(|stop| *stop) => {}
                }
            }
            if *stop.borrow() {
                until = until.min(clock.now());
                break;
            }
            self.take_up(arrival);
            at_once += 1;
            if at_once % BATCH == 0 {
                yield_now().await;
            }
        }
        // The last gap belongs to the run.
        tokio::select! {
            reached = alarm.at(until) => reached?,
            _ = stop.wait_for(|stop| *stop) => until = until.min(clock.now()),
        }
        while self.busy.get() > 0 {
            self.rest.notified().await;
        }
        Ok(until)
    }

    fn take_up(self: &Rc<Self>, arrival: Arrival) {
        let Setting { plan, clock, shared, index, .. } = &self.setting;
        self.tally.borrow_mut().taken_up(arrival.at, clock.now());
        shared.offered();
        if self.busy.get() < plan.slots(*index) {
            self.busy.set(self.busy.get() + 1);
            spawn_local(Rc::clone(self).serve(arrival));
        } else if self.waiting.borrow().len() < MAX_WAITING {
            self.waiting.borrow_mut().push_back(arrival);
        } else {
            self.drop_request(arrival);
        }
    }

    /// This request, and then those that wait.
    async fn serve(self: Rc<Self>, first: Arrival) {
        let mut next = Some(first);
        while let Some(arrival) = next {
            self.request(arrival.draw, arrival.number, arrival.at).await;
            next = self.next_waiting();
        }
        self.busy.set(self.busy.get() - 1);
        if self.busy.get() == 0 {
            self.rest.notify_one();
        }
    }

    fn next_waiting(&self) -> Option<Arrival> {
        let Setting { plan, clock, stop, .. } = &self.setting;
        loop {
            let next = self.waiting.borrow_mut().pop_front()?;
            // A run that was ended asks for nothing more.
            if clock.now().saturating_sub(next.at) <= plan.timeout && !*stop.borrow() {
                return Some(next);
            }
            self.drop_request(next);
        }
    }

    fn drop_request(&self, arrival: Arrival) {
        let mut outcome = Outcome::begun(arrival.at, self.setting.clock.now());
        outcome.began = None;
        // It would have waited for as long as anything may, and more.
        outcome.ended = outcome.ended.max(arrival.at + self.setting.plan.timeout);
        let detail = "all connections were busy".to_owned();
        self.count(Outcome { failure: Some((Kind::Dropped, detail)), ..outcome });
    }

    async fn closed(self: Rc<Self>) -> io::Result<Duration> {
        let Setting { plan, clock, index, .. } = &self.setting;
        let mut stop = self.setting.stop.clone();
        let alarm = Alarm::new(*clock)?;
        let mut loops = JoinSet::new();
        for slot in 0..plan.slots(*index) {
            // Each draws for itself, whatever the others wait for.
            let seed = plan.seed ^ as_u64(*index) << 32 ^ as_u64(slot) << 1;
            loops.spawn_local(Rc::clone(&self).circle(Draws::new(plan, seed), as_u64(slot)));
        }
        let end = plan.warm_up + plan.duration;
        tokio::select! {
            reached = alarm.at(end) => reached?,
            _ = stop.wait_for(|stop| *stop) => {}
        }
        let until = end.min(clock.now());
        loops.shutdown().await;
        self.tally.borrow_mut().cut();
        Ok(until)
    }

    async fn circle(self: Rc<Self>, mut draws: Draws, mut number: u64) {
        let Setting { plan, clock, shared, index, .. } = &self.setting;
        loop {
            let due = clock.now();
            self.tally.borrow_mut().taken_up(due, due);
            shared.offered();
            if !self.request(draws.draw(), number, due).await {
                tokio::time::sleep(PAUSE).await;
            }
            number = number.wrapping_add(as_u64(plan.slots(*index)));
        }
    }

    /// Whether there was an answer.
    async fn request(&self, draw: Draw, number: u64, due: Duration) -> bool {
        let Setting { plan, clock, requests, .. } = &self.setting;
        let mut outcome = Outcome::begun(due, clock.now());
        let request = requests.build(draw, number);
        let sent = request.body().left();
        let attempt = self.attempt(draw, request, &mut outcome);
        let result = timeout(plan.timeout, attempt).await;
        outcome.ended = clock.now();
        let mut used = None;
        outcome.failure = match result {
            Ok(Ok((answer, lease))) => {
                (outcome.status, outcome.received, outcome.sent) = (Some(answer.status), answer.received, sent);
                used = Some(lease);
                answer.wrong
            }
            Ok(Err(failure)) => Some(failure),
            Err(_) => Some((Kind::Timeout, format!("no whole answer within {} ms", plan.timeout.as_millis()))),
        };
        let answered = outcome.status.is_some();
        self.count(outcome);
        if let Some(lease) = used {
            // It is dropped if the server does not take the rest of the request.
            let _ = timeout(plan.timeout, self.pool.give_back(lease)).await;
        }
        answered
    }

    async fn attempt(
        &self,
        draw: Draw,
        mut request: Request<Payload>,
        outcome: &mut Outcome,
    ) -> Result<(Answer, Lease), (Kind, String)> {
        let Setting { shared, clock, .. } = &self.setting;
        for _ in 0..UNSENT {
            let mut lease = match draw.fresh {
                false => self.pool.kept().await.map_err(words)?,
                true => {
                    let began = clock.now();
                    let lease = self.pool.fresh().await.map_err(words)?;
                    outcome.connecting = Some(clock.now().saturating_sub(began));
                    lease
                }
            };
            match exchange(lease.connection(), request, &shared.expected, outcome.due).await {
                Ok(answer) => return Ok((answer, lease)),
                Err(NoAnswer::Failed(kind, detail)) => {
                    self.pool.discard(&lease);
                    return Err((kind, detail));
                }
                Err(NoAnswer::Unsent(_)) if lease.is_new() => break,
                // The server had closed it while it was not used: nothing was sent, so another one is taken.
                Err(NoAnswer::Unsent(back)) => {
                    self.pool.discard(&lease);
                    request = *back;
                }
            }
        }
        Err((Kind::Closed, "the connection was closed before it was used".to_owned()))
    }

    fn count(&self, outcome: Outcome) {
        self.setting.shared.ended(outcome.failure.is_none());
        self.tally.borrow_mut().ended(outcome);
    }
}

fn words(error: ConnectError) -> (Kind, String) {
    (error.kind, error.detail)
}

fn as_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
