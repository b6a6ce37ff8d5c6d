#!/bin/sh
# Sets this machine up (provision.sh) and starts JupyterLab as a service of systemd. For virtual machines: Vagrant, Lima
# and cloud-init call it, as root. A second run changes nothing.
#
# JupyterLab answers on 127.0.0.1:8888 and wants the token in /var/lib/minidocker/lab/token. A virtual machine whose
# network is translated by its host needs a door for what that forwards: 0.0.0.0:8889, which the kernel keeps shut
# for everybody but the host's side of that network (systemd.resource-control(5), IPAddressAllow). MINIDOCKER_DOOR=0
# makes none. The link is in /var/lib/minidocker/lab/link, for root.
set -eu

DOOR=${MINIDOCKER_DOOR:-1}
[ "$(id -u)" = 0 ] || exec sudo env MINIDOCKER_DOOR="$DOOR" sh "$0"
REPO=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
LAB=/var/lib/minidocker/lab
UNITS=/etc/systemd/system
export LC_ALL=C.UTF-8
umask 022

say() { printf 'lab: %s\n' "$*"; }

# put FILE: writes standard input into it, unless that is there already; says so, and remembers that something changed.
put() {
    text=$(cat)
    [ -f "$1" ] && [ "$(cat "$1")" = "$text" ] && return
    say "writing $1"
    printf '%s\n' "$text" >"$1"
    changed=1
}

sh "$REPO/vagrant/provision.sh"
[ -d /run/systemd/system ] || { say "systemd does not run here: start the lab with make lab"; exit 1; }

mkdir -p "$LAB"
chmod 700 "$LAB"
[ -s "$LAB/token" ] || (umask 077 && od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$LAB/token")

python=/var/lib/minidocker/venv-$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')/bin/python
changed=
put "$UNITS/minidocker-lab.service" <<END
[Unit]
Description=JupyterLab with the notebooks of minidocker
RequiresMountsFor=$REPO
StartLimitIntervalSec=0

[Service]
Environment=HOME=/root PYTHONPATH=$REPO
ExecStart=/bin/sh -c 'cd $REPO && JUPYTER_TOKEN=\$\$(cat $LAB/token) exec $python -m tools.learner.desk'
Restart=always
RestartSec=5
TasksMax=infinity

[Install]
WantedBy=multi-user.target
END
door() {
    host=$(ip -4 route show default | awk '{ print $3; exit }')
    put "$UNITS/minidocker-door.socket" <<END
[Unit]
Description=The door to JupyterLab for the host of this virtual machine

[Socket]
ListenStream=0.0.0.0:8889
IPAddressDeny=any
IPAddressAllow=localhost $host

[Install]
WantedBy=sockets.target
END
    put "$UNITS/minidocker-door.service" <<END
[Unit]
Description=What comes through the door goes to JupyterLab
Requires=minidocker-door.socket

[Service]
ExecStart=/lib/systemd/systemd-socket-proxyd 127.0.0.1:8888
DynamicUser=yes
END
}
units=minidocker-lab.service
[ "$DOOR" = 0 ] || { door && units="$units minidocker-door.socket"; }
# shellcheck disable=SC2086  # a list of units
if [ -n "$changed" ]; then
    systemctl daemon-reload
    systemctl --quiet enable $units
    systemctl stop minidocker-door.service 2>/dev/null || true
    systemctl restart $units
else
    systemctl start $units
fi

# It is up when it answers.
tries=0
until python3 -I -S -c 'import socket; socket.create_connection(("127.0.0.1", 8888), 2)' 2>/dev/null; do
    tries=$((tries + 1))
    [ "$tries" -le 300 ] || { say "JupyterLab does not answer: journalctl -u minidocker-lab"; exit 1; }
    sleep 1
done
[ -s "$LAB/link" ] || printf 'http://127.0.0.1:8888/lab?token=%s\n' "$(cat "$LAB/token")" >"$LAB/link"
# Vagrant prints the link itself, with the port that it chose.
if [ "$DOOR" = 0 ]; then say "JupyterLab runs: $(cat "$LAB/link")"; else say "JupyterLab runs"; fi
