#!/bin/sh
# One would expect that a program cannot tell an output rule that drops from a network that loses the packet: "drop" is
# known as the silent verdict, "reject" as the one that tells.
#
# For a packet in hook output that is so with TCP only. connect() goes on trying until its time is over, with its SYNs counted
# as sent. For UDP the very same rule is an error at once: sendto() fails with EPERM, which nft(8) does not say (Linux 6.18,
# nft 1.0.6). In hook postrouting it is the same. In hook input, at the receiver, a drop is silent for both.
#
# It matters to programs that treat a lost question and an error differently. A resolver that gets EPERM goes to the next
# server at once, or gives up and shows "Operation not permitted" to somebody who looks for a permission of a file. Seen when
# a tool had to tell a firewall that drops from a name server that does not answer.
set -eu
. "$(dirname "$0")/common"
need $nft $ip $python

nft --version
echo "Linux $(uname -r)"
ip link set lo up

# outcome HOOK drops port 9000 in that hook, and prints what UDP and what TCP get.
outcome() {
	nft flush ruleset
	nft -f - <<-EOF
	table ip x {
		chain c {
			type filter hook $1 priority filter
			udp dport 9000 drop
			tcp dport 9000 drop
		}
	}
	EOF
	python3.11 - <<-EOF
	import socket
	def told(action):
	    try:
	        action()
	        return "sent"
	    except TimeoutError:
	        return "silence"
	    except OSError as e:
	        return e.strerror
	udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
	tcp = socket.socket()
	tcp.settimeout(2.5) # the second SYN is sent after 1 s
	print("UDP:", told(lambda: udp.sendto(b"x", ("127.0.0.1", 9000))) + ",",
	      "TCP:", told(lambda: tcp.connect(("127.0.0.1", 9000))))
	EOF
}

saw "dropped in hook output" "UDP: Operation not permitted, TCP: silence" "$(outcome output)"
saw "dropped in hook postrouting" "UDP: Operation not permitted, TCP: silence" "$(outcome postrouting)"
saw "dropped in hook input, on the other side" "UDP: sent, TCP: silence" "$(outcome input)"
