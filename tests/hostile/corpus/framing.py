"""Where a message ends: what two parsers may see differently is how requests are smuggled."""

import wire
from case import HOLD, REFUSE, Case, Seen
from upstream import OK

CHUNKED = b"5\r\nhello\r\n0\r\n\r\n"
# Whole by its length and by its chunks.
EITHER = b"0\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n"


def post(fields, body=b"hello", version="1.1"):
    return f"POST /framing HTTP/{version}\r\nHost: {{host}}\r\n{fields}\r\n\r\n".encode("latin-1") + body


def head(name, item, fields, reason, why, body=b"hello", statuses=(400,), may_mend=None, version="1.1"):
    sent = post(fields, body, version)
    return Case(f"framing/{name}", item, REFUSE, sent, why, statuses, reason, may_mend=may_mend)


def length(name, item, value, why, body=b"hello"):
    return head(name, item, f"Content-Length: {value}", "content-length", why, body)


def coding(name, item, value, why, reason="transfer-encoding", **more):
    return head(name, item, f"Transfer-Encoding: {value}", reason, why, CHUNKED, **more)


def chunks(name, item, body, why):
    sent = post("Transfer-Encoding: chunked", body)
    return Case(f"framing/{name}", item, REFUSE, sent, why, (400,), "body-framing", streams=True)


def stream(name, item, fields, data, why, check=None, statuses=(400,), streams=False):
    """A POST over HTTP/2 with these fields, whose data is sent unless it is `None`."""
    send = lambda client: (client.fields("POST", "/framing", fields), data)
    return Case(f"h2/{name}", item, REFUSE, send, why, statuses, None, check, ("h2",), streams=streams)


def nothing_smuggled(seen, over):
    if any(b"/smuggled" in request.line for request in seen.requests):
        return "the body of a request came to the upstream as another"
    return None


