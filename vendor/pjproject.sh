#!/usr/bin/env bash
# Fetches and builds pjproject into vendor/pjproject (ignored by git).
#
#   vendor/pjproject.sh            fetch, verify, build; re-use a finished build
#   vendor/pjproject.sh --print    print the install prefix of a finished build
#   vendor/pjproject.sh --sanitize …   the same with AddressSanitizer, UBSan and
#                                  asserts, in a prefix of its own (for fuzzing)
#
# Debian ships no pjproject library, but its `asterisk` source package carries
# the whole tree. apt fetches it against a private source list and verifies it
# with Debian's own keyring; the machine's apt configuration is not touched.
# The mirror is the one the machine already uses.
#
# A tarball fetched by other means can be named in SIPBRIDGE_PJPROJECT_TARBALL.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out="$here/pjproject"
prefix="$out/install" src="$out/src"
patches=("$here/pjproject.patch" "$here/pjproject-large.patch" "$here/pjproject-sdp.patch" "$here/pjproject-safety.patch" "$here/pjproject-lost.patch"
    "$here/pjproject-ioqueue.patch" "$here/pjproject-places.patch")

configure_flags=(
    --enable-epoll --disable-video --disable-sound --disable-libwebrtc
    --disable-libyuv --disable-sdl --disable-ffmpeg --disable-v4l2
    --disable-openh264 --disable-vpx --disable-bcg729 --disable-opencore-amr
    --disable-silk --disable-gsm-codec --disable-speex-codec
    --disable-speex-aec --disable-ilbc-codec --disable-g7221-codec
    --disable-lyra --disable-upnp --with-external-srtp --enable-libsamplerate
)
# NDEBUG: a failed pj_assert does nothing instead of aborting; PJ_ASSERT_RETURN
# still returns its error code.
c_flags='-O2 -fPIC -DNDEBUG' ld_flags=''
# Asserts are on: what trips over one would go on with what it did not expect.
# Left out are alignment and pointer overflow, since pjlib packs and hashes as
# x86 permits, and copies of nothing from nowhere, which are everywhere in it.
sanitizers='-fsanitize=address,undefined -fno-sanitize=alignment,pointer-overflow,nonnull-attribute'

say() { printf 'pjproject: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# What a finished build was made from; another answer means build again.
fingerprint() {
    { cat "$here/config_site.h" "${patches[@]}"; printf '%s\n' "${configure_flags[*]}" "$c_flags"; } | sha256sum | cut -d' ' -f1
}

is_built() {
    [ -f "$prefix/.built" ] && [ "$(cat "$prefix/.built")" = "$(fingerprint)" ]
}

need_commands() {
    local missing=()
    for tool in gcc g++ make patch pkg-config xz tar sha256sum flock; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    for lib in openssl opus libsrtp2 samplerate uuid; do
        pkg-config --exists "$lib" 2>/dev/null || missing+=("$lib (development files)")
    done
    [ ${#missing[@]} -eq 0 ] || die "missing: ${missing[*]}; on Debian run vendor/packages.sh build"
}

# Writes the tarball's path to standard output.
fetch() {
    if [ -n "${SIPBRIDGE_PJPROJECT_TARBALL:-}" ]; then
        echo "$SIPBRIDGE_PJPROJECT_TARBALL"
        return
    fi
    local dl="$out/download" keyring=/usr/share/keyrings/debian-archive-keyring.gpg mirror
    command -v apt-get >/dev/null || die "no apt-get here: install a packaged pjproject (2.15 or later), or name a tarball in SIPBRIDGE_PJPROJECT_TARBALL"
    [ -f "$keyring" ] || die "$keyring is missing (package debian-archive-keyring)"
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 2>/dev/null | grep -E '/debian/?$' | head -n1)
    [ -n "$mirror" ] || die "apt knows no Debian mirror here"
    rm -rf "$dl"
    mkdir -p "$dl/lists/partial" "$dl/cache/archives/partial"
    for suite in forky sid; do
        echo "deb-src [signed-by=$keyring] $mirror $suite main"
    done > "$dl/sources.list"
    local apt=(apt-get -q
        -o "Dir::Etc::sourcelist=$dl/sources.list" -o "Dir::Etc::sourceparts=-"
        -o "Dir::State::lists=$dl/lists" -o "Dir::Cache=$dl/cache"
        -o "APT::Sandbox::User=$(id -un)")
    say "fetching from $mirror"
    "${apt[@]}" update >&2
    (cd "$dl" && "${apt[@]}" source --download-only asterisk >&2)
    local tarball
    tarball=$(find "$dl" -maxdepth 1 -name '*Xpjproject.tar.xz' | head -n1)
    [ -n "$tarball" ] || die "the source package holds no pjproject tarball"
    echo "$tarball"
}

build() {
    local tarball=$1 log="$prefix.log" patch
    rm -rf "$src" "$prefix"
    mkdir -p "$src"
    tar -xJf "$tarball" -C "$src" --strip-components=1
    cp "$here/config_site.h" "$src/pjlib/include/pj/config_site.h"
    # Each whole or not at all: another version of the library may not need it.
    for patch in "${patches[@]}"; do
        if patch -d "$src" -p1 --dry-run --quiet < "$patch" >&2; then
            patch -d "$src" -p1 --quiet < "$patch"
        else
            say "WARNING: ${patch##*/} does not fit this version and is left out; its first lines say what it is for"
        fi
    done
    # Left out of Debian's tarball, named in the Makefile.
    : > "$src/pjmedia/src/pjmedia-audiodev/bdimad_dev.c"
    say "building (about 90 s on 2 cores), log in $log"
    (
        cd "$src"
        ./configure --prefix="$prefix" "${configure_flags[@]}" CFLAGS="$c_flags" CXXFLAGS="$c_flags" LDFLAGS="$ld_flags" &&
            make dep && make -j"$(nproc)" && make install
    ) > "$log" 2>&1 || { tail -n 25 "$log" >&2; die "the build failed, see $log"; }
    rm -rf "$out/download"
    # For build.rs, which links the programs.
    [ -z "$ld_flags" ] || echo asan ubsan > "$prefix/.sanitizers"
    fingerprint > "$prefix/.built"
}

main() {
    if [ "${1:-}" = --sanitize ]; then
        shift
        prefix="$out/sanitized" src="$out/src-sanitized"
        patches+=("$here/pjproject-sanitize.patch")
        c_flags="-O1 -g1 -fno-omit-frame-pointer -fPIC $sanitizers" ld_flags=$sanitizers
    fi
    if [ "${1:-}" = --print ]; then
        is_built || exit 1
        echo "$prefix"
        return
    fi
    mkdir -p "$out"
    exec 9> "$out/.lock"
    flock 9
    if is_built; then
        say "ready in $prefix"
        return
    fi
    need_commands
    local tarball
    tarball=$(fetch)
    build "$tarball"
    say "built $(PKG_CONFIG_PATH="$prefix/lib/pkgconfig" pkg-config --modversion libpjproject) in $prefix"
}

main "$@"
