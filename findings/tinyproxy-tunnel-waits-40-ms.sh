#!/bin/sh
# One would expect that a proxy on the same machine adds some microseconds to an exchange in a CONNECT tunnel, because it
# only copies bytes.
#
# With tinyproxy 1.11.1 (Debian 12) an exchange whose answer has more than 2048 bytes takes 44 ms on loopback; without the
# proxy it takes 10 us. tinyproxy copies pieces of 2048 bytes and does not set TCP_NODELAY. So the kernel holds the second
# piece until the first one is acknowledged (Nagle's algorithm). The client has nothing to say before it has read all, so it
# acknowledges only after 40 ms (delayed ACK). With "quickack 1" on the route, and the same tinyproxy, the 40 ms are gone:
# this shows the cause. tinyproxy has no option for it; a BPF program of type sock_ops can set TCP_NODELAY from outside.
#
# It matters because a TLS handshake has this shape: its certificate takes some kilobytes. So each HTTPS connection through
# tinyproxy is late. Seen when a page took 45 ms where squid and privoxy took 2 ms.
set -eu
. "$(dirname "$0")/common"
need $tinyproxy $ip $python

tinyproxy -v
echo "Linux $(uname -r)"
ip link set lo up
cat >"$root/tinyproxy.conf" <<-EOF
	Port 8888
	Listen 127.0.0.1
	ConnectPort 443
EOF
tinyproxy -d -c "$root/tinyproxy.conf" >/dev/null 2>&1 &
until_true listening 8888

# An origin that answers 200 bytes with 3000, as a server answers the first message of TLS.
python3.11 - <<-EOF &
	import socket, threading
	def answer(client):
	    while client.recv(200, socket.MSG_WAITALL):
	        client.sendall(bytes(3000))
	server = socket.create_server(("127.0.0.1", 443))
	while True:
	    threading.Thread(target=answer, args=server.accept()[:1]).start()
EOF
until_true listening 443

# microseconds PORT prints how long an exchange takes, the median of 15.
microseconds() {
	python3.11 - <<-EOF
	import socket, time
	server = socket.create_connection(("127.0.0.1", $1))
	if $1 == 8888:
	    server.sendall(b"CONNECT 127.0.0.1:443 HTTP/1.1\r\n\r\n")
	    header = b""
	    while not header.endswith(b"\r\n\r\n"):
	        header += server.recv(1)
	def exchange():
	    begin = time.monotonic()
	    server.sendall(bytes(200))
	    server.recv(3000, socket.MSG_WAITALL)
	    return time.monotonic() - begin
	print(int(sorted(exchange() for _ in range(15))[7] * 1e6))
	EOF
}

direct=$(microseconds 443)
tunnel=$(microseconds 8888)
ip route replace table local local 127.0.0.0/8 dev lo quickack 1
ip route replace table local local 127.0.0.1 dev lo quickack 1
quick=$(microseconds 8888)
echo "an exchange, in microseconds: direct $direct, in a tunnel $tunnel, in a tunnel without delayed ACKs $quick"
saw "40 ms more in a tunnel" yes "$([ $((tunnel - direct)) -gt 38000 ] && echo yes || echo no)"
saw "a fifth of it without delayed ACKs" yes "$([ "$quick" -lt $((tunnel / 5)) ] && echo yes || echo no)"
