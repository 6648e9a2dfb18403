#!/bin/sh
# What the service bears: files of several kinds and sizes, one per request, at a steady rate.
#
#   tests/load.sh URL [RATE [DURATION [EXPECT]]]
#
# Needs bowline (BOWLINE=… names another than that of the PATH), whose open loop counts from when a request was due.
# Exit code 0: every file was taken, and EXPECT holds (p99<1s).
set -eu

url=${1:?usage: tests/load.sh URL [RATE [DURATION [EXPECT]]]}
rate=${2:-50/s}
duration=${3:-30s}
expect=${4:-p99<1s}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

text() { head -c "$1" /dev/zero | tr '\0' 'x'; }
text 1000 >"$work/note.txt"
text 50000 >"$work/table.csv"
printf '{"list":"%s"}' "$(text 20000)" >"$work/list.json"
# What a picture and a document begin with, and as much behind it as they usually have.
{ printf '\211PNG\r\n\032\n' && head -c 400000 /dev/urandom; } >"$work/picture.png"
{ printf '%%PDF-1.7\n' && head -c 1000000 /dev/urandom; } >"$work/document.pdf"

"${BOWLINE:-bowline}" bench "${url%/}/files" --upload "$work" --rate "$rate" --duration "$duration" --expect 201 --expect "$expect"
