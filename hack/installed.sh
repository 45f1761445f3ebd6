#!/usr/bin/env bash
# installed.sh FOLDER: what a user's `make check` and `make install` come to: no lint, and one static, stripped program, installed into
# FOLDER, that needs nothing of its host and answers. Says what it found; the last line counts, as a test binary's does.
set -euo pipefail
. "$(dirname "$0")/debian.sh"
cd "$project"
root=$1
bin=$root/usr/bin/containerd-shim-myshim-v1
passed=0 failed=0
# The released program's size, with room to grow: more is for somebody to look at.
most=$((6 * 1024 * 1024))

# is WHAT COMMAND...: does the command say yes?
is() {
    local what=$1
    shift
    if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "installed: not so: $what"; fi
}
# quietly COMMAND...: shows what it says only if it fails.
quietly() { "$@" >"$root.out" 2>&1 || { tail -40 "$root.out"; return 1; }; }
without() { ! grep -E "$1"; }
static() { readelf -lW "$bin" | without 'INTERP' && readelf -dW "$bin" | without 'NEEDED'; }
stripped() { readelf -SW "$bin" | without '\.(symtab|debug_info)'; }
alone() { [ "$(find "$root" -type f)" = "$bin" ] && [ "$(stat -c %a "$bin")" = 755 ]; }
# From elsewhere, and with an empty environment.
answers() { [[ $(cd / && env -i "$bin" -v) == *Version:* && $(env -i "$bin" -help) == *SYNOPSIS* ]]; }
small() { [ "$(stat -c %s "$bin")" -le $most ]; }

if quietly cargo fmt --version && quietly cargo clippy --version; then
    is "make check finds nothing" quietly make check
else
    echo "installed: make check: rustfmt or clippy is not installed" >>"${MYSHIM_TEST_SKIPS:-/dev/null}"
fi
is "make install works" quietly make install DESTDIR="$root" PREFIX=/usr
is "one program is installed, and all may run it" alone
is "it is static" static
is "it is stripped" stripped
is "it has $most bytes at most" small
is "it answers without an environment" answers
echo "installed: $(stat -c %s "$bin") bytes"
echo "test result: $([ $failed = 0 ] && echo ok || echo FAILED). $passed passed; $failed failed; 0 ignored; 0 measured; 0 filtered out"
[ $failed = 0 ]
