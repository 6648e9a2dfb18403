#!/bin/sh
# Starts the built binary on a free port with a folder of its own, and drives it end to end, a restart included.
set -eu

binary=${1:?usage: tests/local.sh BINARY}
here=$(dirname "$0")
work=$(mktemp -d)
export UPLOADS_DIR="$work/files"

start() {
  PORT=$1 "$binary" >>"$work/log" 2>&1 &
  echo $! >"$work/pid"
}

stop() {
  pid=$(cat "$work/pid")
  kill -TERM "$pid" 2>/dev/null || true
  tail --pid="$pid" -f /dev/null
}

wait_for_port() {
  tries=0
  until port=$(sed -n 's/.*"address":"0\.0\.0\.0:\([0-9]*\)".*/\1/p' "$work/log" | tail -n 1) && [ -n "$port" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || { cat "$work/log" >&2; exit 1; }
    sleep 0.1
  done
}

case ${2:-} in
restart)
  # Called back by e2e.sh, with the same work folder.
  work=$3 UPLOADS_DIR="$3/files"
  stop
  start "$4"
  ;;
*)
  trap 'stop; rm -rf "$work"' EXIT
  start 0
  wait_for_port
  "$here/e2e.sh" "http://127.0.0.1:$port" "'$0' '$binary' restart '$work' $port"
  grep -q '"message":"done"' "$work/log" || { echo "it did not leave by itself on TERM" >&2; exit 1; }
  ;;
esac
