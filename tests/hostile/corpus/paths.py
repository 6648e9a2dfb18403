"""Paths: whoever decides on one spelling and forwards another has not decided at all. `/denied` is denied to everyone."""

import re
from urllib.parse import unquote_to_bytes

from case import REFUSE, Case


def meanings(path):
    """Every path that some app may take this one for."""
    found, open_ = set(), {path.partition(b"?")[0].partition(b"#")[0], path.partition(b"?")[0]}
    while open_:
        one = open_.pop()
        if one in found:
            continue
        found.add(one)
        open_.update({unquote_to_bytes(one), one.replace(b"\\", b"/"), re.sub(rb"/+", b"/", one), re.sub(rb";[^/]*", b"", one),
                      one.partition(b"\0")[0], one.partition(b"#")[0], one.lower(), overlong(one), resolved(one)})
    return found


def overlong(path):
    return path.replace(b"\xc0\xae", b".").replace(b"\xc0\xaf", b"/").replace(b"\xe0\x80\xaf", b"/")


def resolved(path):
    steps = []
    for step in path.split(b"/")[1:]:
        if step == b"..":
            del steps[-1:]
        elif step != b".":
            steps.append(step)
    return b"/" + b"/".join(steps)


def reaches_denied(seen, over):
    """What is denied was reached by another name."""
    for request in seen.requests:
        for path in meanings(request.path):
            if path == b"/denied" or path.startswith(b"/denied/"):
                return f"{request.path.decode('latin-1')} reached the upstream, and means {path.decode('latin-1')} to some"
    return None


def path(name, item, target, reason, why, in_streams=(400,)):
    """Over HTTP/1 and HTTP/2; refused by Bowline whatever it means, and let through by a peer if it means what is denied."""
    sent = b"GET " + target + b" HTTP/1.1\r\nHost: {host}\r\n\r\n"
    stream = lambda client: (client.fields(path=target.decode("latin-1")), None)
    more = {"why": why, "check": reaches_denied}
    return [
        Case(f"paths/{name}", item, REFUSE, sent, reason=reason, **more),
        Case(f"h2/path-{name}", item, REFUSE, stream, reason=None, over=("h2",), statuses=in_streams, closes=False, **more),
    ]


CASES = [
    *path("dots", "`%2e%2e`", b"/a/../denied", "dot-segment", "resolved by some apps"),
    *path("dots-encoded", "`%2e%2e`", b"/a/%2e%2e/denied", "dot-segment", "dots to whoever decodes first"),
    *path("dots-half", "`%2e%2e`", b"/a/.%2E/denied", "dot-segment", "the same by half"),
    *path("dot", "`%2e%2e`", b"/%2e/denied", "dot-segment", "a step to where one stands"),
    *path("slashes", "`//`", b"//denied", "empty-segment", "one slash to most apps"),
    *path("slashes-inside", "`//`", b"/a/..//denied", None, "both at once"),
    *path("dots-parameter", "`..;`", b"/a/..;/denied", "dot-segment", "servlet containers cut off what stands behind `;`"),
    *path("dots-parameter-value", "`..;`", b"/a/..;x=y/denied", "dot-segment", "the same with a value"),
    *path("nul", "`%00`", b"/denied%00.png", "encoded-control", "the end of a string in C"),
    *path("crlf", "`%00`", b"/denied%0d%0ax:y", "encoded-control", "a line end to whoever writes it into a head"),
    *path("slash-encoded", "`%2f`", b"/a/..%2fdenied", None, "a slash to whoever decodes first"),
    *path("slash-leading", "`%2f`", b"/%2fdenied", "encoded-slash", "the same at the beginning"),
    *path("backslash-encoded", "`%5c`", b"/a/..%5cdenied", None, "a slash on Windows"),
    *path("backslash", "`%5c`", b"/a/..\\denied", None, "the same as it is written"),
    *path("double", "double encoding", b"/a/%252e%252e/denied", "double-encoding", "dots to whoever decodes twice"),
    *path("double-letter", "double encoding", b"/%2564enied", "double-encoding", "`d` to whoever decodes twice"),
    *path("double-parts", "double encoding", b"/%25%36%34enied", None, "the same in parts"),
    *path("fragment", "`#`", b"/denied#/../a", "target-byte", "a fragment is never sent; what follows it is cut off by some",
          # Bowline's library of HTTP/2 cuts it off before anyone decides: what is decided on is what goes on.
          (400, 403)),
    *path("overlong-dots", "overlong UTF-8", b"/a/%c0%ae%c0%ae/denied", "path-utf8", "dots, in two bytes that UTF-8 forbids"),
    *path("overlong-slash", "overlong UTF-8", b"/a/..%c0%afdenied", "path-utf8", "a slash, the same way"),
    *path("utf8-raw", "overlong UTF-8", b"/a\xff/../denied", None, "a byte that is no text, as it is"),
    *path("percent", "double encoding", b"/%zz/../denied", None, "what a percent sign means alone is anybody's guess"),
]
