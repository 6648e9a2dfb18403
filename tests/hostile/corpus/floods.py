"""Floods of HTTP/2: frames that cost the sender nothing. Memory stays bounded, and others are served meanwhile."""

import time

import wire
from case import BOUND, Case, Seen
from hyperframe.frame import ContinuationFrame, DataFrame, HeadersFrame, PingFrame, SettingsFrame, WindowUpdateFrame
from wire import Http2

# What the process may grow by, in bytes.
GROWTH = 32 << 20
# Longest that is flooded, in seconds.
TIME = 3
RESET = "/h2/reset"
# Requests that a client may have broken off by the other side, before it is one that floods.
MADE = 2000


def flood(client, frames, read=True, limit=TIME):
    """Sends until there are no more, the peer has enough, or the time is over; how many pieces were taken."""
    begun, taken = time.monotonic(), 0
    client.stream.settimeout(limit)
    for frame in frames:
        try:
            client.stream.sendall(frame)
        except OSError:
            break
        taken += 1
        if read and taken % 64 == 0:
            client.read(0.001)
            client.stream.settimeout(limit)
        if client.failed() or time.monotonic() - begun > limit:
            break
    return taken


def case(name, item, frames, why, must_end=None, read=True, most=None, peers=True):
    """`must_end`: the codes one of which the connection has to end with; `most`: requests that may reach the upstream."""

    def send(runner, over):
        before = runner.memory()
        with Http2(runner.place, read=read) as client:
            # What has to be found too much is sent to its end, on a busy machine, too.
            taken = flood(client, frames(client), read, 10 * TIME if must_end else TIME)
            # Others meanwhile: this connection is still open.
            fault = runner.barrier()
            if read and must_end:
                client.until(client.failed, 20)
            notes = {"taken": taken, "barrier": fault, "grown": runner.memory() - before}
            return Seen(closed=client.closed, error=client.error(0), notes=notes)

    def check(seen, over):
        if seen.notes["grown"] > GROWTH:
            return f"the process grew by {seen.notes['grown'] >> 20} MiB"
        if must_end and not (seen.closed or seen.error):
            return f"after {seen.notes['taken']} pieces the connection is as welcome as before"
        # What a flood of requests has left on its way may come while the next case is judged.
        resets = name == "rapid-reset" or name.startswith("made-reset")
        own = [request for request in seen.requests if resets or request.path != RESET.encode()]
        if most is not None and len(own) > most:
            return f"{len(own)} requests reached the upstream"
        return None

    return Case(f"h2/{name}", item, BOUND, send, why, check=check, over=("h2",), peers=peers)


def rapid_reset(client):
    block = client.encode(client.fields(path=RESET))
    for stream in range(1, 200_000, 2):
        yield HeadersFrame(stream, data=block, flags=["END_STREAM", "END_HEADERS"]).serialize() + wire.reset(stream)


def open_block(client):
    """A header block that is never closed."""
    return HeadersFrame(1, data=client.encode(client.fields(path="/h2/continuation")), flags=["END_STREAM"]).serialize()


def continuations(client):
    yield open_block(client)
    piece = ContinuationFrame(1, data=client.encode([("x", "y" * 100)])).serialize()
    for _ in range(200_000):
        yield piece


def empty_continuations(client):
    yield open_block(client)
    for _ in range(200_000):
        yield ContinuationFrame(1, data=b"").serialize()


def open_stream(client, path):
    return HeadersFrame(1, data=client.encode(client.fields("POST", path)), flags=["END_HEADERS"]).serialize()


def update(stream, increment):
    return WindowUpdateFrame(stream, window_increment=increment)


def raw_update(stream, increment):
    """As it is, since the library knows that 0 is forbidden."""
    return b"\x00\x00\x04\x08\x00" + stream.to_bytes(4, "big") + increment.to_bytes(4, "big")


def zero_updates(client):
    for _ in range(100):
        yield raw_update(0, 0)


def huge_updates(client):
    for _ in range(100):
        yield raw_update(0, (1 << 31) - 1)


def empty_data(client):
    yield open_stream(client, "/h2/empty")
    for _ in range(200_000):
        yield DataFrame(1, data=b"").serialize()


def padded_data(client):
    """Frames of padding alone: they use up the window, and nothing of the body comes."""
    yield open_stream(client, "/h2/padded")
    for _ in range(200_000):
        yield DataFrame(1, data=b"", pad_length=0, flags=["PADDED"]).serialize()


def bomb(client):
    """Once into the table, then two thousand times out of it: 8 MB in each head of 2 kB."""
    block = client.encode(client.fields(path="/h2/bomb"))
    entry = b"\x40" + wire.string("x") + wire.string("a" * 3900)
    for stream in range(1, 200, 2):
        data = block + (entry if stream == 1 else b"") + b"\xbe" * 2000
        yield HeadersFrame(stream, data=data, flags=["END_STREAM", "END_HEADERS"]).serialize()


