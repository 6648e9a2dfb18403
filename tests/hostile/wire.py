"""Clients that send what no library would: bytes over a socket, TLS records, frames of HTTP/2."""

import re
import socket
import ssl
import time

import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def received(stream, patience):
    """What has come within so many seconds; nothing: the other side is done. `None`: nothing yet."""
    stream.settimeout(max(patience, 0.001))
    try:
        return stream.recv(1 << 16)
    except (TimeoutError, ssl.SSLWantReadError):
        return None
    except OSError:
        return b""


class Place:
    """Where the peer under test is."""

    def __init__(self, host, http, https, ca):
        self.host = host
        self.http = http
        self.https = https
        self.ca = ca

    def authority(self, over):
        return f"{self.host}:{(self.http if over == 'h1' else self.https)[1]}"

    def fill(self, data, over):
        return data.replace(b"{host}", self.authority(over).encode())

    def plain(self):
        return connect(self.http)

    def plain_tls(self):
        """The port of TLS, and nothing said yet."""
        return connect(self.https)

    def tls(self, alpn, name=None):
        context = ssl.create_default_context(cafile=self.ca)
        context.set_alpn_protocols([alpn])
        stream = connect(self.https)
        try:
            return context.wrap_socket(stream, server_hostname=name or self.host)
        except OSError:
            stream.close()
            raise

    def open(self, over):
        return self.plain() if over == "h1" else self.tls("http/1.1")


def connect(address, patience=10):
    stream = socket.create_connection(address, timeout=patience)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


class Answer:
    """One response as it came."""

    def __init__(self, head, body):
        self.head = head
        self.body = body

    @property
    def status(self):
        words = self.head.split(b" ", 2)
        return int(words[1]) if len(words) > 1 and words[1][:3].isdigit() else None

    def field(self, name):
        found = re.search(rb"(?im)^" + re.escape(name.encode()) + rb":[ \t]*([^\r\n]*)", self.head)
        return found[1].decode("latin-1") if found else None


