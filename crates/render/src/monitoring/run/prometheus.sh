#!/bin/sh
# Starts Prometheus as a service of Bowline.
set -eu

for program in @PROGRAMS@; do
  server=$(command -v "$program") && break
done
if [ -z "${server:-}" ]; then
  echo "there is no Prometheus on this machine: @INSTALL@" >&2
  exit 127
fi

# Where the daemon tells of all apps, and where secrets lie, is known when the instance starts.
conf=$TMPDIR/conf
mkdir -p "$conf"
for folder in rules alertmanagers; do
  if [ -d "$folder" ]; then cp -R "$folder" "$conf"; fi
done
metrics=${METRICS_URL#http://}
sed -e "s|127\.0\.0\.1:7070|${metrics%%/*}|g" -e "s|@REMOTE_WRITE_TOKEN@|${REMOTE_WRITE_TOKEN:-}|g" \
  prometheus.yml >"$conf/prometheus.yml"

exec "$server" \
  --config.file="$conf/prometheus.yml" \
  --storage.tsdb.path="$BOWLINE_VOLUME_PROMETHEUS" \
  --storage.tsdb.retention.time=15d \
  --web.listen-address="127.0.0.1:$PORT" \
  --web.external-url="$PUBLIC_URL" \
  --web.route-prefix=/prometheus
