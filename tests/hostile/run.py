#!/usr/bin/env python3
"""Runs the corpus against one peer. Says where its upstream listens, reads on its standard input where the peer is:

    {"peer": "bowline", "host": "hostile.localhost", "http": "127.0.0.1:80", "https": "127.0.0.1:443", "ca": "root.pem"}

and ends with 0 when every case came out as it must. More it may be told: "pids" (of the processes whose memory is watched),
"access_log" (each refusal must stand there once).
"""

import argparse
import json
import sys

from runner import Runner, unlisted, unlogged
from upstream import Upstream


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--only", default="", help="cases whose id holds this")
    arguments.add_argument("--verbose", action="store_true", help="what came of each case")
    arguments = arguments.parse_args()
    upstream = Upstream()
    print(f"upstream 127.0.0.1:{upstream.port}", flush=True)
    about = json.loads(sys.stdin.readline())
    runner = Runner(upstream, about)
    outcomes = runner.run(arguments.only, arguments.verbose)
    wrong = [f"{outcome.case.id} over {outcome.over}: {outcome.wrong}" for outcome in outcomes if outcome.wrong]
    if not arguments.only:
        wrong += unlisted()
    if about.get("access_log"):
        wrong += unlogged(outcomes, about["access_log"])
    for fault in wrong:
        print(f"FAILED {fault}")
    through = [outcome for outcome in outcomes if outcome.through]
    print(f"{about['peer']}: {len(outcomes)} sent, {len(through)} let through, {len(wrong)} not as they must be")
    return 1 if wrong or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
