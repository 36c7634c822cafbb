#!/bin/sh
# After shutdown(2) of a listening unix socket, accept(2) fails with EINVAL, as POSIX says for a socket that does not accept connections.
# One would expect the same of a socket with O_NONBLOCK.
#
# With O_NONBLOCK it says EAGAIN, each time: the kernel looks whether a connection waits before it looks at the shutdown (unix_accept and
# __skb_try_recv_datagram, Linux 6.18). poll(2) says POLLIN and POLLHUP meanwhile, so one who goes by POLLIN comes back at once, for ever,
# and one who waits for edges (EPOLLET) hears of it once and never again. Whoever connects is refused. A TCP socket says EINVAL both times.
#
# It matters to a server that another thread or process ends by shutdown(): by unix sockets it spins, or sleeps, and learns nothing. Seen
# when a test wanted to have accept() of a daemon fail.
set -eu
. "$(dirname "$0")/common"
need $python $python_more $ip

echo "Linux $(uname -r)"
ip link set lo up
python3.11 - >"$root/said" <<-'EOF'
	import errno, select, socket

	def accept(s):
	    try:
	        s.accept()
	        return "a connection"
	    except OSError as e:
	        return errno.errorcode[e.errno]

	for family, at in (socket.AF_UNIX, "\0finding"), (socket.AF_INET, ("127.0.0.1", 0)):
	    s = socket.socket(family)
	    s.bind(at)
	    s.listen()
	    at = s.getsockname()
	    s.shutdown(socket.SHUT_RDWR)
	    blocking = accept(s)
	    s.setblocking(False)
	    p = select.poll()
	    p.register(s, select.POLLIN)
	    ready = [bool(p.poll(0) and p.poll(0)[0][1] & flag) for flag in (select.POLLIN, select.POLLHUP)]
	    try:
	        socket.socket(family).connect(at)
	        other = "connects"
	    except OSError as e:
	        other = errno.errorcode[e.errno]
	    print(family.name, "blocking:", blocking, "else:", accept(s), accept(s), "IN, HUP:", *ready, "others:", other)
EOF
saw "accept after shutdown" "AF_UNIX blocking: EINVAL else: EAGAIN EAGAIN IN, HUP: True True others: ECONNREFUSED
AF_INET blocking: EINVAL else: EINVAL EINVAL IN, HUP: False True others: ECONNREFUSED" "$(cat "$root/said")"
