#!/bin/sh
# A dynamic set with "ct count" has an element for each key that has connections. One would expect that a set of size 1 is
# enough for one key, since an element without connections goes.
#
# It is not, if rules or sets change meanwhile (nft 1.0.6, Linux 6.18). An element without connections is dead from the next
# cleaning on, one a second. It then counts no longer for its key, and still takes up its place. If a transaction comes between,
# even one of another table, the kernel puts off the removal to the cleaning after that. Until then the set is full: "add"
# does not match, and the rule that follows is applied (nft_rhash_gc and nft_rhash_new in net/netfilter/nft_set_hash.c).
#
# It matters to somebody who bounds what one program has under way with a rule for those within the bound and a drop after it:
# the first packet after a pause is dropped, for up to a second, and only on a machine whose rules change often.
set -eu
. "$(dirname "$0")/common"
need $nft $ip $python

nft --version
echo "Linux $(uname -r)"
ip link set lo up

# after SIZE prints what becomes of questions that come 1 to 3 s after the one before, while another table changes.
after() {
	nft -f - <<-EOF
	flush ruleset
	table ip other {
		set ports { type inet_service; }
	}
	table ip x {
		ct timeout short {
			protocol udp
			policy = { unreplied : 1, replied : 1 }
		}
		set asking {
			type inet_service
			size $1
			flags dynamic
		}
		chain out {
			type filter hook output priority filter
			udp dport 9000 add @asking { udp dport ct count 100 } ct timeout set "short" accept
			udp dport 9000 drop
		}
	}
	EOF
	python3.11 - <<-EOF
	import socket, subprocess, time
	server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
	server.bind(("127.0.0.1", 9000))
	def asks():
	    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
	    client.connect(("127.0.0.1", 9000))
	    try:
	        client.send(b"question")
	        return True
	    except PermissionError:
	        return False
	passed = True
	end = time.monotonic() + 30
	while passed and time.monotonic() < end:
	    passed = asks()
	    again = time.monotonic() + 2.2
	    while time.monotonic() < again:
	        subprocess.run(["nft", "add element ip other ports { 5 }; delete element ip other ports { 5 }"], check=True)
	print("all pass" if passed else "one is dropped")
	EOF
}

saw "questions of one key by a set of size 1" "one is dropped" "$(after 1)"
saw "questions of one key by a set of size 16" "all pass" "$(after 16)"
