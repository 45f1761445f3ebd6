#!/usr/bin/env bash
# image.sh: makes a small image of Debian's busybox, as an OCI layout in a tar file that `ctr image import` takes,
# and prints the file's path. Its name inside containerd is docker.io/library/busybox:myshim.
set -euo pipefail
. "$(dirname "$0")/debian.sh"

out=$target/image/busybox.tar
ready() { [ -e "$out" ] && [ "$out" -nt "$project/hack/image.sh" ]; }
# Before the lock: in the guest, all this is read-only.
if ready; then echo "$out"; exit; fi
mkdir -p "${out%/*}"
exec 8>"$out.lock"
flock 8
if ready; then echo "$out"; exit; fi

[[ $(ldd "$(command -v busybox || echo none)" 2>&1) == *'not a dynamic'* ]] || ensure_packages busybox-static
busybox=$(command -v busybox)
work=$(mktemp -d "${out%/*}/work.XXXXXX")
trap 'rm -rf "$work"' EXIT

root=$work/root
mkdir -p "$root"/{bin,dev,etc,home/app,proc,root,run,sys,tmp,usr/bin,var,volume}
chmod 1777 "$root/tmp"
chmod 700 "$root/root"
cp "$busybox" "$root/bin/busybox"
chmod 755 "$root/bin/busybox"
# Links to another name than the program's own would keep applets from being told apart by argv[0]: one link each.
"$busybox" --list | grep -v '^busybox$' | while read -r applet; do ln -s busybox "$root/bin/$applet"; done
cat >"$root/etc/passwd" <<'EOF'
root:x:0:0:root:/root:/bin/sh
app:x:1000:1000:app:/home/app:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
EOF
cat >"$root/etc/group" <<'EOF'
root:x:0:
app:x:1000:
staff:x:50:app
nogroup:x:65534:
EOF
echo busybox >"$root/etc/hostname"
# Files that tests of failing starts look for.
printf 'not executable\n' >"$root/bin/plain"
printf '#!/no/such/interpreter\n' >"$root/bin/orphan"
chmod 644 "$root/bin/plain"
chmod 755 "$root/bin/orphan"
mkfifo "$root/bin/pipe"

pack() { tar --sort=name --mtime=@0 --numeric-owner "$@"; }
pack --owner=0 --group=0 --exclude=./home/app -C "$root" -cf "$work/layer.tar" .
pack --owner=1000 --group=1000 -C "$root" -rf "$work/layer.tar" ./home/app
diff_id=$(sha256sum <"$work/layer.tar" | cut -d ' ' -f 1)

blobs=$work/layout/blobs/sha256
mkdir -p "$blobs"
# blob FILE: stores it under its digest and prints the descriptor's common part.
blob() {
    local digest
    digest=$(sha256sum <"$1" | cut -d ' ' -f 1)
    cp "$1" "$blobs/$digest"
    printf '"digest":"sha256:%s","size":%d' "$digest" "$(stat -c %s "$1")"
}
case $(uname -m) in x86_64) architecture=amd64 ;; aarch64) architecture=arm64 ;; *) architecture=$(uname -m) ;; esac
printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/usr/bin:/bin"],"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$architecture" "$diff_id" >"$work/config.json"
type=application/vnd.oci.image
printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":{"mediaType":"%s.config.v1+json",%s},"layers":[{"mediaType":"%s.layer.v1.tar",%s}]}' \
    $type $type "$(blob "$work/config.json")" $type "$(blob "$work/layer.tar")" >"$work/manifest.json"
name=docker.io/library/busybox:myshim
printf '{"schemaVersion":2,"manifests":[{"mediaType":"%s.manifest.v1+json",%s,"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"myshim"}}]}' \
    $type "$(blob "$work/manifest.json")" $name >"$work/layout/index.json"
printf '{"imageLayoutVersion":"1.0.0"}' >"$work/layout/oci-layout"
pack --owner=0 --group=0 -C "$work/layout" -cf "$work/image.tar" .
rm -rf "$out.root"
mv "$root" "$out.root"
mv "$work/image.tar" "$out"
echo "$out"
