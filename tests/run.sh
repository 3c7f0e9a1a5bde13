#!/usr/bin/env bash
# The one test command: everything that proves sipbridge, on a fresh Debian 12
# with Rust and nothing else.
#
#   tests/run.sh             all of it, about 25 minutes on 2 cores from nothing
#   tests/run.sh --quick     formatting, lints, unit and scenario tests
#   tests/run.sh NAME        only the tests whose name holds NAME, such as sipp:: or pacing::
#   tests/run.sh --chaos [N] N rounds of chaos (20, half an hour) on a release build, each from
#                            another seed, up to the first failure; SEED=n tests/run.sh --chaos 1
#                            repeats one
#   tests/run.sh --cluster [N]  N rounds (10, an hour) of bridges that share lines and of what
#                            may befall them, each in an order shuffled from another seed, up to
#                            the first failure; then its figures on a release build (15 minutes);
#                            SEED=n tests/run.sh --cluster 1 repeats one
#   tests/run.sh --fuzz M    M minutes of hostile input to each target of tests/fuzz, on a
#                            build of pjproject with AddressSanitizer, UBSan and asserts;
#                            M NAME: only targets with that in their name; SEED=n repeats one
#   tests/run.sh --soak M    M minutes of short calls on a release build; 10 make 10,000 calls
#   tests/run.sh --no-install …   install no packages, only say what is missing
#
# Each step prints its name, its result and its time; its full output is in
# target/test-logs/. A failing step does not keep the others from running. The
# last line is 'N passed, N failed', the exit code 0 only with none failed.
# A real-time test that fails beside others on a busy machine is run once more,
# alone, and named; what fails twice has failed. A step that is not over after 30
# minutes (STEP_LIMIT_S seconds) is ended, with the stacks of its processes in its
# log, and run once more whole. Rounds of --chaos and findings of fuzz are not
# forgiven anything.
#
# Every process that a test starts carries SIPBRIDGE_TEST_RUN in its
# environment, and its files lie in a folder of this run: at the end nothing of
# that may be left, and whatever is left is ended by its process id.
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

quick='' install=yes filter='' rounds='' cluster_rounds='' minutes='' fuzz_minutes=''
while [ $# -gt 0 ]; do
    argument=$1
    shift
    case $argument in
        --quick) quick=yes ;;
        --chaos)
            rounds=20
            [[ ${1-} =~ ^[0-9]+$ ]] && { rounds=$1; shift; }
            ;;
        --cluster)
            cluster_rounds=10
            [[ ${1-} =~ ^[0-9]+$ ]] && { cluster_rounds=$1; shift; }
            ;;
        --fuzz)
            [[ ${1-} =~ ^[0-9.]+$ ]] || { echo "tests/run.sh: --fuzz needs minutes" >&2; exit 2; }
            fuzz_minutes=$1
            shift
            ;;
        --soak)
            [[ ${1-} =~ ^[0-9.]+$ ]] || { echo "tests/run.sh: --soak needs minutes" >&2; exit 2; }
            minutes=$1
            shift
            ;;
        --no-install) install='' ;;
        -h | --help) sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0"; exit 0 ;;
        -*) echo "tests/run.sh: unknown option $argument (see --help)" >&2; exit 2 ;;
        *) filter=$argument ;;
    esac
done

run_id="run-$$-$(date +%s)"
export SIPBRIDGE_TEST_RUN=$run_id
real_tmp=${TMPDIR:-/tmp}
run_tmp=$(mktemp -d "$real_tmp/sipbridge-tests.XXXXXX")
export TMPDIR=$run_tmp
export CARGO_TERM_COLOR=never RUST_BACKTRACE=0
logs=target/test-logs
mkdir -p "$logs"
passed=0 failed=0 failures=() timer=
started=$SECONDS

# marked_processes [MARK]: process ids that carry this run's mark, or this one, but for
# this shell and what it runs to find out.
marked_processes() {
    local mark=${1:-SIPBRIDGE_TEST_RUN=$run_id} environ pid
    for environ in /proc/[0-9]*/environ; do
        pid=${environ#/proc/}
        pid=${pid%/environ}
        [ "$pid" = $$ ] || [ "$pid" = "$BASHPID" ] && continue
        grep -qszx "$mark" "$environ" || continue
        # Subshells of this script are no leftovers.
        case $(tr '\0' ' ' < "/proc/$pid/cmdline" 2>/dev/null) in
            '' | *tests/run.sh*) ;;
            *) echo "$pid" ;;
        esac
    done
}

