#!/bin/sh
# Removes every trace of minidocker from this machine: what containers left, the environments, the root file systems,
# the command, and what was built in the repository. Debian packages stay.
#
#   sh vagrant/reset.sh              as root
#
# It needs no Python: if one works, its `prune` runs first; the rest is done by hand.
set -u

HOME_DIR=$(readlink -f "${MINIDOCKER_HOME:-/var/lib/minidocker}")
REPO=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
COMMAND=/usr/local/bin/minidocker
failed=0

say() { printf 'reset: %s\n' "$*"; }
complain() { say "$*" >&2; failed=1; }

[ "$(id -u)" = 0 ] || { complain "this needs root: sudo make reset"; exit 1; }
# The wrong directory would be a catastrophe: it must be an absolute path of two parts at least, and ours.
case $HOME_DIR in
/*/*) ;;
*) complain "MINIDOCKER_HOME is '$HOME_DIR', which no set-up made: nothing removed"; exit 1 ;;
esac
if [ -d "$HOME_DIR" ] && [ ! -d "$HOME_DIR/made" ] && [ -n "$(ls -A "$HOME_DIR")" ]; then
    set -- "$HOME_DIR"/.venv-* "$HOME_DIR"/roots
    [ -e "$1" ] || [ -e "$2" ] || { complain "$HOME_DIR was not made by minidocker: nothing removed"; exit 1; }
fi

# The services of a virtual machine: see lab.sh.
for unit in minidocker-lab.service minidocker-door.socket minidocker-door.service; do
    [ "$HOME_DIR" = /var/lib/minidocker ] || break
    [ -f "/etc/systemd/system/$unit" ] || continue
    systemctl --quiet disable --now "$unit" 2>/dev/null || true
    rm -f "/etc/systemd/system/$unit" && say "removed the service $unit"
done

# Containers whose owner is gone.
if [ -x "$COMMAND" ]; then
    timeout 60 "$COMMAND" prune 2>/dev/null || say "minidocker prune does not work here; going on without it"
fi

rm -f /run/minidocker.network  # the lock of chapter 7

# Mount points below the directory, the innermost first. The kernel writes a space as \040.
mounts_below() {
    prefix=$(printf '%s' "$1" | sed 's/\\/\\134/g; s/ /\\040/g')
    PREFIX=$prefix awk '$5 == ENVIRON["PREFIX"] || index($5, ENVIRON["PREFIX"] "/") == 1 { print $5 }' \
        /proc/self/mountinfo | tac
}

unmount_below() {
    mounts_below "$1" | while read -r mounted; do
        umount -- "$(printf '%b' "$(printf '%s' "$mounted" | sed 's/\\\([0-7]\)/\\0\1/g')")" && say "unmounted $mounted"
    done
}

# remove DIR: never through a mount.
remove() {
    [ -e "$1" ] || [ -L "$1" ] || return 0
    unmount_below "$1"
    if [ -n "$(mounts_below "$1")" ]; then
        complain "still mounted, so $1 stays: $(mounts_below "$1" | tr '\n' ' '); end what uses it (fuser -vm) and try again"
        return
    fi
    if rm -rf --one-file-system -- "$1"; then say "removed $1"; else complain "cannot remove all of $1"; fi
}

remove "$HOME_DIR"
[ "$HOME_DIR" != /var/lib/minidocker ] || remove "$COMMAND"    # it belongs to the usual place; see provision.sh
remove "$REPO/build"
for cache in .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis; do
    remove "$REPO/$cache"
done
find "$REPO" -name .git -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
exit "$failed"
