#!/usr/bin/env python3
"""The same corpus against nginx, HAProxy, Caddy and Envoy, and against Bowline: peers.py BOWLINE ENVOY TABLE [PEER…]

Writes the comparison as Markdown to TABLE. Peers are run as peers/ configures them, Envoy as `bowline render envoy` does; each is asked
what no policy of Bowline's own has to judge. `scripts/hostile-peers` fetches them.
"""

import contextlib
import datetime
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from case import REFUSE
from runner import BOWLINE, Runner
from upstream import Upstream

HERE = Path(__file__).parent
HOST = "hostile.localhost"
START = 30
# At once: most of the time is spent waiting.
TOGETHER = 5


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def run(*command, **more):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True, **more).stdout


def certificate(folder):
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}", "-out", folder / "chain.pem", "-keyout",
        folder / "key.pem")
    (folder / "both.pem").write_text((folder / "chain.pem").read_text() + (folder / "key.pem").read_text())


def children(pid):
    """It and all that come from it."""
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
            yield from children(int(child))
    yield pid


# What Envoy is made for, of the corpus's app: the daemon's secrets and its upload filter are not there.
RENDERED = """app = "hostile"
[service.web]
run = "true"
[route.main]
to = "web"
[route.slow]
path = "/slow"
to = "web"
limit = { timeout = "5s", idle = "5s" }
[route.denied]
path = "/denied"
deny = true
"""


def rendered(binary, folder, http, https, upstream):
    """The configuration that Bowline gives Envoy."""
    (folder / "bowline.toml").write_text(RENDERED)
    for kind, file in (("pem", "chain.pem"), ("key", "key.pem")):
        (folder / f"{HOST}.{kind}").write_text((folder / file).read_text())
    at = {"http": http, "https": https, "admin": free_port()}
    words = [word for flag, port in at.items() for word in (f"--{flag}", f"127.0.0.1:{port}")]
    return run(binary, "render", "envoy", folder, "--env", "local", "--endpoint", f"web=127.0.0.1:{upstream}", "--certificates", folder,
               "--access-log", folder / "access.log", *words)


@contextlib.contextmanager
def foreign(name, binary, envoy, upstream):
    """A peer that runs, and where it is."""
    config, command = {
        "nginx": ("nginx.conf", ["nginx", "-p", "{dir}", "-e", "{dir}/error.log", "-c", "{file}"]),
        "HAProxy": ("haproxy.cfg", ["haproxy", "-db", "-f", "{file}"]),
        "Caddy": ("Caddyfile", ["caddy", "run", "--adapter", "caddyfile", "--config", "{file}"]),
        "Envoy": ("envoy.json", [envoy, "-c", "{file}", "--concurrency", "2", "--log-level", "error", "--disable-hot-restart"]),
    }[name]
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        folder = Path(folder)
        # Workers of some are other users.
        folder.chmod(0o755)
        certificate(folder)
        http, https = free_port(), free_port()
        text = (rendered(binary, folder, http, https, upstream) if name == "Envoy"
                else (HERE / "peers" / config).read_text(encoding="utf-8"))
        for mark, value in (("HTTPS", https), ("HTTP", http), ("UPSTREAM", upstream), ("DIR", folder)):
            text = text.replace(f"@{mark}@", str(value))
        file = folder / config
        file.write_text(text, encoding="utf-8")
        words = [word.format(dir=folder, file=file) for word in command]
        with open(folder / "output", "wb") as output:
            home = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=home)
        try:
            await_port(https, process, folder / "output")
            yield {"peer": name, "host": HOST, "http": f"127.0.0.1:{http}", "https": f"127.0.0.1:{https}",
                   "ca": str(folder / "chain.pem"), "pids": list(children(process.pid))}
        finally:
            process.terminate()
            process.wait(20)


def await_port(port, process, output):
    deadline = time.monotonic() + START
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{process.args[0]} does not start: {output.read_text(errors='replace')}")
        time.sleep(0.1)


