//! Without a runtime: one epoll loop, and for what passes one read and one write.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// What is read at once.
const CHUNK: usize = 64 << 10;

const LISTENER: u64 = u64::MAX;

/// The client's socket and the one to the app.
type Side = usize;
const SIDES: [Side; 2] = [0, 1];

pub(super) fn serve(listener: &TcpListener, upstream: SocketAddr) -> anyhow::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut pairs = Pairs { epoll, pairs: Vec::new(), free: Vec::new(), ended: Vec::new(), scratch: vec![0; CHUNK] };
    let mut events = [EpollEvent::empty(); 256];
    loop {
        let ready = match pairs.epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => 0,
            ready => ready?,
        };
        for event in &events[..ready] {
            match event.data() {
                LISTENER => pairs.accept(listener, upstream)?,
                data => pairs.ready(usize::try_from(data)?, event.events())?,
            }
        }
        pairs.free.append(&mut pairs.ended);
    }
}

struct Pairs {
    epoll: Epoll,
    pairs: Vec<Option<Pair>>,
    free: Vec<usize>,
    /// Free from the next turn on: what this one still has for them is not for who comes after them.
    ended: Vec<usize>,
    scratch: Vec<u8>,
}

impl Pairs {
    fn accept(&mut self, listener: &TcpListener, upstream: SocketAddr) -> anyhow::Result<()> {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            // Another thread was first.
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let pair = Pair::new([client, TcpStream::connect(upstream)?])?;
        let index = self.free.pop().unwrap_or_else(|| {
            self.pairs.push(None);
            self.pairs.len() - 1
        });
        for side in SIDES {
            self.epoll.add(&pair.sockets[side], EpollEvent::new(pair.watched[side], data(index, side)?))?;
        }
        self.pairs[index] = Some(pair);
        Ok(())
    }

    fn ready(&mut self, data: usize, flags: EpollFlags) -> anyhow::Result<()> {
        let (index, side) = (data / 2, data % 2);
        // An event of one that has ended in the same turn finds nobody.
        let Some(pair) = self.pairs[index].as_mut() else { return Ok(()) };
        // Whoever gives up its connection ends the pair, and nothing else.
        let goes_on = !flags.contains(EpollFlags::EPOLLERR) && pair.moved(side, &mut self.scratch).is_ok();
        if goes_on && pair.ways.iter().any(|way| !way.has_ended) {
            return pair.watch(&self.epoll, index);
        }
        self.pairs[index] = None;
        self.ended.push(index);
        Ok(())
    }
}

fn data(index: usize, side: Side) -> anyhow::Result<u64> {
    Ok(u64::try_from(2 * index + side)?)
}

struct Pair {
    sockets: [TcpStream; 2],
    /// From the socket at the same place to the other.
    ways: [Way; 2],
    watched: [EpollFlags; 2],
}

#[derive(Default)]
struct Way {
    /// What was read and could not be written. Nothing is read until it is gone.
    waiting: Vec<u8>,
    has_ended: bool,
}

impl Pair {
    fn new(sockets: [TcpStream; 2]) -> std::io::Result<Self> {
        for socket in &sockets {
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
        }
        Ok(Self { sockets, ways: <[Way; 2]>::default(), watched: [EpollFlags::EPOLLIN; 2] })
    }

    /// What a socket that is ready takes, and what it has.
    fn moved(&mut self, side: Side, scratch: &mut [u8]) -> std::io::Result<()> {
        let other = 1 - side;
        if !self.ways[other].waiting.is_empty() {
            let waiting = std::mem::take(&mut self.ways[other].waiting);
            self.send(other, &waiting)?;
        }
        if self.ways[side].has_ended || !self.ways[side].waiting.is_empty() {
            return Ok(());
        }
        match self.sockets[side].read(scratch) {
            Ok(0) => {
                self.ways[side].has_ended = true;
                self.sockets[other].shutdown(Shutdown::Write)
            }
            Ok(n) => self.send(side, &scratch[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What was read from a side, to the other.
    fn send(&mut self, side: Side, bytes: &[u8]) -> std::io::Result<()> {
        let sent = match self.sockets[1 - side].write(bytes) {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if sent < bytes.len() {
            self.ways[side].waiting.extend_from_slice(&bytes[sent..]);
        }
        Ok(())
    }

    /// Asks for the events that it can do something with.
    fn watch(&mut self, epoll: &Epoll, index: usize) -> anyhow::Result<()> {
        for side in SIDES {
            let mut wanted = EpollFlags::empty();
            wanted.set(EpollFlags::EPOLLIN, !self.ways[side].has_ended && self.ways[side].waiting.is_empty());
            wanted.set(EpollFlags::EPOLLOUT, !self.ways[1 - side].waiting.is_empty());
            if wanted != self.watched[side] {
                self.watched[side] = wanted;
                epoll.modify(&self.sockets[side], &mut EpollEvent::new(wanted, data(index, side)?))?;
            }
        }
        Ok(())
    }
}