# end_marked [MARK]: ends them hard.
end_marked() {
    local pid
    for pid in $(marked_processes "$@"); do
        kill -CONT "$pid" 2>/dev/null
        kill -KILL "$pid" 2>/dev/null
    done
}

clean_up() {
    [ -z "$timer" ] || kill "$timer" 2> /dev/null
    end_marked
    rm -rf "$run_tmp"
}
trap clean_up EXIT
trap 'echo; echo "interrupted"; exit 130' INT TERM

# How long a step may take: several times what it needs on two slow cores, and little
# enough for CI to tell of one that hangs. Rounds take as long as they take.
limit_s=${STEP_LIMIT_S:-1800}
[ -z "$rounds$cluster_rounds$minutes$fuzz_minutes" ] || limit_s=infinity
steps=0

# limited LOG COMMAND…: runs a command, its output in a file. One that is not over at the
# limit is ended, with all that it started; its status is 124 then.
limited() {
    local log=$1 mark pid code=0
    shift
    steps=$((steps + 1))
    mark=$run_id-step-$steps
    : > "$log"
    (export SIPBRIDGE_TEST_STEP=$mark; "$@") >> "$log" 2>&1 &
    pid=$!
    env -u SIPBRIDGE_TEST_RUN sleep "$limit_s" &
    timer=$!
    wait -n "$pid" "$timer" || code=$?
    if kill -0 "$pid" 2> /dev/null; then
        code=124
        unfinished "$log" "$logs"/pjsip.log >> "$log"
        stacks "SIPBRIDGE_TEST_STEP=$mark" >> "$log" 2>&1
        end_marked "SIPBRIDGE_TEST_STEP=$mark"
        wait "$pid"
    fi 2> /dev/null
    kill "$timer" 2> /dev/null
    wait "$timer" 2> /dev/null
    timer=
    return "$code"
}

# The tests that libtest has called slow and that have no result yet.
unfinished() {
    cat "$@" 2> /dev/null | awk '/^test .* has been running for over / { slow[$2] } /^test [^ ]+ \.\.\. / { delete slow[$2] }
        END { for (test in slow) print "not over: " test }'
}

