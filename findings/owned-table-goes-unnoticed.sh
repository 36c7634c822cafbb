#!/bin/sh
# One would expect that each change of the ruleset begins a new generation and is told to those who listen. The kernel
# has NFT_MSG_GETGEN so that a program can see whether what it remembers of the ruleset is still true. A transaction can be
# bound to a generation (NFNL_BATCH_GENID), so that it fails if somebody else has changed anything.
#
# A table with "flags owner" goes with the process that made it, as it should. But when it goes (Linux 6.18, nft 1.0.6),
# the generation stays what it was, and "nft monitor" hears nothing. A chain with a hook is gone, and the ruleset is
# said to be the one from before.
#
# It matters to a program that keeps a copy of the ruleset and trusts the generation: it goes on believing in rules that are
# gone, and nothing wakes it up. Seen when a daemon was to be given a table with an owner.
set -eu
. "$(dirname "$0")/common"
need $nft $python

nft --version
echo "Linux $(uname -r)"

generation() {
	python3.11 - <<'EOF'
import socket, struct
netfilter = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
netfilter.settimeout(5)
NFT_MSG_GETGEN = 10 << 8 | 16
netfilter.send(struct.pack("=IHHIIBBH", 20, NFT_MSG_GETGEN, 1, 1, 0, 0, 0, 0))
print(struct.unpack_from(">I", netfilter.recv(4096), 24)[0])
EOF
}

gone() {
	! nft list table ip owned
}

heard() {
	grep -q "$1" "$root/events"
}

nft monitor >"$root/events" &
mkfifo "$root/commands"
nft -i <"$root/commands" >/dev/null &
exec 3>"$root/commands"
echo 'add table ip owned { flags owner; }' >&3
echo 'add chain ip owned out { type filter hook output priority 0; policy drop; }' >&3
until_true nft list chain ip owned out
before=$(generation)

exec 3>&-
until_true gone
after=$(generation)
saw "generations between the table of a running process, and none" 0 "$((after - before))"

# A later change is heard, so a change before it would have been heard too.
nft add table ip later
until_true heard 'add table ip later'
saw "generations for the next change, of an empty table" 1 "$(($(generation) - before))"
saw "times that nft monitor heard of the deletion" 0 "$(grep -c delete "$root/events" || true)"
