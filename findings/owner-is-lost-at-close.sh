#!/bin/sh
# One would expect that what a process has sent has the uid of this process, for "meta skuid", until the other side has
# it: send() has taken it, and nothing else is to be done.
#
# But when the process closes the socket or ends, the socket has no owner any more (Linux 6.18). The kernel still sends
# what is buffered, and that may take minutes if the other side reads slowly. These packets match no rule that allows by
# uid, and neither does the packet that ends the connection. nft(8) says only that skuid is the UID of the originating socket.
#
# It matters to somebody who allows by uid and drops the rest. A program sends, is told that all is well, and ends; the
# other side gets a part of the data and no end, and waits. A remedy is to accept established connections before the rules
# by uid. Seen when a firewall by uid was built.
set -eu
. "$(dirname "$0")/common"
need $nft $ip $python

nft --version
echo "Linux $(uname -r)"
ip link set lo up

# transfer RULE sends 150,000 bytes as user 1234, through a chain that allows that user, after RULE, and drops the rest.
# The sender closes as soon as the kernel has taken them; the other side reads after that, and what comes is counted.
transfer() {
	nft flush ruleset
	nft -f - <<-EOF
	table ip x {
		chain out {
			type filter hook output priority filter
			tcp sport 9000 accept
			$1
			meta skuid 1234 accept
			drop
		}
	}
	EOF
	python3.11 - <<-EOF
	import os, socket
	server = socket.create_server(("127.0.0.1", 9000))
	server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 30000)
	os.setuid(1234)
	sender = socket.socket()
	sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200000)
	sender.connect(("127.0.0.1", 9000))
	receiver, _ = server.accept()
	sender.send(bytes(150000))
	sender.close()
	receiver.settimeout(3)
	received = 0
	try:
	    while piece := receiver.recv(65536):
	        received += len(piece)
	    end = "and an end"
	except TimeoutError:
	    end = "and no end"
	print("all" if received == 150000 else "a part" if received else "nothing", end)
	EOF
}

saw "received, allowed by uid" "a part and no end" "$(transfer "")"
saw "received, allowed by uid, and what is established before that" "all and an end" "$(transfer "ct state established accept")"
