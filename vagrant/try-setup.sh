#!/bin/sh
# Tries set-up from nothing on this machine's own kernel, and then every notebook and test: a bare Debian in a directory,
# in namespaces of its own, runs trial.sh there. As root.
#
#   sh vagrant/try-setup.sh                with the network
#   sh vagrant/try-setup.sh KIT            without one, from the folder that `make kit` filled
#   RELEASE=trixie sh ...                  another release than this machine's
#   NOTEBOOKS=00_process TESTS= sh ...     only these notebooks, and no tests
#
# `make test-vm BARE=1` does the same in a real machine with systemd, which takes a quarter of an hour if it is emulated.
set -eu

REPO=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
SOURCE=$(sed 's/\[.*\]//' "${MINIDOCKER_HOME:-/var/lib/minidocker}/roots/debian/etc/apt/sources.list")
RELEASE=${RELEASE:-$(printf '%s\n' "$SOURCE" | awk '{ print $3 }')}
SOURCE=$(printf '%s\n' "$SOURCE" | awk -v release="$RELEASE" '{ $3 = release; print }')
PLACE=$(mktemp -d "${TMPDIR:-/var/tmp}/try-setup.XXXXXX")
trap 'rm -rf --one-file-system "$PLACE"' EXIT
ROOT=$PLACE/root
unshare --mount --propagation private \
    mmdebstrap --quiet --mode=root --variant=minbase "$RELEASE" "$ROOT" "$SOURCE"
mkdir -p "$ROOT/srv/minidocker"
(cd "$REPO" && git ls-files -coz --exclude-standard | tar --null --ignore-failed-read -T - -c 2>/dev/null) |
    tar -C "$ROOT/srv/minidocker" -x

isolation=
if [ -n "${1:-}" ]; then
    isolation=--net
    mkdir -p "$ROOT/srv/a stick"    # the name of a stick may have blanks
    cp -a "$1" "$ROOT/srv/a stick/kit"
    export KIT="/srv/a stick/kit"
elif [ -n "${PIP_CERT:-}" ]; then
    cp "$PIP_CERT" "$ROOT/srv/certificates"    # of the machine's own package index
    export PIP_CERT=/srv/certificates
fi
NOTEBOOKS=${NOTEBOOKS-$(cd "$REPO/notebooks" && printf '%s ' [0-9]*.ipynb | sed 's/\.ipynb//g')}
TESTS=${TESTS-tests}
export NOTEBOOKS TESTS
cp /etc/resolv.conf "$ROOT/etc/resolv.conf"
unset MINIDOCKER_HOME PYTHON MINIDOCKER_MUST_WORK CI PIP_FIND_LINKS REQUESTS_CA_BUNDLE CURL_CA_BUNDLE SSL_CERT_FILE
unset TMPDIR PYTHONPATH    # paths out here
# A changed root, and not only chroot: the kernel allows no user namespace behind that (user_namespaces(7), EPERM).
# shellcheck disable=SC2016  # it expands in there
unshare --mount --pid --fork --kill-child --propagation private $isolation sh -ec '
    ip link set lo up    # with the cable out, a machine still reaches itself
    mount --bind "$1" "$1"
    cd "$1"
    mount -t proc proc proc
    mount --rbind /sys sys
    mount --rbind /dev dev
    mount -t tmpfs shm dev/shm
    mount -t tmpfs -o mode=755 run run
    mount -t tmpfs tmp tmp
    mkdir run/old
    pivot_root . run/old
    umount -l run/old
    rmdir run/old
    exec sh /srv/minidocker/vagrant/trial.sh
' sh "$ROOT"
