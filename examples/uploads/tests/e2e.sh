#!/bin/sh
# Drives a running service from outside, as its users do.
#
#   tests/e2e.sh URL [RESTART]
#
# URL: where it is served, for example http://uploads.localhost:8080 or https://uploads.example.com.
# RESTART: a command that restarts it; then the files must still be there. `CURL_OPTS` is handed to curl, for example
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
  status=$(curl -sS ${CURL_OPTS:-} --max-time 120 -D "$work/head" -o "$work/body" -w '%{http_code}' "$@") || fail "curl $*"
  [ "$status" = "$expected" ] || fail "$* answered $status instead of $expected: $(head -c 300 "$work/body")"
  checks=$((checks + 1))
}

field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p" "$work/body" | head -n 1; }

call 200 "$url/ready"
call 200 "$url/live"
call 200 "$url/"
grep -q 'enctype="multipart/form-data"' "$work/body" || fail "the page has no form"

name="e2e-$$-$(date +%s)"
printf 'a line of text\n' >"$work/$name.txt"
call 201 -F "file=@$work/$name.txt" "$url/files"
stored=$(field url)
[ "$(field name)" = "$name.txt" ] || fail "stored under another name: $(cat "$work/body")"
grep -qi "^location: $stored" "$work/head" || fail "no Location"
call 200 "$url$stored"
cmp -s "$work/body" "$work/$name.txt" || fail "it did not come back as it was"

call 201 -F "file=@$work/$name.txt" "$url/"
[ "$(field name)" = "$name-2.txt" ] || fail "a taken name must get a number: $(cat "$work/body")"
call 200 "$url/files?limit=1000&after=e2e-"
grep -q "\"$name.txt\"" "$work/body" || fail "it is not in the list"

call 415 -F "file=@$work/$name.txt;filename=run.exe" "$url/files"
call 415 -F "file=@$work/$name.txt;filename=picture.png" "$url/files"
call 400 -F "other=1" "$url/files"
call 404 --path-as-is "$url/files/..%2f..%2fetc%2fpasswd"

head -c 20000000 /dev/zero | tr '\0' 'x' >"$work/large.txt"
call 201 -F "file=@$work/large.txt;filename=$name-large.txt" "$url/files"
large=$(field url)
call 200 "$url$large"
cmp -s "$work/body" "$work/large.txt" || fail "20 MB did not come back as they were"

# Not reachable through every proxy: many keep an app's metrics to themselves.
if [ "${METRICS:-yes}" = yes ]; then
  call 200 "$url/metrics"
  grep -q '^uploads_files_total{extension="txt"} ' "$work/body" || fail "uploads are not counted"
  grep -q '^uploads_refused_total{reason="extension"} ' "$work/body" || fail "refusals are not counted"
fi

if [ -n "$restart" ]; then
  sh -c "$restart" || fail "the restart"
  tries=0
  # shellcheck disable=SC2086
  until curl -sf ${CURL_OPTS:-} --max-time 2 -o /dev/null "$url/ready"; do
    tries=$((tries + 1))
    [ "$tries" -lt 150 ] || fail "it is not ready after the restart"
    sleep 0.2
  done
  call 200 "$url$stored"
  cmp -s "$work/body" "$work/$name.txt" || fail "the file is not what it was before the restart"
  call 200 "$url$large"
  cmp -s "$work/body" "$work/large.txt" || fail "the large file is not what it was before the restart"
fi
echo "$url: $checks checks passed"
