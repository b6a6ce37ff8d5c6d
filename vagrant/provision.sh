#!/bin/sh
# Sets this machine up for minidocker: Debian packages, Python packages, two root file systems, the command.
# Vagrant, make, CI and cloud-init all call it, and nothing else installs anything.
#
#   sh vagrant/provision.sh          as root, or as a user who may use sudo
#
# Debian 12 and 13, Ubuntu 24.04; amd64 and arm64. It makes only what is missing and says nothing if nothing is.
# Each thing is made beside its place and renamed into it, so that a run that fails half-way leaves no half of it.
#   MINIDOCKER_HOME   where everything goes (default /var/lib/minidocker)
#   PYTHON            the interpreter, 3.11 or later (default /usr/bin/python3)
#   KIT               a folder that `make kit` filled (default: kit/ beside this one): then no network is needed
set -eu

HOME_DIR=${MINIDOCKER_HOME:-/var/lib/minidocker}
PYTHON=${PYTHON:-/usr/bin/python3}
REPO=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
KIT=${KIT:-$REPO/kit}
ROOTS=$HOME_DIR/roots
COMMAND=/usr/local/bin/minidocker
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
umask 022
unset PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME    # byte code makes each start two to three times faster

PACKAGES="
    python3 python3-venv ca-certificates make
    util-linux procps iproute2 nftables conntrack iptables strace
    busybox-static mmdebstrap
    fuse3 e2fsprogs
    runc crun bubblewrap uidmap slirp4netns
    lz4 xz-utils zstd cpio openssl
    skopeo umoci podman docker-registry golang-github-opencontainers-image-spec-dev btrfs-progs
    golang-github-opencontainers-specs-dev
    catatonit containernetworking-plugins
    nginx-light sshfs openssh-server curl
    shellcheck
"
# Only on some architectures or releases: installed where apt knows them, and never missed elsewhere.
EXTRA_PACKAGES="user-mode-linux qemu-utils"
case $(uname -m) in
x86_64) EXTRA_PACKAGES="$EXTRA_PACKAGES qemu-system-x86" ;;
aarch64) EXTRA_PACKAGES="$EXTRA_PACKAGES qemu-system-arm" ;;
esac
EXTRA_PACKAGES="$EXTRA_PACKAGES docker-cli docker.io"    # chapter 11's engines: with them comes containerd
# For the tools that make a kit or a disk: what is always installed, and what else there is, a line each.
# shellcheck disable=SC2086,SC2116  # one line of words
[ "${1:-}" != --packages ] || { echo $PACKAGES; echo $EXTRA_PACKAGES; exit; }
# Servers that the labs start in namespaces of their own. A service that comes with a package would listen on the
# reader's network as well: it is neither started nor enabled, unless the package was there before.
SERVICES="docker-registry:docker-registry.service nginx-light:nginx.service openssh-server:ssh.service openssh-server:ssh.socket
    docker.io:docker.service docker.io:docker.socket docker.io:containerd.service"
GUEST_KIND=${MINIDOCKER_GUEST:-}    # a guest of the tests has no time for Docker; and one of another origin will do
[ -z "$(command -v dockerd)${GUEST_KIND#root}" ] || EXTRA_PACKAGES=${EXTRA_PACKAGES% docker-cli docker.io}
# Only where every test must run (MINIDOCKER_MUST_WORK): a browser and what builds the machine in it, and Vagrant. A guest
# has none of these.
TEST_PACKAGES="chromium vagrant vagrant-libvirt"
command -v npm >/dev/null || TEST_PACKAGES="$TEST_PACKAGES nodejs npm"
case ${MINIDOCKER_MUST_WORK:-0}${MINIDOCKER_GUEST:-} in 1) EXTRA_PACKAGES="$EXTRA_PACKAGES $TEST_PACKAGES" ;; *) ;; esac
# What a learner types inside the Debian root, and minbase lacks.
ROOT_PACKAGES=procps,iproute2

