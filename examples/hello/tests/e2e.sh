#!/bin/sh
# Drives a running service from outside, as its clients do.
#
#   AUTH_TOKEN=… tests/e2e.sh URL
#
# URL: where it is served, for example http://hello.localhost:8080 or https://hello.example.com. `CURL_OPTS` is handed to
# curl, for example --cacert FILE.
set -eu

url=${1:?usage: AUTH_TOKEN=… tests/e2e.sh URL}
url=${url%/}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
checks=0

# In a file: arguments can be read by every user of the machine.
printf 'X-Auth-Token: %s\n' "${AUTH_TOKEN:?the token that the service was started with}" >"$work/right"
printf 'X-Auth-Token: %sx\n' "$AUTH_TOKEN" >"$work/wrong"

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# call EXPECTED_STATUS EXPECTED_BODY ARGS…
call() {
  expected=$1 body=$2
  shift 2
  # shellcheck disable=SC2086
  status=$(curl -sS ${CURL_OPTS:-} --max-time 60 -o "$work/body" -w '%{http_code}' "$@") || fail "curl $*"
  [ "$status" = "$expected" ] || fail "$* answered $status instead of $expected: $(head -c 300 "$work/body")"
  [ "$(cat "$work/body")" = "$body" ] || fail "$* answered: $(head -c 300 "$work/body")"
  checks=$((checks + 1))
}

forbidden='{"error":"the X-Auth-Token header is missing or wrong"}'
call 200 pong "$url/ping"
call 200 '{"status":"ok"}' "$url/health"
call 200 '{"message":"Hello World"}' -H "@$work/right" "$url/app"
call 403 "$forbidden" "$url/app"
call 403 "$forbidden" -H "@$work/wrong" "$url/app"
call 403 "$forbidden" -H 'X-Auth-Token;' "$url/app"
call 405 '{"error":"only GET is answered here"}' -H "@$work/right" -X POST "$url/app"
call 404 '{"error":"there is nothing here"}' "$url/"
echo "$url: $checks checks passed"