# stacks MARK: what each thread of these processes does.
stacks() {
    local pid
    for pid in $(marked_processes "$1"); do
        echo "not over: process $pid $(tr '\0' ' ' < "/proc/$pid/cmdline" | cut -c1-160)"
        case $(readlink "/proc/$pid/exe") in
            */target/*) timeout 60 gdb -p "$pid" -batch -ex 'thread apply all backtrace 30' 2> /dev/null ;;
        esac
    done
}

# step NAME COMMAND…: runs a command; its test results are counted if it prints
# any, else the step itself counts as one.
step() {
    local name=$1 log seconds=$SECONDS code=0 ok bad
    shift
    log="$logs/$(tr -c 'a-zA-Z0-9\n' - <<< "$name").log"
    printf '== %-46s ' "$name"
    limited "$log" "$@" || code=$?
    if [ "$code" -eq 124 ]; then
        printf 'not over after %d s\n' $((SECONDS - seconds))
        grep -a '^not over: ' "$log" | sed 's/^/   | /'
        mv "$log" "${log%.log}-hung.log"
        printf '   once more, whole: %-28s ' "$name"
        code=0 seconds=$SECONDS
        limited "$log" "$@" || code=$?
    fi
    read -r ok bad < <(awk '/^test result:/ { ok += $4; bad += $6 } END { print ok + 0, bad + 0 }' "$log")
    if [ $((ok + bad)) -eq 0 ]; then
        if [ "$code" -eq 0 ]; then ok=1; else bad=1; fi
        # A filter that fits nothing here is no test.
        ! grep -q '^test result:' "$log" || { [ "$code" -ne 0 ] || ok=0; }
    elif [ "$code" -ne 0 ] && [ "$bad" -eq 0 ]; then
        bad=1
    fi
    printf '%4d passed %3d failed %5d s\n' "$ok" "$bad" $((SECONDS - seconds))
    # What this machine does not allow is said, not hidden; so are chaos's books, seeds and figures.
    grep -aE '^(not run|chaos|fuzz|cluster): |^\|' "$log" | sed 's/^/   /'
    if [ "$bad" -gt 0 ]; then
        explain "$log" | sed 's/^/   | /'
        if once_more "$log" "$bad"; then
            ok=$((ok + bad)) bad=0
        else
            failures+=("$name")
        fi
    fi
    passed=$((passed + ok)) failed=$((failed + bad))
    [ "$bad" -eq 0 ]
}

# once_more LOG N: runs the N failed tests of a step again, one at a time.
once_more() {
    local names seed
    [ -z "$rounds$cluster_rounds$minutes$fuzz_minutes" ] || return 1
    mapfile -t names < <(failed_tests "$1")
    [ ${#names[@]} -eq "$2" ] || return 1
    seed=$(sed -n 's/^chaos: a round, SEED=//p' "$1" | tail -n 1)
    printf '   once more, alone: %s\n' "${names[@]}"
    ${seed:+env "SEED=$seed"} cargo test --no-fail-fast -- --exact --test-threads 1 "${names[@]}" > "${1%.log}-again.log" 2>&1 || return 1
    printf '   passed then; the first failure is above\n'
}

# The names of a step's failed tests, as libtest and chaos list them.
failed_tests() {
    awk '/^failures:$/ { listed = 1; next }
        listed && /^    [A-Za-z0-9_:]+$/ { print $1; next }
        listed && !/^$/ { listed = 0 }
        /^chaos: [a-z_]+: FAILED/ { sub(/:$/, "", $2); print $2 }' "$1" | sort -u
}

# What of a failed step's output says why: each panic with its message, then
# the end.
explain() {
    grep -aE -A 6 ' panicked at ' "$1" | cut -c1-300 | head -n 80
    echo "... the end of $1:"
    tail -n 15 "$1" | cut -c1-300
}

shell_scripts() {
    find . \( -name target -o -name .git -o -path ./vendor/pjproject \) -prune \
        -o -type f \( -name '*.sh' -o -path ./.ci/run \) -print | sort
}

check_scripts() {
    local script code=0
    for script in $(shell_scripts); do
        bash -n "$script" || code=1
        [ -x "$script" ] || case $script in ./tests/lib/*) ;; *) echo "$script is not executable"; code=1 ;; esac
    done
    if command -v shellcheck > /dev/null; then
        # shellcheck disable=SC2046 # one word per script
        shellcheck -x -S warning $(shell_scripts) || code=1
    fi
    return "$code"
}

# Licences, banned crates and their sources; known faults of them where their
# database is there or can be fetched.
dependencies() {
    if ! cargo deny --version > /dev/null 2>&1; then
        echo "not run: cargo-deny is not installed (cargo install --locked cargo-deny)"
        return
    fi
    cargo deny --config .deny.toml check licenses bans sources || return
    if cargo deny --config .deny.toml fetch db; then
        cargo deny --config .deny.toml check advisories
    else
        echo "not run: advisories of crates: their database cannot be fetched here"
    fi
}

# The documentation, its guide among it: a link that leads nowhere is a failure.
documentation() {
    RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --lib --document-private-items
}

# Test targets without a step of their own, as --test flags.
other_targets() {
    local file
    for file in tests/*.rs; do
        printf -- '--test\n%s\n' "$(basename "$file" .rs)"
    done
    for file in tests/*/main.rs; do
        file=$(basename "$(dirname "$file")")
        [[ $file =~ ^(e2e|chaos|fuzz|loom|pjsip)$ ]] || printf -- '--test\n%s\n' "$file"
    done
}

# Those of the real pjsip mostly wait, one at a time: they run beside the others.
unit_tests() {
    local targets pid code=0
    mapfile -t targets < <(other_targets)
    cargo test --no-fail-fast --test pjsip -- ${filter:+"$filter"} > "$logs/pjsip.log" 2>&1 &
    pid=$!
    cargo test --no-fail-fast --lib --bins --examples "${targets[@]}" -- ${filter:+"$filter"} || code=$?
    wait "$pid" || code=$?
    cat "$logs/pjsip.log"
    return "$code"
}

