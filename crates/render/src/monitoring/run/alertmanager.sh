#!/bin/sh
# Starts Alertmanager as a service of Bowline.
set -eu

for program in @PROGRAMS@; do
  server=$(command -v "$program") && break
done
if [ -z "${server:-}" ]; then
  echo "there is no Alertmanager on this machine: @INSTALL@" >&2
  exit 127
fi

# Where secrets lie is known when the instance starts.
sed "s|@WEBHOOK_FILE@|$WEBHOOK_FILE|g" alertmanager.yml >"$TMPDIR/alertmanager.yml"

# One alone: it has no peers to listen for.
exec "$server" \
  --config.file="$TMPDIR/alertmanager.yml" \
  --storage.path="$BOWLINE_VOLUME_ALERTMANAGER" \
  --cluster.listen-address= \
  --web.listen-address="127.0.0.1:$PORT" \
  --web.external-url="$PUBLIC_URL" \
  --web.route-prefix=/alertmanager
