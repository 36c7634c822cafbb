#!/bin/sh
# install-deps.sh demo|test|e2e: installs what `make demo` and `make bench`, `make test`, or `make e2e` need, where it is
# missing, and nothing else. For developers; the packages name their own dependencies.
set -eu

missing= apt= dnf=
need() { # a program, its packages for apt, and those for dnf if they have other names
	PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null || lack "$@"
}
lack() {
	missing="$missing $1" apt="$apt $2" dnf="$dnf ${3-$2}"
}

# Debian's tinyproxy-bin is the program. Its package tinyproxy is a service too, which listens on all addresses at once.
need tinyproxy tinyproxy-bin tinyproxy
need nft nftables
need ip iproute2 iproute
need curl "curl ca-certificates"
case ${1-} in
demo) ;;
test)
	need iptables-nft iptables iptables-nft
	need iptables-legacy iptables
	need sysctl procps procps-ng               # a remedy that doctor prints
	need gcc "gcc libc6-dev" "gcc glibc-devel" # for the race detector
	need sudo sudo                             # as which completion asks the daemon
	need zsh zsh                               # completes
	need fish fish
	;;
e2e)
	command -v apt-get >/dev/null || { echo "the end-to-end tests are made for Debian, and there is no apt-get here" >&2; exit 1; }
	need debootstrap debootstrap
	need systemd-nspawn systemd-container
	need systemd-analyze systemd
	need rpm rpm
	need lintian lintian
	need man man-db
	python3 -c 'import jinja2, yaml' 2>/dev/null || lack "python3 with jinja2 and yaml" "python3 python3-jinja2 python3-yaml"
	;;
*)
	echo "install-deps.sh: for what? demo, test or e2e" >&2
	exit 2
	;;
esac
[ -n "$missing" ] || exit 0
echo "installing:$missing"

if command -v apt-get >/dev/null; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update
	# shellcheck disable=SC2086 # a list of words
	apt-get -qq -o DPkg::Lock::Timeout=600 install -y --no-install-recommends $apt >/dev/null
elif command -v dnf >/dev/null; then
	# shellcheck disable=SC2086
	dnf -q -y install $dnf
else
	echo "neither apt-get nor dnf here: install$missing by hand" >&2
	exit 1
fi
