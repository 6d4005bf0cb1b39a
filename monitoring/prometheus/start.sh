#!/bin/sh
# Starts Prometheus once the Pushgateway's address is in its configuration: it is known only where this runs.
set -eu
mkdir -p /etc/prometheus/targets
printf '[{"targets": ["%s"]}]\n' "$PUSHGATEWAY_ADDRESS" > /etc/prometheus/targets/pushgateway.json
exec /bin/prometheus \
  --config.file=/etc/prometheus/prometheus.yml \
  --storage.tsdb.path="$STORAGE" \
  --storage.tsdb.retention.time=30d
