#!/usr/bin/env python3
"""Writes what the corpus sends as the beginning of the fuzz targets' corpora: seeds.py [FOLDER], by default crates/edge/fuzz/seeds."""

import sys
from pathlib import Path

import corpus
import wire

# More of one is no seed, but a flood.
LONGEST = 2048


def main():
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent.parent / "crates/edge/fuzz/seeds"

    def write(target, name, data):
        folder = root / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name.replace("/", "-")).write_bytes(data)

    for case in corpus.cases():
        if not isinstance(case.send, bytes) or len(case.send) > LONGEST:
            continue
        # The first two bytes say where it is cut.
        sent = b"\x10\0" + case.send.replace(b"{host}", b"a.test")
        write("h1_request", case.id, sent)
        # The size of the pieces, and that it is a request.
        write("h1_agreement", case.id, b"\x07\0" + sent[2:])
        head, end, body = case.send.partition(b"\r\n\r\n")
        if b"chunked" in head and end:
            write("h1_body", case.id, b"\x07" + body)
        if case.id.startswith("paths/"):
            write("path", case.id, case.send.split(b" ")[1][1:])
        if b"boundary=b\r\n" in head and b"chunked" not in head:
            # The size of the pieces, and that it is a form.
            write("upload", case.id, b"\x07\x01" + case.send.split(b" ")[1] + b"\n" + body)
    for name, answer in (("length", b"1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
                         ("chunked", b"1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n"),
                         ("until-close", b"0 200 OK\r\nConnection: keep-alive, x-a\r\nX-A: b\r\n\r\nhello"),
                         ("interim", b"1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"),
                         ("not-modified", b"1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n"),
                         ("upgrade", b"1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\x81\0"),
                         ("two-lengths", b"1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
                         ("both", b"1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")):
        # The size of the pieces, and that it is an answer.
        write("h1_agreement", f"answer-{name}", b"\x07\1" + answer)
    addresses = bytes((192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x67, 1, 0xBB))
    binary = b"\r\n\r\n\0\r\nQUIT\n"
    for name, header in (("line", b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n"),
                         ("line-6", b"PROXY TCP6 2001:db8::1 ::1 4711 443\r\n"),
                         ("unknown", b"PROXY UNKNOWN\r\n"),
                         ("binary", binary + b"\x21\x11\0\x0c" + addresses),
                         ("binary-more", binary + b"\x21\x11\0\x13" + addresses + b"\x03\0\x04abcd"),
                         ("binary-6", binary + b"\x21\x21\0\x24" + b"\x20\x01" + bytes(34)),
                         ("local", binary + b"\x20\0\0\0")):
        write("proxy_header", name, b"\x05" + header + b"GET / HTTP/1.1\r\n")
    hello = wire.client_hello("a.test")
    small = b"".join(wire.record(hello[i : i + 40]) for i in range(0, len(hello), 40))
    for name, data in (("whole", wire.record(hello)), ("fragments", small),
                       ("old", wire.record(wire.client_hello("a.test", (), 0x0302))),
                       ("old-1-2", wire.record(wire.client_hello("a.test", (), protocols=(b"h2", b"http/1.1")))),
                       ("wildcard", wire.record(wire.client_hello("X.wild.test", protocols=(b"h2", b"http/1.1")))),
                       ("awaited", wire.record(wire.client_hello("own.wild.test"))),
                       ("unknown", wire.record(wire.client_hello("nobody.test"))),
                       ("nameless", wire.record(wire.client_hello(""))),
                       ("authority", wire.record(wire.client_hello("new.test", protocols=(b"acme-tls/1",)))),
                       ("authority-of-none", wire.record(wire.client_hello("x.wild.test", protocols=(b"acme-tls/1",)))),
                       ("authority-or-not", wire.record(wire.client_hello("a.test", protocols=(b"acme-tls/1", b"h2"))))):
        write("client_hello", name, b"\x10\0" + data)


if __name__ == "__main__":
    main()