say() { printf 'provision: %s\n' "$*"; }
die() { printf 'provision: %s\n' "$*" >&2; exit 1; }

# quietly WHAT REMEDY COMMAND...: runs the command; shows the end of its output, and the remedy, only if it fails.
quietly() {
    what=$1 remedy=$2
    shift 2
    "$@" >"$LOG" 2>&1 </dev/null && return
    tail -n 15 "$LOG" | sed 's/^/    /' >&2
    die "$what failed: $remedy"
}

# A thing is there if it was made by the recipe of today; its recipe is written down last.
made() { [ -e "$1" ] && [ -f "$HOME_DIR/made/$2" ] && [ "$(cat "$HOME_DIR/made/$2")" = "$3" ]; }
note() { mkdir -p "$HOME_DIR/made" && printf '%s\n' "$2" >"$HOME_DIR/made/$1"; }

# discard DIR: removes what a failed or an earlier run left, and never reaches through a mount.
discard() {
    [ -e "$1" ] || [ -L "$1" ] || return 0
    if grep -qF " $1/" /proc/self/mountinfo || grep -qF " $1 " /proc/self/mountinfo; then
        die "something is mounted below $1: unmount it, or run: make reset"
    fi
    rm -rf --one-file-system -- "$1"
}

# --- Debian packages -------------------------------------------------------------------------------------------

installed() { dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

missing_packages() {
    known=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 2>/dev/null | sed -n 's/^installed //p')
    for package in $PACKAGES $EXTRA_PACKAGES; do
        case "
$known
" in *"
$package
"*) ;; *) printf '%s ' "$package" ;; esac
    done
}

# An optional package that apt does not know is not missing.
wanted_packages() {
    for package in $1; do
        # shellcheck disable=SC2086  # options
        case " $EXTRA_PACKAGES " in
        *" $package "*) apt-cache $APT_KIT show "$package" >/dev/null 2>&1 || continue ;;
        esac
        printf '%s ' "$package"
    done
}

apt_install() {
    # shellcheck disable=SC2086  # a list of package names, and options
    apt-get $APT_KIT install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300 $1
}

# A kit for this release and architecture takes the place of every source of packages. Its index is read into a
# directory of its own, so that afterwards apt knows the usual sources again.
kit() {
    APT_KIT='' PIP_KIT=''
    KIT=$KIT/$CODENAME-$(dpkg --print-architecture)
    [ -f "$KIT/complete" ] || { KIT=''; return 0; }
    APT_KIT="-o Dir::Etc::SourceList=$HOME_DIR/.kit/list -o Dir::Etc::SourceParts=/dev/null
        -o Dir::State::Lists=$HOME_DIR/.kit/lists -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root"
    PIP_KIT="--no-index --find-links=$HOME_DIR/.kit/kit/wheels"
    mkdir -p "$HOME_DIR/.kit/lists/partial"
    ln -sfn "$KIT" "$HOME_DIR/.kit/kit"    # a path without the blanks that a stick's name may have
    [ -n "$(missing_packages)" ] || return 0
    printf 'deb [trusted=yes] file:%s/.kit/kit/debs ./\n' "$HOME_DIR" >"$HOME_DIR/.kit/list"
    # shellcheck disable=SC2086  # options
    quietly "reading the kit $KIT" "make it anew" apt-get $APT_KIT update -q
}

services_of() {
    for pair in $SERVICES; do
        case " $1 " in *" ${pair%%:*} "*) printf '%s ' "${pair#*:}" ;; esac
    done
}

# The mask keeps a package's installation from starting its service; it would go with the next boot, if we were killed.
# shellcheck disable=SC2086  # a list of units
silence() {
    [ -n "$2" ] && [ -d /run/systemd/system ] || return 0
    [ "$1" = before ] && { systemctl mask --quiet --runtime $2 || true; return; }
    systemctl unmask --quiet --runtime $2 || true
    for unit in $2; do systemctl disable --quiet "$unit" 2>/dev/null || true; done
}

