#!/bin/sh
# Drives a running service from outside, as its users do.
#
#   tests/e2e.sh URL [RESTART]
#
# URL: where it is served, for example http://board.localhost:8080 or https://board.example.com.
# RESTART: a command that restarts it; then the messages must still be there. `CURL_OPTS` is handed to curl, for example
# --cacert FILE.
set -eu

url=${1:?usage: tests/e2e.sh URL [RESTART]}
url=${url%/}
restart=${2:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
checks=0

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# call EXPECTED_STATUS ARGS… → the body in $work/body, the head in $work/head
call() {
  expected=$1
  shift
  # shellcheck disable=SC2086
  status=$(curl -sS ${CURL_OPTS:-} --max-time 60 -D "$work/head" -o "$work/body" -w '%{http_code}' "$@") || fail "curl $*"
  [ "$status" = "$expected" ] || fail "$* answered $status instead of $expected: $(head -c 300 "$work/body")"
  checks=$((checks + 1))
}

shows() { grep -qF "$1" "$work/body" || fail "no $1 in $(head -c 2000 "$work/body")"; }

call 200 "$url/healthz"
call 200 "$url/readyz"
call 200 "$url/"
shows '<form method="post"'
call 200 "$url/style.css"

text="e2e-$$-$(date +%s)"
call 303 --data-urlencode 'name=End & <End>' --data-urlencode "text=$text <b>" "$url/"
call 200 "$url/"
shows 'End &amp; &lt;End&gt;'
shows "$text &lt;b&gt;"
call 201 -H 'Content-Type: application/json' -d "{\"name\":\"e2e\",\"text\":\"$text-json\"}" "$url/messages"
call 200 "$url/messages?limit=2"
shows "\"text\":\"$text-json\""
shows "\"text\":\"$text <b>\""

call 422 -d 'name=e2e&text=' "$url/"
call 403 -H 'Sec-Fetch-Site: cross-site' -d "name=e2e&text=$text-other" "$url/"
call 404 --path-as-is "$url/..%2f..%2fetc%2fpasswd"

# Not reachable through every proxy: many keep an app's metrics to themselves.
if [ "${METRICS:-yes}" = yes ]; then
  call 200 "$url/metrics"
  shows 'process_resident_memory_bytes'
  shows 'http_request_duration_seconds_count{'
fi

if [ -n "$restart" ]; then
  sh -c "$restart" || fail "the restart"
  tries=0
  # shellcheck disable=SC2086
  until curl -sf ${CURL_OPTS:-} --max-time 2 -o /dev/null "$url/readyz"; do
    tries=$((tries + 1))
    [ "$tries" -lt 150 ] || fail "it is not ready after the restart"
    sleep 0.2
  done
  call 200 "$url/messages?limit=2"
  shows "\"text\":\"$text-json\""
fi
echo "$url: $checks checks passed"
