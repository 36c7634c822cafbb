#!/bin/sh
# One would expect that a look-up sends one query for A and one for AAAA, and no more if both are answered.
#
# With glibc 2.36 (Debian 12; 2.41 too) getaddrinfo sends both twice if the name has 26 addresses or more, although each
# answer came at once and complete, in less than 512 bytes. The buffer for the result has 1024 bytes at first. If the
# result does not fit, it is thrown away and all is done again with a larger buffer, from the query on. Neither
# resolv.conf(5) nor getaddrinfo(3) mentions it.
#
# It matters to a program that counts or limits queries. It also matters to one that watches the answers on the network, to
# know which addresses another program will use: if they change from answer to answer, the second answer counts. Seen in a
# count of the queries of a proxy.
set -eu
. "$(dirname "$0")/common"
apart() {
	fetch "$root/glibc" $glibc
}
need $ip $python

ip link set lo up

# queries SERVER prints how many it is asked while a name is looked up.
queries() {
	: >"$root/queries"
	look_up "$1"
	wc -l <"$root/queries"
}

bound() {
	[ "$(grep -c "0[12]00007F:0035" /proc/net/udp)" = 2 ]
}

glibc_getent --version | head -n 1
name_server 127.0.0.1 A,AAAA 25 &
name_server 127.0.0.2 A,AAAA 26 &
until_true bound

saw "queries for a name with 25 addresses" 2 "$(queries 127.0.0.1)"
saw "queries for a name with 26 addresses" 4 "$(queries 127.0.0.2)"
