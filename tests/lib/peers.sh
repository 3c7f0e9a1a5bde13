# The foreign parts, started privately: Redis and Kamailio on free ports of
# 127.0.0.1, with their files in a temporary folder. Sourced by tests/run.sh and
# examples/demo.sh; tests/e2e starts its own the same way.
#
# Everything started here is remembered by process id and ended by
# `peers_stop`, which is safe to call twice and belongs into an EXIT trap.
# shellcheck shell=bash disable=SC2034 # the sourcing script reads the ports

peers_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
peers_tmp=
peers_pids=()

# Debian puts daemons into sbin, which is not on every user's path.
PATH="$PATH:/usr/sbin:/sbin"

# Makes the temporary folder; later calls keep it.
peers_init() {
    [ -n "$peers_tmp" ] || peers_tmp=$(mktemp -d "${TMPDIR:-/tmp}/sipbridge.XXXXXX")
}

# Prints a port that nobody has bound, for TCP or UDP. Drawn at random below the
# ephemeral range, so that two scripts, or an outgoing socket, seldom meet it.
free_port() {
    local port
    while :; do
        port=$((20000 + (RANDOM << 15 | RANDOM) % 12000))
        ss -Hltun "sport = :$port" | grep -q . || break
    done
    echo "$port"
}

# wait_for SECONDS COMMAND…: tries until the command succeeds.
wait_for() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.1
    done
}

# is_alive PID: running, and not a zombie.
is_alive() {
    local state
    state=$(ps -o state= -p "$1" 2>/dev/null) && [ "${state:0:1}" != Z ]
}

# Starts Redis; sets REDIS_PORT and REDIS_URL.
redis_start() {
    peers_init
    REDIS_PORT=$(free_port)
    REDIS_URL="redis://127.0.0.1:$REDIS_PORT/"
    mkdir -p "$peers_tmp/redis"
    redis-server --bind 127.0.0.1 --port "$REDIS_PORT" --save '' --appendonly no --daemonize no \
        --dir "$peers_tmp/redis" > "$peers_tmp/redis.log" 2>&1 &
    peers_pids+=("$!")
    wait_for 10 redis-cli -h 127.0.0.1 -p "$REDIS_PORT" ping || {
        echo "redis-server did not start:" >&2
        tail -n 5 "$peers_tmp/redis.log" >&2
        return 1
    }
}

# kamailio_start 'USERNAME PASSWORD NUMBER' [VARIANT…]: a trunk that knows one
# line per argument of three words; the other words are variants of
# kamailio.cfg. Sets KAMAILIO_PORT and KAMAILIO_PID.
kamailio_start() {
    peers_init
    local dir="$peers_tmp/kamailio" flags=() entry
    mkdir -p "$dir"
    cp "$peers_root/tests/real/kamailio.cfg" "$dir/"
    {
        echo 'event_route[htable:mod-init] {'
        for entry in "$@"; do
            # shellcheck disable=SC2086 # split on purpose
            set -- $entry
            if [ $# -eq 1 ]; then
                flags+=(-A "$1")
            else
                # shellcheck disable=SC2016 # Kamailio's variables, not the shell's
                printf '    $sht(passwords=>%s) = "%s";\n    $sht(numbers=>%s) = "%s";\n' "$1" "$2" "$3" "$1"
            fi
        done
        echo '}'
    } > "$dir/trunk-lines.cfg"
    KAMAILIO_PORT=$(free_port)
    kamailio -DD -E -f "$dir/kamailio.cfg" -Y "$dir" -w "$dir" -m 32 -M 4 "${flags[@]}" \
        -l "udp:127.0.0.1:$KAMAILIO_PORT" -l "tcp:127.0.0.1:$KAMAILIO_PORT" \
        > "$peers_tmp/kamailio.log" 2>&1 &
    KAMAILIO_PID=$!
    peers_pids+=("$KAMAILIO_PID")
    wait_for 10 udp_is_bound "$KAMAILIO_PORT" || {
        echo "kamailio did not start:" >&2
        tail -n 8 "$peers_tmp/kamailio.log" >&2
        return 1
    }
}

udp_is_bound() { ss -Hlun "sport = :$1" | grep -q .; }

# stop_pid PID [SECONDS]: TERM, then KILL after so long. Waits until it is gone.
stop_pid() {
    is_alive "$1" || return 0
    kill -TERM "$1" 2>/dev/null || return 0
    local tries=$((${2:-5} * 10))
    while is_alive "$1"; do
        [ $((tries--)) -gt 0 ] || { kill -KILL "$1" 2>/dev/null; break; }
        sleep 0.1
    done
}

# Ends what was started here, newest first, and removes the temporary folder.
peers_stop() {
    local i
    for ((i = ${#peers_pids[@]} - 1; i >= 0; i--)); do
        stop_pid "${peers_pids[i]}"
    done
    peers_pids=()
    [ -z "$peers_tmp" ] || rm -rf "$peers_tmp"
    peers_tmp=
}
