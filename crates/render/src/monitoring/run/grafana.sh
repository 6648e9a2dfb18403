#!/bin/sh
# Starts Grafana as a service of Bowline.
set -eu

for program in @PROGRAMS@; do
  server=$(command -v "$program") && break
done
if [ -z "${server:-}" ]; then
  echo "there is no Grafana on this machine: @INSTALL@" >&2
  exit 127
fi

# Read by its provisioning.
export BOWLINE_DASHBOARDS="$PWD/dashboards"

export GF_SERVER_HTTP_ADDR=127.0.0.1 GF_SERVER_HTTP_PORT="$PORT"
export GF_SERVER_ROOT_URL="$PUBLIC_URL/" GF_SERVER_SERVE_FROM_SUB_PATH=true
export GF_PATHS_DATA="$BOWLINE_VOLUME_GRAFANA" GF_PATHS_LOGS="$TMPDIR" GF_PATHS_PLUGINS="$BOWLINE_VOLUME_GRAFANA/plugins"
export GF_PATHS_PROVISIONING="$PWD/provisioning" GF_LOG_MODE=console
export GF_SECURITY_ADMIN_PASSWORD__FILE="$ADMIN_PASSWORD_FILE"
# Nobody but who was let in, and nothing sent elsewhere.
export GF_USERS_ALLOW_SIGN_UP=false GF_AUTH_ANONYMOUS_ENABLED=false
export GF_ANALYTICS_REPORTING_ENABLED=false GF_ANALYTICS_CHECK_FOR_UPDATES=false GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES=false

exec "$server" server --homepath "${GRAFANA_HOME:-/usr/share/grafana}"