def pings(client):
    for number in range(400_000):
        yield PingFrame(0, number.to_bytes(8, "big")).serialize()


def settings(client):
    piece = SettingsFrame(0, settings={3: 100, 4: 65535}).serialize()
    for _ in range(400_000):
        yield piece


def tables(client):
    """The table of fields is made small and large in turns."""
    for number in range(200_000):
        yield SettingsFrame(0, settings={1: 4096 * (number % 2)}).serialize()


def priorities(client):
    """They are deprecated and mean nothing, and are still to be taken (RFC 9113, 5.3.2)."""
    for number in range(400_000):
        yield raw_frame(2, 1 + 2 * (number % 1000), b"\0\0\0\0\x10")


def unknown(client):
    piece = raw_frame(0xFA, 0, b"")
    for _ in range(400_000):
        yield piece


def raw_frame(kind, stream, payload, flags=0):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def made_resets(wrong):
    """Requests, each of which the server itself has to break off: it counts as over, and the app goes on working."""

    def frames(client):
        block = client.encode(client.fields(path=RESET))
        for stream in range(1, 200_000, 2):
            yield HeadersFrame(stream, data=block, flags=["END_STREAM", "END_HEADERS"]).serialize() + wrong(stream)

    return frames


def silent_requests(client):
    """As many requests as are let in, without reading an answer."""
    block = client.encode(client.fields(path="/h2/unread"))
    for stream in range(1, 40_000, 2):
        yield HeadersFrame(stream, data=block, flags=["END_STREAM", "END_HEADERS"]).serialize()


CASES = [
    case("rapid-reset", "rapid reset", rapid_reset, "100,000 requests, each taken back at once (CVE-2023-44487)", True, most=500),
    case("continuation", "CONTINUATION", continuations, "a header block without an end (CVE-2024-27316)", True, most=0),
    case("continuation-empty", "CONTINUATION", empty_continuations, "the same with nothing in it", True, most=0),
    case("window-zero", "zero WINDOW_UPDATE", zero_updates, "an increment of 0 is an error (RFC 9113, 6.9)", True),
    case("window-huge", "zero WINDOW_UPDATE", huge_updates, "a window beyond 2³¹−1 is an error (RFC 9113, 6.9.1)", True),
    case("data-empty", "empty DATA", empty_data, "frames without a byte use up no window (CVE-2019-9518)", True, most=0),
    case("hpack-bomb", "HPACK bomb", bomb, "one entry of the table, thousands of times (CVE-2016-6581)", most=0),
    case("ping", "PING", pings, "each wants an answer (CVE-2019-9512)"),
    case("ping-unread", "PING", pings, "the same, and no answer is read: they must not pile up", read=False),
    case("ping-end", "PING", pings, "none of them is one too many for a client that needs them", True, peers=False),
    case("settings", "SETTINGS", settings, "each wants an answer (CVE-2019-9515)"),
    case("settings-unread", "SETTINGS", settings, "the same, and no answer is read", read=False),
    case("settings-end", "SETTINGS", settings, "none of them is one too many for a client that needs them", True, peers=False),
    case("settings-table", "SETTINGS", tables, "each throws the table of fields away"),
    case("priority", "PRIORITY", priorities, "a tree of priorities to be sorted anew with each (CVE-2019-9513)", True, peers=False),
    case("unknown", "PRIORITY", unknown, "frames of no known type are to be passed over, and cost nothing to send", True, peers=False),
    case("made-reset-window", "MadeYouReset", made_resets(lambda stream: raw_update(stream, (1 << 31) - 1)),
         "a window beyond 2³¹−1 ends its stream (CVE-2025-8671)", True, most=MADE, peers=False),
    case("made-reset-zero", "MadeYouReset", made_resets(lambda stream: raw_update(stream, 0)),
         "so does an increment of 0", True, most=MADE, peers=False),
    case("made-reset-data", "MadeYouReset", made_resets(lambda stream: DataFrame(stream, data=b"x").serialize()),
         "and data behind the end", True, most=MADE, peers=False),
    case("made-reset-headers", "MadeYouReset", made_resets(lambda stream: raw_frame(1, stream, wire.literal("x") + wire.string("y"), 4)),
         "and a head behind the end", True, most=MADE, peers=False),
    case("made-reset-priority", "MadeYouReset", made_resets(lambda stream: raw_frame(2, stream, b"\0\0\0\0")),
         "and a priority of another length", True, most=MADE, peers=False),
    case("made-reset-self", "MadeYouReset", made_resets(lambda stream: raw_frame(2, stream, stream.to_bytes(4, "big") + b"\x10")),
         "and a stream that depends on itself", True, most=MADE, peers=False),
    case("requests-unread", "never-reading peer", silent_requests, "requests whose answers are not read must not pile up",
         read=False),
]
