//! Commands in containers, as API servers of 1.36 pass them on: over a WebSocket (`v5.channel.k8s.io`). What is asked for is executed
//! beside the test, since nothing runs on this node.

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
/// The channel that is named after it has come to its end.
const CLOSE: u8 = 255;

const BINARY: u8 = 2;
const END: u8 = 8;
/// RFC 6455, 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a node says that takes these itself.
pub(super) const FEATURE: &str = "ExtendWebSocketsToKubelet";

/// Whether this is the head of such a request.
pub(super) fn is_asked(head: &str) -> bool {
    head.split(' ').nth(1).is_some_and(|target| target.starts_with("/exec/"))
}

/// To its end: input first, then what became of it.
pub(super) fn answer(head: &str, stream: &mut (impl Read + Write)) -> io::Result<()> {
    let field = |name: &str| {
        let fields = head.lines().filter_map(|line| line.split_once(": "));
        fields.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).next()
    };
    let key = field("sec-websocket-key").ok_or_else(|| io::Error::other(format!("no WebSocket: {head}")))?;
    let accepts = BASE64_STANDARD.encode(Sha1::digest(format!("{key}{GUID}")));
    write!(
        stream,
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Protocol: v5.channel.k8s.io\r\nSec-WebSocket-Accept: {accepts}\r\n\r\n"
    )?;
    stream.flush()?;
    let mut input = Vec::new();
    loop {
        match frame(stream)? {
            (END, _) => return Ok(()),
            (BINARY, data) if data.first() == Some(&STDIN) => input.extend(&data[1..]),
            (BINARY, data) if data == [CLOSE, STDIN] => break,
            (_, _) => {}
        }
    }
    let (output, errors, status) = executed(&command(head), &input)?;
    for (channel, text) in [(STDOUT, output), (STDERR, errors), (STATUS, status.to_string().into_bytes())] {
        if !text.is_empty() {
            send(stream, BINARY, &[&[channel], text.as_slice()].concat())?;
        }
    }
    // 1000: all is well.
    send(stream, END, &1000_u16.to_be_bytes())
}

/// `…?command=sh&command=-c&command=exit%203&…`
fn command(head: &str) -> Vec<String> {
    let target = head.split(' ').nth(1).unwrap_or_default();
    let query = target.split_once('?').map_or("", |(_, query)| query);
    query.split('&').filter_map(|pair| pair.strip_prefix("command=")).map(decoded).collect()
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| u8::from_str_radix(str::from_utf8(two).ok()?, 16).ok());
        match (byte, digits) {
            (b'%', Some(value)) => {
                bytes.push(value);
                rest = &after[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = after;
            }
            (_, _) => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What it wrote, and its end as a kubelet tells it.
fn executed(command: &[String], input: &[u8]) -> io::Result<(Vec<u8>, Vec<u8>, Value)> {
    let [program, args @ ..] = command else { return Err(io::Error::other("no command")) };
    let piped = || Stdio::piped();
    let child = Command::new(program).args(args).stdin(piped()).stdout(piped()).stderr(piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(_) => {
            let message =
                format!("OCI runtime exec failed: exec: \"{program}\": executable file not found in $PATH: unknown");
            return Ok((
                Vec::new(),
                Vec::new(),
                json!({ "status": "Failure", "reason": "InternalError", "message": message, "code": 500 }),
            ));
        }
    };
    child.stdin.take().expect("it is piped").write_all(input)?;
    let output = child.wait_with_output()?;
    let code = output.status.code().unwrap_or(137);
    let status = match code {
        0 => json!({ "metadata": {}, "status": "Success" }),
        code => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
    };
    Ok((output.stdout, output.stderr, status))
}

/// The next one: its kind, and what is in it.
fn frame(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let length = match head[1] & 0x7f {
        126 => {
            let mut long = [0; 2];
            stream.read_exact(&mut long)?;
            usize::from(u16::from_be_bytes(long))
        }
        127 => return Err(io::Error::other("a frame that no test sends")),
        short => usize::from(short),
    };
    let mut mask = [0; 4];
    if head[1] & 0x80 != 0 {
        stream.read_exact(&mut mask)?;
    }
    let mut data = vec![0; length];
    stream.read_exact(&mut data)?;
    data.iter_mut().enumerate().for_each(|(at, byte)| *byte ^= mask[at % 4]);
    Ok((head[0] & 0x0f, data))
}

fn send(stream: &mut impl Write, kind: u8, data: &[u8]) -> io::Result<()> {
    let length = u16::try_from(data.len()).map_err(io::Error::other)?;
    stream.write_all(&[0x80 | kind])?;
    match u8::try_from(length).ok().filter(|short| *short < 126) {
        Some(short) => stream.write_all(&[short])?,
        None => {
            stream.write_all(&[126])?;
            stream.write_all(&length.to_be_bytes())?;
        }
    }
    stream.write_all(data)?;
    stream.flush()
}