# What threads share, in every order of them: the same files of the program, with
# other locks under them, so that nothing else is built anew.
every_order() {
    cargo test --test loom -- ${filter:+"$filter"}
}

# The core room's unit tests under Miri, each property with one case: a test runs some
# hundred times slower there. Left out are those that call libopus, and those that
# build tables of numbers or play minutes of audio.
under_miri() {
    local rooms=(address challenges ids info_digits media_streams reorder rtp telephone_event worker_message)
    if ! cargo +nightly miri --version > /dev/null 2>&1; then
        echo "not run: Miri is not installed (rustup component add miri rust-src --toolchain nightly)"
        return
    fi
    CARGO_TARGET_DIR=target/miri MIRIFLAGS=-Zmiri-disable-isolation PROPTEST_CASES=1 \
        cargo +nightly miri test --lib -- "${rooms[@]/#/core::}"
}

# e2e THREADS ARGUMENT…: end-to-end tests. At the usual libtest settings each
# test would get a core of its own; they are processes that share them.
e2e() {
    local threads=$1
    shift
    cargo test --no-fail-fast --test e2e -- --test-threads "$threads" "$@"
}

# The demo's programs, built by what nobody else needs of the cores while tests
# wait; finished before tests that look at milliseconds.
build_demo() {
    nice -n 19 cargo build --release --bin sipbridge --example worker --example caller --example heard \
        > "$logs/demo-build.log" 2>&1
    echo $? > "$run_tmp/demo-build"
}

# The end of that build. A step is no parent of it, and cannot wait for it by its id.
await_build() {
    local code
    until [ -s "$run_tmp/demo-build" ]; do sleep 0.5; done
    code=$(< "$run_tmp/demo-build")
    rm "$run_tmp/demo-build"
    [ "$code" -eq 0 ] || { tail -n 30 "$logs/demo-build.log"; return 1; }
}

# What the examples in Python and Node do, with stand-ins around them.
python_examples() {
    /usr/bin/python3 -B tests/python/run.py ${filter:+"$filter"}
}

