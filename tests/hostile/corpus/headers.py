"""Lines and fields: what ends one, and which of them an app may believe."""

from case import HOLD, REFUSE, Case

LF = "RFC 9112, 2.2: a single LF may be taken for the end of a line"
FOLD = "RFC 9112, 5.2: a fold may be replaced by spaces"
VERSION = "RFC 9110, 2.5: a minor version may be taken for the one that is known"


def get(fields=b"", line=b"GET /headers HTTP/1.1", host=b"Host: {host}\r\n"):
    return line + b"\r\n" + host + fields + b"\r\n"


def bad(name, item, sent, reason, why, statuses=(400,), may_mend=None):
    return Case(f"headers/{name}", item, REFUSE, sent, why, statuses, reason, may_mend=may_mend)


def stream(name, fields, why, item="CRLF in h2 values", **changed):
    """A GET over HTTP/2 with these fields; what is changed of the ordinary ones stands in `changed`."""

    def send(client):
        return client.fields(more=fields, **changed), None

    return Case(f"h2/{name}", item, REFUSE, send, why, (400, 431), None, None, ("h2",))


def custom(name, make, why, item="CRLF in h2 values", statuses=(400,)):
    """All fields as `make` has them."""
    return Case(f"h2/{name}", item, REFUSE, lambda client: (make(client), None), why, statuses, None, None, ("h2",))


def no_forged(seen, over):
    """What the app would take for the client's address was not said by the client."""
    if not seen.requests:
        return None
    head = seen.requests[0].head.lower()
    return "the upstream believes what the client says of itself" if b"203.0.113.66" in head else None


FORGED = b"".join(name + b": 203.0.113.66\r\n" for name in (b"X-Forwarded-For", b"X-Real-IP", b"X_Forwarded_For"))
# Names of the fields that appoint others to be dropped on the way.
APPOINTED = b"Connection: close, X-Forwarded-For, X-Forwarded-Proto, Host\r\n"


def still_named(seen, over):
    if not seen.requests:
        return None
    request = seen.requests[0]
    if not request.all(b"host"):
        return "Host was nominated away"
    return None if request.all(b"x-forwarded-for") else "X-Forwarded-For was nominated away"


def forged_stream(client):
    return client.fields(more=[("x-forwarded-for", "203.0.113.66"), ("forwarded", "for=203.0.113.66")]), None


