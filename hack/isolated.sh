#!/usr/bin/env bash
# isolated.sh COMMAND...: PID 1 of a namespace that test.sh or another script made. Gives the command an empty /run, reaps what is orphaned,
# and afterwards reports every process, mount and socket that the command left behind.
set -uo pipefail
tables() { awk '{ print $5 }' /proc/self/mountinfo | sort; }

mount -t tmpfs -o mode=755 tmpfs /run
before=$(tables)
# Not in the background, where a shell has Ctrl-C ignored.
"$@" </dev/null
status=$?
# What was told to end may take its moment: leaks are what is still there after it.
for _ in $(seq 50); do
    processes=$(find /proc -maxdepth 1 -name '[0-9]*' -printf '%f\n' | while read -r pid; do
        [ "$pid" -ne 1 ] || continue
        parent=$(awk '/^PPid/ { print $2 }' "/proc/$pid/status" 2>/dev/null)
        state=$(awk '/^State/ { print $2 }' "/proc/$pid/status" 2>/dev/null)
        words=$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline")
        # Our own helpers in this very pipe are children of this script and bear its name.
        case "$state:$words" in : | Z:* | *isolated.sh* | *:find\ /proc* | *awk*) continue ;; esac
        echo "left behind: process $pid of $parent: $words"
    done)
    [ -n "$processes" ] || break
    sleep 0.1
done
[ -z "$processes" ] || { echo "$processes"; status=1; }
mounts=$(comm -13 <(echo "$before") <(tables))
[ -z "$mounts" ] || { echo "$mounts" | sed 's/^/left behind: mount /'; status=1; }
sockets=$(find /run/containerd /run/containerd/s -type s 2>/dev/null | sort -u)
# The Go shim leaves its sockets behind.
[ -z "$sockets" ] || [ "${SHIM_UNDER_TEST:-ours}" = runc ] || { echo "$sockets" | sed 's/^/left behind: socket /'; status=1; }
exit $status
