#!/bin/sh
# One would expect that a CONNECT tunnel carries what a TCP connection carries. In TCP a program may close its sending side
# (shutdown) to say that its request is complete, and then read the answer.
#
# tinyproxy 1.11.1 (Debian 12) takes the end of one direction for the end of both. When the client has closed its sending
# side, tinyproxy closes the connection to the server too, and the client reads an end in the place of the answer: no byte
# and no error. Without the proxy all bytes arrive. They also arrive in the tunnel if the client does not close.
#
# It matters to programs that end their request in this way, as "nc -N -X connect" does: through the proxy they end with
# success and without the data. tinyproxy.conf(5) does not mention it. Seen when it was tried what a tunnel carries.
set -eu
. "$(dirname "$0")/common"
need $tinyproxy $ip $python

tinyproxy -v
ip link set lo up
cat >"$root/tinyproxy.conf" <<-EOF
	Port 8888
	Listen 127.0.0.1
	ConnectPort 443
EOF
tinyproxy -d -c "$root/tinyproxy.conf" >/dev/null 2>&1 &
until_true listening 8888

# An origin that answers one byte with 100,000, half a second later.
python3.11 - <<-EOF &
	import socket, threading, time
	def answer(client):
	    client.recv(1)
	    time.sleep(0.5)
	    client.sendall(bytes(100000))
	    client.close()
	server = socket.create_server(("127.0.0.1", 443))
	while True:
	    threading.Thread(target=answer, args=server.accept()[:1]).start()
EOF
until_true listening 443

# received PORT CLOSES prints how many bytes of the answer come, if the client closes its sending side or does not.
received() {
	python3.11 - <<-EOF
	import socket
	server = socket.create_connection(("127.0.0.1", $1), timeout=10)
	if $1 == 8888:
	    server.sendall(b"CONNECT 127.0.0.1:443 HTTP/1.1\r\n\r\n")
	    header = b""
	    while not header.endswith(b"\r\n\r\n"):
	        header += server.recv(1)
	server.sendall(b"?")
	if $2:
	    server.shutdown(socket.SHUT_WR)
	count = 0
	while piece := server.recv(65536):
	    count += len(piece)
	print(count)
	EOF
}

saw "bytes received, direct, sending side left open" 100000 "$(received 443 False)"
saw "bytes received, direct, sending side closed" 100000 "$(received 443 True)"
saw "bytes received in a tunnel, sending side left open" 100000 "$(received 8888 False)"
saw "bytes received in a tunnel, sending side closed" 0 "$(received 8888 True)"