def unread(runner, over):
    """The edge answers by itself, before the body is there: what follows is the body, whatever it looks like."""
    with wire.Http1(runner.place, over) as client:
        body = runner.place.fill(SMUGGLED, over)
        client.send(f"POST /denied HTTP/1.1\r\nHost: {{host}}\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        answer = client.answer()
        client.send(body)
        second = client.answer(1)
        seen = Seen(answer and answer.status, answer and answer.field("x-bowline-error"), closed=client.closed)
        seen.notes["second"] = second
        return seen


def unread_is_not_answered(seen, over):
    if seen.notes["second"]:
        return f"the body was answered as a request, with {seen.notes['second'].status}"
    return nothing_smuggled(seen, over)


def delayed(connection, request):
    """Takes its time, so that what is sent on too early is here before the answer."""
    early = b"/smuggled" in connection.more(0.3)
    return connection.send(OK if not early else OK.replace(b"200 OK", b"299 Early"))


def not_before_101(seen, over):
    return "bytes behind an upgrade were sent on before it was accepted" if seen.status == 299 else None


BOTH = "RFC 9112, 6.3: may be read by its chunks; a proxy has to take the length out"
ONE = "RFC 9110, 8.6: may be taken as one"
UPGRADE = "GET /framing HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" \
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"

CASES = [
    head("cl-te", "CL with TE", "Content-Length: 5\r\nTransfer-Encoding: chunked", "length-and-chunked",
         "one parser goes by the length, the next by the chunks", EITHER, may_mend=BOTH),
    head("te-cl", "CL with TE", "Transfer-Encoding: chunked\r\nContent-Length: 5", "length-and-chunked",
         "the same, the other way round", EITHER, may_mend=BOTH),
    head("cl-differ", "differing CLs", "Content-Length: 5\r\nContent-Length: 6", "content-length-repeated",
         "the first counts for some, the last for others", b"hello!"),
    head("cl-twice", "equal CLs twice", "Content-Length: 5\r\nContent-Length: 5", "content-length-repeated",
         "harmless alone, and a sign of a client that adds fields to another's", may_mend=ONE),
    head("cl-list", "`5, 5`", "Content-Length: 5, 5", "content-length", "the same in one line", may_mend=ONE),
    length("cl-plus", "`+5`", "+5", "some number parsers take a sign"),
    length("cl-hex", "`0x5`", "0x5", "0 for some, 5 for others"),
    length("cl-empty", "empty", "", "0 for some, absent for others", b""),
    length("cl-negative", "`-1`", "-1", "a length that lies before the body", b""),
    length("cl-wrap", "2⁶⁴+5", "18446744073709551621", "5, where 64 bits wrap"),
    head("cl-space-colon", "space before colon", "Content-Length : 5", "space-before-colon",
         "a field of that name for some, of another for others (RFC 9112, 5.1)"),
    head("te-space-colon", "space before colon", "Transfer-Encoding : chunked", "space-before-colon",
         "the same with chunks", CHUNKED),
    coding("te-comma", "TE `,chunked`", ",chunked", "an empty element that not every parser skips",
           may_mend="RFC 9110, 5.6.1: empty elements are skipped"),
    coding("te-xchunked", "TE `xchunked`", "xchunked", "chunked for who looks for the word, unknown for others"),
    coding("te-identity", "TE `chunked, identity`", "chunked, identity", "chunked is not the last coding: no end is known"),
    coding("te-doubled", "TE doubled", "chunked, chunked", "chunked twice has no meaning"),
    head("te-two-lines", "TE doubled", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "transfer-encoding",
         "the first line counts for some, the last for others", CHUNKED),
    coding("te-vt", "TE VT-prefixed", "\x0bchunked", "a space for who trims by `isspace`", "field-value"),
    coding("te-10", "TE on HTTP/1.0", "chunked", "HTTP/1.0 has no chunks (RFC 9112, 6.1: its framing is faulty)",
           version="1.0"),
    chunks("chunk-lf", "chunk sizes: bare LF", b"5\nhello\n0\n\n", "a chunk's line ends with CRLF"),
    chunks("chunk-hex", "chunk sizes: `0x1`", b"0x1\r\na\r\n0\r\n\r\n", "the last chunk for some, one byte for others"),
    chunks("chunk-letters", "chunk sizes: `1zz`", b"1zz\r\na\r\n0\r\n\r\n", "some number parsers stop where the number does"),
    chunks("chunk-wrap", "chunk sizes: 2⁶⁴", b"10000000000000001\r\na\r\n0\r\n\r\n", "1, where 64 bits wrap"),
    chunks("chunk-cr", "CR in chunk extension", b"1;a\rb\r\na\r\n0\r\n\r\n", "the end of the line, for some"),
    chunks("chunk-extension-lf", "CR in chunk extension", b"1;a\nb\r\na\r\n0\r\n\r\n", "the same with LF"),
    Case("framing/trailer-length", "framing fields in trailers", REFUSE,
         post("Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n"),
         "merged into the head it frames the message a second time", (400,), "body-framing", streams=True,
         may_mend="RFC 9110, 6.5.1: trailers may be dropped"),
    Case("framing/unread-body", "unread body on keep-alive", HOLD, unread,
         "an answer before the body, and the body is read as the next request", (403,), "denied",
         check=unread_is_not_answered),
    Case("framing/upgrade-pipelined", "pipelined bytes after Upgrade", HOLD, (UPGRADE + "\r\n").encode() + SMUGGLED,
         "a tunnel before 101: what follows would go past every rule", check=not_before_101, answer=delayed),
    head("upgrade-body", "pipelined bytes after Upgrade", "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5",
         "upgrade-with-body", "whether the body belongs to the request or to the tunnel is not known to both alike",
         may_mend="RFC 9110, 7.8: an Upgrade may be ignored"),
    stream("te-chunked", "h2 with TE", [("transfer-encoding", "chunked")], b"0\r\n\r\n",
           "as HTTP/1.1 behind the edge it would be framing (RFC 9113, 8.2.2: malformed)"),
    stream("te-gzip", "h2 with TE", [("te", "gzip")], None, "only `trailers` may be said (RFC 9113, 8.2.2)"),
    stream("connection", "h2 with TE", [("connection", "close")], None, "what belongs to a connection of HTTP/1"),
    stream("upgrade", "h2 with TE", [("upgrade", "h2c")], None, "what belongs to a connection of HTTP/1"),
    stream("length-short", "h2 length ≠ DATA", [("content-length", "20")], b"hello",
           "behind the edge the next request would be its rest (RFC 9113, 8.1.1)", streams=True),
    stream("length-long", "h2 length ≠ DATA", [("content-length", "2")], b"hi" + SMUGGLED,
           "behind the edge the rest would be a request (RFC 9113, 8.1.1)", streams=True),
    stream("length-twice", "h2 length ≠ DATA", [("content-length", "5"), ("content-length", "6")], b"hello!",
           "as HTTP/1.1 it would be framed twice"),
    stream("length-plus", "h2 length ≠ DATA", [("content-length", "+5")], b"hello", "as in HTTP/1.1"),
    stream("length-none", "h2 length ≠ DATA", [("content-length", "5")], None,
           "a length and no body at all", streams=True),
]
