#!/bin/sh
# Installs cairn-agent on this machine and joins it: an appliance serves this script and what it
# fetches, and nothing comes from anywhere else. It may run again; what is right already stays.
#
#   curl -fsS -k --pinnedpubkey 'sha256//...' https://APPLIANCE:8002/install.sh | sh -s -- TOKEN
#   sh install.sh --from DIR TOKEN      where DIR has what `make packages` built
set -eu

# An appliance that serves this fills in where it is and what its key hashes to.
BASES='@BASES@'
PIN='@PIN@'
RELEASE_KEY='@RELEASE_KEY@'

STATE=/var/lib/cairn-agent
DIRECTORY=
WORK=

say() { printf 'cairn: %s\n' "$1"; }
fail() {
    printf 'cairn: error: %s\n  what to do: %s\n' "$1" "$2" >&2
    exit "${3:-6}"
}
has() { command -v "$1" >/dev/null 2>&1; }
clean_up() { [ -z "$WORK" ] || rm -rf "$WORK"; }

# fetch NAME FILE, from one address; the key is checked before anything is believed.
fetch_from() {
    if has curl; then
        curl -fsS -k --pinnedpubkey "$PIN" --connect-timeout 10 --max-time 600 \
            -o "$3" "$1/packages/$2"
    elif has wget && wget --help 2>&1 | grep -q pinnedpubkey; then
        wget -q --no-check-certificate --pinnedpubkey="$PIN" --timeout=60 --tries=1 \
            -O "$3" "$1/packages/$2"
    else
        fail "there is neither curl nor a wget that can check a pinned key" \
            "install curl; or copy packages and this script here, and run it with --from DIR"
    fi
}

fetch() {
    if [ -n "$DIRECTORY" ]; then
        cp "$DIRECTORY/$1" "$2" || fail "$DIRECTORY has no $1" "name the folder of make packages"
        return
    fi
    for base in $BASES; do
        tries=0
        while [ $tries -lt 3 ]; do
            fetch_from "$base" "$1" "$2" && return
            tries=$((tries + 1))
            sleep $tries
        done
    done
    fail "$1 could not be fetched from $BASES" \
        "see the lines above: is TCP 8002 to the appliance open, is the key still the one of the command? Take the command anew (cairn token create)" 3
}

kind_of_system() {
    if has dpkg && [ -e /var/lib/dpkg/status ]; then
        echo deb
    elif has rpm && [ -d "$(rpm --eval '%{_dbpath}' 2>/dev/null)" ]; then
        echo rpm
    else
        echo tar.gz
    fi
}

installed_version() {
    case $1 in
    deb) dpkg-query -W -f '${db:Status-Status} ${Version}' cairn-agent 2>/dev/null |
        sed -n 's/^installed //p' ;;
    rpm) rpm -q --qf '%{VERSION}-%{RELEASE}' cairn-agent 2>/dev/null || : ;;
    *) sed -n '1s/^cairn-agent \([^ ]*\) .*/\1/p' /usr/share/doc/cairn-agent/bundled.txt \
        2>/dev/null || : ;;
    esac
}

check_signature() {
    case $(openssl version 2>/dev/null || :) in
    "OpenSSL "[3-9]*) ;;
    *)
        say "no OpenSSL 3 here: the list is believed for the appliance's key alone"
        return
        ;;
    esac
    printf '%s\n' "$RELEASE_KEY" >"$WORK/key.pem"
    openssl pkeyutl -verify -pubin -inkey "$WORK/key.pem" -rawin -in "$WORK/SHA256SUMS" \
        -sigfile "$WORK/SHA256SUMS.sig" >/dev/null 2>&1 ||
        fail "the list of packages is not signed with the release key" \
            "install nothing of it; tell who runs the appliance"
}

# The name of this system's package in the list, and that the file is what the list says.
listed() { sed -n "s/^[0-9a-f]\{64\}  \(cairn-agent[-_][^/ ]*[._]\($1\)\)\$/\1/p" "$WORK/SHA256SUMS"; }
check_sum() {
    (cd "$WORK" && grep "  $1\$" SHA256SUMS | sha256sum -c - >/dev/null 2>&1) ||
        fail "$1 is not what the list says" "run this again; if it stays so, tell who runs the appliance"
}

put_in_place() {
    case $1 in
    deb) dpkg -i "$2" </dev/null ;;
    rpm) rpm -U --oldpackage --replacepkgs "$2" </dev/null ;;
    *)
        # What an older version had and this one hasn't goes; programs that run keep their files.
        rm -rf /usr/lib/cairn/lib /usr/lib/cairn/libexec
        tar -C / -xzf "$2"
        (
            . /usr/lib/cairn/libexec/lifecycle.sh
            configured "$3"
        )
        ;;
    esac >"$WORK/log" 2>&1 || {
        tail -n 20 "$WORK/log" >&2
        fail "the package could not be installed" "see the lines above, then run this again"
    }
}

join() {
    if [ -e "$STATE/identity.json" ]; then
        say "this machine has joined already"
        return
    fi
    [ -n "$1" ] || {
        say "not joined: run cairn-agent join TOKEN"
        return
    }
    printf '%s\n' "$1" | cairn-agent join - || exit
}

main() {
    token=
    while [ $# -gt 0 ]; do
        case $1 in
        --from)
            [ $# -gt 1 ] || fail "--from wants a folder" "name the one of make packages" 2
            DIRECTORY=$2
            shift
            ;;
        cairn1.*) token=$1 ;;
        *) fail "$1 is no token" "paste the whole string that starts with cairn1." 2 ;;
        esac
        shift
    done
    [ "$(id -u)" -eq 0 ] || fail "this needs root" "run it as root, or with sudo sh"
    [ "$(uname -s) $(uname -m)" = "Linux x86_64" ] ||
        fail "there is no package for $(uname -s) on $(uname -m)" "use Linux on x86-64"
    case $DIRECTORY:$BASES in
    :@*) fail "this copy wasn't served by an appliance" "fetch it from one, or use --from DIR" 2 ;;
    esac
    WORK=$(mktemp -d)
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    for name in SHA256SUMS SHA256SUMS.sig VERSION; do fetch $name "$WORK/$name"; done
    check_signature
    check_sum VERSION
    wanted=$(cat "$WORK/VERSION")
    kind=$(kind_of_system)
    before=$(installed_version "$kind")
    if [ "$before" = "$wanted" ]; then
        say "cairn-agent $wanted is installed already"
    else
        package=$(listed "$kind")
        [ -n "$package" ] || fail "the appliance has no $kind" "tell who runs it: make packages"
        fetch "$package" "$WORK/$package"
        check_sum "$package"
        put_in_place "$kind" "$WORK/$package" "$before"
        say "cairn-agent $wanted is installed${before:+, before it was $before}"
    fi
    join "$token"
}

main "$@"
