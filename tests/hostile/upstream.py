"""The upstream: a raw socket that records every byte, and answers what the case says."""

import re
import socket
import threading
import time

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"

# In what a case sends that runs beside the others.
ASIDE = b"/slow/"

# What a case is told by that is sent over HTTP/2.
NAME = "x-case"
CASE = re.compile(NAME.encode() + rb": ([^\r\n]+)", re.IGNORECASE)

# What asks on Bowline's behalf whether the app is well.
HEALTH = b"GET /health HTTP/1.1\r\n"


class Request:
    """One request that was whole."""

    def __init__(self, head, body):
        self.head = head
        self.body = body

    @property
    def line(self):
        return self.head.split(b"\n", 1)[0].rstrip(b"\r")

    @property
    def path(self):
        words = self.line.split(b" ")
        return words[1] if len(words) > 1 else b""

    def all(self, name):
        """The values of a field, in order."""
        lines = re.split(rb"\r?\n", self.head)[1:]
        pairs = (line.partition(b":") for line in lines)
        return [value.strip() for key, colon, value in pairs if colon and key.strip().lower() == name.lower()]


class Connection:
    def __init__(self, upstream, stream):
        self.upstream = upstream
        self.stream = stream
        self.raw = b""
        self.requests = []
        # How many of them had come before the case that runs began.
        self.seen = 0
        self.seen_raw = 0
        # Where in `raw` the message begins that is read now.
        self.begun = 0
        self.health = False
        # Read already, and not yet looked at.
        self.ahead = b""

    def run(self):
        buffer = b""
        with self.stream:
            while True:
                with self.upstream.lock:
                    self.begun = len(self.raw) - len(buffer)
                head, buffer = self.read_head(buffer)
                if head is None:
                    return
                body, buffer = self.read_body(head, buffer)
                if body is None:
                    return
                if self.health:
                    self.send(OK)
                    continue
                request = Request(head, body)
                with self.upstream.lock:
                    self.requests.append(request)
                    self.upstream.lock.notify_all()
                if not self.respond(request):
                    return

    def respond(self, request):
        answer = self.upstream.answers.get(request.path, self.upstream.answer)
        if b"GET /barrier/" in request.line:
            answer = None
        if callable(answer):
            return answer(self, request)
        return self.send(OK if answer is None else answer)

    def send(self, data):
        try:
            self.stream.sendall(data)
            return True
        except OSError:
            return False

    def more(self, patience):
        """What the case that runs has sent on this connection, read for so long before it is answered."""
        self.stream.settimeout(patience)
        try:
            self.ahead += self.stream.recv(1 << 16)
        except OSError:
            pass
        self.stream.settimeout(None)
        return self.raw[self.seen_raw :] + self.ahead

    def receive(self):
        try:
            data, self.ahead = self.ahead or self.stream.recv(1 << 16), b""
        except OSError:
            return b""
        with self.upstream.lock:
            self.raw += data
            self.health = self.raw.startswith(HEALTH)
        return data

    def read_head(self, buffer):
        """As lenient as the most lenient server: any empty line ends it."""
        while not (end := re.search(rb"\r?\n\r?\n", buffer)):
            data = self.receive()
            if not data:
                return None, buffer
            buffer += data
        return buffer[: end.end()], buffer[end.end() :]

    def read_body(self, head, buffer):
        request = Request(head, b"")
        if any(b"chunked" in value.lower() for value in request.all(b"transfer-encoding")):
            return self.read_chunks(buffer)
        lengths = request.all(b"content-length")
        length = int(lengths[0]) if lengths and lengths[0].isdigit() else 0
        while len(buffer) < length:
            data = self.receive()
            if not data:
                return None, buffer
            buffer += data
        return buffer[:length], buffer[length:]

    def read_chunks(self, buffer):
        body = b""
        while True:
            line, buffer = self.read_line(buffer)
            size = re.match(rb"\s*(?:0x)?([0-9a-fA-F]+)", line or b"")
            if not size:
                return None, buffer
            size = int(size[1], 16)
            if size == 0:
                while True:
                    line, buffer = self.read_line(buffer)
                    if line is None:
                        return None, buffer
                    if not line.strip():
                        return body, buffer
            while len(buffer) < size:
                data = self.receive()
                if not data:
                    return None, buffer
                buffer += data
            body, buffer = body + buffer[:size], buffer[size:]
            line, buffer = self.read_line(buffer)
            if line is None:
                return None, buffer

    def read_line(self, buffer):
        while b"\n" not in buffer:
            data = self.receive()
            if not data:
                return None, buffer
            buffer += data
        line, _, rest = buffer.partition(b"\n")
        return line, rest


class Upstream:
    """Accepts for as long as the run lasts."""

    def __init__(self):
        self.lock = threading.Condition()
        self.connections = []
        # To everyone, and by path: that of a case which runs beside the others.
        self.answer = None
        self.answers = {}
        self.notes = {}
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            stream, _ = self.listener.accept()
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, stream)
            with self.lock:
                self.connections.append(connection)
            threading.Thread(target=connection.run, daemon=True).start()

    def note(self, path, value):
        """What an answer has found out."""
        with self.lock:
            self.notes[path] = value
            self.lock.notify_all()

    def noted(self, path, limit):
        with self.lock:
            self.lock.wait_for(lambda: path in self.notes, limit)
            return self.notes.get(path)

    def forget(self):
        """What comes from now on belongs to the next case."""
        with self.lock:
            self.connections = [one for one in self.connections if one.stream.fileno() >= 0]
            for one in self.connections:
                one.seen, one.seen_raw = len(one.requests), len(one.raw)

    def seen(self, marker=b"", aside=False):
        """What came since: the bytes of each connection, and whole requests, but of cases that are named and are others; aside: of the
        case alone that marks its own."""
        def own(data):
            if b"/barrier/" in data:
                return False
            if aside:
                return marker in data
            # Of another case alone, which has been judged: its bytes were on their way.
            names = CASE.findall(data)
            return ASIDE not in data and (not names or marker in names)

        with self.lock:
            ours = [one for one in self.connections if not one.health]
            # A body may come when the case that runs has begun, and its head before.
            ours_alone = lambda one: aside or ASIDE not in one.raw[one.begun :]
            raw = [data for one in ours if (data := one.raw[one.seen_raw :]) and own(data) and ours_alone(one)]
            whole = [request for one in ours for request in one.requests[one.seen :] if own(request.head)]
        return raw, whole

    def wait(self, path, limit):
        """Until a request for this path is here."""
        deadline = time.monotonic() + limit
        with self.lock:
            while True:
                if any(request.path == path for one in self.connections for request in one.requests[one.seen :]):
                    return True
                if not self.lock.wait(deadline - time.monotonic()):
                    return False
