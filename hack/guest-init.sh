#!/bin/bash
# guest-init.sh: PID 1 of the guest that guest.sh boots. Makes the root usable, mounts a unified cgroup tree with all its
# controllers switched on, runs the command, reaps what is orphaned, and switches the machine off. With guest_pid1=systemd
# it hands PID 1 to systemd instead, whose only service is `guest-init.sh command`.
# Writable are only /run and the share. guest_share, guest_modules and guest_pid1 come from the kernel's command line.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb

mounts() {
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    mount -t securityfs securityfs /sys/kernel/security
    if [ -d /sys/fs/selinux ]; then
        mount -t selinuxfs selinuxfs /sys/fs/selinux
        cat "${guest_modules%/usr/*}/selinux/policy" >/sys/fs/selinux/load && echo 1 >/sys/fs/selinux/enforce
    fi
    mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
    mkdir -p /dev/pts /dev/shm /dev/mqueue
    mount -t devpts -o ptmxmode=0666 devpts /dev/pts
    mount -t tmpfs tmpfs /dev/shm
    mount -t tmpfs -o mode=755 tmpfs /run
    # busybox, because hostfs takes its path as the whole option string, and only the old mount(2) hands that over unparsed.
    busybox mount -t hostfs -o "$guest_share" none "$guest_share"
    mkdir -m 1777 /run/tmp
}

unified_cgroups() {
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
        echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
    done
}

# Units in /run only, and none of those that an installed system would start: no journal, no udev, no login.
systemd_units() {
    local units=/run/systemd/system
    mkdir -p $units/dbus.{socket,service}.d /run/systemd/system.conf.d
    printf '[Manager]\nLogTarget=kmsg\nLogLevel=warning\nShowStatus=no\nDefaultTimeoutStopSec=10s\n' >/run/systemd/system.conf.d/guest.conf
    printf '[Unit]\nDefaultDependencies=no\n' | tee $units/dbus.socket.d/guest.conf >$units/dbus.service.d/guest.conf
    printf '[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\nRequires=dbus.socket guest.service\n' >$units/guest.target
    # A user's bus, which Debian has in a package of its own.
    mkdir -p /run/systemd/user
    printf '[Socket]\nListenStream=%%t/bus\n' >/run/systemd/user/dbus.socket
    printf '[Unit]\nRequires=dbus.socket\n[Service]\nExecStart=%s\n' \
        'dbus-daemon --session --address=systemd: --nofork --nopidfile --systemd-activation' >/run/systemd/user/dbus.service
    cat >$units/guest.service <<EOF
[Unit]
DefaultDependencies=no
After=dbus.socket
[Service]
Type=oneshot
Delegate=yes
Environment=guest_share=$guest_share guest_modules=$guest_modules
ExecStart=/bin/bash $0 command
StandardInput=null
StandardOutput=null
StandardError=null
TimeoutStartSec=infinity
LimitNOFILE=65536
TasksMax=infinity
EOF
}

command() {
    local name module
    for name in overlay veth crc-ccitt ipv6; do
        module=$(find "$guest_modules" -name "$name.ko*" -print -quit)
        case $module in
            *.xz) xz -dc "$module" >/run/module.ko && busybox insmod /run/module.ko ;;
            *.ko) busybox insmod "$module" ;;
        esac
    done
    busybox ip link set lo up
    echo guest >/proc/sys/kernel/hostname

    . "$guest_share/guest/environment"
    export TMPDIR=/run/tmp PATH=$PATH:${guest_modules%/usr/*}/apparmor/sbin
    # The second console is guest.sh's standard output.
    busybox stty -F /dev/tty1 raw -echo
    # As many descriptors as an ordinary machine gives: the kernel's own limit for PID 1 is 1024.
    ulimit -n 65536
    bash "$guest_share/guest/command" </dev/null >/dev/tty1 2>&1 &
    wait $!
    echo $? >"$guest_share/guest/status"
    sync
    echo o >/proc/sysrq-trigger
    busybox poweroff -f
}

case ${1:-}:${guest_pid1:-} in
    command:*) command ;;
    *:systemd)
        mounts
        systemd_units
        exec /usr/lib/systemd/systemd --unit=guest.target
        ;;
    *)
        mounts
        unified_cgroups
        command
        ;;
esac
