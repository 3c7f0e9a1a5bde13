#!/usr/bin/env bash
# Shows that small messages wait for nothing on a slow line: the bridge at one
# end of a link that delays every packet, callers and workers at the other.
#
#   examples/load/delayed.sh [DELAY_MS] [CALLS] [SECONDS]    (20 10 15)
#
# A frame crosses the link twice on its way from caller to worker: as RTP, and
# as a WebSocket message. More than that is the bridge's own. With Nagle's
# algorithm on, messages would wait for acknowledgements, 2 * DELAY_MS away.
#
# The link is tests/real/delayed_link.py: two network namespaces joined by tun
# devices, which needs root or unprivileged user namespaces, and /dev/net/tun.
#
# BRIDGE, LOAD  the programs (target/release/…)
set -euo pipefail
cd "$(dirname "$0")/../.."
bridge=${BRIDGE:-target/release/sipbridge}
load=${LOAD:-target/release/examples/load}
near=10.77.0.1 far=10.77.0.2 sip_port=5060 ws_port=9000 api_port=8080

die() { echo "delayed.sh: $*" >&2; exit 2; }

inside() {
  local delay=$1 calls=$2 seconds=$3 work pid table
  work=$(mktemp -d)
  "$bridge" --sip-domain "$near" --sip-username load --no-register --bind "$near" \
    --sip-port "$sip_port" --api-port "$api_port" --rtp-ports 30000-30999 \
    --ws-target "ws://$far:$ws_port/media" >"$work/log" 2>&1 &
  pid=$!
  # shellcheck disable=SC2064 # the values of now
  trap "kill -TERM $pid 2>/dev/null; wait $pid; rm -rf $work" EXIT
  for _ in $(seq 100); do
    kill -0 "$pid" 2>/dev/null || die "the bridge ended at once: $(tail -n 3 "$work/log")"
    (exec 3<>"/dev/tcp/$near/$api_port") 2>/dev/null && break
    sleep 0.1
  done
  table=$work/table
  nsenter --net -t "$FAR_PID" "$load" --label "a link of $delay ms each way" --local "$far" \
    --target "sip:load@$near:$sip_port" --push-port "$ws_port" --calls "$calls" --rate 10 \
    --seconds "$seconds" --pid "$pid" --clear-calls 1 | tee "$table" || true
  awk -v link=$((2 * delay)) '
    /^RTP in to WebSocket out/ {
      p50 = $8; p99 = $12
      printf "\nRTP in to WebSocket out: p50 %.1f ms, p99 %.1f ms; the link alone: %d ms\n", p50, p99, link
      met = p50 >= link && p50 < link + 5
    }
    END { print met ? "met: nothing waits for acknowledgements" : "MISSED"; exit !met }
  ' "$table"
}

if [ "${1:-}" = inside ]; then
  shift
  inside "$@"
  exit
fi
[ -x "$bridge" ] || cargo build --release
[ -x "$load" ] || cargo build --release --example load
delay=${1:-20}
unshare --map-root-user --net true 2>/dev/null ||
  die "this system gives no network namespace; run it as root"
exec unshare --map-root-user --net python3 tests/real/delayed_link.py "$delay" \
  "$PWD/examples/load/delayed.sh" inside "$delay" "${2:-10}" "${3:-15}"
