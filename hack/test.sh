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
export MYSHIM_TEST_RUN=${run/./-} RUST_BACKTRACE=${RUST_BACKTRACE:-0}
triple=$(rustc -vV | sed -n 's/^host: //p')
given=${RUSTFLAGS:-}
# As it is released: its own entry point (`src/sys/entry`) takes a fixed address.
export RUSTFLAGS="$given -C target-feature=+crt-static -C relocation-model=static"

step() { echo; echo "== $*"; }

# counted NAME COMMAND...: runs, shows and keeps the output of a test binary, what it skipped, and that it failed. COMMAND may write
# into $results/NAME.
counted() {
    local name=$1
    shift
    step "$name"
    mkdir "$results/$name"
    attempt "$@" || { panicked && attempt "$@"; } || { panicked && attempt "$@"; } || echo "$name: failed" | tee "$results/$name.failed"
    # One line per passed test is noise; a binary that dies without its result line is a failure of its own.
    grep -v -E '^(test .* \.\.\. ok|running [0-9]+ tests?|SKIP .*|)$' "$results/$name.log" || :
}

# attempt COMMAND...: ends with the shell that runs it, also where that is beside this script.
attempt() {
    MYSHIM_TEST_SKIPS=$results/$name/skips setpriv --pdeathsig TERM timeout -k 10 "${TEST_TIMEOUT:-1200}" "$@" >"$results/$name.log" 2>&1
}

# not_run WHAT: a part of the suite that this machine or the caller does without.
not_run() { echo "$*" | tee -a "$results/skips"; }

# panicked: has the guest's kernel, and not a test, ended the run? User-Mode Linux does so now and then, in a fork that is killed.
panicked() {
    grep '^Kernel panic' "$results/$name.log" && ! grep -q '\.\.\. FAILED$' "$results/$name.log" || return 1
    echo "$name: once more"
    mv "$results/$name.log" "$results/$name.panic"
    rm -f "$results/$name/skips"
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
        not_run "containerd-$version: Debian does not give it"
        continue
    fi
    [ $status -eq 0 ] || die "cannot get containerd $version"
    export CONTAINERD_UNDER_TEST=$version
    counted "containerd-$version" "${isolated[@]}" "$integration" "$@"
done

# guest NAME ARGUMENTS...: the integration tests in a guest. It has one processor, and on that everything takes several times as long.
guest() {
    GUEST_TIMEOUT=${GUEST_TIMEOUT:-1800} TEST_TIMEOUT=${TEST_TIMEOUT:-1830} CONTAINERD_UNDER_TEST=1.7 counted "$1" hack/guest.sh run "$results/$1" "$integration" "${@:2}"
}

guest_plain() {
    # What every kernel answers alike takes minutes on this one.
    guest guest --skip faults_child:: "$@"
    # One kernel enforces either AppArmor or SELinux.
    case "$*" in '' | *label*)
        if [ -e "$target/guest/selinux/policy" ]; then
            GUEST_LSM=selinux guest guest-selinux api_labels
        else
            not_run "guest-selinux: no policy to load"
        fi
        ;;
    esac
}

# guest_systemd: with systemd as PID 1, and every container in a scope of its own.
guest_systemd() {
    [ -x /usr/lib/systemd/systemd ] && [ -x /usr/bin/dbus-daemon ] || { not_run "guest-systemd: no systemd to run as PID 1"; return; }
    [ $# -gt 0 ] || set -- api_ faults::
    GUEST_PID1=systemd MYSHIM_TEST_CGROUPS=systemd guest guest-systemd "$@"
}

if [ "${GUEST:-yes}" = no ]; then
    not_run "guest: left out by GUEST=no"
elif ! hack/guest.sh prepare; then
    not_run "guest: User-Mode Linux is not to be had"
else
    (ensure_packages systemd dbus) || :
    # Side by side, each on a processor of this machine; shown one after the other.
    guest_systemd "$@" >"$results/guest-systemd.shown" &
    systemd=$!
    trap 'kill $systemd 2>/dev/null || :' EXIT
    guest_plain "$@"
    wait $systemd || echo "guest-systemd: failed" | tee "$results/guest-systemd.failed"
    trap - EXIT
    cat "$results/guest-systemd.shown"
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

cat "$results"/*/skips >>"$results/skips" 2>/dev/null || :
if [ -s "$results/skips" ]; then
    step skipped
    sort "$results/skips" | uniq -c
fi
sum() { cat "$results"/*.log | sed -n "s/^test result: .* \([0-9]*\) $1.*/\1/p" | awk '{ n += $1 } END { print n + 0 }'; }
skipped=$(wc -l <"$results/skips")
passed=$(($(sum passed) - $(grep -c '::' "$results/skips" || :)))
tests_failed=$(sum failed)
# A binary that died has no count of its own.
failed=$(find "$results" -maxdepth 1 -name '*.failed' | wc -l)
[ "$tests_failed" -ge "$failed" ] || tests_failed=$failed
[ "$failed" -eq 0 ] && [ "$leaks" -eq 0 ] && rm -rf "$results" || echo "logs: $results"
echo
echo "$passed passed, $((tests_failed + leaks)) failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$leaks" -eq 0 ]
