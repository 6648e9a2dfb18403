#!/bin/sh
# Drives the built binary with a bucket instead of a folder, against a real server of S3 that it starts: versitygw
# (github.com/versity/versitygw), from the PATH or $S3_SERVER.
set -eu

binary=${1:?usage: tests/bucket.sh BINARY}
server=${S3_SERVER:-versitygw}
here=$(dirname "$0")
work=$(mktemp -d)
mkdir "$work/files" "$work/sidecar"

"$server" --version >/dev/null || { echo "there is no $server: go install github.com/versity/versitygw/cmd/versitygw@latest" >&2; exit 1; }
pid=
trap 'kill $pid; wait $pid 2>/dev/null || true; rm -rf "$work"' EXIT
tries=0
until [ -n "$pid" ] && curl -s -o /dev/null --max-time 2 "http://127.0.0.1:$port/"; do
  if [ -z "$pid" ] || ! kill -0 "$pid" 2>/dev/null; then
    # The port may have been taken since.
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    ROOT_ACCESS_KEY=key ROOT_SECRET_KEY=secret/of+it "$server" --port "127.0.0.1:$port" --quiet posix --sidecar "$work/sidecar" "$work/files" >"$work/server.log" 2>&1 &
    pid=$!
  fi
  tries=$((tries + 1))
  [ "$tries" -lt 100 ] || { cat "$work/server.log" >&2; exit 1; }
  sleep 0.1
done
nothing=$(printf '' | sha256sum | cut -d' ' -f1)
curl -sSf -X PUT -H "x-amz-content-sha256: $nothing" --aws-sigv4 aws:amz:us-east-1:s3 --user key:secret/of+it "http://127.0.0.1:$port/uploads"

export UPLOADS_BUCKET="http://key:secret%2Fof%2Bit@127.0.0.1:$port/uploads"
"$here/local.sh" "$binary"
[ -n "$(ls "$work/files/uploads")" ] || { echo "nothing is in the bucket" >&2; exit 1; }
[ -z "$(ls -A "$work/files/uploads/.receiving" 2>/dev/null)" ] || { echo "temporary files are left" >&2; exit 1; }
UPLOADS_BUCKET="http://key:wrong@127.0.0.1:$port/uploads" PORT=0 "$binary" >"$work/wrong.log" 2>&1 && { echo "it serves with a wrong key" >&2; exit 1; }
grep -q '"message":"cannot serve"' "$work/wrong.log" || { cat "$work/wrong.log" >&2; exit 1; }
! grep -q wrong@ "$work/wrong.log" || { echo "the key is in the log" >&2; exit 1; }
