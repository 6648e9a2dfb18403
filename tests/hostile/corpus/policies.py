"""What Bowline's own policies must not be talked out of: uploads, and who is let in. Other proxies have no such thing."""

from case import HOLD, REFUSE, Case

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
TYPE = b"Content-Type: multipart/form-data; boundary=b\r\n"


def part(head, content=PNG, boundary=b"b"):
    return b"--" + boundary + b"\r\n" + head + b"\r\n\r\n" + content + b"\r\n--" + boundary + b"--\r\n"


def named(disposition):
    return b"Content-Disposition: form-data; " + disposition


def upload(name, item, reason, why, body, fields=TYPE, statuses=(415,), path="/upload", chunked=False, streams=False):
    """Over HTTP/1 with a length or in chunks, and over HTTP/2."""
    framing = b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: %d\r\n" % len(body)
    framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces(body)) + b"0\r\n\r\n" if chunked else body
    sent = f"POST {path} HTTP/1.1\r\nHost: {{host}}\r\n".encode() + fields + framing + b"\r\n" + framed
    pairs = [tuple(line.decode("latin-1").split(": ", 1)) for line in fields.split(b"\r\n") if line]
    lower = [(key.lower(), value) for key, value in pairs] + [("content-length", str(len(body)))] * (not chunked)
    stream = lambda client: (client.fields("POST", path, lower), body)
    more = {"why": why, "statuses": statuses, "reason": reason, "peers": False, "streams": streams}
    return [
        Case(f"upload/{name}", item, REFUSE, sent, **more),
        Case(f"h2/upload-{name}", item, REFUSE, stream, over=("h2",), **more),
    ]


def pieces(body):
    return [body[i : i + 4096] for i in range(0, len(body), 4096)]


def access(name, item, path, fields, statuses, reason, why, method="GET"):
    """Over HTTP/1 and HTTP/2."""
    lines = "".join(f"{key}: {value}\r\n" for key, value in fields)
    sent = f"{method} {path} HTTP/1.1\r\nHost: {{host}}\r\n{lines}\r\n".encode()
    stream = lambda client: (client.fields(method, path, [(key.lower(), value) for key, value in fields]), None)
    more = {"why": why, "statuses": statuses, "reason": reason, "peers": False, "closes": False}
    return [
        Case(f"auth/{name}", item, REFUSE, sent, **more),
        Case(f"h2/auth-{name}", item, REFUSE, stream, over=("h2",), **more),
    ]


def one_origin(seen, over):
    """The app alone can know which sites are its own: it gets what the browser said, once, and nothing else."""
    if len(seen.requests) != 1:
        return f"{len(seen.requests)} requests came to the upstream"
    origins = seen.requests[0].all(b"origin")
    return None if origins == [b"https://evil.example"] else f"the app sees {origins}"


SOCKET = b"GET /socket HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nOrigin: https://evil.example\r\n" \
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
RIGHT, WRONG = ("Authorization", "Bearer hostile-token"), ("Authorization", "Bearer other")
PEOPLE = ("Authorization", "Basic YW5uOmhvc3RpbGUtcGFzc3dvcmQ=")
ALLOWED = "192.0.2.1"

