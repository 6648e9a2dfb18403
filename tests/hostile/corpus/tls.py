"""TLS: who is asked for, in which version, and in how many pieces."""

import wire
from case import HOLD, REFUSE, Case, Seen

ALERT, HANDSHAKE = 21, 22


def shake(make):
    """Sends what `make` makes of the host's name; whether a handshake or an alert came back."""

    def send(runner, over):
        with runner.place.plain_tls() as stream:
            sent = make(runner.place.host)
            try:
                for piece in sent if isinstance(sent, list) else [sent]:
                    stream.sendall(piece)
            except OSError:
                pass
            kinds = [kind for kind, _ in wire.records(stream)]
            return Seen(notes={"kinds": kinds})

    return send


def refused(seen, over):
    return "the handshake goes on" if HANDSHAKE in seen.notes["kinds"] else None


def goes_on(seen, over):
    return None if HANDSHAKE in seen.notes["kinds"] else f"no handshake came back: records {seen.notes['kinds']}"


def case(name, item, make, check, why, peers=True):
    return Case(f"tls/{name}", item, HOLD, shake(make), why, check=check, over=("tls",), peers=peers)


def fragments(size):
    def make(name):
        hello = wire.client_hello(name)
        return [wire.record(hello[i : i + size]) for i in range(0, len(hello), size)]

    return make


def endless(name):
    """A ClientHello that says it is 16 MB long."""
    start = b"\x01\xff\xff\xff" + wire.client_hello(name)[4:]
    return [wire.record(start)] + [wire.record(b"\0" * 16000)] * 1200


def other_host(name, over, target=b"other.localhost"):
    sent = b"GET /tls HTTP/1.1\r\nHost: " + target + b"\r\n\r\n"
    stream = lambda client: ([(k, target.decode() if k == ":authority" else v) for k, v in client.fields(path="/tls")], None)
    return Case(f"{'h2' if over == 'h2' else 'tls'}/{name}", "SNI ≠ Host (421)", REFUSE, stream if over == "h2" else sent,
                "another host's rules and certificates, over this one's connection (RFC 9110, 15.5.20)", (421,), "misdirected",
                over=(over,), closes=False)


CASES = [
    case("sni-unknown", "unknown SNI", lambda name: wire.record(wire.client_hello("unknown.example")), refused,
         "no certificate is shown for a name that is not served here"),
    case("sni-nul", "unknown SNI", lambda name: wire.record(wire.client_hello(name + "\0.example")), refused,
         "a name with a NUL is no name"),
    other_host("sni-host", "h1s"),
    other_host("sni-host", "h2"),
    case("version-11", "TLS 1.1", lambda name: wire.record(wire.client_hello(name, (), 0x0302)), refused,
         "TLS 1.1 is over (RFC 8996)"),
    case("version-10", "TLS 1.1", lambda name: wire.record(wire.client_hello(name, (), 0x0301)), refused, "as is TLS 1.0"),
    case("version-ssl3", "TLS 1.1", lambda name: wire.record(wire.client_hello(name, (), 0x0300)), refused, "as is SSL 3"),
    case("fragments", "fragmented ClientHello", fragments(40), goes_on, "a name that is read from the first record alone is missed"),
    case("fragments-small", "fragmented ClientHello", fragments(1), goes_on, "the same, one byte in each record"),
    case("endless", "fragmented ClientHello", endless, refused, "a ClientHello of 16 MB is not kept"),
]
