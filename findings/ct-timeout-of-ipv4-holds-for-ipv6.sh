#!/bin/sh
# A timeout policy of connection tracking names a protocol of layer 3: "l3proto ip" (the default of a table inet). One would expect that it
# has no effect on IPv6.
#
# It has the same effect there: the kernel compares nothing but the transport protocol (nft_ct_timeout_obj_eval in net/netfilter/nft_ct.c,
# Linux 4.19 to 6.18). nft 1.0.6 lists the policy as one of IPv4 all the same.
#
# It matters to whoever gives IPv6 other times than IPv4 in a table inet: the rule that comes last decides for both.
set -eu
. "$(dirname "$0")/common"
need $nft $ip $conntrack $python

nft --version
echo "Linux $(uname -r)"
ip link set lo up
nft -f - <<EOF
table inet x {
	ct timeout short {
		protocol udp
		l3proto ip
		policy = { unreplied : 7, replied : 7 }
	}
	chain out {
		type filter hook output priority mangle
		udp dport 9000 ct timeout set "short"
		udp dport 9001 ct state new accept
	}
}
EOF
saw "the policy is listed as one of" "l3proto ip" "$(nft list ct timeout inet x short | sed -n 's/^[[:space:]]*\(l3proto.*\)/\1/p')"

# seconds_of FAMILY ADDRESS PORT sends a datagram, and prints whose time its entry has.
seconds_of() {
	python3.11 -c 'import socket, sys; socket.socket(getattr(socket, sys.argv[1]), socket.SOCK_DGRAM).sendto(b"", (sys.argv[2], int(sys.argv[3])))' "$@"
	case $1 in AF_INET) family=ipv4 ;; *) family=ipv6 ;; esac
	seconds=$(conntrack -L -f $family -p udp --dport "$3" 2>/dev/null | sed 's/^udp *17 \([0-9]*\) .*/\1/')
	if [ "${seconds:?no entry}" -le 7 ]; then echo "of the policy"; else echo "of the system"; fi
}
saw "time of IPv4" "of the policy" "$(seconds_of AF_INET 127.0.0.1 9000)"
saw "time of IPv6" "of the policy" "$(seconds_of AF_INET6 ::1 9000)"
saw "time of IPv6 without the rule" "of the system" "$(seconds_of AF_INET6 ::1 9001)"
