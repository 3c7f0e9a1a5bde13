#!/usr/bin/env bash
# The whole thing once, on this machine, with real parts: a trunk (Kamailio), a
# queue (Redis), the bridge with an encrypted line, the example worker, and the
# example caller who asks a spoken question. `./start-sipbridge.sh --demo` runs it.
#
# Everything is private to this run and ended with it. What stays is
# demo-output/: what the caller heard, what the worker heard, and the logs.
# Exit code 0 only when speech was really heard on both sides.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/lib/peers.sh
. tests/lib/peers.sh

out=demo-output
number=+33972360682
caller_number=+33612345678
step_number=0

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi

step() {
    step_number=$((step_number + 1))
    printf '\n%s%2d. %s%s\n' "$bold" "$step_number" "$*" "$plain"
}
say() { printf '    %s\n' "$*"; }
# Shows text as it came, dimmed and indented.
show() { sed "s/^/    $dim/; s/\$/$plain/"; }

fail() {
    printf '\n%sDemo failed:%s %s\n' "$bold" "$plain" "$*" >&2
    if [ -s "$out/bridge.log" ]; then
        printf 'Last lines of %s:\n' "$out/bridge.log" >&2
        tail -n 15 "$out/bridge.log" >&2
    fi
    exit 1
}

# Anything unexpected ends the demo with a word about where, never silently.
trap 'fail "step $step_number stopped at line $LINENO"' ERR
trap peers_stop EXIT
trap 'exit 130' INT TERM

# The token opens the call to whoever has it, so it is not shown.
mask() { sed -E 's/(token=)[0-9a-fA-F]+/\1***/g'; }

random_hex() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

# speak FILE TEXT: real speech, 8 kHz mono as telephones carry it.
speak() {
    # Its sound library leaves files of its own, also when it only writes a WAV.
    HOME="$peers_tmp" TMPDIR="$peers_tmp" espeak-ng -v en -s 150 -w "$peers_tmp/speech.wav" "$2"
    sox -V1 "$peers_tmp/speech.wav" -r 8000 -c 1 -b 16 "$1" gain -n -6
}

# Sum of decimal numbers.
sum() { printf '%s\n' "$@" | awk '{ total += $1 } END { print total }'; }

redis() { redis-cli -h 127.0.0.1 -p "$REDIS_PORT" "$@"; }
is_registered() { [ "$(redis GET bridge:demo:count)" = 1 ]; }
is_gone() { ! is_alive "$1"; }
worker_is_waiting() { redis CLIENT LIST | grep -qiE 'cmd=(brpop|blmove|blpop)'; }

build() {
    step "What is needed"
    vendor/packages.sh build demo 2>&1 | show
    vendor/pjproject.sh 2>&1 | show
    step "Building (the first time takes some minutes)"
    cargo build --release --bin sipbridge --example worker --example caller --example heard 2>&1 | tail -n 2 | show
    bin=$(cargo metadata --format-version 1 --no-deps | sed -E 's/.*"target_directory":"([^"]*)".*/\1/')/release
}

prepare_speech() {
    step "Speech, made by espeak-ng"
    speak "$out/greeting.wav" "Good evening, Restaurant Sipbridge. How can I help you?"
    speak "$out/question.wav" "Hello. I would like a table for four people on Friday, at eight o'clock."
    say "greeting.wav: what the worker says, $(soxi -d "$out/greeting.wav" | cut -d: -f3) s"
    say "question.wav: what the caller says, $(soxi -d "$out/question.wav" | cut -d: -f3) s"
}

start_trunk_and_queue() {
    step "A private Redis, and Kamailio as the trunk"
    local password
    password=$(random_hex 12)
    redis_start
    kamailio_start "resto-line $password $number"
    say "Redis on 127.0.0.1:$REDIS_PORT, the trunk on 127.0.0.1:$KAMAILIO_PORT (digest authentication)"

    step "A phone line, its password encrypted at rest"
    ENCRYPTION_KEY=$(random_hex 32)
    export ENCRYPTION_KEY
    local sealed
    sealed=$(printf '%s\n' "$password" | "$bin/sipbridge" encrypt --line-id demo-line)
    (
        umask 077
        cat > "$peers_tmp/lines.json" <<JSON
[{
  "id": "demo-line", "restaurantId": "demo-restaurant", "phoneNumber": "$number",
  "provider": "sip", "sipDomain": "127.0.0.1:$KAMAILIO_PORT", "sipUsername": "resto-line",
  "sipPassword": "$sealed", "isActive": true
}]
JSON
    )
    show < "$peers_tmp/lines.json"
}