packages() {
    missing=$(missing_packages)
    [ -n "$missing" ] || return 0
    wanted=$(wanted_packages "$missing")
    [ -n "$wanted" ] || return 0
    say "installing Debian packages: $wanted"
    services=$(services_of "$wanted")
    silence before "$services"
    if ! apt_install "$wanted" >"$LOG" 2>&1 </dev/null; then
        # The package lists may be absent or old. A broken third-party source must not stop us: install decides.
        [ -n "$KIT" ] || apt-get update -q >"$LOG" 2>&1 </dev/null || true
        quietly "installing packages" "is there a network? (apt-get update, then again)" \
            apt_install "$(wanted_packages "$missing")"
    fi
    silence after "$services"
}

# --- Python packages -------------------------------------------------------------------------------------------

interpreter() {
    command -v "$PYTHON" >/dev/null 2>&1 || die "no Python at $PYTHON: set PYTHON to a Python 3.11 or later"
    set -- "$("$PYTHON" -I -S -c '
import os, sys
print("%d.%d" % sys.version_info[:2], sys.version.split()[0], os.path.realpath(sys.executable))')"
    # shellcheck disable=SC2086  # three words
    set -- $1
    XY=$1 VERSION=$2 PYTHON=$3
    case $XY in
    3.1[1-9] | 3.[2-9][0-9]) ;;
    *) die "$PYTHON is Python $VERSION, and minidocker needs 3.11 or later: set PYTHON to a newer one" ;;
    esac
}

# The virtual environment is venv-X.Y, a link to the directory of one lock file and one interpreter: programs that
# still run keep the old one until it is replaced, and a half-made one is never linked.
virtual_environment() {
    link=$HOME_DIR/venv-$XY
    id=$(cat "$REPO/requirements.lock" - <<EOF | sha256sum | cut -c 1-12
$PYTHON $VERSION
EOF
    )
    target=.venv-$XY-$id
    [ "$(readlink "$link" || true)" = "$target" ] && [ -x "$link/bin/python" ] && return
    say "installing Python packages for $PYTHON ($VERSION)"
    for old in "$HOME_DIR/.venv-$XY-"*; do
        [ "$old" = "$(readlink -f "$link")" ] || discard "$old"
    done
    UNFINISHED=$HOME_DIR/$target
    quietly "making a virtual environment" "does $PYTHON have the modules venv and ensurepip?" \
        "$PYTHON" -m venv "$UNFINISHED"
    mkdir "$UNFINISHED/tmp"    # where pip unpacks, so that a killed one leaves nothing in /tmp
    # shellcheck disable=SC2086  # PIP_KIT is options
    quietly "installing Python packages" "is there a network? only set-up needs it" \
        env TMPDIR="$UNFINISHED/tmp" "$UNFINISHED/bin/python" -m pip install --disable-pip-version-check --no-input --no-compile \
        --only-binary :all: $PIP_KIT --require-hashes -r "$REPO/requirements.lock"
    rm -rf "$UNFINISHED/tmp"
    "$UNFINISHED/bin/python" -m compileall -q -j 0 "$UNFINISHED/lib" >/dev/null 2>&1 || true  # some test data is no Python
    old=$(readlink -f "$link" || true)
    ln -s "$target" "$link.new"
    mv -fT "$link.new" "$link"
    UNFINISHED=
    case $old in "$HOME_DIR/.venv-$XY-"*) discard "$old" ;; esac
}

# A module that does not compile is not the set-up's affair: its first import says where and why.
compile_package() {
    "$PYTHON" -m compileall -q "$REPO/minidocker" >/dev/null 2>&1 || true
}

# --- the command -----------------------------------------------------------------------------------------------

