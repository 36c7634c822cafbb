#!/bin/sh
# One would expect that rules which nft of Debian 12 has saved (nft list ruleset) are loaded by that of Debian 13: this is how they come
# back after an upgrade (netfilter-persistent, or /etc/nftables.conf by hand).
#
# A rule that looks the family up in a set, and then an address, is loaded by nft 1.0.6 and listed in the same words. nft 1.1.3 and
# 1.1.7 refuse them, and with them the whole file: the machine starts without a packet filter. They also list such a rule of a
# program that writes by netlink, and do not load it again. All load the rule with the address first, which means the same.
#
# Each nft shows its own half, that of this machine: run this on both. It matters to whoever upgrades, and to programs with rules of
# their own. Seen when the tests of vifproxy's rules ran with the programs of Debian 13.
set -eu
. "$(dirname "$0")/common"
[ "$(id -u)" = 0 ] || cannot "it needs root, to make a namespace"
[ -n "${in_namespaces-}" ] || exec env in_namespaces=yes unshare --net sh "$0"
nft --version
case $(nft --version) in
*" v1.0."*) expected=loaded ;;
*" v1.1."*) expected="conflicting network layer protocols specified: unknown vs. ip" ;;
*) cannot "nobody has tried this version of nft" ;;
esac

# load RULE... loads a rule, and prints "loaded", or why nft refuses it.
load() {
	nft flush ruleset
	nft -f - 2>"$said" <<-EOF && echo loaded || sed -n 's/.*Error: //p' "$said"
	table inet x {
		set families { type nf_proto; elements = { ipv4, ipv6 }; }
		set home { type ipv4_addr; elements = { 192.0.2.1 }; }
		chain out { $*; }
	}
	EOF
}

said=$(mktemp)
trap 'rm -f "$said"' EXIT
saw "the address first" loaded "$(load 'ip daddr != @home meta nfproto @families accept')"
saw "the family first" "$expected" "$(load 'meta nfproto @families ip daddr != @home accept')"
[ "$expected" != loaded ] ||
	saw "as it is listed" "meta nfproto @families ip daddr != @home accept" "$(nft list chain inet x out | sed -n 's/^\t\t//p')"
