#!/bin/sh
# A rule of nftables asks for what is not so: "meta oifkind != wireguard", or "meta skuid != 12345". One would expect that it matches each
# packet of which the first form, with "==", does not match.
#
# It does not match where there is nothing to compare: an interface without a kind, such as lo and network cards, or a packet that no process
# sends. The rule ends there, as it does with "==" (nft_meta_get_eval in net/netfilter/nft_meta.c, Linux 5.10 to 6.18). The match "owner"
# of iptables says the opposite: what nobody owns is not owned by 12345 (owner_mt in net/netfilter/xt_owner.c), but iptables-translate
# makes the one of the other.
#
# It matters to whoever drops all that does not leave by a tunnel, or that a certain user does not send: the rule has to name what passes,
# and drop the rest.
set -eu
. "$(dirname "$0")/common"
need $nft $iptables $ip $python

nft --version
iptables-nft --version
echo "Linux $(uname -r)"
ip link set lo up
ip link add veth9 type veth peer name veth8
ip addr add 192.0.2.1/24 dev veth9
ip link set veth9 up
ip link set veth8 up
saw "what iptables-translate makes of ! --uid-owner" "nft 'add rule ip filter OUTPUT skuid != 12345 counter'" \
	"$(iptables-translate -A OUTPUT -m owner ! --uid-owner 12345)"
nft -f - <<EOF
table ip x {
	counter card { }
	counter kind { }
	counter nobody { }
	chain out {
		type filter hook output priority filter
		oifname lo udp dport 9000 meta oifkind != "wireguard" counter name card
		oifname veth9 udp dport 9000 meta oifkind != "wireguard" counter name kind
		ip protocol icmp meta skuid != 12345 counter name nobody
	}
}
EOF
iptables-nft -A OUTPUT -p icmp -m owner ! --uid-owner 12345

# The kernel answers the first datagram by ICMP, since nobody listens.
for to in 127.0.0.1 192.0.2.9; do
	python3.11 -c 'import socket, sys; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", (sys.argv[1], 9000))' $to
done
sleep 1
packets() { nft list counter ip x "$1" | sed -n 's/.*packets \([0-9]*\) .*/\1/p'; }
saw "packets by lo, which has no kind, whose kind is not wireguard" 0 "$(packets card)"
saw "packets by an interface of kind veth, whose kind is not wireguard" some "$(if [ "$(packets kind)" -gt 0 ]; then echo some; else echo none; fi)"
saw "packets of the kernel that user 12345 does not send, by nft" 0 "$(packets nobody)"
saw "the same, by iptables" 1 "$(iptables-nft -L OUTPUT -v -x -n | sed -n 's/^ *\([0-9]*\) .*owner.*/\1/p')"
