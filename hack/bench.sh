#!/usr/bin/env bash
# bench.sh: the release build beside containerd-shim-runc-v2 with Debian's runc and crun, in turn, in one run, and the floor below
# them; prints the table and leaves bench.json and bench.svg in target/bench. All run in namespaces of their own with an empty
# /run, where bundles lie as containerd's do, so nothing outlives the run.
#   ROUNDS=20    EXECS=1000000 adds a long run    CONTAINERD_UNDER_TEST=1.6|1.7|2.1
#   GUEST=yes    on cgroup v2, in the guest of hack/guest.sh; figures in target/bench-guest
set -euo pipefail
. "$(dirname "$0")/debian.sh"
cd "$project"
[ "$(id -u)" -eq 0 ] || die "containers need root"

SHIM_BINARY=$(hack/build.sh)
export SHIM_BINARY CONTAINERD_UNDER_TEST=${CONTAINERD_UNDER_TEST:-1.6} ROUNDS=${ROUNDS:-20} EXECS=${EXECS:-0}
out=$target/bench
[ "${GUEST:-no}" = no ] || out=$target/bench-guest
mkdir -p "$out"
hack/get-containerd.sh "$CONTAINERD_UNDER_TEST" >/dev/null
hack/image.sh >/dev/null
{
    cargo bench --no-run --locked --profile client --bench shims >"$target/bench.log" 2>&1 &&
        bench=$(sed -n 's/^ *Executable .*(\(.*\))$/\1/p' "$target/bench.log") && [ -n "$bench" ]
} || { cat "$target/bench.log" >&2; die "the benchmark was not built"; }
bench=$(realpath "$bench")

work=$(mktemp -d "${TMPDIR:-/tmp}/myshim-bench.XXXXXX")
run=${work##*/}
export MYSHIM_TEST_RUN=${run/./-}
clean() {
    rm -rf "$work"
    # Every container's cgroup lies below this one; runc and the shims leave the parent to whoever named it.
    find /sys/fs/cgroup -type d -name "$MYSHIM_TEST_RUN" -prune 2>/dev/null | while read -r parent; do
        find "$parent" -depth -type d -exec rmdir {} \;
    done
}
trap clean EXIT

echo "containerd $CONTAINERD_UNDER_TEST, $ROUNDS rounds on $(nproc) processors, $(uname -sr)" >&2
limit=$((600 + ROUNDS * 60 + EXECS / 200))
export BENCH_OUT=$work
if [ "${GUEST:-no}" = no ]; then
    timeout -k 10 $limit unshare --mount --pid --fork --kill-child --mount-proc --propagation private \
        bash hack/isolated.sh env TMPDIR=/run "$bench"
else
    hack/guest.sh prepare
    # One processor, dear system calls, and crun where it works.
    GUEST_TIMEOUT=$((limit * 3)) hack/guest.sh run "$work" "$bench"
fi
cp "$work"/bench.json "$work"/bench.svg "$out/"
echo "the figures: $out" >&2
