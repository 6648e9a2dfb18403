//! Load and upstream in one thread, so that the proxy between is what saturates: one epoll loop over raw sockets, without allocation for
//! each request. How busy this side was is told with every figure, and every answer is looked at: a wrong one ends the round.

mod client;
mod echo;
mod http1;
mod http2;
mod pattern;
mod tally;
mod tls;
mod upstream;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use rustls::ClientConfig;

pub(crate) use client::Talk;
use client::{Client, Need};
pub(crate) use http1::{Answer, Exchange};
pub(crate) use http2::Fields;
pub(crate) use tally::{Round, Tally};
pub(crate) use tls::{Sessions, config as tls_config};
use upstream::{After, Upstream};
pub(crate) use upstream::{LARGE, SMALL};

use crate::core_time::CoreTime;

/// The host that all proxies serve.
pub(crate) const HOST: &str = "bench.localhost";

/// The core of the proxy, and of this process.
pub(crate) const PROXY_CORE: usize = 0;
pub(crate) const OWN_CORE: usize = 1;

/// Of a round, what passes before anything is counted: connections are made, and memory is touched.
const WARM_UP: u32 = 5;

/// How long a turn waits at most, in milliseconds.
const TURN: u16 = 50;

const LISTENER: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

/// What is asked of a proxy.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) talk: Talk,
    pub(crate) connections: usize,
    /// Requests a second that are due, whatever becomes of those before; `None`: each follows the answer to the one before.
    pub(crate) rate: Option<f64>,
}

enum Socket {
    Upstream(Upstream),
    Client(Client),
}

struct Slot {
    socket: Socket,
    waits_to_write: bool,
}

/// The upstream's socket and whatever is connected to it.
pub(crate) struct Generator {
    listener: TcpListener,
    epoll: Epoll,
    timer: TimerFd,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    scratch: Vec<u8>,
    connected: u64,
    /// Of all rounds, what was not counted in them included.
    answered: u64,
    pace: Pace,
}

/// When requests are due, and who is free to send them.
#[derive(Debug, Default)]
struct Pace {
    /// Between two requests; `None`: a closed loop.
    every: Option<Duration>,
    next: Option<Instant>,
    resting: Vec<usize>,
    /// Due, and nobody was free.
    late: VecDeque<Instant>,
}

