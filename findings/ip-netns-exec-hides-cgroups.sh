#!/bin/sh
# One would expect that "ip netns exec NAME" changes the network, and in the file system only what ip-netns(8) tells of, the
# files of /etc/netns/NAME.
#
# It also mounts another sysfs over /sys (iproute2 6.1.0), so that /sys/class/net has the interfaces of that network. This
# hides everything that is mounted below /sys: cgroups, and BPF objects that are pinned in /sys/fs/bpf. Their folders are
# empty. The process is in the same cgroup as before, as /proc/self/cgroup says, but cannot find it. With
# nsenter --net=/run/netns/NAME all of it stays.
#
# It matters to a program that makes cgroups, reads its own limits, or uses pinned maps, and is started in a named
# namespace. Seen when the limits of a daemon had no effect in a test laboratory.
set -eu
. "$(dirname "$0")/common"
need $ip

ip -V
mount -t tmpfs none /run
mount -t cgroup2 none /sys/fs/cgroup
mount -t bpf none /sys/fs/bpf
mkdir /sys/fs/bpf/pinned
ip netns add other

# seen COMMAND... prints which of the two files are there for a shell that COMMAND runs.
seen() {
	"$@" sh -c 'cd /sys/fs; for file in cgroup/cgroup.procs bpf/pinned; do [ ! -e $file ] || echo $file; done' | xargs
}

saw "seen here" "cgroup/cgroup.procs bpf/pinned" "$(seen env)"
saw "seen by nsenter" "cgroup/cgroup.procs bpf/pinned" "$(seen nsenter --net=/run/netns/other)"
saw "seen by ip netns exec" "" "$(seen ip netns exec other)"
same=$([ "$(cat /proc/self/cgroup)" = "$(ip netns exec other cat /proc/self/cgroup)" ] && echo yes || echo no)
saw "the same cgroup by ip netns exec" yes "$same"