start_bridge() {
    step "The bridge"
    local api stream
    api=$(free_port) stream=$(free_port)
    "$bin/sipbridge" --bind 127.0.0.1 --sip-port "$(free_port)" --api-port "$api" --stream-port "$stream" \
        --rtp-ports 18000-18099 --redis-url "$REDIS_URL" --lines "$peers_tmp/lines.json" --node-id demo \
        > "$out/bridge.log" 2>&1 &
    bridge_pid=$!
    peers_pids+=("$bridge_pid")
    wait_for 20 is_registered || fail "the line did not register"
    say "registered at the trunk:"
    grep -a 'registered at' "$peers_tmp/kamailio.log" | sed 's/.*trunk: //' | tail -n 1 | show
}

start_worker() {
    step "The worker, waiting for a call in queue:incoming_calls"
    mkdir -p "$out/worker"
    "$bin/examples/worker" --redis-url "$REDIS_URL" --greeting "$out/greeting.wav" --record "$out/worker" \
        --calls 1 > "$out/worker.log" 2>&1 &
    worker_pid=$!
    peers_pids+=("$worker_pid")
    wait_for 10 worker_is_waiting || fail "the worker does not wait for jobs: $(tail -n 3 "$out/worker.log")"
    say "it will greet, then echo what it hears"
}

call() {
    step "The call: $caller_number dials $number at the trunk"
    redis MONITOR > "$peers_tmp/monitor.log" 2>/dev/null &
    peers_pids+=("$!")
    local started=$SECONDS greeting question
    greeting=$(soxi -D "$out/greeting.wav")
    question=$(soxi -D "$out/question.wav")
    # The question comes after the greeting; then there is time for its echo.
    timeout 60 "$bin/examples/caller" --to "sip:$number@127.0.0.1:$KAMAILIO_PORT" --from "$caller_number" \
        --play "$out/question.wav" --play-after "$(sum "$greeting" 1)" \
        --seconds "$(sum "$greeting" "$question" 2.5)" --record "$out/caller-heard.wav" > "$out/caller.log" 2>&1 \
        || fail "the caller failed: $(tail -n 5 "$out/caller.log")"
    show < "$out/caller.log"
    call_seconds=$((SECONDS - started))
    say "the call lasted $call_seconds s"

    step "The job that the worker took from Redis (its token is masked)"
    grep -ai '"LPUSH"' "$peers_tmp/monitor.log" | head -n 1 | sed -E 's/^[^{]*//; s/"$//; s/\\"/"/g' | mask \
        | sed 's/,"/,\n "/g' | show

    step "What happened, from stream:call_events"
    wait_for 10 call_has_ended || fail "no call.ended in stream:call_events"
    redis --raw XRANGE stream:call_events - + | grep -aE '^(call|worker)\.' | show
}

call_has_ended() { redis --raw XRANGE stream:call_events - + | grep -q '^call.ended'; }

# hears WHO SOUND RECORDING: judged by wave form, not by "some bytes arrived".
hears() {
    local verdict
    if verdict=$("$bin/examples/heard" "$2" "$3" 0.9); then
        say "$1: $verdict"
    else
        say "$1: $verdict"
        problems=$((problems + 1))
    fi
}

summarise() {
    step "Shutting down, and listening to the recordings"
    wait_for 10 is_gone "$worker_pid" || fail "the worker did not end with its call"
    local code=0
    kill -TERM "$bridge_pid"
    wait "$bridge_pid" || code=$?
    problems=0
    if [ "$code" -eq 0 ]; then
        say "the bridge unregistered and ended with exit code 0"
    else
        say "the bridge ended with exit code $code"
        problems=1
    fi
    local recording
    recording=$(find "$out/worker" -name '*.wav' | head -n 1)
    [ -n "$recording" ] || fail "the worker left no recording"
    mv "$recording" "$out/worker-heard.wav"
    rmdir "$out/worker" 2>/dev/null || true
    hears "the worker heard the question " "$out/question.wav" "$out/worker-heard.wav"
    hears "the caller heard the greeting " "$out/greeting.wav" "$out/caller-heard.wav"
    hears "the caller heard the echo     " "$out/question.wav" "$out/caller-heard.wav"
    cp "$peers_tmp/kamailio.log" "$out/trunk.log"
    peers_stop

    [ "$problems" -eq 0 ] || fail "$problems of the checks above did not hold"
    printf '\n%sIt works.%s A call of %s s, speech heard on both sides. Listen to:\n' "$bold" "$plain" "$call_seconds"
    printf '    %s\n' "$out/worker-heard.wav" "$out/caller-heard.wav"
}

# What the caller's shell has set for another bridge is not for this one.
while IFS= read -r setting; do unset "$setting"; done < <(sed -nE 's/^#?([A-Z_]+)=.*$/\1/p' .env.example)

# Replaced whole, so that nothing of an earlier run can pass for this one's.
rm -rf "$out"
mkdir -p "$out"
peers_init
build
prepare_speech
start_trunk_and_queue
start_bridge
start_worker
call
summarise
