#!/bin/sh
# One would expect that an entry of connection tracking counts no more once its time is over: nf_conntrack_udp_timeout says "seconds", and
# somebody who makes it short wants room in the table.
#
# Expired entries stay, and count towards nf_conntrack_max, until the kernel's collector comes by. Its pace follows the average of the times
# that are left, to which a hundred made-up entries with the longest possible time are added; so in a small table it comes once a minute,
# however short all times are (gc_worker in net/netfilter/nf_conntrack_core.c, Linux 5.16 to 6.18). conntrack -L shows none of them, and
# by looking removes them: afterwards the count is right.
#
# It matters to whoever watches nf_conntrack_count, or bounds what one client can have tracked: after a burst, the table looks empty and
# is full. Seen in a firewall of 300 MB, where one machine's burst kept places from the others.
set -eu
. "$(dirname "$0")/common"
need $nft $ip $conntrack $python

echo "Linux $(uname -r)"
ip link set lo up
nft add table ip x '{ chain out { type filter hook output priority 0; ct state new accept; }; }'
echo 1 >/proc/sys/net/netfilter/nf_conntrack_udp_timeout
count() {
	cat /proc/sys/net/netfilter/nf_conntrack_count
}

# kept prints what counts 4 s after the time of 500 entries was over.
kept() {
	conntrack -F 2>/dev/null
	python3.11 - <<-EOF
	import socket
	for port in range(9001, 9501):
	    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", ("127.0.0.1", port))
	EOF
	sleep 5
	count
}
for try in 1 2 3; do # the collector may come just then
	kept=$(kept)
	[ "$kept" != 500 ] || break
done
saw "500 entries, 4 s after their time was over: nf_conntrack_count" 500 "$kept"
saw "conntrack -L shows" 0 "$(conntrack -L -p udp 2>/dev/null | grep -c . || true)"
saw "nf_conntrack_count after somebody has looked" 0 "$(count)"
