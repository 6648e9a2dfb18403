"""Sends every case and judges what came of it."""

import itertools
import json
import re
import threading
import time
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import corpus
import wire
from case import HOLD, REFUSE, Case, Seen
from upstream import NAME

HERE = Path(__file__).parent

BOWLINE = "bowline"

# How long anything may take that takes no time.
SOON = 10

# Fields of a case that is not about their number.
FEW = 20

# How long a proxy that answers nothing and closes nothing is waited for.
QUIET = 1.0


@dataclass
class Outcome:
    case: Case
    over: str
    seen: Seen
    # The request reached the upstream whole, or what had to hold did not.
    through: bool = False
    # It reached it, mended as a rule allows.
    mended: bool = False
    # What is not as it must be, with Bowline.
    wrong: str = ""
    # In seconds.
    took: float = 0.0


class Runner:
    def __init__(self, upstream, about):
        address = lambda text: (text.rpartition(":")[0].strip("[]"), int(text.rpartition(":")[2]))
        self.upstream = upstream
        self.about = about
        self.peer = about["peer"]
        self.place = wire.Place(about["host"], address(about["http"]), address(about["https"]), about["ca"])
        self.barriers = itertools.count()

    @property
    def strict(self):
        return self.peer == BOWLINE

    def run(self, only="", verbose=False):
        """All cases whose id holds `only`; those that take their time beside the others."""
        chosen = [case for case in corpus.cases() if only in case.id and (case.peers or self.strict)]
        outcomes = []

        def one(case, over):
            outcomes.append(self.one(case, over))
            if verbose:
                print(describe(outcomes[-1]), flush=True)

        aside = [threading.Thread(target=one, args=(case, over)) for case in chosen if case.slow for over in case.over]
        for thread in aside:
            thread.start()
        for case in chosen:
            for over in () if case.slow else case.over:
                one(case, over)
        for thread in aside:
            thread.join()
        return outcomes

    def one(self, case, over):
        begun = time.monotonic()
        if not case.slow:
            self.upstream.forget()
            self.upstream.answer = case.answer
        try:
            seen = self.send(case, over)
        except OSError as error:
            seen = Seen(error=f"{type(error).__name__}: {error}", closed=True)
        if not case.slow:
            self.upstream.answer = None
            fault = self.barrier()
            seen.notes["barrier"] = seen.notes.get("barrier") or fault
            seen.raw, seen.requests = self.upstream.seen(case.id.encode())
        else:
            seen.raw, seen.requests = self.upstream.seen(f"/slow/{case.id}/{over}".encode(), aside=True)
        outcome = self.judge(case, over, seen)
        outcome.took = time.monotonic() - begun
        return outcome

    def send(self, case, over):
        if over == "h2" and not by_itself(case):
            return self.stream(case)
        if callable(case.send):
            return case.send(self, over)
        with wire.Http1(self.place, over) as client:
            client.send(case.send)
            answer = client.answer(SOON if self.strict else 3)
            refused = answer is not None and answer.status is not None and answer.status >= 400
            ends = case.kind == REFUSE and case.closes and (refused or answer is None)
            closed = client.ended((SOON if self.strict else QUIET) if ends else 0.01)
            return of_answer(answer, closed)

    def stream(self, case):
        """One stream of HTTP/2: the case's fields beside the ordinary ones, and its data."""
        with wire.Http2(self.place) as client:
            fields, data = case.send(client) if callable(case.send) else case.send
            # What comes late of another case is known by it.
            named = [*fields, (NAME, case.id)] if len(fields) < FEW else fields
            client.headers(1, named, end=data is None)
            if data is not None:
                client.data(1, data)
            client.answered(1, SOON if self.strict else 3)
            head = b"".join(name + b": " + value + b"\r\n" for name, value in client.heads.get(1, []))
            reason = client.field(1, "x-bowline-error")
            return Seen(client.status(1), reason, head, client.bodies.get(1, b""), client.failed(), client.error(1))

    def memory(self):
        """What the peer's processes hold for themselves alone, in bytes."""
        pages = 0
        for pid in self.about.get("pids", []):
            try:
                with open(f"/proc/{pid}/statm", encoding="ascii") as file:
                    pages += int(file.read().split()[1])
            except OSError:
                continue
        return pages * 4096

    def barrier(self):
        """An ordinary request: what was sent before it and could come to the upstream is there when it is."""
        path = f"/barrier/{next(self.barriers)}"
        try:
            with wire.Http1(self.place, "h1") as client:
                client.send(f"GET {path} HTTP/1.1\r\nHost: {{host}}\r\nConnection: close\r\n\r\n".encode())
                answer = client.answer(SOON)
        except OSError as error:
            return f"nobody else is served: {error}"
        if answer is None or answer.status != 200:
            return f"somebody else gets {answer and answer.status}"
        return None if self.upstream.wait(path.encode(), SOON) else "what somebody else asks does not come"

    def judge(self, case, over, seen):
        outcome = Outcome(case, over, seen)
        fault = case.check(seen, over) if case.check else None
        if case.kind == REFUSE:
            mends = case.may_mend and all(map(flawless, seen.requests))
            # With a check, what came has to be what it looks for.
            if seen.requests and (mends or (case.check and not fault)):
                outcome.mended = True
            elif seen.requests:
                outcome.through = True
        elif case.kind == HOLD and fault and case.may_mend:
            outcome.mended = True
        elif fault:
            outcome.through = True
        if fault is None:
            fault = seen.notes.get("barrier")
        if self.strict:
            outcome.wrong = self.wrong(case, outcome, fault)
        return outcome

    def wrong(self, case, outcome, fault):
        seen = outcome.seen
        if fault:
            return fault
        if outcome.through or outcome.mended:
            return f"it reached the upstream: {seen.requests[0].head if seen.requests else ''!r}"
        if case.kind != REFUSE:
            # Where nothing is said of the answer, the check has judged it.
            told = case.reason is not None or 200 in case.statuses
            right = seen.status in case.statuses and seen.reason == case.reason
            return f"answered with {seen.status} {seen.reason}, not {case.statuses} {case.reason}" if told and not right else ""
        if not case.streams and seen.raw:
            return f"some of it reached the upstream: {seen.raw[0][:200]!r}"
        if seen.status is None:
            # A request that is malformed is reset, or its connection is (RFC 9113, 8.1.1).
            malformed = outcome.over == "h2" and seen.error in ("RST_STREAM 1", "GOAWAY 1")
            return "" if malformed else f"no answer ({seen.error})"
        if seen.status not in case.statuses:
            return f"answered with {seen.status} {seen.reason}, not {case.statuses}"
        if case.reason and seen.reason != case.reason:
            return f"the reason is {seen.reason}, not {case.reason}"
        if outcome.over != "h2" and case.closes and not seen.closed:
            return "the connection is left open"
        return ""