CASES = [
    *upload("magic", "magic ≠ extension", "upload-program", "a program that calls itself a picture",
            part(named(b'name="f"; filename="a.png"'), b"\x7fELF\x02\x01\x01" + bytes(64))),
    *upload("magic-text", "magic ≠ extension", "upload-content", "text that calls itself a picture",
            part(named(b'name="f"; filename="a.png"'), b"hello, I am text")),
    *upload("polyglot", "magic ≠ extension", "upload-polyglot", "a picture with a program in it",
            part(named(b'name="f"; filename="a.png"'), PNG + b"<?php x();")),
    *upload("extension", "magic ≠ extension", "upload-extension", "an extension that is not taken",
            part(named(b'name="f"; filename="a.php"'))),
    *upload("hidden", "magic ≠ extension", "upload-hidden-extension", "`a.php.png` runs as PHP on some servers",
            part(named(b'name="f"; filename="a.php.png"'))),
    *upload("names", "two filenames", "upload-two-names", "the first counts for some, the last for others",
            part(named(b'name="f"; filename="a.png"; filename="a.php"'))),
    *upload("dispositions", "two filenames", "upload-part-head", "the same in two lines",
            part(named(b'name="f"; filename="a.png"') + b"\r\n" + named(b'name="f"; filename="a.php"'))),
    *upload("name-star", "`filename*`", "upload-extension", "the extended name counts where it is understood",
            part(named(b"name=\"f\"; filename*=UTF-8''a.php"))),
    *upload("name-star-differs", "`filename*`", None, "both names, and they do not agree",
            part(named(b"name=\"f\"; filename=\"a.png\"; filename*=UTF-8''a.php"))),
    *upload("name-pieces", "`filename*`", None, "a name in pieces (RFC 2231), which some put together",
            part(named(b'name="f"; filename*0="a.p"; filename*1="hp"'))),
    *upload("chunked", "chunked over the limit", "body-too-large", "nothing announces how long it is", b"a" * 200_000,
            b"Content-Type: text/plain\r\n", (413,), "/upload/a.txt", True, True),
    *upload("announced", "chunked over the limit", "body-too-large", "the same with a length", b"a" * 200_000,
            b"Content-Type: text/plain\r\n", (413,), "/upload/a.txt"),
    *upload("boundary-twice", "duplicate boundary", "upload-boundary", "the first counts for some, the last for others",
            part(named(b'name="f"; filename="a.png"')), b"Content-Type: multipart/form-data; boundary=b; boundary=c\r\n"),
    *upload("type-twice", "duplicate boundary", "upload-media-type", "the same in two fields",
            part(named(b'name="f"; filename="a.png"')), TYPE + TYPE.replace(b"=b", b"=c")),
    *upload("boundary-inside", "duplicate boundary", "upload-delimiter", "a boundary within a line",
            part(named(b'name="f"; filename="a.txt"'), b"x --b\r\n" + named(b'name="g"; filename="a.php"') + b"\r\n\r\ny"),
            streams=True),
    *upload("gzip", "gzip body", "upload-encoded", "what is in it is not seen", part(named(b'name="f"; filename="a.png"')),
            TYPE + b"Content-Encoding: gzip\r\n"),
    *access("twice", "duplicate Authorization", "/token", [WRONG, RIGHT], (401,), "bearer-wanted", "one counts here, the other there"),
    *access("twice-right", "duplicate Authorization", "/token", [RIGHT, RIGHT], (401,), "bearer-wanted", "the same, both right"),
    *access("people-twice", "duplicate Authorization", "/people", [PEOPLE, WRONG], (401,), "basic-wanted", "the same with a password"),
    *access("list", "duplicate Authorization", "/token", [("Authorization", "Bearer other, Bearer hostile-token")], (401,),
            "bearer-wanted", "the same in one line"),
    *access("case", "duplicate Authorization", "/TOKEN", [], (401,), "bearer-wanted", "the same path to an app that knows no case"),
    *access("forwarded", "spoofed XFF against an allowlist", "/allow", [("X-Forwarded-For", ALLOWED)], (403,), "not-allowed",
            "anybody can say so"),
    *access("forwarded-more", "spoofed XFF against an allowlist", "/allow",
            [("X-Forwarded-For", ALLOWED), ("Forwarded", f"for={ALLOWED}"), ("X-Real-IP", ALLOWED), ("X-Client-IP", ALLOWED)],
            (403,), "not-allowed", "in every way it can be said"),
    *access("mapped", "`::ffff:`", "/allow", [("X-Forwarded-For", f"::ffff:{ALLOWED}")], (403,), "not-allowed",
            "the same address as IPv6 writes it"),
    *access("override", "method override", "/denied", [("X-HTTP-Method-Override", "GET"), ("X-Original-URL", "/open"),
            ("X-Rewrite-URL", "/open")], (403,), "denied", "what the edge decides is not decided by what it says beside", "POST"),
    *access("method", "method override", "/token", [("X-HTTP-Method-Override", "OPTIONS")], (401,), "bearer-wanted",
            "no method passes without the token", "PATCH"),
    *access("preflight", "method override", "/token", [("Access-Control-Request-Method", "GET")], (401,), "bearer-wanted",
            "nor does a preflight", "OPTIONS"),
    Case("auth/origin", "WebSocket Origin", HOLD, SOCKET, "another site's page asks with its visitor's cookies", check=one_origin,
         peers=False),
    *access("origin-token", "WebSocket Origin", "/token", [("Connection", "Upgrade"), ("Upgrade", "websocket"),
            ("Origin", "https://evil.example")][2:], (401,), "bearer-wanted", "an Origin is no proof"),
]
