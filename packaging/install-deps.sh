#!/bin/sh
# Installs what building, testing and the demo need, where it is missing; with the argument "e2e", what `make e2e`
# needs besides. For developers; the packages name their own dependencies.
set -eu

missing=
need() {
	for program; do
		PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || missing="$missing $program"
	done
}

need tinyproxy nft iptables ip curl gcc zsh fish
e2e=
if [ "${1-}" = e2e ]; then
	e2e="debootstrap systemd-container rpm lintian man-db python3 python3-jinja2 python3-yaml"
	need debootstrap systemd-nspawn systemd-analyze rpm lintian man python3
	python3 -c 'import jinja2, yaml' 2>/dev/null || missing="$missing jinja2+yaml"
fi
[ -n "$missing" ] || exit 0
echo "installing:$missing"

if command -v apt-get >/dev/null; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update
	# shellcheck disable=SC2086 # a list of words
	apt-get -qq -o DPkg::Lock::Timeout=600 install -y --no-install-recommends \
		tinyproxy nftables iptables iproute2 curl ca-certificates gcc libc6-dev zsh fish $e2e >/dev/null
elif [ -n "$e2e" ]; then
	echo "the end-to-end tests are made for Debian, and there is no apt-get here" >&2
	exit 1
elif command -v dnf >/dev/null; then
	dnf -q -y install tinyproxy nftables iptables-nft iptables-legacy iproute curl gcc glibc-devel zsh fish
else
	echo "neither apt-get nor dnf here: install$missing by hand" >&2
	exit 1
fi