# It runs the interpreter itself: a pyenv shim would cost 100 ms, and Python's site module 10 to 50.
command_text() {
    cat <<EOF
#!$PYTHON -IS
import sys
sys.path += ["$REPO", "$HOME_DIR/venv-$XY/lib/python$XY/site-packages"]
from minidocker.cli import command
command()
EOF
}

command_line() {
    [ "$HOME_DIR" = /var/lib/minidocker ] || return 0    # a trial elsewhere leaves the machine's command alone
    [ -x "$COMMAND" ] && [ "$(cat "$COMMAND")" = "$(command_text)" ] && return
    say "writing $COMMAND"
    command_text >"$COMMAND.new"
    chmod 755 "$COMMAND.new"
    mv -f "$COMMAND.new" "$COMMAND"
}

# --- root file systems -----------------------------------------------------------------------------------------

# root NAME RECIPE: makes roots/NAME by the function make_NAME, unless the recipe has already made it.
root() {
    made "$ROOTS/$1" "$1" "$2" && return
    say "making the root file system $ROOTS/$1"
    discard "$ROOTS/.$1.new"
    UNFINISHED=$ROOTS/.$1.new
    mkdir -p "$ROOTS" "$UNFINISHED"
    chmod 755 "$UNFINISHED"
    "make_$1" "$UNFINISHED"
    discard "$ROOTS/$1"
    mv -T "$UNFINISHED" "$ROOTS/$1"
    UNFINISHED=
    note "$1" "$2"
}

# A root that the kit brings.
from_kit() {
    [ -n "$KIT" ] && [ -f "$KIT/$1.tar.gz" ] || return
    quietly "unpacking $KIT/$1.tar.gz" "make the kit anew" tar -C "$2" --numeric-owner -xpzf "$KIT/$1.tar.gz"
}

# The tiny one: one static program that is 250 commands. It needs no network.
make_busybox() {
    from_kit busybox "$1" && return
    (
        cd "$1"
        mkdir -p bin dev etc home mnt proc root run sys tmp usr var/log var/tmp
        chmod 700 root
        chmod 1777 tmp var/tmp
        ln -s bin sbin
        ln -s ../bin usr/bin
        ln -s ../bin usr/sbin
        cp "$(command -v busybox)" bin/busybox
        for applet in $(bin/busybox --list); do
            [ "$applet" = busybox ] || ln -s busybox "bin/$applet"
        done
        printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >etc/passwd
        printf 'root:x:0:\nnogroup:x:65534:\n' >etc/group
        printf '127.0.0.1 localhost\n::1 localhost\n' >etc/hosts
        printf 'busybox\n' >etc/hostname
        printf 'NAME=BusyBox\nID=busybox\nPRETTY_NAME=BusyBox\n' >etc/os-release
        : >etc/resolv.conf
        device_nodes dev
    ) || exit 1
    quietly "starting the busybox root" "is $(command -v busybox) statically linked?" chroot "$1" /bin/sh -c :
}

# Without them, a command's "2>/dev/null" would make an ordinary file of that name.
device_nodes() {
    while read -r name minor; do
        mknod -m 666 "$1/$name" c 1 "$minor"
    done <<EOF
null 3
zero 5
full 7
random 8
urandom 9
EOF
    mknod -m 666 "$1/tty" c 5 0
}

