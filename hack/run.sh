#!/usr/bin/env bash
# run.sh: a demonstration. Builds the shim, takes containerd from Debian's packages without installing it, makes a busybox
# image, starts a private containerd, and shows what the shim does; exit status 0 only if all of it was true.
# DEMO_CONTAINERD=1.6|1.7|2.1 chooses the containerd (default 1.7).
set -euo pipefail
. "$(dirname "$0")/debian.sh"
cd "$project"
[ "$(id -u)" -eq 0 ] || die "containers need root: run this as root"

# Everything below happens in namespaces of its own with an empty /run; what it leaves there is told, and is a failure.
if [ -z "${DEMO_INSIDE:-}" ]; then
    export DEMO_INSIDE=yes
    exec unshare --mount --pid --fork --kill-child --mount-proc --propagation private \
        bash hack/isolated.sh bash hack/run.sh
fi

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { sed 's/^/    /'; }
# must WHAT COMMAND...: the statement and whether it is true; the first untrue one ends the demonstration.
must() {
    local what=$1
    shift
    if "$@"; then echo "  ok: $what"; else echo "  NOT TRUE: $what" >&2; exit 1; fi
}

say "1. Building the shim, getting containerd, making an image"
shim=$(hack/build.sh)
programs=$(hack/get-containerd.sh "${DEMO_CONTAINERD:-1.7}")
image=$(hack/image.sh)
folder=$(mktemp -d "${TMPDIR:-/tmp}/myshim-demo.XXXXXX")
parent=/${folder##*/}
containerd=
cleanup() {
    trap - EXIT INT TERM
    if [ -n "$containerd" ]; then
        ctr task kill -s KILL box >/dev/null 2>&1 || :
        sleep 0.2
        ctr task rm -f box >/dev/null 2>&1 || :
        kill "$containerd" 2>/dev/null || :
        wait "$containerd" 2>/dev/null || :
    fi
    find /sys/fs/cgroup -depth -type d -path "*$parent*" -exec rmdir {} + 2>/dev/null || :
    find "$folder" -name rootfs -exec umount {} \; 2>/dev/null || :
    rm -rf "$folder"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
ls -l "$shim" | show
"$programs/containerd" --version | show

cat >"$folder/config.toml" <<EOF
version = 2
root = "$folder/root"
state = "$folder/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "$folder/c.sock"
EOF
# No runc anywhere in its path: the shim is the runtime. Out of the terminal's reach: it is needed when Ctrl-C has come.
mkdir "$folder/bin"
ln -s "$shim" "$programs/containerd" "$folder/bin/"
PATH=$folder/bin:/usr/sbin:/usr/bin:/sbin:/bin setsid "$programs/containerd" --config "$folder/config.toml" >"$folder/log" 2>&1 &
containerd=$!
ctr() { "$programs/ctr" --address "$folder/c.sock" --namespace demo "$@"; }
for _ in $(seq 100); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done
ctr image import "$image" | show
name=docker.io/library/busybox:myshim
run() { ctr run --runtime io.containerd.myshim.v1 --cgroup "$parent/box" "$@"; }

say "2. A container's output"
output=$(run --rm $name box sh -c 'echo "hello from $(hostname || :) pid $$, on $(uname -sr)"')
echo "$output" | show
must "the output arrived, and the program was PID 1" grep -q 'hello .*pid 1,' <<<"$output"

say "3. A container that goes on: its process tree under the shim"
run -d --memory-limit 67108864 --cpus 0.5 $name box sh -c 'sleep 1000 & sleep 1000; exit 0'
pid=$(ctr task ls | awk '$1 == "box" { print $2 }')
parent_pid=$(awk '/^PPid/ { print $2 }' "/proc/$pid/status")
sleep 0.2
for each in $parent_pid $pid $(cat "/proc/$pid/task/$pid/children"); do
    printf 'pid %-7s parent %-7s pid inside %-4s %s\n' "$each" "$(awk '/^PPid/ { print $2 }' "/proc/$each/status")" \
        "$(awk '/^NSpid/ { print $NF }' "/proc/$each/status")" "$(tr '\0' ' ' <"/proc/$each/cmdline" | cut -c 1-70)"
done | show
must "the container's init is PID 1 inside" [ "$(awk '/^NSpid/ { print $NF }' "/proc/$pid/status")" = 1 ]
must "and another process to the host: $pid" [ "$pid" != 1 ]
must "its parent is the shim" grep -q containerd-shim-myshim-v1 "/proc/$parent_pid/cmdline"
must "no runc is about" [ ! -e "$folder/bin/runc" ]

say "4. Its namespaces"
for kind in pid mnt net ipc uts; do
    inside=$(readlink "/proc/$pid/ns/$kind")
    outside=$(readlink "/proc/self/ns/$kind")
    echo "$kind: $inside, the host's is $outside" | show
    must "$kind is the container's own" [ "$inside" != "$outside" ]
done

say "5. Its cgroup and limits"
limit() { cat "/sys/fs/cgroup/$1$parent/box/$2" 2>/dev/null || cat "/sys/fs/cgroup$parent/box/$3"; }
memory=$(limit memory memory.limit_in_bytes memory.max)
cpu=$(limit cpu cpu.cfs_quota_us cpu.max)
printf 'memory: %s bytes\ncpu: %s us of every 100000\n' "$memory" "${cpu%% *}" | show
must "memory is limited to 64 MiB" [ "$memory" = 67108864 ]
must "half a processor is its share" [ "${cpu%% *}" = 50000 ]

say "6. A second process in the container"
output=$(ctr task exec --exec-id second box sh -c 'echo "I see:"; ps -o pid,args; exit 0')
echo "$output" | show
must "it sees the container's PID 1" grep -q ' 1 sh' <<<"$output"
status=0
ctr task exec --exec-id third box sh -c 'exit 42' || status=$?
must "its exit status comes back: $status" [ "$status" = 42 ]

say "7. Statistics"
metrics=$(ctr task metrics box | grep -E 'memory.usage|cpuacct.usage |cpu.usage_usec|cpu.usage |pids.current')
echo "$metrics" | show
must "three processes are counted" grep -Eq '^pids\.current +3 *$' <<<"$metrics"

say "8. A kill, and the exit status"
ctr events >"$folder/events" 2>/dev/null &
listener=$!
sleep 0.5
ctr task kill -s SIGKILL box
for _ in $(seq 100); do [[ $(ctr task ls) == *$'\n'box\ *STOPPED* ]] && break; sleep 0.05; done
ctr task ls | show
must "the task has stopped" grep -q '^box .*STOPPED' <<<"$(ctr task ls)"
sleep 0.2
kill "$listener" 2>/dev/null || :
wait "$listener" 2>/dev/null || :
grep -o '/tasks/exit.*' "$folder/events" | show
must "its exit status is 137: 128 and the signal's 9" grep -q '/tasks/exit.*"exit_status":137' "$folder/events"

say "9. The clean end"
ctr task rm box >/dev/null 2>&1 || :
ctr container rm box
for _ in $(seq 100); do [ -e "/proc/$parent_pid" ] || break; grep -q '^State:.Z' "/proc/$parent_pid/status" && break; sleep 0.05; done
gone() { [ ! -e "/proc/$1" ] || grep -q '^State:.Z' "/proc/$1/status"; }
must "the container's process is gone" gone "$pid"
must "the shim is gone" gone "$parent_pid"
must "its cgroups are gone" [ -z "$(find /sys/fs/cgroup -type d -path "*$parent/box")" ]
must "its mounts are gone" [ -z "$(grep "$folder.*rootfs" /proc/self/mountinfo || :)" ]
must "its socket is gone" [ -z "$(find /run/containerd/s -type s 2>/dev/null)" ]

say "All of it was true."