def by_itself(case):
    """Whether its function does all of it: it takes the runner and how it is sent, not a client."""
    return callable(case.send) and case.send.__code__.co_argcount == 2


def unlisted():
    """What stands in the list and not in the corpus, or the other way round; and tests elsewhere that are not there."""
    with open(HERE / "list.toml", "rb") as file:
        lines = tomllib.load(file)
    elsewhere = lines.pop("elsewhere")
    wanted = {line for group in lines.values() for line in group}
    covered = {case.item for case in corpus.cases()}
    faults = [f"no case stands for: {line}" for line in sorted(wanted - covered)]
    faults += [f"no line of the list is: {line}" for line in sorted(covered - wanted)]
    names = Counter(case.id for case in corpus.cases())
    faults += [f"{count} cases are called {name}" for name, count in names.items() if count > 1]
    for line, where in elsewhere.items():
        path, _, test = where.partition(" ")
        if f"fn {test}()" not in (HERE.parent.parent / path).read_text(encoding="utf-8"):
            faults.append(f"{line}: there is no {test} in {path}")
    return faults


def unlogged(outcomes, path, limit=SOON):
    """Each refusal that was answered with its reason has one line in the access log, and no reason has more."""
    answered = Counter(outcome.seen.reason for outcome in outcomes if outcome.seen.reason)
    deadline = time.monotonic() + limit
    while True:
        with open(path, encoding="utf-8") as file:
            logged = Counter(reason for line in file if (reason := json.loads(line).get("reason")))
        faults = [
            f"{count} answers said {reason}, and {logged[reason]} lines of the access log"
            for reason, count in answered.items()
            if logged[reason] != count
        ]
        if not faults or time.monotonic() > deadline:
            return faults
        time.sleep(0.1)


def of_answer(answer, closed):
    if answer is None:
        return Seen(closed=closed, error="closed" if closed else "silence")
    return Seen(answer.status, answer.field("x-bowline-error"), answer.head, answer.body, closed)


def flawless(request):
    """What two parsers cannot see differently: every line ends with CRLF and is a field, and one thing says where it ends."""
    head = request.head
    if re.search(rb"[^\r]\n|\r[^\n]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", head):
        return False
    first, *lines = head[:-4].split(b"\r\n")
    token = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
    if not re.fullmatch(token + rb" [!-~]+ HTTP/1\.[01]", first):
        return False
    if not all(re.fullmatch(token + rb":[ \t]*[^\r\n]*", line) for line in lines):
        return False
    lengths, codings = request.all(b"content-length"), request.all(b"transfer-encoding")
    framed = (len(lengths), len(codings)) in ((0, 0), (1, 0), (0, 1))
    sound = all(value.isdigit() for value in lengths) and all(value.lower() == b"chunked" for value in codings)
    return framed and sound and len(request.all(b"host")) == 1


def describe(outcome):
    mark = "THROUGH" if outcome.through else "mended" if outcome.mended else "ok"
    said = outcome.seen.status or outcome.seen.error
    return f"{mark:8}{outcome.case.id:40}{outcome.over:4}{outcome.took:6.2f} s  {said} {outcome.seen.reason or ''} {outcome.wrong}"
