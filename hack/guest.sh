#!/usr/bin/env bash
# guest.sh: a machine with a unified cgroup tree in two seconds: User-Mode Linux, a kernel that is an ordinary program.
# Its root file system is this machine's own, read-only; writable are /run and one shared folder.
#   guest.sh prepare              gets the kernel from Debian into target/guest
#   guest.sh run FOLDER COMMAND   boots, runs COMMAND as root inside, copies its output, ends with its exit status;
#                                 FOLDER is shared and can be written from inside
#   GUEST_PID1=systemd            the machine's own systemd and dbus run the command as their only service
#   GUEST_LSM=selinux             enforces SELinux, with the tests' policy, instead of AppArmor
set -euo pipefail
. "$(dirname "$0")/debian.sh"
home=$target/guest

prepare() {
    [ "$(uname -m)" = x86_64 ] || { echo "guest.sh: Debian has User-Mode Linux for x86_64 only" >&2; return 1; }
    local deb
    mkdir -p "$target"
    exec 8>"$home.lock"
    flock 8
    [ -e "$home/linux" ] || kernel || return 1
    # The oldest suite's programs run on every libc since. Without them the tests of labels say so and are skipped.
    [ -d "$home/apparmor" ] || { deb=$(debian_fetch bookworm apparmor) && dpkg -x "$deb" "$home/apparmor"; } || :
    selinux || echo "guest.sh: no SELinux policy to be had" >&2
}

# selinux: the tests' policy, compiled.
selinux() {
    local source=$project/tests/integration/support/policy.cil deb debs
    [ ! "$home/selinux/policy" -nt "$source" ] || return 0
    debs=$(debian_fetch bookworm secilc libsepol2) || return 1
    for deb in $debs; do dpkg -x "$deb" "$home/selinux"; done
    LD_LIBRARY_PATH=$(echo "$home"/selinux/lib/*/) "$home/selinux/usr/bin/secilc" -o "$home/selinux/policy" -f /dev/null "$source"
}

kernel() {
    local suite deb debs fresh kernel libs
    fresh=$(mktemp -d "$home.XXXXXX")
    # The newest first: 7.2 needs no ptrace and is three times as fast as 6.12, which panics now and then when a process is killed
    # in its fork. bookworm's, 6.1, still knows all that the tests of cgroup v2 need.
    for suite in forky trixie bookworm; do
        debs=$(debian_fetch $suite user-mode-linux libc6) && break
        debs=
    done
    [ -n "$debs" ] || return 1
    for deb in $debs; do dpkg -x "$deb" "$fresh"; done
    kernel=$fresh/usr/bin/linux.uml
    libs=$(dirname "$(find "$fresh/usr/lib" "$fresh/lib" -name libc.so.6 -print -quit 2>/dev/null)")
    if unresolved "$kernel"; then use_own_libc "$kernel" "$home${libs#"$fresh"}"; fi
    ln -s usr/bin/linux.uml "$fresh/linux"
    rm -rf "$home"
    mv "$fresh" "$home"
    "$home/linux" --version >&2
}

run() {
    local folder status=
    folder=$(cd "$1" && pwd)
    shift
    mkdir -p "$folder/guest"
    rm -f "$folder/guest/status"
    export -p | grep -E ' (MYSHIM_[A-Z_]*|SHIM_[A-Z_]*|FAULTS_BINARY|BENCH_OUT|ROUNDS|EXECS|CONTAINERD_UNDER_TEST|CARGO_TARGET_DIR|RUST_[A-Z]*)=' >"$folder/guest/environment" || :
    printf '%q ' "$@" >"$folder/guest/command"
    # A disk, for limits on disks; the root is none.
    truncate -s 1M "$folder/guest/disk"
    # The guest's memory is a file below TMPDIR; the console goes to descriptor 3 so that the kernel's own words stay apart.
    TMPDIR=$folder/guest timeout --foreground -k 5 "${GUEST_TIMEOUT:-1500}" "$home/linux" mem="${GUEST_MEMORY:-3072M}" \
        rootfstype=hostfs rootflags=/ ro init="$project/hack/guest-init.sh" \
        guest_share="$folder" guest_modules="$home/usr/lib/uml/modules" guest_pid1="${GUEST_PID1:-}" \
        ubd0="$folder/guest/disk" apparmor=1 selinux=1 lsm=capability,yama,${GUEST_LSM:-apparmor} \
        con=null con0=null,fd:2 con1=null,fd:3 quiet seccomp=auto </dev/null 3>&1 2>"$folder/guest/console" >>"$folder/guest/console" || :
    [ ! -e "$folder/guest/status" ] || status=$(cat "$folder/guest/status")
    if [ -z "$status" ]; then
        echo "guest.sh: the guest ended without a status; its console:" >&2
        tail -n 40 "$folder/guest/console" >&2
        return 125
    fi
    return "$status"
}

case ${1:-} in
    prepare) prepare ;;
    run) shift; run "$@" ;;
    *) die "usage: guest.sh prepare | run FOLDER COMMAND..." ;;
esac
