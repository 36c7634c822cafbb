#!/bin/sh
# One would expect that a connection which a chain of hook output rejects fails at once with "connection refused". One
# would not expect a packet to come in for that, because this machine itself says no.
#
# With "reject with tcp reset" (nft 1.0.6, Linux 6.18) the kernel makes the packet that the server would have sent. Its
# source is the server's address, and it comes in by lo, through prerouting and input, like any other. A rule against
# spoofing, which lets only own addresses come in by lo, drops it. Then the program waits as long as if its own packets had
# been dropped. The plain "reject", which answers by ICMP, has an own address as its source and arrives.
#
# It matters if the two chains are written by two authors: each chain is right, but together they make refused connections
# hang for minutes. Qubes OS has such a rule against spoofing. Seen there, for connections to the address of a virtual machine.
set -eu
. "$(dirname "$0")/common"
need $nft $ip $python

nft --version
echo "Linux $(uname -r)"
ip link set lo up
ip link add uplink type veth peer name elsewhere
ip addr add 192.0.2.1/24 dev uplink
ip link set uplink up

# connect REJECT RULE prints what becomes of a connection that is rejected so, with that rule for packets that come in by lo.
connect() {
	nft flush ruleset
	nft -f - <<-EOF
	table ip x {
		chain in {
			type filter hook prerouting priority raw
			iifname "lo" $2
		}
		chain out {
			type filter hook output priority filter
			ip daddr 192.0.2.2 $1
		}
	}
	EOF
	python3.11 - <<-EOF
	import socket
	try:
	    socket.create_connection(("192.0.2.2", 80), timeout=3)
	except OSError as error:
	    print(error.strerror or error)
	EOF
}

# packets prints how many the rule for lo has counted.
packets() {
	nft list chain ip x in | sed -n 's/.*packets \([0-9]*\) .*/\1/p'
}

saw "rejected with a reset" "Connection refused" "$(connect "reject with tcp reset" "ip saddr 192.0.2.2 counter")"
saw "packets from the server's address that came in by lo" 1 "$(packets)"
saw "the same, beside a rule against spoofing" "timed out" \
	"$(connect "reject with tcp reset" "ip saddr != { 127.0.0.0/8, 192.0.2.1 } counter drop")"
saw "rejected by ICMP, beside that rule" "Connection refused" \
	"$(connect "reject" "ip saddr != { 127.0.0.0/8, 192.0.2.1 } counter drop")"
saw "packets that it dropped" 0 "$(packets)"
