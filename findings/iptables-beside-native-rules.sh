#!/bin/sh
# One would expect that iptables, which is nftables underneath today, either copes with a rule that nft has put into its
# table or says that it cannot. One would also expect that iptables-save fails if it cannot save.
#
# With iptables 1.8.9 (Debian 12) it depends on the native rule:
#   - ct state:    -S fails with status 1, and -C and -D of a rule behind it fail with 3. iptables-save succeeds, but has a
#                  comment in the place of the whole table.
#   - meta skuid:  -S prints the rules before it and none behind it, and fails with 3. So does iptables-save.
#   - iifname { }: no word at all. The rule is shown, saved and found without its set, as a rule for all packets.
# In all three cases -A goes on working. The manual page xtables-nft(8) says that a rule is added without reading the others,
# but not what follows from it.
#
# It matters to a program that asks with -C whether its rule is there, and adds the rule if not: beside one native rule the
# answer is an error each time. It matters to everybody who keeps rules with iptables-save: status 0 does not mean that the
# rules are saved, and a restored rule may drop all packets. Seen on a firewall to which a person had added one native rule.
set -eu
. "$(dirname "$0")/common"
need $nft $iptables

iptables-nft --version
nft --version

status() {
	code=0
	"$@" >"$root/out" 2>"$root/err" || code=$?
	echo "$code"
}

# beside RULE makes a table with a native rule between two of iptables.
beside() {
	echo "beside $1"
	nft flush ruleset
	iptables-nft -A INPUT -p tcp --dport 22 -j ACCEPT
	nft add rule ip filter INPUT "$1"
	saw "  status of iptables -A" 0 "$(status iptables-nft -A INPUT -p tcp --dport 23 -j ACCEPT)"
}

# rules prints how many rules of iptables were printed last.
rules() {
	grep -c -e '--dport' "$root/out" || true
}

beside 'ct state established accept'
saw "  status of iptables -S" 1 "$(status iptables-nft -S INPUT)"
saw "  status of iptables -C, rule that is there" 3 "$(status iptables-nft -C INPUT -p tcp --dport 23 -j ACCEPT)"
saw "  status of iptables -D, rule that is there" 3 "$(status iptables-nft -D INPUT -p tcp --dport 23 -j ACCEPT)"
saw "  status of iptables-save" 0 "$(status iptables-nft-save -t filter)"
saw "  rules that it saved, of 2" 0 "$(rules)"

beside 'meta skuid 0 accept'
saw "  status of iptables -S" 3 "$(status iptables-nft -S INPUT)"
saw "  rules that it printed, of 2" 1 "$(rules)"
saw "  status of iptables-save" 3 "$(status iptables-nft-save -t filter)"

beside 'iifname { "eth7", "eth8" } drop'
saw "  status of iptables -C, rule that drops all" 0 "$(status iptables-nft -C INPUT -j DROP)"
saw "  status of iptables-save" 0 "$(status iptables-nft-save -t filter)"
saw "  saved in the place of the native rule" "-A INPUT -j DROP" "$(grep DROP "$root/out")"
