#!/usr/bin/env bash
# shellcheck disable=SC2034 # the lists below are read by name, as ${!list}
#
# Installs the system packages that sipbridge needs, on Debian and its kin.
#
#   vendor/packages.sh build          to compile pjproject and the bridge
#   vendor/packages.sh build test     and to run tests/run.sh
#   vendor/packages.sh build demo     and to run the demo
#   vendor/packages.sh --check …      only says what is missing; exit 1 if so
#
# Nothing is done when everything is there: no network, no root. The package
# lists are refreshed once, only when something must be installed. Redis,
# Kamailio and PostgreSQL are wanted as programs, not as services: they are kept
# from starting.
# Elsewhere than Debian it names what is missing and installs nothing.
set -euo pipefail

PATH="$PATH:/usr/sbin:/sbin"

# pjproject needs the five libraries, bindgen libclang, rustls (ring) a C
# compiler. audiopus finds libopus by pkg-config, so no cmake or autotools.
build_packages=(build-essential pkg-config xz-utils libssl-dev libopus-dev libsrtp2-dev
    libsamplerate0-dev uuid-dev libclang-dev debian-archive-keyring ca-certificates)
# iproute2 for ss, procps for ps.
peer_packages=(redis-server kamailio iproute2 procps)
test_packages=("${peer_packages[@]}" sip-tester kamailio-tls-modules baresip-core nftables
    openssl gdb python3 python3-pip python3-redis python3-twilio python3-websockets nodejs npm postgresql
    sqlite3 valgrind kubernetes-client)
demo_packages=("${peer_packages[@]}" espeak-ng sox)

# What each group must offer on a system without dpkg.
build_commands=(gcc g++ make pkg-config xz)
build_libraries=(openssl opus libsrtp2 samplerate uuid)
peer_commands=(redis-server redis-cli kamailio ss ps)
test_commands=("${peer_commands[@]}" sipp baresip ip nft openssl python3 node npm psql setpriv sqlite3 kubectl)
demo_commands=("${peer_commands[@]}" espeak-ng sox)

say() { printf 'packages: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

is_installed() {
    # Kubernetes' own package and Google's have the same file: Debian's cannot be installed beside them.
    [ "$1" != kubernetes-client ] || ! command -v kubectl >/dev/null || return 0
    # So with Node's own packages.
    case $1 in nodejs | npm) ! command -v "${1/nodejs/node}" >/dev/null || return 0 ;; esac
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Prints the missing Debian packages of the groups, one a line.
missing_packages() {
    local group list package
    for group in "$@"; do
        list="${group}_packages[@]"
        for package in "${!list}"; do
            is_installed "$package" || echo "$package"
        done
    done | sort -u
}

# Prints what the groups need and this system (not Debian) lacks.
missing_elsewhere() {
    local group list name
    for group in "$@"; do
        list="${group}_commands[@]"
        for name in "${!list}"; do
            command -v "$name" >/dev/null || echo "$name"
        done
        [ "$group" = build ] || continue
        for name in "${build_libraries[@]}"; do
            pkg-config --exists "$name" 2>/dev/null || echo "$name (development files)"
        done
    done | sort -u
}

check_rust() {
    command -v cargo >/dev/null && return
    if [ -x "$HOME/.cargo/bin/cargo" ]; then
        die "cargo is in ~/.cargo/bin but not on PATH: run  . ~/.cargo/env"
    fi
    die "cargo (Rust 1.85 or later) is missing: install it with rustup, see rust-lang.org/tools/install"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "root is needed to install packages and there is no sudo; run as root: apt-get install --no-install-recommends ${missing[*]}"
    fi
}

# A policy-rc.d that answers 101 is Debian's own way to install daemons without
# starting them. One that an administrator put there is left as it is.
guard=/usr/sbin/policy-rc.d
guard_ours=
forbid_services() {
    [ ! -e "$guard" ] || return 0
    guard_ours=yes
    # shellcheck disable=SC2016 # $1 is for the inner shell
    as_root sh -c 'printf "#!/bin/sh\nexit 101\n" > "$1" && chmod 755 "$1"' sh "$guard"
}
allow_services() {
    [ -z "$guard_ours" ] || as_root rm -f "$guard"
    guard_ours=
}

install_packages() {
    say "installing: $*"
    trap allow_services EXIT
    forbid_services
    as_root apt-get -q update >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "$@" >&2
    # Allowed to start now, and at the next boot too: the units are switched off.
    if [ -d /run/systemd/system ]; then
        local unit
        for unit in redis-server kamailio postgresql; do
            case " $* " in *" $unit "*) as_root systemctl disable --now "$unit" >&2 || true ;; esac
        done
    fi
    allow_services
    trap - EXIT
}

main() {
    local only_check=
    [ "${1:-}" != --check ] || { only_check=yes; shift; }
    [ $# -gt 0 ] || die "usage: vendor/packages.sh [--check] build|test|demo …"
    local group
    for group in "$@"; do
        case $group in build | test | demo) ;; *) die "no such group: $group (build, test, demo)" ;; esac
    done

    if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
        mapfile -t missing < <(missing_elsewhere "$@")
        [ ${#missing[@]} -eq 0 ] || die "this is no Debian; please install with your package manager: ${missing[*]}"
    else
        mapfile -t missing < <(missing_packages "$@")
        if [ ${#missing[@]} -gt 0 ]; then
            [ -z "$only_check" ] || die "missing: ${missing[*]}; run vendor/packages.sh $*"
            install_packages "${missing[@]}"
        fi
    fi
    check_rust
    say "all there for: $*"
}

main "$@"