# The real one: the machine's own release, from the machine's own mirror. What mmdebstrap mounts, it mounts in a
# namespace of its own: nothing stays mounted, however it ends.
make_debian() {
    from_kit debian "$1" && return
    source=$(apt_source)
    [ -n "$source" ] || die "apt has no source for $CODENAME main: add one to /etc/apt/sources.list and run again"
    quietly "making a Debian root" "is there a network? only set-up needs it; $source" \
        unshare --mount --propagation private \
        mmdebstrap --quiet --mode=root --variant=minbase --include="$ROOT_PACKAGES" "$CODENAME" "$1" "$source"
    rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/*_*
    printf 'debian\n' >"$1/etc/hostname"
}

# The source of the release's own packages, as one line of sources.list, from whatever form the machine's apt has.
apt_source() {
    # shellcheck disable=SC2016  # apt fills these in, not the shell
    apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI) $(SIGNED_BY)' 'Created-By: Packages' |
        while read -r release component uri keyring; do
            [ "$release $component" = "$CODENAME main" ] || continue
            case $uri in
            mirror+file:*) uri=$(awk 'NF && !/^#/ { print $1; exit }' "${uri#mirror+file:}") ;;
            esac
            case $keyring in
            /*) printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$uri" "$CODENAME" ;;
            *) printf 'deb %s %s main\n' "$uri" "$CODENAME" ;;
            esac
            break
        done
}

# --- guests of virtual machines --------------------------------------------------------------------------------

# guest FILE RECIPE MAKER: makes guest/FILE by the function MAKER, which leaves it in the directory that it is given, or
# takes it from the kit.
guest() {
    made "$GUEST/$1" "guest-$1" "$2" && return
    say "making $GUEST/$1"
    discard "$GUEST/.$1.new"
    UNFINISHED=$GUEST/.$1.new
    mkdir -p "$UNFINISHED"
    if [ -n "$KIT" ]; then
        quietly "unpacking $KIT/guest.tar.gz" "make the kit anew" \
            tar -C "$UNFINISHED" --sparse -xzpf "$KIT/guest.tar.gz" "$1"
    else
        "$3" "$UNFINISHED"
    fi
    discard "$GUEST/$1"
    mv -T "$UNFINISHED/$1" "$GUEST/$1"
    discard "$UNFINISHED"
    UNFINISHED=
    note "guest-$1" "$2"
}

# The name of the package with the release's kernel for virtual machines; nothing where there is none (Ubuntu).
cloud_kernel() {
    apt-cache depends "linux-image-cloud-$(dpkg --print-architecture)" 2>/dev/null | sed -n 's/^ *Depends: //p' | head -n 1
}

# The distribution's own kernel for virtual machines, unpacked from its package. Nothing is installed, nothing in /boot.
# Makes kernel/vmlinux and kernel/modules/VERSION.
make_kernel() {
    (
        cd "$1"
        mkdir kernel
        quietly "downloading the kernel $KERNEL" "is there a network? only set-up needs it" \
            apt-get download -q -o APT::Sandbox::User=root "$KERNEL"
        dpkg-deb -x ./*.deb .
        extract_vmlinux boot/vmlinuz-* kernel/vmlinux
        for modules in lib/modules usr/lib/modules; do    # Debian 12, and 13
            [ ! -d "$modules" ] || mv -T "$modules" kernel/modules
        done
    ) || exit 1
}

# extract_vmlinux FILE TARGET: a kernel that need not unpack itself, which costs an emulated machine a second.
# On x86 it is the payload of a bzImage: Documentation/arch/x86/boot.rst, "setup_sects" and "payload_offset".
extract_vmlinux() {
    if [ "$(field "$1" 514 c 4)" != HdrS ]; then
        gzip -dc "$1" >"$2" 2>/dev/null || cp "$1" "$2"    # arm64: compressed as a whole, or not at all
        return
    fi
    start=$((($(field "$1" 497 u1 1) + 1) * 512 + $(field "$1" 584 u4 4)))
    length=$(field "$1" 588 u4 4)
    size=$(field "$1" $((start + length - 4)) u4 4)    # the last four bytes: what comes of it
    for unpack in lz4 'xz --single-stream' zstd gzip; do
        tail -c +$((start + 1)) "$1" | head -c "$length" | $unpack -dc >"$2" 2>/dev/null || true
        [ "$(wc -c <"$2")" != "$size" ] || return 0
    done
    die "$1 is packed in a way that is unknown here: say so in an issue, please"
}

# field FILE OFFSET TYPE LENGTH: a number or some letters in a binary file.
field() { od -An -j "$2" -t "$3" -N "$4" "$1" 2>/dev/null | tr -d ' \n'; }

# The smallest guest: the busybox root as an initial RAM disk, and an init of five lines.
make_minimal() {
    cp -a "$ROOTS/busybox" "$1/tree"
    cat >"$1/tree/init" <<'EOF'
#!/bin/sh
# Process 1: the kernel hands on what it does not know of its arguments, here run="COMMAND", in the environment.
mount -t proc proc /proc
sh -c "$run"
poweroff -f
EOF
    chmod 755 "$1/tree/init"
    (cd "$1/tree" && find . | cpio -o -H newc -R 0:0 --quiet) >"$1/minimal.cpio"
}

# The usual guest: the Debian root with systemd in it, on the disk image of a machine. It is written file by file,
# without a loop device: mke2fs(8), -d.
make_usual() {
    cp -a "$ROOTS/debian" "$1/tree"
    # shellcheck disable=SC2016  # the inner shell expands them
    quietly "installing systemd for the guest" "is there a network? only set-up needs it" \
        unshare --mount --propagation private sh -ec '
            mount -t proc proc "$1/proc"
            apt-get install -y -q --no-install-recommends -o Dir::State::Status="$1/var/lib/dpkg/status" \
                -o Dir::State::extended_states="$1/var/lib/apt/extended_states" -o DPkg::Options::=--root="$1" \
                -o Dir::Cache::Archives="$1/var/cache/apt/archives" systemd-sysv
        ' sh "$1/tree"
    rm -rf "$1"/tree/var/cache/apt/archives/*.deb
    printf 'guest\n' >"$1/tree/etc/hostname"
    printf '/dev/root / ext4 rw,noatime 0 1\n' >"$1/tree/etc/fstab"
    : >"$1/tree/etc/machine-id"
    usual_service >"$1/tree/etc/systemd/system/run.service"
    mkdir -p "$1/tree/etc/systemd/system/multi-user.target.wants"
    ln -s ../run.service "$1/tree/etc/systemd/system/multi-user.target.wants/run.service"
    quietly "making a disk image" "is there a gigabyte left on $GUEST?" \
        mke2fs -q -t ext4 -L root -d "$1/tree" -E root_owner=0:0 "$1/debian.ext4" 1G
}

# What systemd starts as soon as its basic services are up: the same command as the smallest guest's init.
usual_service() {
    cat <<'EOF'
[Unit]
Description=What the kernel's arguments say: run="COMMAND"
SuccessAction=poweroff-force

[Service]
PassEnvironment=run
ExecStart=/bin/sh -c 'eval "$run"'
StandardInput=tty-force
StandardOutput=tty
TTYPath=/dev/console

[Install]
WantedBy=multi-user.target
EOF
}

guests() {
    GUEST=$HOME_DIR/guest
    KERNEL=$(cloud_kernel)
    if [ -z "$KERNEL" ] && [ ! -f "${KIT:-.}/guest.tar.gz" ]; then
        say "$CODENAME has no package linux-image-cloud: chapter 8 shows recorded figures of virtual machines"
        return
    fi
    guest kernel "$CODENAME 1" make_kernel
    guest minimal.cpio "$(cat "$HOME_DIR/made/busybox") 1" make_minimal
    guest debian.ext4 "$(cat "$HOME_DIR/made/debian") 1" make_usual
}

# --- images ----------------------------------------------------------------------------------------------------

ours() { (cd "$REPO" && PYTHONPATH=$REPO MINIDOCKER_HOME=$HOME_DIR "$HOME_DIR/venv-$XY/bin/python" -m minidocker "$@"); }

# image NAME RECIPE: makes the image NAME by the function image_NAME, unless it is in the store, by today's recipe. A kit
# brings all images at once.
LOADED=
image() {
    grep -qs "\"$1:latest\"" "$HOME_DIR/images/index.json" && made "$HOME_DIR/images" "image-$1" "$2" && return
    say "making the image $1"
    if [ -n "$KIT" ]; then
        [ -n "$LOADED" ] || quietly "loading the images of the kit" "make the kit anew" ours load --input "$KIT/images.tar"
        LOADED=all
    else
        quietly "making the image $1" "see above; once made, it needs no network" "image_$1" "$1"
    fi
    note "image-$1" "$2"
}

# The same root file system as a layer; sorted, so that the same files are the same image.
base_image() {
    tar --create --directory "$ROOTS/$1" --sort=name --numeric-owner --xattrs --xattrs-include='*' . |
        ours import --change "CMD [\"$2\"]" --message "the root file system of set-up" - "$1"
}
image_busybox() { base_image busybox sh; }
image_debian() { base_image debian bash; }

# Two servers on the Debian base, as their Dockerfiles say. The network is for apt-get; later builds find them cached.
image_web() { ours build --network host --tag web chapters/05_images/web; }
image_mail() { ours build --network host --tag mail chapters/05_images/mail; }
image_services() { ours build --network host --tag services tests/10_engine/services; }

servers() {
    image web "$(cat "$HOME_DIR/made/image-debian") $(cksum <"$REPO/chapters/05_images/web/Dockerfile")"
    image mail "$(cat "$HOME_DIR/made/image-debian") $(cksum <"$REPO/chapters/05_images/mail/Dockerfile")"
    case $KIT${MINIDOCKER_MUST_WORK:-0}${MINIDOCKER_GUEST:-} in 1 | 1root)    # 200 MB that only a test needs
        image services "$(cat "$HOME_DIR/made/image-debian") $(cksum <"$REPO/tests/10_engine/services/Dockerfile")" ;;
    *) ;; esac
}

# --- everything ------------------------------------------------------------------------------------------------

as_root() {
    [ "$(id -u)" != 0 ] || return 0
    command -v sudo >/dev/null || die "this needs root: run it as root, or install sudo"
    exec sudo --preserve-env=http_proxy,https_proxy,no_proxy \
        env MINIDOCKER_HOME="$HOME_DIR" PYTHON="$PYTHON" KIT="$KIT" MINIDOCKER_MUST_WORK="${MINIDOCKER_MUST_WORK:-0}" sh "$REPO/vagrant/provision.sh"
}

system() {
    command -v apt-get >/dev/null || die "this is not Debian or Ubuntu: use the virtual machine (vagrant up)"
    CODENAME=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    [ -n "$CODENAME" ] || die "/etc/os-release names no release: Debian 12, 13 or Ubuntu 24.04 is needed"
}

leave() {
    status=$?
    trap - EXIT
    [ -z "$UNFINISHED" ] || discard "$UNFINISHED"
    rm -f "$LOG"
    rm -rf "$HOME_DIR/.kit"
    exit "$status"
}

main() {
    as_root
    system
    UNFINISHED=
    mkdir -p "$HOME_DIR"
    HOME_DIR=$(readlink -f "$HOME_DIR")
    ROOTS=$HOME_DIR/roots
    exec 9<"$HOME_DIR"
    flock 9    # a second provision waits for the first
    LOG=$(mktemp)
    trap leave EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    kit
    packages
    interpreter
    virtual_environment
    compile_package
    command_line
    root busybox "$(busybox --help 2>&1 | head -n 1) 1"
    root debian "$CODENAME $ROOT_PACKAGES 1"
    image busybox "$(cat "$HOME_DIR/made/busybox") 1"
    image debian "$(cat "$HOME_DIR/made/debian") 1"
    servers
    case ${MINIDOCKER_GUEST:-} in '' | root) guests ;; *) ;; esac    # no machines inside of a machine
}

main