class Http1:
    """One connection, from which whole responses are read."""

    def __init__(self, place, over):
        self.place = place
        self.over = over
        self.stream = place.open(over)
        self.buffer = b""
        self.closed = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()

    def send(self, data):
        """Whether it was taken: a peer that has said no may close before it has all."""
        try:
            self.stream.sendall(self.place.fill(data, self.over))
            return True
        except OSError:
            return False

    def fill(self, patience):
        """Whether more came."""
        if self.closed:
            return False
        data = received(self.stream, patience)
        if data is None:
            return False
        self.closed = not data
        self.buffer += data
        return bool(data)

    def answer(self, patience=10):
        """The next response; none, when the connection ends or the patience does."""
        deadline = time.monotonic() + patience
        more = lambda: self.fill(deadline - time.monotonic())
        while not (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            if not more():
                return None
        head, rest = self.buffer[: end + 4], self.buffer[end + 4 :]
        answer = Answer(head, b"")
        length = answer.field("content-length")
        if (answer.field("transfer-encoding") or "").lower() == "chunked":
            length = None
            while b"0\r\n\r\n" not in self.buffer[end + 4 :]:
                if not more():
                    break
            rest = self.buffer[end + 4 :]
            cut = rest.find(b"0\r\n\r\n")
            cut = len(rest) if cut < 0 else cut + 5
        elif length is not None and length.isdigit():
            while len(self.buffer) - end - 4 < int(length) and more():
                pass
            rest, cut = self.buffer[end + 4 :], int(length)
        else:
            cut = 0
        self.buffer = rest[cut:]
        return Answer(head, rest[:cut])

    def ended(self, patience):
        """Whether the peer ends the connection in this time; what comes before stays in the buffer."""
        deadline = time.monotonic() + patience
        while not self.closed and time.monotonic() < deadline:
            self.fill(deadline - time.monotonic())
        return self.closed


class Http2:
    """One connection that writes frames as they are given. It answers settings, and nothing else by itself."""

    def __init__(self, place, settings=None, read=True):
        self.place = place
        self.stream = place.tls("h2")
        if self.stream.selected_alpn_protocol() != "h2":
            raise OSError("the peer does not speak HTTP/2")
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.buffer = b""
        self.closed = False
        # Streams: the fields of the answer, its body, the code of its reset.
        self.heads, self.bodies, self.resets, self.over = {}, {}, {}, set()
        self.goaway = None
        self.acks = 0
        self.pongs = 0
        self.block = b""
        # What may be sent: on the connection, at first on each stream, and by which a stream's differs.
        self.windows, self.window = {0: 65535}, 65535
        self.send(PREFACE)
        self.frame(SettingsFrame(0, settings=settings or {}))
        if read:
            self.until(lambda: self.acks > 0, 10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()

    def send(self, data):
        if self.closed:
            return False
        try:
            self.stream.settimeout(10)
            self.stream.sendall(data)
            return True
        except OSError:
            return False

    def frame(self, frame):
        return self.send(frame.serialize())

    def fields(self, method="GET", path="/h2", more=(), scheme="https", authority=True):
        fields = [(":method", method), (":scheme", scheme), (":path", path)]
        if authority:
            fields.append((":authority", self.place.authority("h2")))
        return fields + list(more)

    def encode(self, fields):
        """Without the tables: as literal as it is written here, whatever is in it."""
        return b"".join(literal(name) + string(value) for name, value in fields)

    def headers(self, stream, fields, end=True):
        block = self.encode(fields)
        first, rest = block[:16000], block[16000:]
        frame = HeadersFrame(stream, data=first)
        frame.flags |= {flag for flag, on in (("END_STREAM", end), ("END_HEADERS", not rest)) if on}
        data = frame.serialize()
        while rest:
            part, rest = rest[:16000], rest[16000:]
            frame = ContinuationFrame(stream, data=part)
            if not rest:
                frame.flags.add("END_HEADERS")
            data += frame.serialize()
        return self.send(data)

    def data(self, stream, payload, end=True):
        """In frames of an ordinary size, as the windows let it."""
        window = lambda: min(self.windows[0], self.window + self.windows.get(stream, 0), 16000)
        while True:
            if payload and window() <= 0 and not self.until(lambda: window() > 0 or stream in self.over or self.failed(), 10):
                return False
            if stream in self.over or self.failed():
                return False
            part, payload = payload[: max(window(), 0)], payload[max(window(), 0) :]
            frame = DataFrame(stream, data=part)
            for each in (0, stream):
                self.windows[each] = self.windows.get(each, 0) - len(part)
            if end and not payload:
                frame.flags.add("END_STREAM")
            if not self.frame(frame) or not payload:
                return not payload
            # An answer that comes early says that no more is wanted.
            self.read(0.001)

    def read(self, patience):
        """Whether something came."""
        if self.closed:
            return False
        data = received(self.stream, patience)
        if data is None:
            return False
        self.closed = not data
        self.buffer += data
        while len(self.buffer) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(self.buffer[:9]))
            if len(self.buffer) < 9 + length:
                break
            frame.parse_body(memoryview(self.buffer[9 : 9 + length]))
            self.buffer = self.buffer[9 + length :]
            self.take(frame)
        return bool(data)

    def take(self, frame):
        kind, stream = type(frame).__name__, frame.stream_id
        if kind == "SettingsFrame":
            if "ACK" in frame.flags:
                self.acks += 1
            else:
                self.window = frame.settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, self.window)
                self.frame(SettingsFrame(0, flags=["ACK"]))
        elif kind == "WindowUpdateFrame":
            self.windows[stream] = self.windows.get(stream, 0) + frame.window_increment
        elif kind in ("HeadersFrame", "ContinuationFrame"):
            self.block += frame.data
            if "END_HEADERS" in frame.flags:
                fields = [(name.encode() if isinstance(name, str) else name, value.encode() if isinstance(value, str) else value)
                          for name, value in self.decoder.decode(self.block, raw=True)]
                self.block = b""
                self.heads.setdefault(stream, fields)
        elif kind == "DataFrame":
            self.bodies[stream] = self.bodies.get(stream, b"") + frame.data
        elif kind == "RstStreamFrame":
            self.resets.setdefault(stream, frame.error_code)
        elif kind == "GoAwayFrame":
            self.goaway = frame.error_code
        elif kind == "PingFrame" and "ACK" in frame.flags:
            self.pongs += 1
        if "END_STREAM" in frame.flags or kind == "RstStreamFrame":
            self.over.add(stream)

    def until(self, ready, patience):
        deadline = time.monotonic() + patience
        while not ready():
            if self.closed or time.monotonic() >= deadline:
                return False
            self.read(deadline - time.monotonic())
        return True

    def answered(self, stream, patience=10):
        """Waits for the end of this stream, or of the connection."""
        return self.until(lambda: stream in self.over or self.failed(), patience)

    def failed(self):
        return self.closed or self.goaway not in (None, 0)

    def status(self, stream):
        return int(dict(self.heads.get(stream, [])).get(b":status", 0)) or None

    def field(self, stream, name):
        value = dict(self.heads.get(stream, [])).get(name.encode())
        return value.decode("latin-1") if value is not None else None

    def error(self, stream):
        """How it was refused below HTTP: the code of a reset or of the connection's end."""
        if stream in self.resets and self.resets[stream] != 0:
            return f"RST_STREAM {self.resets[stream]}"
        if self.goaway not in (None, 0):
            return f"GOAWAY {self.goaway}"
        return "closed" if self.closed and stream not in self.heads else None


