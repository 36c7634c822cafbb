#!/bin/sh
# One would expect, from iptables, that a timeout policy is attached before connection tracking sees the packet. There
# -j CT --timeout works in the table raw, at priority -300, and nowhere else.
#
# In nftables it is the other way round. A chain with "ct timeout set" at a priority before -200, which is that of connection
# tracking, is accepted and has no effect (nft 1.0.6, Linux 6.18): the entry has the timeouts of the sysctls. At -150 it has
# the effect. nft(8) says so of helpers but not of timeouts; its example has priority filter.
#
# It matters to somebody who shortens TIME_WAIT so that one client cannot fill the table of connections: the ruleset looks
# right, and the table fills all the same. Seen in a firewall of 300 MB, whose table has 2048 entries; TIME_WAIT lasts 120 s.
set -eu
. "$(dirname "$0")/common"
need $nft $ip $conntrack $python

nft --version
echo "Linux $(uname -r)"
ip link set lo up

# timeout_at PRIORITY makes a connection, closes it, and prints whose timeout its entry has.
timeout_at() {
	nft flush ruleset
	conntrack -F 2>/dev/null
	nft -f - <<-EOF
	table ip x {
		ct timeout short {
			protocol tcp
			policy = { time_wait : 7 }
		}
		chain out {
			type filter hook output priority $1
			tcp dport 9000 ct timeout set "short"
		}
	}
	EOF
	python3.11 - <<-EOF
	import socket
	server = socket.create_server(("127.0.0.1", 9000))
	client = socket.create_connection(("127.0.0.1", 9000), timeout=5)
	client.close()
	accepted, _ = server.accept()
	accepted.recv(1)
	accepted.close()
	EOF
	seconds=$(conntrack -L -p tcp --dport 9000 --state TIME_WAIT 2>/dev/null | sed 's/tcp *6 *\([0-9]*\).*/\1/')
	if [ "${seconds:?no entry}" -le 7 ]; then echo "of the policy"; else echo "of the system"; fi
}

saw "timeout, set at priority -300" "of the system" "$(timeout_at -300)"
saw "timeout, set at priority -250" "of the system" "$(timeout_at -250)"
saw "timeout, set at priority -150" "of the policy" "$(timeout_at -150)"
