#!/bin/sh
# Starts the service on a free port with a folder of its own, and drives it end to end, a restart included.
set -eu

here=$(cd "$(dirname "$0")" && pwd)

start() {
  PORT=$1 BOARD_DATA="$work/messages" node "$here/../src/main.js" >>"$work/log" 2>&1 &
  echo $! >"$work/pid"
}

stop() {
  pid=$(cat "$work/pid")
  kill -TERM "$pid" 2>/dev/null || true
  tail --pid="$pid" -f /dev/null
}

case ${1:-} in
restart)
  # Called back by e2e.sh, with the same work folder.
  work=$2
  stop
  start "$3"
  ;;
*)
  work=$(mktemp -d)
  trap 'stop; rm -rf "$work"' EXIT
  start 0
  tries=0
  until port=$(sed -n 's/.*"message":"serving","port":\([0-9]*\).*/\1/p' "$work/log" | tail -n 1) && [ -n "$port" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || { cat "$work/log" >&2; exit 1; }
    sleep 0.1
  done
  "$here/e2e.sh" "http://127.0.0.1:$port" "'$0' restart '$work' $port"
  grep -q '"message":"done"' "$work/log" || { echo "it did not leave by itself on TERM" >&2; exit 1; }
  ;;
esac
