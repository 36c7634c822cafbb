#!/bin/sh
# A timeout policy of connection tracking has two times for UDP: "unreplied" and "replied". One would expect that an
# answered question is forgotten after the second one.
#
# It is not (nft 1.0.6, Linux 6.18). The second time counts only for what comes later than 2 s after the first packet. A
# question that is answered sooner keeps its entry for the time of "unreplied", however short "replied" is
# (nf_conntrack_udp_packet in net/netfilter/nf_conntrack_proto_udp.c, since Linux 5.0).
#
# It matters to somebody who wants questions for names out of a small table as soon as they are answered, and still wait for
# slow answers: a short "replied" changes nothing, and a short "unreplied" loses the slow ones.
set -eu
. "$(dirname "$0")/common"
need $nft $ip $conntrack $python

nft --version
echo "Linux $(uname -r)"
ip link set lo up
nft -f - <<EOF
table ip x {
	ct timeout short {
		protocol udp
		policy = { unreplied : 60, replied : 3 }
	}
	chain out {
		type filter hook output priority mangle
		udp dport 9000 ct timeout set "short"
	}
}
EOF

# asked PAUSE asks, answers, waits, asks and answers again from the same port, and prints whose time the entry has.
asked() {
	conntrack -F 2>/dev/null
	python3.11 - "$1" <<-EOF
	import socket, sys, time
	server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
	server.bind(("127.0.0.1", 9000))
	client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
	client.connect(("127.0.0.1", 9000))
	for pause in float(sys.argv[1]), 0:
	    client.send(b"question")
	    _, at = server.recvfrom(100)
	    server.sendto(b"answer", at)
	    client.recv(100)
	    time.sleep(pause)
	EOF
	left=$(conntrack -L -p udp --dport 9000 2>/dev/null | sed 's/^udp *17 \([0-9]*\) .*/\1/')
	if [ "$left" -gt 3 ]; then echo unreplied; else echo replied; fi
}

saw "time of a question that was answered at once" unreplied "$(asked 0)"
saw "time of one in a conversation that is older than 2 s" replied "$(asked 2.5)"