impl Generator {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        listener.listen(4096)?;
        let listener = TcpListener::from(listener);
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        let scratch = vec![0; pattern::CHUNK];
        let (slots, free) = (Vec::new(), Vec::new());
        Ok(Self { listener, epoll, timer, slots, free, scratch, connected: 0, answered: 0, pace: Pace::default() })
    }

    pub(crate) fn upstream(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Answers that clients have had since this began: of rounds also what passed before they counted.
    pub(crate) fn answered(&self) -> u64 {
        self.answered
    }

    /// Answers what comes, until something is done; that is asked each few milliseconds.
    pub(crate) fn serve_until(&mut self, mut done: impl FnMut() -> bool, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        while !done() {
            ensure!(Instant::now() < deadline, "not ready within {} s", limit.as_secs());
            self.turn(None, &mut Tally::default(), 2)?;
        }
        Ok(())
    }

    /// Answers what comes while another thread does this.
    pub(crate) fn beside<R: Send>(&mut self, limit: Duration, what: impl FnOnce() -> R + Send) -> anyhow::Result<R> {
        std::thread::scope(|scope| {
            let other = scope.spawn(what);
            self.serve_until(|| other.is_finished(), limit)?;
            other.join().map_err(|_| anyhow::anyhow!("the thread beside the generator panicked"))
        })
    }

    /// Loads a proxy until the time is over, and looks at each answer. A round in which one was wrong is no round.
    pub(crate) fn run(&mut self, load: &Load, time: Duration) -> anyhow::Result<Round> {
        let round = self.round(load, time);
        self.forget_clients();
        round
    }

    fn round(&mut self, load: &Load, time: Duration) -> anyhow::Result<Round> {
        self.pace = Pace { every: load.rate.map(|rate| Duration::from_secs_f64(1.0 / rate)), ..Pace::default() };
        let mut tally = Tally::default();
        for _ in 0..load.connections {
            self.open(load)?;
        }
        self.pace.next = self.pace.every.map(|_| Instant::now());
        let began = Instant::now();
        self.turns(load, &mut tally, began + time / WARM_UP)?;
        self.answered += tally.answers();
        tally = Tally::default();
        let (began, before) = (Instant::now(), [CoreTime::of(PROXY_CORE)?, CoreTime::of(OWN_CORE)?]);
        self.turns(load, &mut tally, began + time)?;
        let seconds = began.elapsed().as_secs_f64();
        let [proxy, own] = [CoreTime::of(PROXY_CORE)?.since(&before[0]), CoreTime::of(OWN_CORE)?.since(&before[1])];
        self.answered += tally.answers();
        let waiting = self.pace.late.len();
        ensure!(waiting <= load.connections, "{waiting} requests are still to be sent: the pace was too fast");
        tally.into_round(seconds, proxy, own.as_secs_f64() / seconds)
    }

    fn turns(&mut self, load: &Load, tally: &mut Tally, until: Instant) -> anyhow::Result<()> {
        while Instant::now() < until {
            self.turn(Some(load), tally, TURN)?;
            if self.pace.every.is_some() {
                self.keep_pace(tally)?;
            }
        }
        Ok(())
    }

    /// Opens connections on each of which one request is answered, and keeps them all.
    pub(crate) fn hold(&mut self, load: &Load, count: usize, limit: Duration) -> anyhow::Result<Vec<TcpStream>> {
        /// Of connections that are being opened.
        const AT_ONCE: usize = 32;
        let held = self.open_held(load, count, AT_ONCE, limit);
        self.forget_clients();
        held
    }

    fn open_held(
        &mut self,
        load: &Load,
        count: usize,
        at_once: usize,
        limit: Duration,
    ) -> anyhow::Result<Vec<TcpStream>> {
        let deadline = Instant::now() + limit;
        // Whoever has its answer rests.
        self.pace = Pace { every: Some(limit), ..Pace::default() };
        let (mut held, mut tally, mut opened) = (Vec::with_capacity(count), Tally::default(), 0);
        while held.len() < count {
            ensure!(Instant::now() < deadline, "{} of {count} connections within {} s", held.len(), limit.as_secs());
            while opened < count && opened - held.len() < at_once {
                let index = self.open(load)?;
                self.pace.resting.retain(|resting| *resting != index);
                self.ask(index, Instant::now())?;
                opened += 1;
            }
            self.turn(Some(load), &mut tally, TURN)?;
            for index in std::mem::take(&mut self.pace.resting) {
                self.free.push(index);
                if let Some(Slot { socket: Socket::Client(client), .. }) = self.slots[index].take() {
                    self.epoll.delete(client.stream())?;
                    held.push(client.into_stream());
                }
            }
        }
        Ok(held)
    }

    /// One more connection; where requests follow each other at once, or are one, with the first.
    fn open(&mut self, load: &Load) -> anyhow::Result<usize> {
        self.connected += 1;
        let client = Client::new(client::connect(load.address, self.connected)?, load.tls.as_ref(), &load.talk)?;
        let index = self.add(Socket::Client(client))?;
        if self.pace.every.is_some() {
            self.pace.resting.push(index);
        } else {
            self.ask(index, Instant::now())?;
        }
        Ok(index)
    }

    fn ask(&mut self, index: usize, since: Instant) -> anyhow::Result<()> {
        let Some(Slot { socket: Socket::Client(client), .. }) = &mut self.slots[index] else { return Ok(()) };
        match client.ask(since)? {
            Need::Events { waits_to_write } => self.watch(index, waits_to_write),
            Need::Rest | Need::Another => Ok(()),
        }
    }

    fn add(&mut self, socket: Socket) -> anyhow::Result<usize> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let stream = match &socket {
            Socket::Upstream(upstream) => upstream.stream().as_fd(),
            Socket::Client(client) => client.stream().as_fd(),
        };
        self.epoll.add(stream, EpollEvent::new(EpollFlags::EPOLLIN, u64::try_from(index)?))?;
        self.slots[index] = Some(Slot { socket, waits_to_write: false });
        Ok(index)
    }

    fn watch(&mut self, index: usize, waits_to_write: bool) -> anyhow::Result<()> {
        let Some(slot) = self.slots[index].as_mut().filter(|slot| slot.waits_to_write != waits_to_write) else {
            return Ok(());
        };
        slot.waits_to_write = waits_to_write;
        let flags = if waits_to_write { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
        let stream = match &slot.socket {
            Socket::Upstream(upstream) => upstream.stream(),
            Socket::Client(client) => client.stream(),
        };
        Ok(self.epoll.modify(stream, &mut EpollEvent::new(flags, u64::try_from(index)?))?)
    }

    fn remove(&mut self, index: usize) {
        if self.slots[index].take().is_some() {
            self.free.push(index);
        }
    }

    fn forget_clients(&mut self) {
        for index in 0..self.slots.len() {
            if matches!(&self.slots[index], Some(Slot { socket: Socket::Client(_), .. })) {
                self.remove(index);
            }
        }
        self.pace = Pace::default();
    }

    fn turn(&mut self, load: Option<&Load>, tally: &mut Tally, wait_ms: u16) -> anyhow::Result<()> {
        let mut events = [EpollEvent::empty(); 256];
        let ready = match self.epoll.wait(&mut events, EpollTimeout::from(wait_ms)) {
            Err(Errno::EINTR) => 0,
            ready => ready?,
        };
        for event in &events[..ready] {
            match event.data() {
                LISTENER => self.accept()?,
                // It is only there to end the wait, and set anew when the next request is due.
                TIMER => {
                    let _ = self.timer.wait();
                }
                index => self.ready(usize::try_from(index)?, load, tally)?,
            }
        }
        Ok(())
    }

    fn ready(&mut self, index: usize, load: Option<&Load>, tally: &mut Tally) -> anyhow::Result<()> {
        // An event of one that was removed in the same turn finds nobody, or one that has nothing to do.
        let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else { return Ok(()) };
        match &mut slot.socket {
            Socket::Upstream(upstream) => match upstream.ready(&mut self.scratch, &mut tally.taken)? {
                After::Open { waits_to_write } => self.watch(index, waits_to_write),
                After::Closed => {
                    self.remove(index);
                    Ok(())
                }
            },
            Socket::Client(client) => match client.ready(self.pace.every.is_none(), &mut self.scratch, tally)? {
                Need::Events { waits_to_write } => self.watch(index, waits_to_write),
                Need::Rest => {
                    self.pace.resting.push(index);
                    Ok(())
                }
                Need::Another => {
                    self.remove(index);
                    self.open(load.context("nobody to connect to")?).map(drop)
                }
            },
        }
    }

    /// Sends what is due, and sets the timer to when the next one is.
    fn keep_pace(&mut self, tally: &mut Tally) -> anyhow::Result<()> {
        let (Some(every), Some(mut next)) = (self.pace.every, self.pace.next) else { return Ok(()) };
        let now = Instant::now();
        while next <= now {
            self.pace.late.push_back(next);
            tally.due += 1;
            next += every;
        }
        self.pace.next = Some(next);
        while let Some(index) = self.pace.resting.pop() {
            let Some(due) = self.pace.late.pop_front() else {
                self.pace.resting.push(index);
                break;
            };
            self.ask(index, due)?;
        }
        let wait = next.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        Ok(self.timer.set(Expiration::OneShot(wait.into()), TimerSetTimeFlags::empty())?)
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    self.add(Socket::Upstream(Upstream::new(stream)))?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
