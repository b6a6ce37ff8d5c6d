#!/bin/sh
# Tries `vagrant up` for real: with libvirt, in namespaces of its own, so that nothing on this machine changes and nothing
# is left. As root; needs the packages vagrant, vagrant-libvirt, libvirt-daemon-system, libvirt-clients and dnsmasq-base.
# Without KVM the machine is emulated: a few minutes more.
set -eu

REPO=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
BOX=$REPO/build/box/minidocker-libvirt-$(dpkg --print-architecture).box
say() { printf 'try-vagrant: %s s: %s\n' "$(($(date +%s) - BEGAN))" "$*"; }
die() { say "$*" >&2; exit 1; }

if [ "${1:-}" != inside ]; then
    BEGAN=$(date +%s)
    export BEGAN
    for program in vagrant virsh libvirtd dnsmasq rsync; do
        command -v "$program" >/dev/null || die "no $program: apt install vagrant vagrant-libvirt libvirt-daemon-system \
libvirt-clients dnsmasq-base rsync"
    done
    [ -f "$BOX" ] || die "no box at $BOX: make box"
    LAB=$(mktemp -d "${TMPDIR:-/var/tmp}/try-vagrant.XXXXXX")
    export LAB
    status=0
    unshare --mount --net --pid --ipc --fork --kill-child --propagation private sh "$0" inside || status=$?
    tail -n 30 "$LAB/up.log" 2>/dev/null | if [ "$status" = 0 ]; then cat >/dev/null; else cat >&2; fi
    rm -rf "$LAB"
    say "$([ "$status" = 0 ] && echo 'all is well, and nothing is left' || echo failed)"
    exit "$status"
fi

# From here on in private namespaces. libvirtd writes into the temporary directory only.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p "$LAB/etc" "$LAB/lib" "$LAB/cache" "$LAB/log"
cp -a /etc/libvirt/. "$LAB/etc/"
cp -a /var/lib/libvirt/. "$LAB/lib/"
mount --bind "$LAB/etc" /etc/libvirt
mount --bind "$LAB/lib" /var/lib/libvirt
mount --bind "$LAB/cache" /var/cache
mount --bind "$LAB/log" /var/log
mount -t tmpfs run /run
mkdir -p /run/libvirt /run/lock
ip link set lo up
sysctl -q -w net.ipv4.ip_forward=1
cat >/etc/libvirt/qemu.conf <<'END'
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
remember_owner = 0
END
printf 'auth_unix_rw = "none"\nauth_unix_ro = "none"\nlog_outputs = "2:file:%s/libvirtd.log"\n' "$LAB" >/etc/libvirt/libvirtd.conf
libvirtd -d -f /etc/libvirt/libvirtd.conf
tries=0
until virsh -c qemu:///system version >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -le 60 ] || die "libvirtd does not answer"
    sleep 0.5
done

# A clone as a learner has it, and a Vagrant that has never run.
mkdir "$LAB/clone"
(cd "$REPO" && git ls-files -coz --exclude-standard | tar --null --ignore-failed-read -T - -c) 2>"$LAB/up.log" |
    tar -C "$LAB/clone" -x
cd "$LAB/clone"
export HOME="$LAB" VAGRANT_HOME="$LAB/vagrant.d" VAGRANT_DEFAULT_PROVIDER=libvirt VAGRANT_CHECKPOINT_DISABLE=1
export MINIDOCKER_VAGRANT_ANY=1 MINIDOCKER_BOX_URL="file://$BOX" MINIDOCKER_MEMORY=2048
grep -q kvm "${MINIDOCKER_HOME:-/var/lib/minidocker}/guest/accelerator" 2>/dev/null || export MINIDOCKER_EMULATE=1

# Somebody has port 8888 already.
python3 -m http.server --bind 127.0.0.1 8888 >/dev/null 2>&1 &
sleep 1
vagrant validate >"$LAB/up.log" 2>&1 || die "vagrant validate failed"
say "vagrant up"
vagrant up --no-color >"$LAB/up.log" 2>&1 || die "vagrant up failed"
link=$(sed -n 's/.*JupyterLab: \(http.*\)/\1/p' "$LAB/up.log" | tail -n 1)
say "it is up: ${link%%token=*}token=..."
case $link in http://127.0.0.1:8889/lab\?token=????????????????*) ;; *) die "no link with the next free port: $link" ;; esac

url=${link%%/lab*} token=${link#*token=}
ask() { curl -s -o "$LAB/answer" -w '%{http_code}' --max-time 60 "$@"; }
[ "$(ask "$url/api/contents?token=$token")" = 200 ] || die "JupyterLab does not answer with the token"
grep -q 03_cgroups.ipynb "$LAB/answer" || die "the notebooks are not there"
[ "$(ask "$url/api/contents")" = 403 ] || die "JupyterLab answers without the token"
say "JupyterLab answers with the token, and not without it"
# Another machine on the same network: neither JupyterLab nor the door lets it in. (This host may use the door.)
guest=$(vagrant ssh-config | awk '$1 == "HostName" { print $2 }')
ip netns add other
ip link add other type veth peer name eth0 netns other
ip link set other up master "$(ip -o route get "$guest" | sed -n 's/.* dev \([^ ]*\) .*/\1/p')"
ip -n other address add "${guest%.*}.250/24" dev eth0
ip -n other link set eth0 up
ip netns exec other ping -c 1 -w 60 "$guest" >"$LAB/ping.log" 2>&1 || die "the other machine does not reach the guest at all"
for port in 8888 8889; do
    ! ip netns exec other curl -s -o /dev/null --max-time 10 "http://$guest:$port/api" || die "another machine got in at $port"
done
ip netns delete other
say "another machine gets no answer"

# shellcheck disable=SC2016  # it expands in the guest
vagrant ssh -c 'cd /srv/minidocker && sudo env MINIDOCKER_GUEST=vagrant PYTHONPATH=$PWD \
    /var/lib/minidocker/venv-3*/bin/python -m pytest -q -p no:cacheprovider --nbval-cell-timeout=600 \
    notebooks/01_chroot.ipynb' >"$LAB/up.log" 2>&1 </dev/null || die "a notebook failed"
say "a notebook runs"

before=$(vagrant ssh -c 'date +%s' 2>/dev/null </dev/null | tr -d '\r')
vagrant provision --no-color >"$LAB/up.log" 2>&1 </dev/null || die "vagrant provision failed"
! grep -E 'provision: (installing|making|writing)|lab: writing' "$LAB/up.log" || die "a second provision did something"
changed=$(vagrant ssh -c "sudo find /etc /var/lib/minidocker /usr/local -newermt @$before" 2>/dev/null </dev/null | tr -d '\r')
[ -z "$changed" ] || die "a second provision changed $changed"
say "a second provision changed nothing"

vagrant destroy -f >"$LAB/up.log" 2>&1 || die "vagrant destroy failed"
[ -z "$(virsh -c qemu:///system list --all --name | tr -d '\n')" ] || die "vagrant destroy left a machine"
! virsh -c qemu:///system vol-list default 2>/dev/null | grep -q clone_default || die "vagrant destroy left a disk"
say "destroyed"
