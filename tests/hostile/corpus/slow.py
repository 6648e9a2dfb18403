"""Clients that take their time: each holds a connection, and is let go."""

import time

import wire
from case import BOUND, Case, Seen
from hyperframe.frame import PingFrame
from upstream import ASIDE
from wire import Http1, Http2

# What the peers are configured with, in seconds: a head, a handshake; a body's standstill, a reader's; between two requests.
HEAD, STILL, IDLE = 10, 5, 60
# How much later it may be on a busy machine: deadlines are counted in ticks, which take longer where the processor is wanted by others.
SLACK = 20


def path(name, over):
    return f"/slow/{name}/{over}"


def ended(limit):
    def check(seen, over):
        took = seen.notes.get("took")
        return f"it was let go after {took} s, not {limit}" if took is None or took > limit + SLACK else None

    return check


def drip(stream, pieces, limit):
    """One piece each half second until the other side ends; how long that took."""
    begun = time.monotonic()
    stream.settimeout(0.5)
    while time.monotonic() - begun < limit + 2 * SLACK:
        try:
            stream.sendall(next(pieces, b""))
            if not stream.recv(1 << 16):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    else:
        return None
    return round(time.monotonic() - begun, 1)


def repeat(first, piece):
    yield first
    while True:
        yield piece


def head(runner, over):
    with Http1(runner.place, over) as client:
        first = f"GET {path('slow/head', over)} HTTP/1.1\r\nHost: {{host}}\r\n".encode()
        pieces = repeat(runner.place.fill(first, over), b"X: y\r\n")
        return Seen(notes={"took": drip(client.stream, pieces, HEAD)})


def still(pieces, limit):
    def send(runner, over):
        with Http1(runner.place, over) as client:
            given = (runner.place.fill(piece.replace(b"{path}", path("slow/body", over).encode()), over) for piece in pieces)
            return Seen(notes={"took": drip(client.stream, given, limit)})

    return send


def dripping(runner, over):
    with Http1(runner.place, over) as client:
        first = runner.place.fill(LONG_POST.replace(b"{path}", path("slow/body-drip", over).encode()), over)
        # Each piece says that it belongs to no other case.
        return Seen(notes={"took": drip(client.stream, repeat(first, ASIDE), STILL)})


def dripping_stream(runner, over):
    """A few bytes of a body each half second, over HTTP/2."""
    begun = time.monotonic()
    with Http2(runner.place) as client:
        client.headers(1, client.fields("POST", path("h2/body-drip", over), [("content-length", "1000")]), end=False)
        done = False
        while not done and time.monotonic() - begun < STILL + 2 * SLACK:
            client.data(1, ASIDE, end=False)
            done = client.answered(1, 0.5)
        return Seen(client.status(1), notes={"took": round(time.monotonic() - begun, 1) if done else None})


def stalled_stream(runner, over):
    """A body over HTTP/2 of which nothing comes."""
    begun = time.monotonic()
    with Http2(runner.place) as client:
        client.headers(1, client.fields("POST", path("h2/slow-body", over), [("content-length", "100")]), end=False)
        client.data(1, b"ten bytes.", end=False)
        done = client.answered(1, STILL + 2 * SLACK)
        return Seen(client.status(1), notes={"took": round(time.monotonic() - begun, 1) if done else None})


def endless(connection, request):
    """An answer of 256 MiB; how long it took until the other side had no more of it is kept."""
    begun = time.monotonic()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 268435456\r\n\r\n")
    connection.stream.settimeout(STILL + 3 * SLACK)
    for _ in range(4096):
        if not connection.send(b"x" * 65536):
            break
    connection.upstream.note(request.path, round(time.monotonic() - begun, 1))
    return False


def unread(name):
    """Asks, and reads nothing of the answer. The upstream must get its connection back."""

    def send(runner, over):
        runner.upstream.answers[path(name, over).encode()] = endless
        if over == "h2":
            settings = {4: 0} if name.endswith("window") else {4: (1 << 31) - 1}
            client = Http2(runner.place, settings)
            client.headers(1, client.fields(path=path(name, over)))
        else:
            client = Http1(runner.place, over)
            client.send(f"GET {path(name, over)} HTTP/1.1\r\nHost: {{host}}\r\n\r\n".encode())
        with client:
            return Seen(notes={"took": runner.upstream.noted(path(name, over).encode(), STILL + 2 * SLACK)})

    return send


