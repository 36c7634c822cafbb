#!/bin/sh
# One would expect that to take an element out of a set of nftables costs about as much as to put it in, and hardly more if
# the set is large, as in a tree or a hash table.
#
# That is so for a set of plain intervals. But if the key is a concatenation (type mark . ipv4_addr, flags interval), the
# kernel goes through the elements one by one to find the one to remove (Linux 6.18, nft_pipapo_remove in
# net/netfilter/nft_set_pipapo.c). That takes 7 us for each element that was put in earlier: 70 ms behind 10,000 of them.
# To put one in takes 1 ms there. Meanwhile the transaction holds the lock for which every other transaction in the same
# network namespace waits.
#
# It matters to somebody who keeps rules for many clients in one such set: if many clients leave at once, nobody can
# change the firewall for seconds. Seen with a set of openings for each user.
set -eu
. "$(dirname "$0")/common"
need $nft $strace

nft --version
echo "Linux $(uname -r)"

# microseconds COMMAND OPPOSITE SET ELEMENT prints how long the kernel works on COMMAND, the median of 5; OPPOSITE undoes it.
microseconds() {
	for i in 1 2 3 4 5; do
		strace -qq -T -e trace=sendmsg -o "$root/trace" nft "$1 element ip x $3 { $4 }"
		sed -n 's/.*<\([0-9]*\)\.\([0-9]*\)>$/\1\2/p' "$root/trace" | sed 's/^0*//' | sort -n | tail -n 1
		nft "$2 element ip x $3 { $4 }"
	done | sort -n | sed -n 3p
}

# compare SET ELEMENT measures an element that comes after 4000 others.
compare() {
	add=$(microseconds add delete "$1" "$2")
	nft "add element ip x $1 { $2 }"
	delete=$(microseconds delete add "$1" "$2")
	echo "$1, in microseconds: to put one in $add, to take it out $delete"
	ten=$([ "$delete" -lt $((10 * add)) ] && echo no || echo yes)
}

{
	echo 'table ip x {'
	echo 'set plain { type ipv4_addr; flags interval; elements = {'
	for i in $(seq 0 3999); do echo "10.$((i / 250)).$((i % 250)).0-10.$((i / 250)).$((i % 250)).9,"; done
	echo '}; }'
	echo 'set concatenated { type mark . ipv4_addr; flags interval; elements = {'
	for i in $(seq 0 3999); do echo "$i . 10.0.0.0-10.0.0.9,"; done
	echo '}; }'
	echo '}'
} >"$root/rules"
nft -f "$root/rules"

compare plain '10.200.0.0-10.200.0.9'
saw "ten times as long to take it out" no "$ten"
compare concatenated '4000 . 10.0.0.0-10.0.0.9'
saw "ten times as long to take it out" yes "$ten"
