#!/usr/bin/env bash
# get-containerd.sh VERSION: makes containerd VERSION (1.6, 1.7 or 2.1) with its runc available below target/containerd
# and prints the folder of its programs. 2.1-newest is 2.1 with the newest runc that Debian has, in experimental.
# Nothing is installed into the system. Exit status 3: Debian has it no longer.
set -euo pipefail
. "$(dirname "$0")/debian.sh"

version=${1:?usage: get-containerd.sh 1.6|1.7|2.1|2.1-newest}
case $version in
    1.6) suite=bookworm ;;
    1.7) suite=trixie ;;
    2.1 | 2.1-newest) suite=forky ;;
    *) die "$version is none of 1.6, 1.7, 2.1, 2.1-newest" ;;
esac
runc_suite=$suite
[ "$version" = "${version%-newest}" ] || runc_suite=experimental
home=$target/containerd/$version

# unpack_into FOLDER: everything below FOLDER, but linked and patched for its final place $home.
unpack_into() {
    local folder=$1 deb debs file libs
    # What experimental had is in the suite itself, sooner or later.
    debs=$({ debian_fetch "$runc_suite" runc || debian_fetch "$suite" runc; } && debian_fetch "$suite" containerd crun libc6 libseccomp2 libyajl2 libcap2 libsystemd0 libgcrypt20) || return 3
    mkdir -p "$folder/bin" "$folder/root"
    for deb in $debs; do dpkg -x "$deb" "$folder/root"; done
    libs=$(dirname "$(find "$folder/root/usr/lib" "$folder/root/lib" -name libc.so.6 -print -quit 2>/dev/null)")
    # Older suites keep libc and the rest in /lib and /usr/lib; one folder of libraries makes one rpath.
    find "$folder/root/lib" "$folder/root/usr/lib" -name '*.so*' ! -path "$libs/*" -exec cp -a -t "$libs" {} + 2>/dev/null || :
    find "$folder/root/usr/bin" "$folder/root/usr/sbin" -type f -perm -100 | while read -r file; do
        case ${file##*/} in containerd | containerd-shim-runc-v2 | ctr | runc | crun) ;; *) continue ;; esac
        if unresolved "$file"; then use_own_libc "$file" "$home${libs#"$folder"}"; fi
        ln -s "..${file#"$folder"}" "$folder/bin/${file##*/}"
    done
    for deb in $debs; do echo "${deb##*/}"; done >"$folder/versions"
}

# Before the lock: in the guest, all this is read-only.
if [ -e "$home/versions" ]; then echo "$home/bin"; exit; fi
mkdir -p "$target/containerd"
exec 8>"$home.lock"
flock 8
if [ ! -e "$home/versions" ]; then
    fresh=$(mktemp -d "$home.XXXXXX")
    trap 'rm -rf "$fresh"' EXIT
    chmod 755 "$fresh"
    status=0
    unpack_into "$fresh" || status=$?
    [ $status -eq 0 ] || { echo "get-containerd.sh: Debian $suite does not give containerd $version" >&2; exit $status; }
    rm -rf "$home"
    mv "$fresh" "$home"
    # crun is only ever a second opinion: where its libraries have moved on, do without it.
    "$home/bin/crun" --version >/dev/null 2>&1 || rm -f "$home/bin/crun"
    sed 's/^/    /' "$home/versions" >&2
fi
echo "$home/bin"
