"""What a case is, and what may come of it."""

from dataclasses import dataclass, field
from typing import Callable

# What has to come of a case.
REFUSE = "refuse"  # no request of it is whole at the upstream
HOLD = "hold"  # it may be answered; `check` says what must hold
BOUND = "bound"  # it costs no more than `check` allows, and others are served meanwhile


@dataclass(frozen=True)
class Case:
    """One thing that is sent, and what must come of it."""

    id: str
    # The line of `list.toml` that it stands for.
    item: str
    kind: str
    # The bytes of one connection of HTTP/1, the fields and data of one stream of HTTP/2, or a function that does more.
    send: object
    # Why it is dangerous, or which rule it breaks.
    why: str
    # Of Bowline alone: the statuses it may be answered with, and the reason in `X-Bowline-Error`.
    statuses: tuple = (400,)
    reason: str | None = None
    # Judges what reached the upstream and what came back; returns what is wrong, or nothing.
    check: Callable | None = None
    # Over what it is sent: `h1` (plain), `h1s` (TLS), `h2`, `tls` (records).
    over: tuple = ("h1", "h1s")
    # The rule that lets a recipient mend it before it goes on; what then reaches the upstream must be flawless.
    may_mend: str | None = None
    # The fault lies behind the head: an upstream may see the beginning of it, and never the end.
    streams: bool = False
    # The connection has to end with it: what follows on it cannot be told from it.
    closes: bool = True
    # What the upstream answers, instead of `200 OK`.
    answer: object = None
    # Whether other proxies are asked the same: not what only a policy of Bowline's can judge.
    peers: bool = True
    # Takes its time: runs beside the others.
    slow: bool = False


@dataclass
class Seen:
    """What came back of a case, and what reached the upstream."""

    status: int | None = None
    reason: str | None = None
    head: bytes = b""
    body: bytes = b""
    # The peer ended the connection, or the stream of HTTP/2 was reset.
    closed: bool = False
    error: str | None = None
    # Of the upstream: all bytes of each connection, and the requests that were whole.
    raw: list = field(default_factory=list)
    requests: list = field(default_factory=list)
    # What a function of a case has found out.
    notes: dict = field(default_factory=dict)
