#!/bin/sh
# One would expect that a name server which answers half of the queries does less harm than one which answers none. One
# would expect that the second name server of resolv.conf is asked when the first one has left a query unanswered.
#
# With glibc 2.36 (Debian 12; 2.41 too), and a first name server that answers A and drops AAAA, a look-up of both by
# getaddrinfo takes three times the timeout, 15 s by default. The same server is asked three times for both, and the
# second one never. In the end the address of the first answer is used. If the first server answers nothing at all, the
# second one is asked after one timeout, 5 s. resolv.conf(5) says that the next name server is tried if a query times out.
#
# It matters to every program that asks for both families: each name takes so long, and a second name server is no help.
# Seen behind a proxy whose clients waited 15 s for each request.
set -eu
. "$(dirname "$0")/common"
apart() {
	fetch "$root/glibc" $glibc
}
need $ip $python

ip link set lo up

# queries SERVER prints how many both servers are asked while a name is looked up, with SERVER as the first one.
queries() {
	: >"$root/queries"
	look_up "$1" 127.0.0.3
	echo "$(grep -c "$1" "$root/queries" || true) and $(grep -c 127.0.0.3 "$root/queries" || true)"
}

bound() {
	[ "$(grep -c "0[123]00007F:0035" /proc/net/udp)" = 3 ]
}

glibc_getent --version | head -n 1
name_server 127.0.0.1 A 1 &
name_server 127.0.0.2 none 0 &
name_server 127.0.0.3 A,AAAA 1 &
until_true bound

saw "queries to the first and the second server, the first silent" "2 and 2" "$(queries 127.0.0.2)"
saw "queries to the first and the second server, the first silent for AAAA" "6 and 0" "$(queries 127.0.0.1)"
