"""Where a message ends: what two parsers may see differently is how requests are smuggled."""

from case import HOLD, REFUSE, Case

CHUNKED = b"5\r\nhello\r\n0\r\n\r\n"
# Whole by its length and by its chunks.
EITHER = b"0\r\n\r\n"


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


BOTH = "RFC 9112, 6.3: may be read by its chunks; a proxy has to take the length out"

CASES = [
    head("cl-te", "CL with TE", "Content-Length: 5\r\nTransfer-Encoding: chunked", "length-and-chunked",
         "one parser goes by the length, the next by the chunks", EITHER, may_mend=BOTH),
    head("te-cl", "CL with TE", "Transfer-Encoding: chunked\r\nContent-Length: 5", "length-and-chunked",
         "the same, the other way round", EITHER, may_mend=BOTH),
    head("cl-differ", "differing CLs", "Content-Length: 5\r\nContent-Length: 6", "content-length-repeated",
         "the first counts for some, the last for others", b"hello!"),
    head("cl-twice", "equal CLs twice", "Content-Length: 5\r\nContent-Length: 5", "content-length-repeated",
         "harmless alone, and a sign of a client that adds fields to another's", may_mend="RFC 9110, 8.6: may be taken as one"),
    head("cl-list", "`5, 5`", "Content-Length: 5, 5", "content-length", "the same in one line",
         may_mend="RFC 9110, 8.6: may be taken as one"),
    length("cl-plus", "`+5`", "+5", "some number parsers take a sign"),
    length("cl-hex", "`0x5`", "0x5", "0 for some, 5 for others"),
    length("cl-empty", "empty", "", "0 for some, absent for others", b""),
    length("cl-negative", "`-1`", "-1", "a length that lies before the body"),
    length("cl-wrap", "2⁶⁴+5", "18446744073709551621", "5, where 64 bits wrap"),
    head("space-colon", "space before colon", "Content-Length : 5", "space-before-colon",
         "a field of that name for some, of another for others (RFC 9112, 5.1)"),
]
