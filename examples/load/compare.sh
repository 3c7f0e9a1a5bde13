#!/usr/bin/env bash
# Measures the bridge beside the floor (a bare relay in C): the same calls, one
# after the other, several rounds, then both side by side and the limits.
#
#   examples/load/compare.sh [CALLS] [SECONDS] [ROUNDS]      (100 20 2)
#
# FLOOR_DIR    where floor.c and its Makefile are   (../shared/floor beside the checkout)
# PJ           the built pjproject tree             (vendor/pjproject/src)
# BRIDGE, LOAD the programs                         (target/release/…, built when missing)
# BASE_PORT    first of five free ports             (15700)
# RESULTS      where the JSON reports are left      (a temporary directory)
# CLEAR_CALLS  calls with the clear test on the bridge (the generator's default)
#
# The floor can do no clear and no pacing: it runs without that test. It
# listens on port 5070, which must be free. Exit code 0: every limit was met.
set -euo pipefail
cd "$(dirname "$0")/../.."

calls=${1:-100} seconds=${2:-20} rounds=${3:-2}
floor_dir=${FLOOR_DIR:-../shared/floor}
pj=$(realpath "${PJ:-vendor/pjproject/src}")
bridge=${BRIDGE:-target/release/sipbridge}
load=${LOAD:-target/release/examples/load}
base=${BASE_PORT:-15700}
sip_port=$base ws_port=$((base + 1)) api_port=$((base + 2))
work=$(mktemp -d)
results=${RESULTS:-$work}
mkdir -p "$results"
pid=

die() { echo "compare.sh: $*" >&2; exit 2; }
stop() {
  [ -n "$pid" ] || return 0
  kill -TERM "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  pid=
}
cleanup() {
  stop
  if [ "$results" = "$work" ]; then echo "reports: $results"; else rm -rf "$work"; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Waits until a command succeeds, at most 10 s, while the program runs.
await() {
  for _ in $(seq 100); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    kill -0 "$pid" 2>/dev/null || die "it ended at once: $(tail -n 3 "$work/log")"
    sleep 0.1
  done
  die "not ready after 10 s: $*; $(tail -n 3 "$work/log")"
}
# Ready to take calls: /health says 200.
healthy() (
  exec 3<>"/dev/tcp/127.0.0.1/$api_port"
  printf 'GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3
  head -n 1 <&3 | grep -q ' 200'
)

[ -f "$floor_dir/floor.c" ] || die "no floor.c in $floor_dir; set FLOOR_DIR"
[ -f "$pj/build.mak" ] || die "no built pjproject in $pj; run vendor/pjproject.sh or set PJ"
[ -x "$bridge" ] || cargo build --release
[ -x "$load" ] || cargo build --release --example load
cp "$floor_dir/floor.c" "$floor_dir/Makefile" "$work/"
make -s -C "$work" PJ="$pj" floor

measure() {
  local label=$1 target=$2 report=$3
  shift 3
  # Lost frames are judged at the end, over all rounds.
  "$load" --label "$label" --target "$target" --push-port "$ws_port" --pid "$pid" \
    --calls "$calls" --seconds "$seconds" --json "$report" "$@" || true
  [ -s "$report" ] || die "no report for $label"
  echo
}

floor_reports=() bridge_reports=()
for round in $(seq "$rounds"); do
  (cd "$work" && exec ./floor "$ws_port") >"$work/log" 2>&1 &
  pid=$!
  await grep -q '^up' "$work/log"
  floor_reports+=("$results/floor-$round.json")
  measure "floor, round $round" sip:load@127.0.0.1:5070 "$results/floor-$round.json" --clear-calls 0
  stop

  "$bridge" --sip-domain 127.0.0.1 --sip-username load --no-register --bind 127.0.0.1 \
    --sip-port "$sip_port" --api-port "$api_port" --rtp-ports 30000-39999 \
    --ws-target "ws://127.0.0.1:$ws_port/media" >"$work/log" 2>&1 &
  pid=$!
  await healthy
  bridge_reports+=("$results/bridge-$round.json")
  measure "bridge, round $round" "sip:load@127.0.0.1:$sip_port" "$results/bridge-$round.json" \
    ${CLEAR_CALLS:+--clear-calls "$CLEAR_CALLS"}
  stop
done
"$load" compare --floor "${floor_reports[@]}" --bridge "${bridge_reports[@]}"
