#!/usr/bin/env bash
# build.sh: the release binary, static and stripped, its debug information beside it; prints the binary's path.
set -euo pipefail
. "$(dirname "$0")/debian.sh"

cd "$project"
# A fixed address: as a position-independent program it would relocate 200 KiB of its data at every start, for itself alone,
# and begin at libc's entry point instead of its own (`src/sys/entry`).
# An explicit target keeps the static flag away from procedural macros, which the compiler itself has to load.
triple=$(rustc -vV | sed -n 's/^host: //p')
MYSHIM_REVISION=${MYSHIM_REVISION:-$(git describe --always --dirty 2>/dev/null || echo unknown)}
export MYSHIM_REVISION
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static -C relocation-model=static" cargo build --release --locked --target "$triple" >&2
built=$target/$triple/release/containerd-shim-myshim-v1
out=$target/bin/containerd-shim-myshim-v1
mkdir -p "$target/bin"
if [ "$built" -nt "$out" ]; then
    if command -v objcopy >/dev/null; then
        objcopy --only-keep-debug "$built" "$out.debug"
        objcopy --strip-all --add-gnu-debuglink="$out.debug" "$built" "$out.new"
    else
        install -m 755 "$built" "$out.new"
    fi
    mv "$out.new" "$out"
fi
echo "$out"
