#!/bin/sh
# A rule of nat in hook output sends each user's questions to a server of their own ("dnat to meta skuid map ..."). One would
# expect that a user's packet never goes to another user's server.
#
# It does (nft 1.0.6, Linux 6.18). nat decides once for a flow, and a flow is addresses and ports: if another user sends from
# the same port to the same address before the entry is forgotten, after 30 s by default, the packet takes the first user's
# way. All users of a machine ask a local server from 127.0.0.1, so they share 28,000 ports.
#
# It matters where the way says who asks: another user's questions seem to be the first one's. A rule behind the nat has to
# compare user and translated address once more, and a question that it refuses has to be asked again from another port.
#
# A zone of connection tracking for each user ("ct zone set" before priority -200) keeps their flows apart, and then each
# question takes its own user's way. The answers need the same zone, by the server's address.
set -eu
. "$(dirname "$0")/common"
need $nft $ip $python

nft --version
echo "Linux $(uname -r)"
ip link set lo up
nft -f - <<EOF
table ip x {
	map servers {
		type uid : ipv4_addr . inet_service
		elements = { 10001 : 127.1.0.1 . 9000, 10002 : 127.1.0.2 . 9000 }
	}
	chain out {
		type nat hook output priority -100
		udp dport 53 dnat ip to meta skuid map @servers
	}
}
EOF

# ask UID PORT sends a question as that user, from that port, and prints at which server it arrives.
ask() {
	python3.11 - "$1" "$2" <<-EOF
	import os, socket, sys
	servers = []
	for address in "127.1.0.1", "127.1.0.2":
	    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
	    server.bind((address, 9000))
	    server.settimeout(0.5)
	    servers.append((address, server))
	os.setuid(int(sys.argv[1]))
	client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
	client.bind(("127.0.0.1", int(sys.argv[2])))
	client.sendto(b"question", ("127.0.0.1", 53))
	for address, server in servers:
	    try:
	        server.recv(100)
	        print(address)
	    except TimeoutError:
	        pass
	EOF
}

saw "server of the first user" 127.1.0.1 "$(ask 10001 40000)"
saw "server of the second user, from another port" 127.1.0.2 "$(ask 10002 40001)"
saw "server of the second user, from the first one's port" 127.1.0.1 "$(ask 10002 40000)"

nft -f - <<EOF
table ip x {
	map zones {
		typeof meta skuid : ct zone
		elements = { 10001 : 1, 10002 : 2 }
	}
	chain zones {
		type filter hook output priority -310
		udp dport 53 ct zone set meta skuid map @zones
	}
}
EOF
saw "server of the first user, with zones" 127.1.0.1 "$(ask 10001 40002)"
saw "server of the second user, from the same port" 127.1.0.2 "$(ask 10002 40002)"
