#!/usr/bin/env bash
# soak.sh: the churn of tests/integration/soak*.rs at full length, with the release build; prints its figures. Everything
# runs in namespaces of its own with an empty /run; what is left behind is a failure.
#   SOAK_CONTAINERS=10000  SOAK_EXECS=100000  SOAK_WORKERS=8  SOAK_SEED=random     over ttrpc, and once more through containerd
#   SOAK_ROUNDS=40  SOAK_STOP_SECONDS=60 (the first stop of the daemon)  CONTAINERD_UNDER_TEST=1.7   kills and stops of it
set -euo pipefail
. "$(dirname "$0")/debian.sh"
cd "$project"
[ "$(id -u)" -eq 0 ] || die "containers need root"

SHIM_BINARY=$(hack/build.sh)
export SHIM_BINARY CONTAINERD_UNDER_TEST=${CONTAINERD_UNDER_TEST:-1.7} MYSHIM_TEST_RUN=myshim-soak-$$
export SOAK_CONTAINERS=${SOAK_CONTAINERS:-10000} SOAK_EXECS=${SOAK_EXECS:-100000} SOAK_ROUNDS=${SOAK_ROUNDS:-40}
export SOAK_STOP_SECONDS=${SOAK_STOP_SECONDS:-60}
hack/get-containerd.sh "$CONTAINERD_UNDER_TEST" >/dev/null
hack/image.sh >/dev/null
triple=$(rustc -vV | sed -n 's/^host: //p')
{
    RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static -C relocation-model=static" \
        cargo test --no-run --locked --target "$triple" --test integration >"$target/soak.log" 2>&1 &&
        soak=$(sed -n 's/^ *Executable .*(\(.*\))$/\1/p' "$target/soak.log") && [ -n "$soak" ]
} || { cat "$target/soak.log" >&2; die "the tests were not built"; }

echo "soak on $(nproc) processors, $(uname -sr), $(date -u +%F)"
status=0
unshare --mount --pid --fork --kill-child --mount-proc --propagation private \
    bash hack/isolated.sh "$(realpath "$soak")" soak --nocapture --test-threads 1 || status=$?
left=$(find /sys/fs/cgroup -mindepth 2 -path "*/$MYSHIM_TEST_RUN/*" -type d 2>/dev/null | wc -l)
find /sys/fs/cgroup -depth -path "*/$MYSHIM_TEST_RUN*" -type d -exec rmdir {} \; 2>/dev/null || :
[ "$left" -eq 0 ] || { echo "left behind: $left cgroups"; status=1; }
exit "$status"
