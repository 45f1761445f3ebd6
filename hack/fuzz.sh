#!/usr/bin/env bash
# fuzz.sh: every fuzz target of tests/fuzz for FUZZ_SECONDS (600) each, with what the corpora in the repository and earlier
# runs (target/fuzz) know. Prints runs and coverage; a crash leaves its input and is a failure: mend it, and keep the input
# in tests/fuzz/corpus/TARGET, which the unit tests replay.
#   FUZZ_SECONDS=600    FUZZ_TARGETS="config seccomp"    FUZZ_JOBS=2
set -euo pipefail
. "$(dirname "$0")/debian.sh"
cd "$project"
command -v c++ >/dev/null || ensure_packages g++
seconds=${FUZZ_SECONDS:-600}
triple=$(rustc -vV | sed -n 's/^host: //p')
# What cargo-fuzz passes to a nightly compiler, the stable one takes too: LLVM's coverage pass is no sanitizer.
sancov=(-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=16)
RUSTFLAGS="${RUSTFLAGS:-} ${sancov[*]}" cargo build --locked --manifest-path tests/fuzz/Cargo.toml --target "$triple" \
    --target-dir "$target/fuzz-build" >&2
program=$target/fuzz-build/$triple/debug/fuzz

echo "fuzz: $seconds s each, $(uname -sr), $(date -u +%F)"
failed=0
for name in ${FUZZ_TARGETS:-config mount_options seccomp frames bootstrap report states}; do
    known=$target/fuzz/$name
    mkdir -p "$known"
    seeds=("$project/tests/fuzz/corpus/$name")
    [ "$name" != config ] || seeds+=("$project/tests/specs")
    if FUZZ_TARGET=$name "$program" -max_total_time="$seconds" -timeout=25 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=1 \
        -artifact_prefix="$known-crash-" -jobs="${FUZZ_JOBS:-0}" "$known" "${seeds[@]}" >"$known.log" 2>&1; then
        verdict=ok
    else
        verdict="FAILED, see $known.log"
        failed=1
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: //p' "$known.log" | awk '{ n += $1 } END { print n + 0 }')
    cover=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$known.log" | tail -n 1)
    echo "$name: $runs runs, ${cover:-0} edges, $(find "$known" -type f | wc -l) inputs kept: $verdict"
done
exit $failed
