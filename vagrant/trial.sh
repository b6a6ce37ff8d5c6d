#!/bin/sh
# Tries set-up from nothing, as on a new user's machine, notebooks and tests, and then its removal: nothing may be left
# but Debian packages. It is for a machine that is thrown away afterwards: `make test-vm BARE=1` runs it in one, and
# try-setup.sh in a bare root.
#
#   NOTEBOOKS   those that are run (default: 00_process)
#   TESTS       what pytest is to run besides (default: nothing)
set -u
cd "$(dirname "$0")/.." || exit

die() { printf 'trial: %s\n' "$*" >&2; exit 1; }
# Everything where programs may leave something, without what dpkg accounts for: it makes directories in /usr/local.
list() {
    find /root /home /tmp /var/tmp /opt /mnt /usr/local "$PWD" -xdev ! -name '*.pyc' \
        ! \( -path '/usr/local/*' -type d \) | LC_ALL=C sort >"/run/$1"
}

say() { echo "trial: $* $(($(date +%s) - BEGAN)) s after the beginning"; }
BEGAN=$(date +%s)
mkdir -p /root/.ssh    # ssh(1) would make it
list before
sh vagrant/provision.sh || die "set-up failed"
say "set-up is done"
again=$(sh vagrant/provision.sh 2>&1) || die "the second set-up failed: $again"
[ -z "$again" ] || die "the second set-up had something to do: $again"

minidocker doctor || die "the doctor is not content"
python3 chapters/03_cgroups/stage.py || die "the stage of chapter 3 failed"

# try PYTEST'S WORDS...: what fails is said at once, and counts at the end, so that one run shows all that is wrong.
PY=$(echo /var/lib/minidocker/venv-3*/bin/python)
failed=''
try() {
    HOME=/run PYTHONPATH="$PWD" MINIDOCKER_GUEST=root MINIDOCKER_MUST_WORK=1 \
        "$PY" -m pytest -q -p no:cacheprovider --color=no "$@" ||
        failed="$failed $1"
    say "$1 has run"
}
for name in ${NOTEBOOKS-00_process}; do
    try "notebooks/$name.ipynb" --nbval --nbval-cell-timeout=600
done
[ -z "${TESTS:-}" ] || MINIDOCKER_GUEST=root MINIDOCKER_MUST_WORK=1 sh vagrant/provision.sh || die "set-up for tests failed"
# shellcheck disable=SC2086  # words
[ -z "${TESTS:-}" ] || { try $TESTS; rm -rf /tmp/*; }    # pytest keeps what tests write

sh vagrant/reset.sh || die "reset failed"
list after
left=$(LC_ALL=C comm -13 /run/before /run/after)
for trace in /var/lib/minidocker /usr/local/bin/minidocker /run/minidocker; do
    [ ! -e "$trace" ] || left="$left $trace"
done
# The groups are those of the whole machine: only where this is all of it, no one else can have made some.
[ ! -d /run/systemd/system ] || left="$left$(find /sys/fs/cgroup -name 'minidocker*')"
[ -z "$left" ] || die "reset left behind: $left"
grep /var/lib/minidocker/ /proc/self/mountinfo && die "reset left these mounts behind"
echo "trial: nothing is left"
[ -z "$failed" ] || die "these failed:$failed"
