"""The app behind the edge: every byte goes on to the runner's upstream and back, as it comes. It reads none of them."""

import os
import signal
import socket
import sys
import threading

UPSTREAM = ("127.0.0.1", int(os.environ["HOSTILE_UPSTREAM"]))


def pump(source, sink):
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        # One side is gone at once: so is the other.
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def relay(client):
    try:
        with client, socket.create_connection(UPSTREAM) as upstream:
            for end in (client, upstream):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=pump, args=(upstream, client), daemon=True)
            back.start()
            pump(client, upstream)
            back.join()
    except (OSError, RuntimeError) as error:
        # Out of descriptors or threads: one connection ends, and not the app.
        print(f"a connection is given up: {error}", file=sys.stderr, flush=True)


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=512)
    while True:
        try:
            client, _ = listener.accept()
            threading.Thread(target=relay, args=(client,), daemon=True).start()
        except (OSError, RuntimeError) as error:
            print(f"a connection is not taken: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
