#!/usr/bin/env bash
# test.sh: everything that decides whether a change is good. Unit tests; lints and the installed program; the integration
# tests with containerd 1.6, 1.7 and 2.1; the same tests on a unified cgroup tree, in a guest, and the shim's in one with
# systemd as PID 1; then a look at what the runs left behind.
# The last line is "N passed, N failed, N skipped" over all of it; the exit status is 0 only if nothing failed or leaked.
#   CONTAINERD_UNDER_TEST=1.6|1.7|2.1|2.1-newest|all    SHIM_UNDER_TEST=ours|runc    GUEST=no leaves the guest out
#   BUILD=release tests the binary that is installed, not the debug build
#   Arguments go to the integration tests: names to choose by.
set -euo pipefail
. "$(dirname "$0")/debian.sh"
cd "$project"

results=$(mktemp -d "${TMPDIR:-/tmp}/myshim-test.XXXXXX")
run=${results##*/}
export MYSHIM_TEST_RUN=${run/./-} MYSHIM_TEST_SKIPS=$results/skips RUST_BACKTRACE=${RUST_BACKTRACE:-0}
: >"$MYSHIM_TEST_SKIPS"
failed=0
triple=$(rustc -vV | sed -n 's/^host: //p')
given=${RUSTFLAGS:-}
export RUSTFLAGS="$given -C target-feature=+crt-static"

step() { echo; echo "== $*"; }

# counted NAME COMMAND...: runs, shows and keeps the output of a test binary; remembers that it failed.
counted() {
    local name=$1
    shift
    step "$name"
    cp "$MYSHIM_TEST_SKIPS" "$results/skips.before"
    attempt "$@" || { panicked && attempt "$@"; } || { panicked && attempt "$@"; } ||
        { failed=$((failed + 1)); echo "$name: failed"; }
    # One line per passed test is noise; a binary that dies without its result line is a failure of its own.
    grep -v -E '^(test .* \.\.\. ok|running [0-9]+ tests?|SKIP .*|)$' "$results/$name.log" || :
}

attempt() { timeout -k 10 "${TEST_TIMEOUT:-1200}" "$@" >"$results/$name.log" 2>&1; }

# panicked: has the guest's kernel, and not a test, ended the run? User-Mode Linux does so now and then, in a fork that is killed.
panicked() {
    grep '^Kernel panic' "$results/$name.log" && ! grep -q '\.\.\. FAILED$' "$results/$name.log" || return 1
    echo "$name: once more"
    mv "$results/$name.log" "$results/$name.panic"
    cp "$results/skips.before" "$MYSHIM_TEST_SKIPS"
}

# executable TEST: path of the built test binary (TEST is a test target's name, or lib).
executable() {
    local choice=(--test "$1")
    [ "$1" != lib ] || choice=(--lib)
    cargo test --locked --no-run --target "$triple" "${choice[@]}" 2>&1 | tee "$results/build.log" |
        sed -n 's/^ *Executable .*(\(.*\))$/\1/p'
    ! grep -E '^error' -A 20 "$results/build.log" >&2
}

# isolated: a prefix that runs its command in mount and pid namespaces of its own, with an empty /run: whatever is left there is a leak,
# and nothing outlives the run.
isolated=(unshare --mount --pid --fork --kill-child --mount-proc --propagation private bash "$project/hack/isolated.sh")

step build
# The same program with its fault points, beside the one that is tested.
cargo build --locked --target "$triple" --features faults >&2
faulty=$target/$triple/faults
install -D "$target/$triple/debug/containerd-shim-myshim-v1" "$faulty/containerd-shim-myshim-v1"
export FAULTS_BINARY=$faulty/containerd-shim-myshim-v1
unit=$(realpath "$(executable lib)")
layers=$(realpath "$(executable layers)")
integration=$(realpath "$(executable integration)")
SHIM_BINARY=$(realpath "$(dirname "$(dirname "$integration")")/containerd-shim-myshim-v1")
# The fault points are in a debug build either way.
[ "${BUILD:-debug}" = debug ] || SHIM_BINARY=$(hack/build.sh)
export SHIM_BINARY
[ -x "$SHIM_BINARY" ] || die "the build gave no shim"

TEST_TIMEOUT=300 counted unit "${isolated[@]}" "$unit"
counted layers "$layers"
# Two more builds, which a choice of tests does without.
[ $# -gt 0 ] || TEST_TIMEOUT=1800 counted installed env RUSTFLAGS="$given" hack/installed.sh "$results/root"

versions=${CONTAINERD_UNDER_TEST:-all}
[ "$versions" != all ] || versions="1.6 1.7 2.1"
hack/image.sh >/dev/null
for version in $versions; do
    status=0
    hack/get-containerd.sh "$version" >/dev/null || status=$?
    if [ $status -eq 3 ]; then
        echo "containerd-$version: Debian does not give it" | tee -a "$MYSHIM_TEST_SKIPS"
        continue
    fi
    [ $status -eq 0 ] || die "cannot get containerd $version"
    export CONTAINERD_UNDER_TEST=$version
    counted "containerd-$version" "${isolated[@]}" "$integration" "$@"
done

if [ "${GUEST:-yes}" = no ]; then
    echo "guest: left out by GUEST=no" >>"$MYSHIM_TEST_SKIPS"
elif ! hack/guest.sh prepare; then
    echo "guest: User-Mode Linux is not to be had" | tee -a "$MYSHIM_TEST_SKIPS"
else
    export CONTAINERD_UNDER_TEST=1.7
    # What every kernel answers alike takes minutes on this one.
    counted guest hack/guest.sh run "$results" "$integration" --skip faults_child:: "$@"
    # One kernel enforces either AppArmor or SELinux.
    case "$*" in '' | *label*)
        if [ -e "$target/guest/selinux/policy" ]; then
            GUEST_LSM=selinux counted guest-selinux hack/guest.sh run "$results" "$integration" api_labels
        else
            echo "guest-selinux: no policy to load" | tee -a "$MYSHIM_TEST_SKIPS"
        fi
        ;;
    esac
    # Once more with systemd as PID 1, and every container in a scope of its own.
    if (ensure_packages systemd dbus) && [ -x /usr/lib/systemd/systemd ]; then
        [ $# -gt 0 ] || set -- api_ faults::
        GUEST_PID1=systemd MYSHIM_TEST_CGROUPS=systemd \
            counted guest-systemd hack/guest.sh run "$results" "$integration" "$@"
    else
        echo "guest-systemd: no systemd to run as PID 1" | tee -a "$MYSHIM_TEST_SKIPS"
    fi
fi

step leaks
# Every container of the run had its cgroup below one parent. The parent itself is nobody's to remove but ours.
leaks=0
while read -r parent; do
    find "$parent" -depth -mindepth 1 -type d | while read -r child; do
        echo "left behind: $child"
        echo x >>"$results/leaks"
        rmdir "$child" 2>/dev/null || :
    done
    rmdir "$parent" 2>/dev/null || echo "cannot remove $parent" | tee -a "$results/leaks"
done < <(find /sys/fs/cgroup -type d -name "$MYSHIM_TEST_RUN" 2>/dev/null)
cat "$results"/*.log | grep '^left behind: ' | tee -a "$results/leaks" || :
[ ! -s "$results/leaks" ] || leaks=$(wc -l <"$results/leaks")
[ "$leaks" -ne 0 ] || echo "none"

if [ -s "$MYSHIM_TEST_SKIPS" ]; then
    step skipped
    sort "$MYSHIM_TEST_SKIPS" | uniq -c
fi
sum() { cat "$results"/*.log | sed -n "s/^test result: .* \([0-9]*\) $1.*/\1/p" | awk '{ n += $1 } END { print n + 0 }'; }
skipped=$(wc -l <"$MYSHIM_TEST_SKIPS")
passed=$(($(sum passed) - $(grep -c '::' "$MYSHIM_TEST_SKIPS" || :)))
tests_failed=$(sum failed)
# A binary that died has no count of its own.
[ "$tests_failed" -ge "$failed" ] || tests_failed=$failed
[ "$failed" -eq 0 ] && [ "$leaks" -eq 0 ] && rm -rf "$results" || echo "logs: $results"
echo
echo "$passed passed, $((tests_failed + leaks)) failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$leaks" -eq 0 ]
