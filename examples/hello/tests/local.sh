#!/bin/sh
# Starts the built binary on a free port with a token of its own, drives it end to end, and sees it leave.
set -eu

binary=${1:?usage: tests/local.sh BINARY}
here=$(dirname "$0")
work=$(mktemp -d)
AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export AUTH_TOKEN

PORT=0 "$binary" >"$work/log" 2>&1 &
pid=$!
trap 'kill "$pid" 2>/dev/null || true; rm -rf "$work"' EXIT

tries=0
until port=$(sed -n 's/.*"address":"[^"]*:\([0-9]*\)".*/\1/p' "$work/log") && [ -n "$port" ]; do
  tries=$((tries + 1))
  [ "$tries" -lt 300 ] || { cat "$work/log" >&2; exit 1; }
  sleep 0.1
done
"$here/e2e.sh" "http://127.0.0.1:$port"
kill -TERM "$pid"
wait "$pid" || { echo "it left with exit code $?" >&2; exit 1; }
grep -q '"msg":"done"' "$work/log" || { echo "it did not leave by itself on TERM" >&2; exit 1; }
if grep -q "$AUTH_TOKEN" "$work/log"; then
  echo "the log shows the token" >&2
  exit 1
fi
