#!/bin/sh
# One would expect that nothing is left of a connection when the interface is deleted by which it came in, and with it the
# address and the route. One would expect a later client with the same address to be sent where the rules of NAT say.
#
# Connection tracking (Linux 6.18) does not ask whether an interface is still there. It keeps the entry, and the
# translation in it, for five days (nf_conntrack_tcp_timeout_established). If the next connection of that address has the
# same source port, its SYN belongs to the old entry: it goes where the rules of that time sent it, and is refused if nobody
# listens there any more. A connection from another port reaches the right server at once.
#
# It matters if clients are virtual machines that keep their address. After an unclean end, the new machine may use a port
# that the old one used, and that connection fails. Flushing the ruleset and loading it again is no remedy: the entry has
# to be deleted (conntrack -D). Seen when virtual machines were restarted behind a dnat.
set -eu
. "$(dirname "$0")/common"
need $nft $ip $conntrack $python

nft --version
echo "Linux $(uname -r)"

# attach makes the client's machine, a network namespace, and a cable to it.
attach() {
	unshare --net sleep 100 &
	client=$!
	until_true other_network
	ip link add to-client type veth peer name uplink netns "$client"
	ip addr add 192.0.2.1/24 dev to-client
	ip link set to-client up
	in_client ip addr add 192.0.2.2/24 dev uplink
	in_client ip link set uplink up
}

other_network() {
	[ "$(readlink "/proc/$client/ns/net")" != "$(readlink /proc/self/ns/net)" ]
}

in_client() {
	nsenter --net="/proc/$client/ns/net" "$@"
}

# connect SOURCE-PORT SECONDS prints who answers, and stays connected that long.
connect() {
	in_client python3.11 - <<-EOF
	import socket, time
	client = socket.socket()
	client.bind(("192.0.2.2", $1))
	client.settimeout(10)
	try:
	    client.connect(("192.0.2.1", 80))
	    print(client.recv(100).decode(), flush=True)
	    client.send(b"never read")
	    time.sleep($2)
	except ConnectionRefusedError:
	    print("refused")
	EOF
}

# serve PORT, in the background, tells each client the port, and keeps it connected for as long as it lives.
serve() {
	exec python3.11 -c '
import socket, sys
server, clients = socket.create_server(("0.0.0.0", int(sys.argv[1]))), []
while True:
    clients.append(server.accept()[0])
    clients[-1].send(b"server " + sys.argv[1].encode())
' "$1"
}

entry() {
	conntrack -L -p tcp --orig-port-src 5000 2>/dev/null |
		sed 's/tcp *6 *[0-9]* \([A-Z_]*\) .* sport=\([0-9]*\) .*/\1, to \2/'
}

translate_to() {
	nft flush ruleset
	nft "add table ip x; add chain ip x in { type nat hook prerouting priority dstnat; }; \
		add rule ip x in tcp dport 80 dnat to 192.0.2.1:$1"
}

serve 8001 &
old=$!
serve 8002 &
until_true listening 8001
until_true listening 8002
attach
translate_to 8001
connect 5000 100 >"$root/first" &
until_true grep server "$root/first"
saw "first machine, from port 5000" "server 8001" "$(cat "$root/first")"

# The machine vanishes without a word, and so does the old server. Since the server has not read all, it closes with a
# reset, for which there is no way to the client, and which is not sent again.
ip link delete to-client
kill "$old"
translate_to 8002
attach
saw "its entry, without its interface" "ESTABLISHED, to 8001" "$(entry)"
saw "second machine, from port 5001" "server 8002" "$(connect 5001 0)"
saw "second machine, from port 5000" "refused" "$(connect 5000 0)"