@contextlib.contextmanager
def bowline(binary, upstream):
    """Bowline with the corpus's app, from a state folder of its own."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        folder = Path(folder)
        folder.chmod(0o711)
        home = {**os.environ, "BOWLINE_STATE": str(folder / "state"), "XDG_DATA_HOME": str(folder / "data"),
                "XDG_CONFIG_HOME": str(folder / "config"), "NO_COLOR": "1"}
        app = folder / "hostile"
        app.mkdir()
        for file in (HERE / "app").iterdir():
            if file.is_file():
                (app / file.name).write_text(file.read_text(encoding="utf-8").replace("@UPSTREAM@", str(upstream)))
        for secret, value in (("hostile", "hostile-token"), ("people", "ann:hostile-password\n")):
            (folder / f"{secret}.secret").write_text(value)
            run(binary, "secret", "set", "hostile", secret, "--file", folder / f"{secret}.secret", env=home)
        try:
            run(binary, "up", app, "--detach", "--http", "0", "--https", "0", "--admin", "0", env=home)
            edge = json.loads(run(binary, "status", "--json", env=home))["edge"]
            yield {"peer": BOWLINE, "host": HOST, "http": edge["http"], "https": edge["https"], "pids": [edge["pid"]],
                   "ca": str(folder / "data/bowline/ca/root.pem")}
        finally:
            run(binary, "down", env=home)


def measure(name, binary, envoy):
    """What came of each case that all are asked."""
    upstream = Upstream()
    started = bowline(binary, upstream.port) if name == "Bowline" else foreign(name, binary, envoy, upstream.port)
    with started as about:
        outcomes = Runner(upstream, about).run()
    return name, [
        {"id": outcome.case.id, "over": outcome.over, "item": outcome.case.item, "must": outcome.case.kind == REFUSE,
         "through": outcome.through, "mended": outcome.mended, "took": outcome.took}
        for outcome in outcomes
        if outcome.case.peers
    ]


def version(name, binary, envoy):
    command = {"Bowline": [binary, "--version"], "nginx": ["nginx", "-v"], "HAProxy": ["haproxy", "-v"],
               "Caddy": ["caddy", "version"], "Envoy": [envoy, "--version"]}[name]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)
    return found[0] if found else "unknown"


def table(results, versions):
    """The page: what each has let through, by group; then which."""
    with open(HERE / "list.toml", "rb") as file:
        groups = {group: lines for group, lines in tomllib.load(file).items() if group != "elsewhere"}
    group_of = {line: group for group, lines in groups.items() for line in lines}
    peers = list(results)

    def ids(peer, what, kept=lambda one: True):
        return sorted({one["id"] for one in results[peer] if one[what] and kept(one)})

    first = results[peers[0]]
    lines = [INTRODUCTION.format(date=datetime.date.today().isoformat()),
             "| | of | " + " | ".join(f"{peer} {versions[peer]}" for peer in peers) + " |", "|---" * (len(peers) + 2) + "|"]

    def row(title, kept):
        of = len({one["id"] for one in first if kept(one)})
        if of:
            counts = (f"{len(ids(peer, 'through', kept))}" + (f" ({len(more)})" if (more := ids(peer, "mended", kept)) else "")
                      for peer in peers)
            lines.append(f"| {title} | {of} | " + " | ".join(counts) + " |")

    row("**must be refused**", lambda one: one["must"])
    for group in groups:
        row(group, lambda one, group=group: one["must"] and group_of[one["item"]] == group)
    row("**must hold, or be bounded**", lambda one: not one["must"])
    for group in groups:
        row(group, lambda one, group=group: not one["must"] and group_of[one["item"]] == group)
    lines.append("\n## Which\n")
    for peer in peers:
        through, mended = ids(peer, "through"), ids(peer, "mended")
        lines.append(f"**{peer}** let through: {', '.join(f'`{one}`' for one in through) or 'none'}.")
        lines.append(f"Mended: {', '.join(f'`{one}`' for one in mended) or 'none'}.\n")
    return "\n".join(lines)


INTRODUCTION = """# Hostile input, and what comes through

The corpus of [`tests/hostile`](../../tests/hostile/list.toml) against the edge and against other proxies, over HTTP/1.1 without and with TLS,
HTTP/2 and TLS records, from raw sockets; the upstream is a raw socket that records every byte. `make hostile-peers` runs it and
writes this page, last on {date}. The peers run as [`tests/hostile/peers`](../../tests/hostile/peers/nginx.conf) configures them: as their own
documentation has an edge, with the limits of time that Bowline has, and `/denied` denied; Envoy as Bowline itself does (`bowline render envoy`). Only what a configuration can ask of all
of them is compared: uploads and auth are not.

**Let through** means: a request that must be refused came to the upstream whole, on any of the ways it was sent; of what may be answered
(a forged `X-Forwarded-For`, an app's double length), that what had to hold did not; of floods and slow clients, that the connection
outlived its limit, the process grew by more than 32 MiB, or others were not served meanwhile. In brackets: **mended**, where a rule of
HTTP lets a recipient repair what it passes on, and what came to the upstream was without fault; so a path that came in another
spelling, and meant what it was decided for. On a busy machine what is limited by time may come out by one or two otherwise from run to
run: whoever drains a large answer to disk, or has no limit for a connection that has never said anything but that of an idle one. [Why so](../decisions/0063-one-corpus-of-hostile-input.md).
"""


def main():
    binary, envoy, target, *only = sys.argv[1:]
    names = only or ["Bowline", "nginx", "HAProxy", "Caddy", "Envoy"]
    with ProcessPoolExecutor(TOGETHER) as pool:
        results = dict(pool.map(measure, names, [binary] * len(names), [envoy] * len(names)))
    versions = {name: version(name, binary, envoy) for name in names}
    Path(target).write_text(table(results, versions).rstrip() + "\n", encoding="utf-8")
    for name, outcomes in results.items():
        print(f"{name}: {sum(one['through'] for one in outcomes)} of {len(outcomes)} sent came through")


if __name__ == "__main__":
    main()
