#!/bin/sh
# Installs what building, testing and the demo need, where it is missing. For developers; the packages name their own
# dependencies.
set -eu

missing=
for program in tinyproxy nft iptables ip curl gcc; do
	PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || missing="$missing $program"
done
[ -n "$missing" ] || exit 0
echo "installing:$missing"

if command -v apt-get >/dev/null; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update
	apt-get -qq install -y --no-install-recommends \
		tinyproxy nftables iptables iproute2 curl ca-certificates gcc libc6-dev >/dev/null
elif command -v dnf >/dev/null; then
	dnf -q -y install tinyproxy nftables iptables-nft iptables-legacy iproute curl gcc glibc-devel
else
	echo "neither apt-get nor dnf here: install$missing by hand" >&2
	exit 1
fi