def handshake(runner, over):
    with runner.place.plain_tls() as stream:
        hello = wire.record(wire.client_hello(runner.place.host))
        return Seen(notes={"took": drip(stream, iter([hello[:20]]), HEAD)})


def handshake_drip(runner, over):
    with runner.place.plain_tls() as stream:
        hello = wire.record(wire.client_hello(runner.place.host))
        pieces = (hello[i : i + 1] for i in range(len(hello)))
        return Seen(notes={"took": drip(stream, pieces, HEAD)})


def hoard(count, first, limit):
    """So many connections that say nothing, or no more; the time until the last of them was let go."""

    def send(runner, over):
        begun, open_ = time.monotonic(), []
        try:
            for _ in range(count):
                client = Http1(runner.place, over)
                open_.append(client)
                if first:
                    client.send(f"GET {path('slow/idle', over)} HTTP/1.1\r\nHost: {{host}}\r\n\r\n".encode())
                    client.answer()
            done = all(client.ended(max(begun + limit + 2 * SLACK - time.monotonic(), 0.01)) for client in open_)
        finally:
            for client in open_:
                client.stream.close()
        return Seen(notes={"took": round(time.monotonic() - begun, 1) if done else None})

    return send


def idle_stream(runner, over):
    """A connection of HTTP/2 that asks nothing and keeps itself alive with PING."""
    begun = time.monotonic()
    with Http2(runner.place) as client:
        while not client.closed and time.monotonic() - begun < IDLE + 2 * SLACK:
            client.frame(PingFrame(0, b"hostile!"))
            client.read(1)
        return Seen(notes={"took": round(time.monotonic() - begun, 1) if client.closed else None})


def case(name, item, send, limit, why, over=("h1", "h1s")):
    return Case(name, item, BOUND, send, why, check=ended(limit), over=over, slow=True)


POST = b"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\nten bytes."
LONG_POST = POST.replace(b"100", b"1000")
CHUNK = b"POST {path} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe"

CASES = [
    case("slow/head", "headers", head, HEAD, "a field each half second, for ever"),
    case("slow/silent", "headers", still([], HEAD), HEAD, "not a single byte"),
    case("slow/body", "body", still([POST], STILL), STILL, "a body that stands still"),
    case("slow/chunk", "body", still([CHUNK], STILL), STILL, "the same within a chunk"),
    case("h2/slow-body", "body", stalled_stream, STILL, "the same over HTTP/2", ("h2",)),
    case("slow/body-drip", "body", dripping, STILL, "a few bytes of a body each half second: a deadline that each sets anew is none"),
    case("h2/body-drip", "body", dripping_stream, STILL, "the same over HTTP/2", ("h2",)),
    case("slow/reading", "reading", unread("slow/reading"), STILL, "an answer that nobody reads holds an instance's connection"),
    case("h2/unread", "never-reading peer", unread("h2/unread"), STILL, "the same over HTTP/2, with the largest window", ("h2",)),
    case("h2/unread-window", "never-reading peer", unread("h2/unread-window"), STILL, "the same with a window of 0", ("h2",)),
    case("tls/silent", "TLS handshake", handshake, HEAD, "a ClientHello without its end", ("tls",)),
    case("tls/drip", "TLS handshake", handshake_drip, HEAD, "a ClientHello of one byte each half second", ("tls",)),
    case("slow/hoard", "idle hoarding", hoard(400, False, HEAD), HEAD, "400 connections that say nothing", ("h1",)),
    case("slow/idle", "idle hoarding", hoard(100, True, IDLE), IDLE, "100 connections that asked once", ("h1",)),
    case("h2/idle", "idle hoarding", idle_stream, IDLE, "a connection that is kept alive by PING alone", ("h2",)),
]
