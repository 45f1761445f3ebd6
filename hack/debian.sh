# shellcheck shell=bash
# debian.sh: sourced, not run. Debian packages as plain files: fetched and unpacked below target/, through apt lists of
# our own, so that neither the suite of this machine nor its dpkg database changes.

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$project/target}

die() { echo "${0##*/}: $*" >&2; exit 1; }

# ensure_packages PACKAGE...: tools that this machine should have; says nothing when they are there already.
ensure_packages() {
    local missing=() package
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) == *'install ok installed'* ]] || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" -eq 0 ] || die "needs the packages ${missing[*]}: apt-get install them, or run this as root"
    echo "installing ${missing[*]}" >&2
    {
        DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}" ||
            { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}"; }
    } >&2 </dev/null || die "apt-get cannot install ${missing[*]}"
}

# debian_mirror: the archive this machine's apt uses already; other archives in its configuration are passed over.
debian_mirror() {
    local mirror
    # shellcheck disable=SC2016  # apt's own placeholders; awk reads to the end, so that apt never writes to a closed pipe
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | awk '/\/debian\/?$/ && !n++')
    [ -n "$mirror" ] || die "apt knows no Debian archive: add one to its sources"
    echo "$mirror"
}

# debian_fetch SUITE PACKAGE...: prints the .deb files' paths, one a line, in the order asked for.
# A package that the suite does not carry makes it fail, with apt's words on standard error.
debian_fetch() {
    local suite=$1 home package
    shift
    home=$target/debian/$suite
    mkdir -p "$home"/{etc/apt.conf.d,etc/preferences.d,lists/partial,archives/partial,debs}
    (
        flock 9
        : >"$home/status"
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(debian_mirror) $suite main" >"$home/etc/sources.list"
        # Dates are not checked: a snapshot mirror is older than the archive promises, and that is its purpose.
        local apt=(apt-get -qq -o "Dir::Etc=$home/etc" -o "Dir::Etc::sourcelist=$home/etc/sources.list" -o Dir::Etc::sourceparts=-
            -o "Dir::State::lists=$home/lists" -o "Dir::State::status=$home/status" -o "Dir::Cache=$home"
            -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=3
            -o Acquire::Check-Valid-Until=false -o Acquire::Check-Date=false
            -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
            -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false)
        if [ -z "$(find "$home/updated" -mmin -1440 2>/dev/null)" ]; then
            "${apt[@]}" update >&2 && touch "$home/updated" || exit 1
        fi
        cd "$home/debs" && "${apt[@]}" download "$@" >&2
    ) 9>"$home.lock" || return 1
    for package in "$@"; do
        # shellcheck disable=SC2012  # names are Debian's: no blanks in them
        ls -t "$home/debs/${package}"_*.deb | head -n 1
    done
}

# unresolved FILE: true if this machine's own loader lacks a library, or a symbol version, that FILE needs.
unresolved() {
    # Not into grep -q: it leaves at the first match, and ldd, still writing, would fail of SIGPIPE.
    [[ $(LC_ALL=C ldd "$1" 2>&1) == *'not found'* ]]
}

# use_own_libc FILE LIBDIR: makes FILE run on the libc unpacked in LIBDIR (its final place) instead of the machine's.
use_own_libc() {
    command -v patchelf >/dev/null || ensure_packages patchelf
    local loader
    case $(uname -m) in
        x86_64) loader=ld-linux-x86-64.so.2 ;;
        aarch64) loader=ld-linux-aarch64.so.1 ;;
        *) die "no loader name known for $(uname -m)" ;;
    esac
    # RPATH, not RUNPATH: only the old kind also serves the libraries of libraries.
    patchelf --set-interpreter "$2/$loader" --force-rpath --set-rpath "$2" "$1"
}
