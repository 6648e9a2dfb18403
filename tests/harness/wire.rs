//! A client of HTTP/1.1 that sends the bytes it is given, over TCP or TLS, and reads whole answers.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{Domain, Protocol, Socket, Type};

/// How long a connection may take.
const CONNECTED: Duration = Duration::from_secs(5);

/// How long whoever is asked may say nothing.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What nobody sends on purpose.
const LARGEST_HEAD: usize = 64 << 10;

/// Close, two bytes: 1001, going away (RFC 6455, 5.5.1 and 7.4.1).
pub const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

/// One connection.
#[derive(Debug)]
pub struct Wire {
    stream: Stream,
    buffer: Vec<u8>,
    ended: bool,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// One response as it came.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    /// In order, names as they came.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection ended before the body did.
    pub cut: bool,
    /// The statuses of what came before it.
    pub interim: Vec<u16>,
}

impl Answer {
    /// The first of this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.fields, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the server said that it closes the connection.
    pub fn closes(&self) -> bool {
        self.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// The first field of this name.
pub fn field<'f>(fields: &'f [(String, String)], name: &str) -> Option<&'f str> {
    fields.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// The lines of a head, without the empty one at its end: the first, and the fields.
pub fn parse_head(head: &str) -> (String, Vec<(String, String)>) {
    let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default().to_owned();
    let pairs = lines.filter_map(|line| line.split_once(':'));
    (first, pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}

impl Wire {
    pub fn connect(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, CONNECTED)?;
        Self::over(stream)
    }

    /// From this address, which is one of this machine's: any of 127.0.0.0/8 is.
    pub fn connect_from(from: IpAddr, to: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket.connect_timeout(&to.into(), CONNECTED)?;
        Self::over(socket.into())
    }

    fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: Stream::Plain(stream), buffer: Vec::new(), ended: false })
    }

    /// The same with a handshake for this name, behind what was sent before.
    pub fn secured(self, name: &str, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let Stream::Plain(mut stream) = self.stream else { return Err(bad("it is secured already")) };
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let mut session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        let stream = Stream::Tls(Box::new(StreamOwned::new(session, stream)));
        Ok(Self { stream, ..self })
    }

    /// What was agreed on; `None`: it is not secured.
    pub fn session(&self) -> Option<&ClientConnection> {
        match &self.stream {
            Stream::Plain(_) => None,
            Stream::Tls(stream) => Some(&stream.conn),
        }
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    /// How long [`Self::answer`] and the others wait from now on.
    pub fn wait_for(&self, patience: Duration) -> io::Result<()> {
        self.socket().set_read_timeout(Some(patience))
    }

    /// Another handle of the socket itself.
    pub fn handle(&self) -> io::Result<TcpStream> {
        self.socket().try_clone()
    }

    fn socket(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
        }
    }

    /// Waits until the next answer has begun.
    pub fn begins(&mut self) -> io::Result<()> {
        while self.buffer.is_empty() {
            self.more()?;
        }
        Ok(())
    }

    /// The next answer to a request that is not HEAD.
    pub fn answer(&mut self) -> io::Result<Answer> {
        self.answer_to("GET")
    }

    pub fn answer_to(&mut self, method: &str) -> io::Result<Answer> {
        let mut interim = Vec::new();
        loop {
            let (first, fields) = parse_head(&self.head()?);
            let status =
                first.split(' ').nth(1).and_then(|text| text.parse::<u16>().ok()).ok_or_else(|| bad("no status"))?;
            if (100..200).contains(&status) && status != 101 {
                interim.push(status);
                continue;
            }
            let mut answer = Answer { status, fields, interim, ..Answer::default() };
            if method != "HEAD" && !matches!(status, 101 | 204 | 304) {
                self.body(&mut answer)?;
            }
            return Ok(answer);
        }
    }

    /// The status of an answer whose body is read by [`Self::chunk`], while it comes.
    pub fn opens(&mut self) -> io::Result<u16> {
        let (first, _) = parse_head(&self.head()?);
        first.split(' ').nth(1).and_then(|text| text.parse().ok()).ok_or_else(|| bad("no status"))
    }

    /// The next chunk of such a body. `None`: it has ended.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        Ok(self.one_chunk(&mut bytes)?.then_some(bytes))
    }

    fn head(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                let head = self.buffer.drain(..end + 4).collect();
                return String::from_utf8(head).map_err(io::Error::other);
            }
            if self.buffer.len() > LARGEST_HEAD {
                return Err(bad("a head of over 64 KiB"));
            }
            self.more()?;
        }
    }

    fn body(&mut self, answer: &mut Answer) -> io::Result<()> {
        let is_chunked = answer.field("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        let length =
            answer.field("content-length").map(|text| text.parse::<usize>().map_err(|_| bad("content-length")));
        let whole = match (is_chunked, length.transpose()?) {
            (true, _) => self.chunks(&mut answer.body),
            (false, Some(length)) => self.take(length, &mut answer.body),
            (false, None) => {
                answer.body = self.rest()?;
                return Ok(());
            }
        };
        match whole {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => answer.cut = true,
            other => other?,
        }
        Ok(())
    }

    fn chunks(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        while self.one_chunk(out)? {}
        Ok(())
    }

    /// What there is of the next chunk goes to `out`. False: it was the last, which is empty.
    fn one_chunk(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        let size = self.line()?;
        let size = size.split(';').next().and_then(|text| usize::from_str_radix(text.trim(), 16).ok());
        let size = size.ok_or_else(|| bad("the size of a chunk"))?;
        if size == 0 {
            while !self.line()?.is_empty() {}
            return Ok(false);
        }
        self.take(size, out)?;
        self.line()?;
        Ok(true)
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return String::from_utf8(line[..end].to_vec()).map_err(io::Error::other);
            }
            self.more()?;
        }
    }

    /// What there is of so many bytes goes to `out`, whether or not the rest comes.
    fn take(&mut self, length: usize, out: &mut Vec<u8>) -> io::Result<()> {
        while self.buffer.len() < length {
            if let Err(error) = self.more() {
                out.append(&mut self.buffer);
                return Err(error);
            }
        }
        out.extend(self.buffer.drain(..length));
        Ok(())
    }

    /// So many bytes, whatever they are.
    pub fn receive(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.take(length, &mut bytes)?;
        Ok(bytes)
    }

    /// All that comes until the other side ends the connection.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.more() {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(std::mem::take(&mut self.buffer)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the other side has ended the connection, when it has said all that it says.
    pub fn ends(&mut self, within: Duration) -> io::Result<bool> {
        self.wait_for(within)?;
        let ended = match self.rest() {
            Ok(_) => true,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
            Err(error) => return Err(error),
        };
        self.wait_for(PATIENCE)?;
        Ok(ended)
    }

    /// Some more bytes. `UnexpectedEof` at the end of the connection, however it ends.
    fn more(&mut self) -> io::Result<()> {
        let end = || io::Error::new(ErrorKind::UnexpectedEof, "the connection has ended");
        if self.ended {
            return Err(end());
        }
        let mut bytes = [0; 16 << 10];
        let read = match &mut self.stream {
            Stream::Plain(stream) => stream.read(&mut bytes),
            Stream::Tls(stream) => stream.read(&mut bytes),
        };
        let gone = |kind| {
            let ends = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted];
            ends.contains(&kind) || kind == ErrorKind::BrokenPipe
        };
        match read {
            Ok(0) => self.ended = true,
            Err(error) if gone(error.kind()) => self.ended = true,
            Ok(length) => self.buffer.extend_from_slice(&bytes[..length]),
            Err(error) => return Err(error),
        }
        if self.ended { Err(end()) } else { Ok(()) }
    }

    /// Asks for a WebSocket; what comes behind an answer of 101 is frames.
    pub fn ask_for_websocket(&mut self, host: &str, path: &str, fields: &str) -> io::Result<Answer> {
        self.send(
            format!(
                "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n"
            )
            .as_bytes(),
        )?;
        self.answer()
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}
