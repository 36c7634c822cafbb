#!/bin/sh
# install-deps.sh demo|bench|test|e2e|website|matrix: installs what `make demo`, `make bench` and so on need, where it is missing, and
# nothing else. For developers; the packages name their own dependencies.
set -eu

missing= apt= dnf= peers=
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
bench)
	# Beside these vifproxy is measured. Where one is not to be had, its figures say so.
	for name in squid privoxy chromium; do
		PATH=$PATH:/usr/sbin:/sbin command -v $name >/dev/null || peers="$peers $name"
	done
	;;
test)
	need iptables-nft iptables iptables-nft
	need iptables-legacy iptables
	need sysctl procps procps-ng               # a remedy that doctor prints
	need gcc "gcc libc6-dev" "gcc glibc-devel" # for the race detector
	need sudo sudo                             # as which completion asks the daemon
	need dbus-daemon dbus-daemon               # on which vifproxy-client shows notifications
	need git git                               # reads what vifproxy-client writes
	need zsh zsh                               # completes
	need fish fish
	need tmux tmux                             # a terminal for what is drawn on one
	;;
website)
	need gcc "gcc libc6-dev" "gcc glibc-devel" # for the race detector
	need tmux tmux                             # a terminal in which a person sits
	need chromium chromium
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
matrix)
	command -v apt-get >/dev/null || { echo "the VMs have Debian's kernels, and there is no apt-get here" >&2; exit 1; }
	need qemu-system-x86_64 "qemu-system-x86 seabios"
	need debootstrap debootstrap
	need mke2fs e2fsprogs
	need xz xz-utils
	;;
*)
	echo "install-deps.sh: for what? demo, bench, test, e2e, website or matrix" >&2
	exit 2
	;;
esac
[ -n "$missing$peers" ] || exit 0
echo "installing:$missing$peers"

# peer installs a program that the bench runs itself. A service that comes with the package is masked before, so it never runs.
peer() { # its name, which is that of package and service too, and how to install
	name=$1 mask=/etc/systemd/system/$1.service made=
	shift
	mkdir -p /etc/systemd/system
	[ -e "$mask" ] || { ln -s /dev/null "$mask" && made=yes; }
	"$@" "$name" >/dev/null || {
		[ -z "$made" ] || rm "$mask"
		echo "$name is not to be had here: the figures beside it will say so"
	}
}

if command -v apt-get >/dev/null; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update || [ -z "$missing" ]
	install="apt-get -qq -o DPkg::Lock::Timeout=600 install -y --no-install-recommends"
	# shellcheck disable=SC2086 # lists of words
	[ -z "$missing" ] || $install $apt >/dev/null
	# Where there is no systemd, a package asks this program whether its service may start: invoke-rc.d(8).
	if [ -n "$peers" ] && [ ! -e /usr/sbin/policy-rc.d ]; then
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
		trap 'exit 1' HUP INT TERM
		printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
		chmod +x /usr/sbin/policy-rc.d
	fi
	for name in $peers; do
		# shellcheck disable=SC2086
		peer "$name" $install
	done
elif command -v dnf >/dev/null; then
	# shellcheck disable=SC2086
	[ -z "$missing" ] || dnf -q -y install $dnf
	for name in $peers; do
		peer "$name" dnf -q -y install
	done
else
	echo "neither apt-get nor dnf here: install$missing$peers by hand" >&2
	[ -z "$missing" ]
fi
