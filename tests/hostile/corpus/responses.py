"""What an app answers: a head that is read differently behind the edge, or a body that is longer than it says."""

import wire
from case import HOLD, Case, Seen


def no_cookie(seen, over):
    return "a field that the app has not set came to the client" if b"set-cookie" in seen.head.lower() else None


def one_framing(seen, over):
    head = seen.head.lower()
    lengths = head.count(b"content-length:")
    if lengths > 1 or (lengths and b"transfer-encoding:" in head):
        return "the client is told twice where the answer ends"
    if over == "h2" and seen.status == 200 and lengths and seen.body == b"":
        return "the client is told of a body that does not come"
    return None


def not_poisoned(seen, over):
    second = seen.notes.get("second")
    if b"evil" in seen.body or (second and b"evil" in second):
        return "what the app sent too much was taken for the answer to the next request"
    return None


def answer(fields, body=b"ok"):
    return b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n" + body


def get(name):
    return f"GET /responses/{name} HTTP/1.1\r\nHost: {{host}}\r\n\r\n".encode()


def bad(name, item, fields, reason, check, why, body=b"ok", may_mend=None, peers=True):
    """Over HTTP/1 and HTTP/2: 502."""
    more = {"why": why, "statuses": (502,), "reason": reason, "check": check, "answer": answer(fields, body),
            "may_mend": may_mend, "peers": peers}
    stream = lambda client: (client.fields(path=f"/responses/{name}"), None)
    return [
        Case(f"responses/{name}", item, HOLD, get(name), **more),
        Case(f"h2/responses-{name}", item, HOLD, stream, over=("h2",), **more),
    ]


EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + EVIL


def twice(runner, over):
    """Two requests, one after the other, on one connection; then others, on connections of their own."""
    if over == "h2":
        with wire.Http2(runner.place) as client:
            for stream in (1, 3):
                client.headers(stream, client.fields(path="/responses/long"))
                client.answered(stream)
            return Seen(client.status(1), body=client.bodies.get(1, b""), notes={"second": client.bodies.get(3)})
    with wire.Http1(runner.place, over) as client:
        client.send(get("long"))
        first = client.answer()
        client.send(get("long"))
        second = client.answer(2)
        rest = client.buffer + (second.body if second else b"")
        return Seen(first and first.status, body=first.body if first else b"", notes={"second": rest})


LF = "RFC 9112, 2.2: a single LF may be taken for the end of a line"
CR = "RFC 9112, 2.2: a bare CR may be replaced by a space"

CASES = [
    *bad("location-lf", "CRLF in Location", b"Location: /x\nSet-Cookie: a=b\r\nContent-Length: 2\r\n", "bare-lf", no_cookie,
         "a redirect to what a visitor said sets a cookie", may_mend=LF),
    *bad("location-cr", "CRLF in Location", b"Location: /x\rSet-Cookie: a=b\r\nContent-Length: 2\r\n", "field", no_cookie,
         "the same with CR", may_mend=CR),
    *bad("location-fold", "CRLF in Location", b"Location: /x\r\n Set-Cookie: a=b\r\nContent-Length: 2\r\n", "field", no_cookie,
         "the same with a fold", may_mend="RFC 9112, 5.2: a fold may be replaced by spaces"),
    *bad("location-nul", "CRLF in Location", b"Location: /x\0Set-Cookie: a=b\r\nContent-Length: 2\r\n", "field", no_cookie,
         "the same with NUL"),
    *bad("cl-differ", "double CL", b"Content-Length: 2\r\nContent-Length: 5\r\n", "content-length-repeated", one_framing,
         "the first counts for some, the last for others"),
    *bad("cl-list", "double CL", b"Content-Length: 2, 5\r\n", "content-length", one_framing, "the same in one line"),
    *bad("cl-te", "CL+TE", b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "length-and-chunked", one_framing,
         "one parser goes by the length, the next by the chunks", b"2\r\nok\r\n0\r\n\r\n",
         "RFC 9112, 6.3: the chunks count, the length is taken out"),
    Case("responses/long", "over-long body", HOLD, twice, "the rest would be the answer to whoever asks next",
         check=not_poisoned, answer=LONG, over=("h1", "h1s", "h2")),
]
