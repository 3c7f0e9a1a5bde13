#!/usr/bin/env bash
# Builds sipbridge where needed and runs it with the settings of .env.
#
#   ./start-sipbridge.sh [flags]          run the bridge
#   ./start-sipbridge.sh check            validate every setting without starting
#   ./start-sipbridge.sh --help           every flag and variable
#   ./start-sipbridge.sh --demo           a real call with private parts, explained step by step
#
# .env is read as data: NAME=value lines, nothing in it is run. Only settings of
# sipbridge are taken from it; what the environment already holds wins.
#
# The bridge takes this script's place, so a signal reaches it at once. After
# SIGTERM calls go on for HANDOVER_TIMEOUT, DRAIN_TIMEOUT and SHUTDOWN_TIMEOUT (325 s):
# whoever kills what is left must wait for that and 10 s more.
#
#   SIPBRIDGE_ENV_FILE  another file than .env
#   SIPBRIDGE_BINARY    a finished binary to run; nothing is built then
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
env_file=${SIPBRIDGE_ENV_FILE:-$here/.env}

say() { printf 'start-sipbridge: %s\n' "$*" >&2; }
# Exit code 2: wrong settings or a missing requirement, as with the program itself.
die() {
    say "$@"
    exit 2
}

# The settings that sipbridge knows, one a line: .env.example lists them all.
known_settings() {
    sed -nE 's/^#?([A-Z_]+)=.*$/\1/p' "$here/.env.example"
}

# The value as written after "=": in quotes, or bare up to a comment.
# Sets `value`; fails on an unclosed quote or on text after a closing one.
unquote() {
    local raw=$1 quote=${1:0:1} rest
    value=
    case $quote in
    '"' | "'")
        rest=${raw:1}
        [[ $rest == *"$quote"* ]] || return 1
        value=${rest%%"$quote"*}
        rest=${rest#*"$quote"}
        [[ $rest =~ ^[[:space:]]*(#.*)?$ ]]
        ;;
    *)
        # A comment needs a space before it: passwords may hold a #.
        value=${raw%%[[:space:]]#*}
        [[ $value == '#'* ]] && value=
        value=${value%"${value##*[![:space:]]}"}
        ;;
    esac
}

# Exports the settings of a file that the environment does not hold.
read_env_file() {
    local file=$1 known number=0 line name value
    known=$(known_settings)
    while IFS= read -r line || [[ -n $line ]]; do
        number=$((number + 1))
        line=${line%$'\r'}
        line=${line#"${line%%[![:space:]]*}"}
        [[ -z $line || $line == '#'* ]] && continue
        # The line itself is never shown: it may hold a password.
        [[ $line =~ ^(export[[:space:]]+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)$ ]] ||
            die "$file line $number: is not NAME=value"
        name=${BASH_REMATCH[2]}
        unquote "${BASH_REMATCH[3]}" ||
            die "$file line $number: $name has a quote that is not closed, or text after it"
        if ! grep -qx -- "$name" <<<"$known"; then
            say "$file line $number: $name is not a setting of sipbridge, ignored"
            continue
        fi
        # Empty counts as absent, as in the program.
        [[ -n ${!name:-} ]] || export "$name=$value"
    done <"$file"
}

check_env_file() {
    if [[ ! -e $env_file ]]; then
        [[ -z ${SIPBRIDGE_ENV_FILE:-} ]] || die "$env_file: there is no such file"
        return 0
    fi
    [[ -r $env_file ]] || die "$env_file: cannot be read by $(id -un)"
    if [[ -n $(find "$env_file" -maxdepth 0 -perm /004) ]]; then
        say "warning: every user can read $env_file: chmod 600 $env_file"
    fi
    read_env_file "$env_file"
}

# Whether anything says which line to hold and where its workers are.
hint_at_settings() {
    [[ $# -eq 0 && ! -e $env_file ]] || return 0
    [[ -z ${SIP_DOMAIN:-}${LINES_FILE:-}${DATA_DIR:-}${DATABASE_URL:-} ]] || return 0
    say "there are no settings yet: cp .env.example .env, edit it, and start again"
}

# What a build needs, each with how to get it.
missing_for_build() {
    command -v cargo >/dev/null ||
        echo "Rust 1.85 or later (cargo): see rust-lang.org, or your system's package rustup"
    command -v cc >/dev/null || echo "a C compiler: package build-essential"
    command -v pkg-config >/dev/null || echo "pkg-config: package pkg-config"
    has_libclang || echo "libclang, for bindgen: package libclang-dev"
    has_pjproject ||
        echo "pjproject 2.15 or later: run vendor/pjproject.sh, which fetches and builds it"
}

has_libclang() {
    [[ -n ${LIBCLANG_PATH:-} ]] || ldconfig -p 2>/dev/null | grep -q libclang ||
        compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null
}

has_pjproject() {
    [[ -n ${SIPBRIDGE_PJPROJECT:-} ]] || pkg-config --atleast-version=2.15 libpjproject 2>/dev/null ||
        "$here/vendor/pjproject.sh" --print >/dev/null 2>&1
}

# Sets `binary` to a release build that is up to date.
build() {
    local missing target=${CARGO_TARGET_DIR:-$here/target}
    binary=$target/release/sipbridge
    missing=$(missing_for_build)
    if [[ -n $missing ]]; then
        if [[ -x $binary && ! -x $(command -v cargo) ]]; then
            return 0 # An installation without a compiler runs what it was given.
        fi
        say "missing for the build:"
        while IFS= read -r line; do say "  - $line"; done <<<"$missing"
        die "install what is missing (on Debian: vendor/packages.sh build), then start again"
    fi
    (cd "$here" && cargo build --release --locked --quiet --bin sipbridge) ||
        die "the build failed: see above"
}

main() {
    # The demo has settings of its own.
    [[ ${1:-} != --demo ]] || exec "$here/examples/demo.sh"
    check_env_file
    hint_at_settings "$@"
    local binary=${SIPBRIDGE_BINARY:-}
    [[ -n $binary ]] || build
    [[ -x $binary ]] || die "$binary: is not a program"
    exec "$binary" "$@"
}

main "$@"