def raw(value):
    return value.encode("latin-1") if isinstance(value, str) else value


def number(value, bits):
    """An integer as HPACK writes it (RFC 7541, 5.1)."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([value])
    out, value = [most], value - most
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def string(value):
    value = raw(value)
    return number(len(value), 7) + value


def literal(name):
    """A field without indexing, with a new name."""
    return b"\x00" + string(name)


def reset(stream, code=8):
    return RstStreamFrame(stream, error_code=code).serialize()


def goaway(code):
    return GoAwayFrame(0, error_code=code)


def client_hello(name, versions=(0x0304, 0x0303), legacy=0x0303, protocols=()):
    """A ClientHello as RFC 8446 has it, with a key of X25519 that is nobody's; of a client that names no host where the name is empty."""
    u16 = lambda value: value.to_bytes(2, "big")
    block = lambda data: u16(len(data)) + data
    extension = lambda kind, data: u16(kind) + block(data)
    sni = block(b"\x00" + block(name.encode()))
    ciphers = b"".join(map(u16, (0x1301, 0x1302, 0xC02B, 0xC02F, 0xC013, 0xC014, 0x002F)))
    extensions = extension(0, sni) if name else b""
    extensions += extension(10, block(u16(0x001D) + u16(0x0017))) + extension(11, b"\x01\x00")
    extensions += extension(13, block(b"".join(map(u16, (0x0403, 0x0804, 0x0401, 0x0203, 0x0201)))))
    if protocols:
        extensions += extension(16, block(b"".join(bytes([len(one)]) + one for one in protocols)))
    if 0x0304 in versions:
        listed = b"".join(map(u16, versions))
        extensions += extension(43, bytes([len(listed)]) + listed)
        extensions += extension(51, block(u16(0x001D) + block(b"\x09" + bytes(31))))
    body = u16(legacy) + bytes(range(32)) + b"\x00" + block(ciphers) + b"\x01\x00" + block(extensions)
    return b"\x01" + len(body).to_bytes(3, "big") + body


def record(payload, kind=22, version=0x0301):
    return bytes([kind]) + version.to_bytes(2, "big") + len(payload).to_bytes(2, "big") + payload


def records(stream, patience=10):
    """The records that come until the end: (kind, payload)."""
    data, deadline = b"", time.monotonic() + patience
    while time.monotonic() < deadline:
        stream.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            more = stream.recv(1 << 16)
        except OSError:
            break
        if not more:
            break
        data += more
        if data[:1] == b"\x16" and len(data) > 5:
            break
    found = []
    while len(data) >= 5:
        length = int.from_bytes(data[3:5], "big")
        found.append((data[0], data[5 : 5 + length]))
        data = data[5 + length :]
    return found
