#!/bin/sh
# One would expect that a program which deletes a rule of nftables takes as long as one which adds a rule. If a transaction
# takes long, one would expect to wait where it is sent.
#
# The kernel (Linux 6.18, nft 1.0.6) carries a deletion out as fast as an addition, in less than 0.1 ms, and the rule is out
# of force then. But close() of the netlink socket, which nft calls at its end, takes 5 to 25 ms. The kernel destroys what
# was deleted in a worker, after a grace period of RCU, and a netfilter socket that is closed waits for this worker
# (nft_rcv_nl_event in net/netfilter/nf_tables_api.c).
#
# It matters to a program that changes rules by running nft or iptables-nft: a run that deletes costs as much as five that
# add, so additions should come first. A program that keeps a netlink socket of its own open never waits. Seen when
# iptables took 2 ms to insert a rule and 15 to 40 ms to delete one.
set -eu
. "$(dirname "$0")/common"
need $nft $strace

nft --version
echo "Linux $(uname -r)"

# microseconds CALL prints how long the longest of those took that were traced.
microseconds() {
	sed -n "s/^$1(.*<\([0-9]*\)\.\([0-9]*\)>\$/\1\2/p" "$root/trace" | sort -n | tail -n 1 | sed 's/^0*//'
}

# median FILE prints the median of its 15 numbers.
median() {
	sort -n "$1" | sed -n 8p
}

nft 'add table ip x; add chain ip x y'
for i in $(seq 15); do
	strace -qq -T -e trace=sendmsg,close -o "$root/trace" nft add rule ip x y counter
	microseconds close >>"$root/close-after-add"
	handle=$(nft -a list chain ip x y | sed -n 's/.*counter.*# handle //p')
	strace -qq -T -e trace=sendmsg,close -o "$root/trace" nft delete rule ip x y handle "$handle"
	microseconds close >>"$root/close-after-delete"
	microseconds sendmsg >>"$root/send-delete"
done
add=$(median "$root/close-after-add") delete=$(median "$root/close-after-delete") send=$(median "$root/send-delete")
echo "medians of 15, in microseconds: close() after an addition $add, after a deletion $delete; sending the deletion $send"
saw "close() takes ten times as long after a deletion" yes "$([ "$delete" -gt $((10 * add)) ] && echo yes || echo no)"
saw "close() takes ten times as long as the deletion" yes "$([ "$delete" -gt $((10 * send)) ] && echo yes || echo no)"
