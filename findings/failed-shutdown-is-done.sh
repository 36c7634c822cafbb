#!/bin/sh
# shutdown(2) says ENOTCONN for a socket that is not connected. One would expect that nothing has happened then.
#
# A UDP socket that is not connected is shut down all the same: from then on it sends nothing (EPIPE), poll says that its peer has hung up,
# and connect(2) to another address does not undo it (inet_shutdown in net/ipv4/af_inet.c, Linux 6.18: "Hack to wake up other listeners").
# No call of getsockopt(2) shows it.
#
# It matters to a service that shares its socket, or hands it from one worker to the next: a worker that ends by shutting down what it
# believes to be its own connection silences all others, and its error says that it did nothing.
set -eu
. "$(dirname "$0")/common"
need $python $python_more $ip

echo "Linux $(uname -r)"
ip link set lo up
"$root/usr/bin/python3.11" - >"$root/said" <<-'EOF'
	import os, select, socket

	def tries(what, f):
	    try:
	        f()
	        print(what + ": done")
	    except OSError as e:
	        print(what + ": " + os.strerror(e.errno))

	s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
	s.bind(("127.0.0.1", 0))
	other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
	other.bind(("127.0.0.1", 0))
	tries("send", lambda: s.sendto(b"a", other.getsockname()))
	tries("shut down", lambda: s.shutdown(socket.SHUT_RDWR))
	tries("send", lambda: s.sendto(b"b", other.getsockname()))
	p = select.poll()
	p.register(s, select.POLLIN | select.POLLRDHUP)
	print("hung up:", bool(p.poll(0) and p.poll(0)[0][1] & select.POLLHUP))
	tries("connect", lambda: s.connect(other.getsockname()))
	tries("send", lambda: s.send(b"c"))
EOF
saw "a UDP socket that is not connected" "send: done
shut down: Transport endpoint is not connected
send: Broken pipe
hung up: True
connect: done
send: Broken pipe" "$(cat "$root/said")"
