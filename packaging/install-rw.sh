#!/bin/sh
# Installs vifproxy in one firewall VM of Qubes OS without touching its template. Everything goes below /rw/config, which
# persists, and rc.local starts it with the VM. Run it in that VM, as root, from this directory with ../bin next to it.
# `make build` makes ../bin in any VM; the programs need nothing but tinyproxy, which the templates have. Run it again to
# install another version.
#
#   install-rw.sh              install and start
#   install-rw.sh uninstall    stop and remove; rule files stay
#
# R4.3's custom-persist does not run /rw/config/rc.local: there, use the package.
set -eu
umask 022 # vifproxyd runs as a user of its own

here=$(cd "$(dirname "$0")" && pwd)
home=/rw/config/vifproxy
hook=/rw/config/rc.local
line="$home/start # vifproxy"
unit=/run/systemd/system/vifproxyd.service
ctl=/usr/local/bin/vifproxyctl
programs="vifproxyd vifproxyctl vifproxy-confine vifproxy-names vifproxy-switchboard vifproxy-qrexec"
services="vifproxy.Denied vifproxy.Allow vifproxy.AllowAlways"
rpc=/etc/qubes-rpc # new at each start of this VM, as all of /etc; every version of qrexec looks here

fail() {
	echo "install-rw.sh: $*" >&2
	exit 1
}

hook_in() {
	if [ ! -e $hook ]; then
		printf '#!/bin/sh\n' >$hook
		chmod 755 $hook
	elif [ ! -x $hook ]; then
		# If it has nothing but comments, as Qubes makes it, running it changes nothing. Otherwise the user has to decide.
		if grep -q '^[[:space:]]*[^#[:space:]]' $hook; then
			fail "$hook has commands in it but is not executable: chmod +x it if they should run, else remove them"
		fi
		chmod +x $hook
	fi
	if ! grep -qxF "$line" $hook; then
		# Ours comes first, because a later line may be "exit 0".
		{
			head -n 1 $hook | grep '^#!' || echo '#!/bin/sh'
			echo "$line"
			sed '1{/^#!/d}' $hook
		} >$hook.new
		chmod --reference=$hook $hook.new
		mv $hook.new $hook
	fi
}

install_all() {
	[ ! -e /usr/bin/vifproxyd ] ||
		fail "the package vifproxy is installed: turn it on with \`qvm-service NAME vifproxy on\` in dom0"
	for program in $programs; do
		[ -x "$here/../bin/$program" ] ||
			fail "no programs in $here/../bin: run \`make build\` first, and bring that directory along"
	done
	[ -x /usr/bin/tinyproxy ] || fail "/usr/bin/tinyproxy is missing: install tinyproxy in the template"

	running=$(systemctl is-active vifproxyd.service || true)
	mkdir -p $home/bin /rw/config/tinyproxy
	for program in $programs; do
		install -m 755 "$here/../bin/$program" $home/bin
	done
	# There is no service flag: the hook is the switch.
	sed "/^#/d; /^ConditionPathExists=/d; s|/usr/bin/vifproxyd|$home/bin/vifproxyd|; s|/usr/lib/vifproxy/|$home/bin/|" \
		"$here/vifproxyd.service" >$home/vifproxyd.service
	cat >$home/start.new <<-END
		#!/bin/sh
		# Run by $hook at each start of this VM, whose root file system is new then. Made by install-rw.sh.
		set -e
		mkdir -p ${unit%/*} ${ctl%/*}
		cp $home/vifproxyd.service $unit
		[ -e $ctl ] || ln -sf $home/bin/vifproxyctl $ctl
		mkdir -p $rpc
		for service in $services; do
			ln -sf $home/bin/vifproxy-qrexec $rpc/\$service
		done
		systemctl daemon-reload
		systemctl --no-block start vifproxyd.service
	END
	chmod 755 $home/start.new
	mv $home/start.new $home/start
	hook_in

	$home/start
	if [ "$running" = active ]; then
		systemctl restart vifproxyd.service
	fi
	systemctl start vifproxyd.service || fail "vifproxyd does not start: see \`journalctl -u vifproxyd\`"
	echo "vifproxyd runs, and will at each start of this VM. Rule files go to /rw/config/tinyproxy."
}

uninstall() {
	if [ -e $unit ]; then
		systemctl stop vifproxyd.service
		rm $unit
		systemctl daemon-reload
	fi
	if [ "$(readlink $ctl || true)" = $home/bin/vifproxyctl ]; then
		rm $ctl
	fi
	for service in $services; do
		if [ "$(readlink $rpc/$service || true)" = $home/bin/vifproxy-qrexec ]; then
			rm $rpc/$service
		fi
	done
	if [ -e $hook ] && grep -qxF "$line" $hook; then
		grep -vxF "$line" $hook >$hook.new || true # no line is left
		chmod --reference=$hook $hook.new
		mv $hook.new $hook
		# Then hook_in has made it.
		[ "$(cat $hook)" != '#!/bin/sh' ] || rm $hook
	fi
	rm -rf $home /var/lib/vifproxy /var/lib/private/vifproxy
	echo "vifproxy is removed. Rule files stay in /rw/config/tinyproxy."
}

[ "$(id -u)" = 0 ] || fail "run as root"
[ -d /rw/config ] || fail "there is no /rw/config: this is a template, or not a VM of Qubes OS; install the package"
case ${1-install} in
install) install_all ;;
uninstall) uninstall ;;
*) fail "want install or uninstall, not $1" ;;
esac
