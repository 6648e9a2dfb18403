//! One connection of the load: a socket, TLS where it is wanted, and what is said over it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind};
use socket2::{Domain, Socket, Type};

use super::echo::{self, Echo};
use super::http1::{Exchange, Http1};
use super::http2::{Fields, Http2};
use super::{HOST, Tally};

/// What is said over a connection.
#[derive(Debug, Clone)]
pub(crate) enum Talk {
    /// One request after the other.
    Kept(Arc<Exchange>),
    /// One request.
    Fresh(Arc<Exchange>),
    /// HTTP/2 with so many requests at once.
    Streams(Fields, usize),
    /// WebSocket messages to and fro; these are the fields of the request that opens it.
    Echo(String),
}

/// What a client needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// To be told when there is more, or room for more.
    Events { waits_to_write: bool },
    /// What was asked is answered, and nothing else is asked over it.
    Rest,
    /// What was asked is answered, and the connection is for nothing else.
    Another,
}

#[derive(Debug)]
pub(super) struct Client {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    out: Vec<u8>,
    talk: Speaker,
    is_fresh: bool,
}

#[derive(Debug)]
enum Speaker {
    Http1(Http1),
    Http2(Http2),
    Echo(Echo),
}

/// Connects from one of several addresses of this machine, so that ports are not used up by connections that have ended.
pub(super) fn connect(to: SocketAddr, number: u64) -> anyhow::Result<TcpStream> {
    const ADDRESSES: u64 = 64;
    let last = u8::try_from(2 + number % ADDRESSES).expect("few addresses");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)).into())?;
    socket.connect(&to.into()).context("the proxy cannot be connected to")?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

impl Client {
    pub(super) fn new(stream: TcpStream, tls: Option<&Arc<ClientConfig>>, talk: &Talk) -> anyhow::Result<Self> {
        let tls = tls.map(|config| {
            let name = ServerName::try_from(HOST).expect("a name");
            ClientConnection::new(Arc::clone(config), name).map(Box::new)
        });
        let mut out = Vec::new();
        let speaker = match talk {
            Talk::Kept(exchange) | Talk::Fresh(exchange) => Speaker::Http1(Http1::new(Arc::clone(exchange))),
            Talk::Streams(fields, streams) => {
                let mut http = Http2::new(fields.clone(), *streams);
                http.begin(Instant::now(), &mut out);
                Speaker::Http2(http)
            }
            Talk::Echo(fields) => {
                out.extend_from_slice(format!("GET /echo HTTP/1.1\r\n{fields}{}\r\n", echo::fields()).as_bytes());
                Speaker::Echo(Echo::new())
            }
        };
        let is_fresh = matches!(talk, Talk::Fresh(_));
        Ok(Self { stream, tls: tls.transpose()?, out, talk: speaker, is_fresh })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Asks where nothing is being asked. `since`: when it was due.
    pub(super) fn ask(&mut self, since: Instant) -> anyhow::Result<Need> {
        if let Speaker::Http1(http) = &mut self.talk {
            http.ask(since, &mut self.out);
        }
        self.flush()
    }

    /// Reads what has come, then writes as far as the socket goes. `closed`: whether requests follow each other at once.
    pub(super) fn ready(&mut self, closed: bool, scratch: &mut [u8], tally: &mut Tally) -> anyhow::Result<Need> {
        if self.tls.is_some() {
            self.read_tls(scratch, tally)?
        } else {
            self.read_plain(scratch, tally)?
        }
        let is_answered = match &mut self.talk {
            Speaker::Http1(http) => http.take_answered(),
            Speaker::Http2(_) | Speaker::Echo(_) => false,
        };
        match is_answered {
            true if self.is_fresh => {
                self.count_handshake(tally);
                Ok(Need::Another)
            }
            true if closed => self.ask(Instant::now()),
            true => Ok(Need::Rest),
            false => self.flush(),
        }
    }

    fn count_handshake(&self, tally: &mut Tally) {
        if let Some(tls) = &self.tls {
            tally.handshake(tls.handshake_kind() == Some(HandshakeKind::Resumed));
        }
    }

    fn read_plain(&mut self, scratch: &mut [u8], tally: &mut Tally) -> anyhow::Result<()> {
        loop {
            match self.stream.read(scratch) {
                Ok(0) => bail!("the proxy closed a connection"),
                Ok(n) => {
                    self.heard(&scratch[..n], tally)?;
                    if n < scratch.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn read_tls(&mut self, scratch: &mut [u8], tally: &mut Tally) -> anyhow::Result<()> {
        loop {
            let tls = self.tls.as_mut().context("no TLS")?;
            let came = match tls.read_tls(&mut self.stream) {
                Ok(0) => bail!("the proxy closed a connection"),
                Ok(came) => came,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let state = tls.process_new_packets()?;
            let mut plain = state.plaintext_bytes_to_read();
            while plain > 0 {
                let tls = self.tls.as_mut().context("no TLS")?;
                let n = tls.reader().read(scratch)?;
                ensure!(n > 0, "less than was said to be there");
                plain -= n;
                self.heard(&scratch[..n], tally)?;
            }
            // What is read at once by the library: less is all there was.
            if came < 4096 {
                return Ok(());
            }
        }
    }

    fn heard(&mut self, bytes: &[u8], tally: &mut Tally) -> anyhow::Result<()> {
        let now = Instant::now();
        match &mut self.talk {
            Speaker::Http1(http) => http.heard(bytes, now, tally),
            Speaker::Http2(http) => http.heard(bytes, now, &mut self.out, tally),
            Speaker::Echo(echo) => echo.heard(bytes, now, &mut self.out, tally),
        }
    }

    fn flush(&mut self) -> anyhow::Result<Need> {
        match self.tls.as_deref_mut() {
            Some(tls) => {
                if !self.out.is_empty() {
                    tls.writer().write_all(&self.out)?;
                    self.out.clear();
                }
                while tls.wants_write() {
                    match tls.write_tls(&mut self.stream) {
                        Ok(_) => {}
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            return Ok(Need::Events { waits_to_write: true });
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                Ok(Need::Events { waits_to_write: false })
            }
            None => self.flush_plain(),
        }
    }

    fn flush_plain(&mut self) -> anyhow::Result<Need> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(sent) if sent == self.out.len() => self.out.clear(),
                Ok(sent) => drop(self.out.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok(Need::Events { waits_to_write: true });
                }
                Err(error) => return Err(error.into()),
            }
        }
        let Speaker::Http1(http) = &mut self.talk else { return Ok(Need::Events { waits_to_write: false }) };
        http.body.write_to(&mut self.stream)?;
        Ok(Need::Events { waits_to_write: !http.body.is_sent() })
    }

    /// The socket alone, without what TLS keeps.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }
}