CASES = [
    bad("lf", "bare LF", b"GET /headers HTTP/1.1\nHost: {host}\n\n", "bare-lf", "one line for some, two for others", may_mend=LF),
    bad("lf-field", "bare LF", get(b"X: a\nY: b\r\n"), "bare-lf", "a field inside another's value", may_mend=LF),
    bad("lf-end", "bare LF", get(b"X: a\r\n\n")[:-2], "bare-lf", "the end of the head for some", may_mend=LF),
    bad("cr-value", "bare CR", get(b"X: a\rY: b\r\n"), "bare-cr", "the end of a line for some (RFC 9112, 2.2)",
        may_mend="RFC 9112, 2.2: a bare CR may be replaced by a space"),
    bad("cr-name", "bare CR", get(b"X\r: b\r\n"), "bare-cr", "the same in a name"),
    bad("cr-line", "bare CR", get(line=b"GET /headers HTTP/1.1\rX: y"), "bare-cr", "the same in the first line"),
    bad("nul-value", "NUL", get(b"X: a\0b\r\n"), "nul", "the end of a string in C"),
    bad("nul-name", "NUL", get(b"X\0: b\r\n"), "nul", "the same in a name"),
    bad("control", "NUL", get(b"X: a\x01b\r\n"), "field-value", "control bytes have no place in a value (RFC 9110, 5.5)"),
    bad("delete", "NUL", get(b"X: a\x7fb\r\n"), "field-value", "the same with DEL"),
    bad("empty-name", "empty name", get(b": a\r\n"), "empty-field-name", "a field without a name"),
    bad("name-space", "empty name", get(b"X Y: a\r\n"), "field-name", "a name that no parser agrees on"),
    bad("no-colon", "empty name", get(b"X\r\n"), "field-name", "a line that is no field"),
    bad("fold", "obs-fold", get(b"X: a\r\n b\r\n"), "obs-fold", "one value for some, two lines for others", may_mend=FOLD),
    bad("fold-tab", "obs-fold", get(b"X: a\r\n\tb\r\n"), "obs-fold", "the same with a tab", may_mend=FOLD),
    bad("fold-first", "obs-fold", get(host=b" Host: {host}\r\n"), "obs-fold", "a fold of the request line",
        may_mend="RFC 9112, 2.2: such lines may be dropped"),
    bad("version-long", "HTTP/1.32", get(line=b"GET /headers HTTP/1.32"), "version", "a version is one digit, a dot, one digit"),
    bad("version-lower", "HTTP/1.32", get(line=b"GET /headers http/1.1"), "version", "its letters are large"),
    bad("version-09", "HTTP/1.32", b"GET /headers\r\n\r\n", "request-line", "HTTP/0.9 has no fields, and no end"),
    bad("version-2", "HTTP/1.32", get(line=b"GET /headers HTTP/2.0"), "version-not-supported", "HTTP/2 is not spoken so",
        (505,)),
    bad("version-12", "HTTP/1.32", get(line=b"GET /headers HTTP/1.2"), "version-not-supported",
        "what it would mean is not written anywhere", (505,), VERSION),
    bad("many", "too many", get(b"X: y\r\n" * 10000), "head-too-large", "10,000 fields", (431,)),
    bad("many-small", "too many", get(b"X: y\r\n" * 1500), "too-many-fields", "1,500 fields", (431,)),
    bad("large", "too large", get(b"X: " + b"y" * 1_500_000 + b"\r\n"), "head-too-large", "one field of 1.5 MB", (431,)),
    bad("large-target", "too large", get(line=b"GET /" + b"p" * 100_000 + b" HTTP/1.1"), "uri-too-long",
        "a target of 100 kB", (414,)),
    bad("host-none", "Host", get(host=b""), "host-missing", "whose request it is, is anybody's guess (RFC 9112, 3.2)"),
    bad("host-twice", "Host", get(b"Host: other.example\r\n"), "host-repeated", "the first counts for some, the last for others"),
    bad("host-list", "Host", get(host=b"Host: {host}, other.example\r\n"), "host-invalid", "the same in one line"),
    bad("host-user", "Host", get(host=b"Host: other.example@{host}\r\n"), "host-invalid", "two names, for who splits elsewhere"),
    bad("host-absolute", "Host", get(line=b"GET http://other.example/headers HTTP/1.1"), "host-mismatch",
        "the target names one host, the field another",
        may_mend="RFC 9112, 3.2.2: the target counts, and Host is written anew"),
    bad("trace", "Host", get(line=b"TRACE /headers HTTP/1.1"), "method-not-allowed", "gives back what scripts may not read", (405,)),
    bad("connect", "Host", get(line=b"CONNECT other.example:443 HTTP/1.1"), "method-not-allowed", "a tunnel to anywhere", (405,)),
    stream("value-crlf", [("x", "a\r\ny: b")], "as HTTP/1.1 it would be two fields (RFC 9113, 8.2.1)"),
    stream("value-lf", [("x", "a\ny: b")], "the same with LF"),
    stream("value-cr", [("x", "a\ry: b")], "the same with CR"),
    stream("value-nul", [("x", "a\0b")], "the end of a string in C"),
    stream("value-smuggled", [("x", "a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")], "as HTTP/1.1 it would be two requests"),
    stream("name-crlf", [("x: y\r\nz", "b")], "the same in a name"),
    stream("name-colon", [("x: y", "b")], "a name with a colon"),
    stream("name-space", [("x y", "b")], "a name with a space"),
    stream("name-upper", [("X-Upper", "b")], "names are in small letters (RFC 9113, 8.2.1)"),
    stream("name-empty", [("", "b")], "a field without a name"),
    stream("path-line", [], "as HTTP/1.1 it would be the end of the request line", path="/h2 HTTP/1.1\r\nx: y"),
    stream("path-space", [], "as HTTP/1.1 it would be four words", path="/h2 HTTP/1.1 x"),
    stream("path-empty", [], "no path at all (RFC 9113, 8.3.1)", path=""),
    stream("path-relative", [], "a path begins with a slash", path="h2"),
    stream("method-space", [], "as HTTP/1.1 it would be another target", method="GET /denied HTTP/1.1\r\nx: y\r\n\r\nGET"),
    custom("path-twice", lambda c: [*c.fields(), (":path", "/denied")], "the first counts for some, the last for others"),
    custom("pseudo-late", lambda c: [*c.fields(more=[("x", "y")]), (":path", "/h2")], "pseudo-fields stand before all others"),
    custom("pseudo-unknown", lambda c: [(":x", "y"), *c.fields()], "a pseudo-field that nobody knows"),
    custom("host-differs", lambda c: c.fields(more=[("host", "other.example")]), "`:authority` names one host, `host` another",
           "Host"),
    custom("host-none", lambda c: c.fields(authority=False), "no host at all", "Host"),
    custom("connect", lambda c: [(":method", "CONNECT"), (":authority", "other.example:443")], "a tunnel to anywhere", "Host", (405,)),
    Case("headers/forwarded", "forged `X-Forwarded-For`", HOLD, get(FORGED + b"Forwarded: for=203.0.113.66\r\n"),
         "allowlists, limits and logs of apps go by it", (200,), check=no_forged),
    Case("headers/nominated", "forged `X-Forwarded-For`", HOLD, get(APPOINTED),
         "`Connection` names fields to be dropped; an identity must not be among them", (200,), check=still_named),
    Case("h2/forwarded", "forged `X-Forwarded-For`", HOLD, forged_stream, "the same over HTTP/2",
         (200,), check=no_forged, over=("h2",)),
]
