#!/usr/bin/env bash
# bench.sh: the release build beside containerd-shim-runc-v2 and runc of Debian, in turn, in one run; prints the table and
# leaves the figures in target/bench.json. Both run in namespaces of their own with an empty /run, so nothing outlives the run.
#   ROUNDS=20    CONTAINERD_UNDER_TEST=1.6|1.7|2.1
set -euo pipefail
. "$(dirname "$0")/debian.sh"
cd "$project"
[ "$(id -u)" -eq 0 ] || die "containers need root"

SHIM_BINARY=$(hack/build.sh)
export SHIM_BINARY CONTAINERD_UNDER_TEST=${CONTAINERD_UNDER_TEST:-1.6} ROUNDS=${ROUNDS:-20} BENCH_JSON=$target/bench.json
hack/get-containerd.sh "$CONTAINERD_UNDER_TEST" >/dev/null
hack/image.sh >/dev/null
bench=$(cargo bench --no-run --locked --profile client --bench shims 2>&1 |
    tee "$target/bench.log" | sed -n 's/^ *Executable .*(\(.*\))$/\1/p')
[ -n "$bench" ] || { cat "$target/bench.log" >&2; die "the benchmark was not built"; }

work=$(mktemp -d "${TMPDIR:-/tmp}/myshim-bench.XXXXXX")
export TMPDIR=$work
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

echo "our shim beside containerd-shim-runc-v2 of containerd $CONTAINERD_UNDER_TEST: $ROUNDS rounds on $(nproc) processors, $(uname -sr)" >&2
timeout -k 10 $((60 + ROUNDS * 30)) unshare --mount --pid --fork --kill-child --mount-proc --propagation private \
    bash hack/isolated.sh "$bench"
echo "the figures: $BENCH_JSON" >&2