nothing_is_left() {
    local pid left=()
    # What was told to end a moment ago may take that moment.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        mapfile -t left < <(marked_processes)
        [ ${#left[@]} -gt 0 ] || break
        sleep 0.3
    done
    for pid in ${left[@]+"${left[@]}"}; do
        echo "left running: $pid $(tr '\0' ' ' < "/proc/$pid/cmdline" | cut -c1-120)"
        ss -Hltunp 2>/dev/null | grep "pid=$pid," | awk '{ print "  holds " $1 " " $5 }'
    done
    find "$run_tmp" -mindepth 1 -maxdepth 1 -printf 'left behind: %p\n' | tee "$logs/left-files"
    [ ${#left[@]} -eq 0 ] && [ ! -s "$logs/left-files" ]
}

finish() {
    printf '\n%d s in all\n' $((SECONDS - started))
    [ ${#failures[@]} -eq 0 ] || printf 'failed: %s\n' "${failures[@]}"
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
    exit
}

# chaos ARGUMENT…: worker processes killed, Redis killed, the bridge killed.
chaos() {
    cargo test --test chaos -- "$@"
}

# chaos_rounds N: on a release build. Eleven scenarios side by side keep two slow cores
# busy with a development build, and calls wait for their workers in vain.
chaos_rounds() {
    cargo test --release --test chaos -- --rounds "$1"
}

# shuffled SEED: the lines of standard input in an order that the seed decides.
shuffled() {
    shuf --random-source=<(openssl enc -aes-256-ctr -pass "pass:$1" -nosalt < /dev/zero 2> /dev/null)
}

# cluster ROUNDS: bridges that share lines, killed, frozen, cut off and restarted, two tests at a time.
cluster() {
    local first=${SEED:-$((RANDOM * 32768 + RANDOM))} seed
    for ((seed = first; seed < first + $1; seed++)); do
        echo "cluster: a round, SEED=$seed"
        cargo test --test e2e -- --list cluster | sed -n 's/^\(cluster.*\): test$/\1/p' | shuffled "$seed" \
            | SEED=$seed xargs -P 2 -I NAME cargo test --test e2e -- --exact NAME || return
    done
}

cluster_figures() {
    cargo run --release --example cluster -- --all-contacts
}

soak() {
    cargo test --release --test chaos -- --soak "$minutes"
}

fuzz() {
    cargo test --test fuzz -- "$@"
}

# sanitized COMMAND…: on the pjproject with sanitizers, in a folder of its own.
sanitized() {
    # What is freed is held back for a while; the readers' own memory is measured beside that.
    ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=16 \
        SIPBRIDGE_PJPROJECT=$(vendor/pjproject.sh --sanitize --print) CARGO_TARGET_DIR=target/sanitized "$@"
}

packages=(build)
[ -n "$quick" ] || packages+=(test)
[ -n "$quick$filter$rounds$cluster_rounds$minutes$fuzz_minutes" ] || packages+=(demo)
[ -n "$install" ] || packages=(--check "${packages[@]}")
step "packages: ${packages[*]}" vendor/packages.sh "${packages[@]}" || finish
if [ -n "$fuzz_minutes" ]; then
    step "pjproject with sanitizers" vendor/pjproject.sh --sanitize || finish
    step "build of fuzz with sanitizers" sanitized cargo test --no-run --test fuzz || finish
    step "fuzz: $fuzz_minutes minutes each" sanitized fuzz --minutes "$fuzz_minutes" ${filter:+"$filter"}
    step "nothing is left running or behind" nothing_is_left
    finish
fi
step "pjproject" vendor/pjproject.sh || finish

if [ -n "$cluster_rounds" ]; then
    step "build of the end-to-end tests" cargo test --no-run --test e2e || finish
    step "cluster: $cluster_rounds rounds" cluster "$cluster_rounds"
    step "build of cluster's figures, release" cargo build --release --bin sipbridge --example cluster || finish
    step "cluster: figures" cluster_figures
    step "nothing is left running or behind" nothing_is_left
    finish
fi

if [ -n "$rounds$minutes" ]; then
    step "build of chaos, release" cargo test --release --no-run --test chaos || finish
    if [ -n "$rounds" ]; then step "chaos: $rounds rounds" chaos_rounds "$rounds"; fi
    if [ -n "$minutes" ]; then step "soak: $minutes minutes" soak; fi
    step "nothing is left running or behind" nothing_is_left
    finish
fi

if [ -z "$filter" ]; then
    step "shell scripts" check_scripts
    step "cargo fmt --check" cargo fmt --check
    step "cargo clippy -D warnings" cargo clippy --all-targets -- -D warnings
    step "cargo deny" dependencies
    step "cargo doc -D warnings" documentation
fi
step "build of all tests" cargo test --no-run || finish
step "unit, scenario and layout tests" unit_tests
step "every order of threads (loom)" every_order
if [ -z "$quick" ]; then
    [ -n "$filter" ] || step "the core under Miri" under_miri
    if [ -n "$filter" ]; then
        step "packages of the bots for Twilio" tests/python/bot_packages.sh
        step "examples in Python and Node: $filter" python_examples
        step "end to end: $filter" e2e 2 "$filter"
        step "chaos: $filter" chaos "$filter"
        step "fuzz: $filter" fuzz "$filter"
    else
        step "packages of the bots for Twilio" tests/python/bot_packages.sh
        step "examples in Python and Node" python_examples
        build_demo &
        step "end to end: SIPp" e2e 2 sipp::
        step "end to end: Kamailio" e2e 2 trunk::
        step "end to end: calls, audio, failures" e2e 3 --skip sipp:: --skip trunk:: --skip pacing:: --skip delayed:: --skip memcheck::
        step "the rest of the demo's build" await_build
        step "end to end: calls under valgrind" e2e 1 memcheck::
        # These look at milliseconds: one at a time.
        step "end to end: pacing" e2e 1 pacing:: delayed::
        step "chaos: one round" chaos
        step "fuzz: 15 s each" fuzz
        step "the demo" examples/demo.sh
    fi
fi
step "nothing is left running or behind" nothing_is_left
finish
