#!/bin/sh
# A machine connects to an address of its own, which is on eth0. One would expect that the packet filter and a listening
# socket agree by which interface the connection comes in.
#
# They do not (nft 1.0.6, Linux 6.18). For chains of hook input it comes in by lo. For sockets it comes in by eth0: one
# that is bound to the device eth0 (SO_BINDTODEVICE) gets it, one that is bound to lo does not. The kernel looks for the
# socket with the interface that the route of the packet notes, and a route to an own address notes the interface that has
# the address (orig_oif in net/ipv4/route.c, inet_iif).
#
# It matters where a program and a rule guard the same door: a service that listens "on the inner interface only" serves
# local programs as well, and a BPF program of type sk_lookup, which sees the socket's view (ingress_ifindex), cannot know
# local connections by the interface lo. Seen with such a program, which was to let only lo through.
set -eu
. "$(dirname "$0")/common"
need $nft $ip $python

nft --version
echo "Linux $(uname -r)"
ip link set lo up
ip link add uplink type veth peer name elsewhere
ip addr add 192.0.2.1/24 dev uplink
ip link set uplink up
nft -f - <<EOF
table ip x {
	chain in {
		type filter hook input priority filter
		tcp dport 80 tcp flags syn / syn,ack iifname "lo" counter
		tcp dport 80 tcp flags syn / syn,ack iifname "uplink" counter
	}
}
EOF

# connect DEVICE prints what becomes of a local connection to a socket that is bound to that device.
connect() {
	python3.11 - "$1" <<-EOF
	import socket, sys
	listener = socket.socket()
	listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[1].encode())
	listener.bind(("192.0.2.1", 80))
	listener.listen()
	try:
	    socket.create_connection(("192.0.2.1", 80), timeout=3)
	    print("connected")
	except OSError as error:
	    print(error.strerror or error)
	EOF
}

# packets INTERFACE prints how many first packets have come in by it, for the packet filter.
packets() {
	nft list chain ip x in | sed -n "s/.*\"$1\" counter packets \([0-9]*\) .*/\1/p"
}

saw "to a socket that is bound to the interface of the address" connected "$(connect uplink)"
saw "to a socket that is bound to lo" "Connection refused" "$(connect lo)"
saw "first packets that came in by lo, for the packet filter" 2 "$(packets lo)"
saw "first packets that came in by the interface of the address" 0 "$(packets uplink)"
