#!/bin/sh
# run.sh [KERNEL...]: runs the tests that ask the kernel for something in small VMs (QEMU, without KVM), each with a kernel of
# Debian, and writes the table of docs/platforms.md. A KERNEL is a release of Debian. After it, +nolandlock leaves Landlock out of the
# kernel's list of security modules, and +small makes a VM of 256 MB, for the one test that wants it. +selinux boots all of that release, with
# Debian's policy of SELinux in force, and installs the package there (guest/selinux). +programs takes the programs of that release
# (tinyproxy, nft, iptables, the C library) with the kernel of this machine, and no VM. For `make matrix`, by hand: each kernel takes a
# quarter of an hour and more.
#
# SUITES="netwatch firewall/nft" runs these packages only. The row keeps what earlier runs found in the others with the same kernel.
# SUITES="firewall/nft:Pins" runs tests by their names, and writes no row.
#
# A test binary is built out here, and a guest has no Go. What its tests have Go build is built in advance (guest/go).
set -eu

cd "$(dirname "$0")/../.."
cache=${CACHE:-/var/tmp/vifproxy-matrix} # trees and kernels stay for the next run
busybox=$cache/debian/bin/busybox
page=docs/platforms.md
mirror=http://deb.debian.org/debian
includes=systemd,systemd-sysv,dbus,nftables,iptables,iproute2,procps,tinyproxy-bin,kmod,busybox-static,curl
keys=/usr/share/keyrings/debian-archive-keyring.gpg
# How long the tests of one package may take, and a VM in all, in seconds.
package_timeout=1200
vm_timeout=5400

# The packages with tests that a kernel decides. Each name is a folder; after @, the Linux that it needs; after a colon, which of its
# tests. Those of firewall/backend that are left out are about many bindings, which is work for the processor and the same for every kernel.
all="
internal/cgroup internal/netlink internal/sockdiag
firewall firewall/legacy firewall/pins firewall/ruleset firewall/forward
firewall/nft
firewall/backend:Traffic|Fence|Verdict|Tracking|InForce|Inspect|Open|Answers|Switch
firewall/switchboard@6.1 firewall/switchboard/programs@6.1 firewall/switchboard/handover@6.1
tinyproxy/kernel tinyproxy/confine tinyproxy/process:Confined|Hostile|Owned|Unprivileged|Trial
netwatch
cmd/vifproxyd:WithoutLandlock|Confinement|EachAppVM|ProxiesEndBefore|ProxyStartsInTheGroup|OwnedProxy|Starvation
"
small='cmd/vifproxyd:^TestSmallVM$'
# The packages with tests that the programs of a distribution decide.
distribution="
tinyproxy rules/match firewall/legacy firewall/forward tinyproxy/process firewall/nft firewall/backend
cmd/vifproxyd:EachAppVM|ComeAndGo|Iptables|ExplainTries|FailureIsDenied|AllowAndDeny|LookingAt|TwentyRestarts
"
kernels=${*:-"bullseye bookworm bookworm+small bookworm+nolandlock trixie trixie+nolandlock trixie+selinux trixie+programs sid sid+programs"}

# row prints the suites that a row of the table has.
row() { # kernel
	case $1 in
	*+small) echo "$small" ;;
	*+selinux) echo packaging ;;
	*+programs) echo "$distribution" ;;
	*) echo "$all" ;;
	esac
}

# chosen prints those of them that SUITES names, and what else it says.
chosen() { # kernel
	for suite in ${SUITES:-$(row "$1")}; do
		for known in $(row "$1"); do [ "$suite" != "${known%%[:@]*}" ] || suite=$known; done
		echo "$suite"
	done
}

say() { echo "matrix: $*" >&2; }

# debian RELEASE TREE [PACKAGES] makes the tree of a system, once, and again if it should have other packages than it was made with. It
# has PACKAGES beside what all have.
debian() {
	packages=$includes${3:+,$3}
	[ "$(cat "$2.made" 2>/dev/null)" != "$1 $packages" ] || return 0
	say "making $2 with debootstrap, once"
	rm -rf "$2" "$2.new" "$2.made"
	debootstrap --variant=minbase "--include=$packages" "$1" "$2.new" "$mirror" >"$cache/debootstrap.log" 2>&1 ||
		{ tail "$cache/debootstrap.log" >&2; return 1; }
	mv "$2.new" "$2"
	echo "$1 $packages" >"$2.made"
}

# kernel SUITE fetches the kernel of a release of Debian, with the few modules that the guests use.
kernel() {
	dir=$cache/kernel-$1
	[ -e "$dir/initrd" ] && return
	apt=$cache/apt-$1
	rm -rf "$dir" "$apt"
	mkdir -p "$dir" "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/deb"
	echo "deb [signed-by=$keys] $mirror $1 main" >"$apt/sources.list"
	options="-qq -o Dir::Etc::SourceList=$apt/sources.list -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists=$apt/lists
		-o Dir::Cache=$apt/cache -o APT::Sandbox::User=root -o Acquire::Languages=none"
	# shellcheck disable=SC2086 # lists of words
	{
		apt-get $options update || apt-get $options update
		image=$(apt-cache $options show --no-all-versions linux-image-amd64 | sed -n 's/^Depends:.*\(linux-image-[0-9][^ ,]*\).*/\1/p')
		# Since 7.x, linux-image is in parts.
		parts=$(apt-cache $options show --no-all-versions "$image" | grep '^Depends:' | grep -oE 'linux-(base|binary|modules)-[^ ,]+' || true)
		(cd "$apt/deb" && apt-get $options download "$image" $parts)
	}
	for deb in "$apt"/deb/*.deb; do dpkg-deb -x "$deb" "$dir/all"; done
	modules=$(echo "$dir"/all/lib/modules/* "$dir"/all/usr/lib/modules/* | tr ' ' '\n' | grep -v '\*')
	version=$(basename "$modules")
	# The modules of the network and of the guest's devices.
	mkdir -p "$dir/root/lib/modules/$version"
	cp "$modules"/modules.builtin "$modules"/modules.builtin.modinfo "$modules"/modules.order "$dir/root/lib/modules/$version/"
	(cd "$modules" &&
		find kernel/net kernel/lib kernel/crypto kernel/arch/x86/crypto kernel/fs/ext4 kernel/fs/jbd2 kernel/fs/mbcache* \
			kernel/fs/overlayfs kernel/drivers/net/veth* kernel/drivers/net/dummy* kernel/drivers/net/tun* kernel/drivers/virtio \
			kernel/drivers/block/virtio_blk* -name '*.ko*' -exec cp --parents -t "$dir/root/lib/modules/$version/" {} + 2>/dev/null || true)
	cp "$(find "$dir/all" -name 'vmlinuz*' -type f)" "$dir/vmlinuz"
	echo "$version" >"$dir/version"
	rm -rf "$dir/all"

	# The first file system mounts the disk, which takes modules.
	first=$dir/first
	mkdir -p "$first/bin" "$first/proc" "$first/sys" "$first/dev" "$first/root" "$cache/debian/lib/modules"
	cp "$cache/debian/bin/busybox" "$first/bin/"
	rm -rf "$cache/debian/lib/modules/$version"
	cp -r "$dir/root/lib/modules/$version" "$cache/debian/lib/modules/"
	chroot "$cache/debian" depmod "$version"
	cp "$cache/debian/lib/modules/$version"/modules.* "$dir/root/lib/modules/$version/"
	{
		echo '#!/bin/busybox sh'
		echo '/bin/busybox mount -t devtmpfs dev /dev; /bin/busybox mount -t proc proc /proc'
		echo 'exec </dev/console >/dev/console 2>&1'
		for name in virtio_pci virtio_blk ext4 crc32c_generic; do
			chroot "$cache/debian" modprobe --set-version "$version" --show-depends $name 2>/dev/null
		done | sed -n 's/^insmod //p' | sed 's/ *$//' | awk '!seen[$0]++' | while read -r file; do
			mkdir -p "$first$(dirname "$file")"
			case $file in
			*.xz) xz -dc "$cache/debian$file" >"$first${file%.xz}" ;;
			*) cp "$cache/debian$file" "$first$file" ;;
			esac
			echo "/bin/busybox insmod ${file%.xz}"
		done
		echo 'i=0; while [ ! -b /dev/vda ] && [ $i -lt 600 ]; do /bin/busybox sleep 0.1; i=$((i + 1)); done'
		echo '/bin/busybox mount -t ext4 /dev/vda /root && /bin/busybox umount /proc && /bin/busybox mount --move /dev /root/dev'
		echo 'exec /bin/busybox switch_root /root /matrix/init'
	} >"$first/init"
	chmod 755 "$first/init"
	rm -rf "$cache/debian/lib/modules/$version"
	(cd "$first" && find . | "$busybox" cpio -o -H newc | gzip -1) >"$dir/initrd"
}

# programs builds the test binaries, each where its package has its files, and what tests have Go build.
programs() {
	rm -rf "$work/matrix"
	mkdir -p "$work/matrix/bin" "$work/matrix/src"
	tar -c --exclude=./.git --exclude=./bin --exclude=./dist . | tar -x -C "$work/matrix/src" # tests read files of each other's packages
	export CGO_ENABLED=0
	${GO:-go} build -trimpath -buildvcs=false -ldflags='-s -w' -o "$work/matrix/bin/" ./cmd/... ./tinyproxy/confine/hostile
	for suite in $(for kernel in $kernels; do chosen "$kernel"; done); do
		folder=${suite%%[:@]*}
		[ "$folder" != packaging ] && [ ! -e "$work/matrix/src/$folder/test" ] || continue # guest/selinux has its tests
		${GO:-go} test -c -trimpath -vet=off -o "$work/matrix/src/$folder/test" "./$folder"
	done
	case $kernels in *+selinux*) make --silent package "GO=${GO:-go}" "BIN=$work/package" "DIST=$work/matrix/dist" >&2 ;; esac
	cp packaging/matrix/guest/* "$work/matrix/"
}

# disk makes the guest's disk. The guests write to a copy that is forgotten.
disk() { # the kernel's release, the system's tree
	root=$work/root
	rm -rf "$root" "$work/disk"
	mkdir "$root"
	cp -al "$2/." "$root/"
	cp -r "$cache/kernel-$1/root/." "$root/" 2>/dev/null || cp -r "$cache/kernel-$1/root/lib/modules" "$root/lib/"
	cp -r "$work/matrix" "$root/matrix"
	[ ! -e "$root/etc/selinux/config" ] || enforce "$root"
	mke2fs -q -t ext4 -d "$root" "$work/disk" 3G
	rm -rf "$root"
}

# enforce has a guest boot by systemd, with its policy in force and a label on each file, and run guest/selinux.
enforce() { # its tree
	install -m 644 packaging/matrix/guest/selinux.service "$1/etc/systemd/system/"
	ln -s ../selinux.service "$1/etc/systemd/system/multi-user.target.wants/"
	rm "$1/etc/selinux/config" # it is a link to the cached one
	printf 'SELINUX=enforcing\nSELINUXTYPE=default\n' >"$1/etc/selinux/config"
	chroot "$1" sh -c 'setfiles -mF -c /etc/selinux/default/policy/policy.* /etc/selinux/default/contexts/files/file_contexts /'
}

# boot runs a guest: what it prints goes to a file. The clock of the guest counts its instructions (2 ns each) while it is busy, so no
# time limit of a test passes because this machine is slow.
boot() { # release, output, size of the memory, words for the kernel
	timeout $vm_timeout qemu-system-x86_64 -accel tcg,thread=single -icount shift=1 -cpu max -m "$3" -nographic -no-reboot -nic none \
		-kernel "$cache/kernel-$1/vmlinuz" -initrd "$cache/kernel-$1/initrd" \
		-drive "file=$work/disk,if=virtio,format=raw,snapshot=on" \
		-append "console=ttyS0 loglevel=3 panic=-1 $4" </dev/null >"$2" 2>&1
}

# enter runs the tests in a tree of a release of Debian, on this machine's kernel.
enter() { # release, output
	tree=$cache/debian-$1
	debian "$1" "$tree" || return 1
	mkdir -p "$work/root" "$work/layer" "$work/layer.work"
	timeout $vm_timeout unshare --mount --propagation=private sh -euc '
		mount -t overlay -o "lowerdir=$1,upperdir=$2/layer,workdir=$2/layer.work" overlay "$2/root"
		cd "$2/root"
		for dir in proc sys dev; do mount --rbind "/$dir" "$dir"; done
		for dir in run tmp; do mount -t tmpfs tmpfs "$dir"; done
		mkdir -p run/lock matrix
		mountpoint -q sys/kernel/security || mount -t securityfs security sys/kernel/security || true
		mount --bind "$2/matrix" matrix
		exec chroot . env -i PATH=/matrix:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 /matrix/tests' sh "$tree" "$work" \
		</dev/null >"$2" 2>&1
}

# harvest writes the row of a kernel. It takes what was found with another version of the kernel out of it.
harvest() { # kernel, output
	results=$cache/results/$1
	mkdir -p "$cache/results"
	tr -d '\r' <"$2" | sed -n 's/.*MATRIX \(kernel .*\)/\1/p; s/^MATRIX \(modules .*\)/\1/p' >"$work/new" # the firmware has begun the line
	[ "$(wc -l <"$work/new")" = 2 ] || return 0
	[ ! -e "$results" ] || [ "$(head -n 1 "$results")" != "$(head -n 1 "$work/new")" ] || grep '^package ' "$results" >>"$work/new" || true
	for suite in $(row "$1"); do
		chosen "$1" | grep -qxF -e "$suite" || continue
		found=$(tr -d '\r' <"$2" | sed -n "s|^MATRIX \\(package ${suite%%[:@]*} .*\\)|\\1 $(date -u +%F)|p")
		[ -n "$found" ] || continue
		sed -i "\|^package ${suite%%[:@]*} |d" "$work/new"
		echo "$found" >>"$work/new"
	done
	grep -q '^package ' "$work/new" || return 0
	cp "$work/new" "$results"
	packaging/matrix/table.sh "$1" "$results" $page "$(row "$1")"
}

mkdir -p "$cache"
exec 9>"$cache/lock" # two runs would write to the same files
flock 9
work=$(mktemp -d "$cache/work-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
programs
echo $package_timeout >"$work/matrix/timeout"
failed=
for kernel in $kernels; do
	release=${kernel%%+*}
	out=$cache/$kernel.out
	chosen "$kernel" >"$work/matrix/suites"
	case $kernel in
	*+programs)
		say "$kernel: to $out"
		enter "$release" "$out" || say "$kernel: ended with status $?"
		;;
	*)
		debian bookworm "$cache/debian" # what differs between the guests is the kernel
		memory=1536 words= tree=$cache/debian
		case $kernel in
		*+nolandlock) words="lsm=lockdown,yama,apparmor" ;;
		*+small) memory=256 ;;
		*+selinux)
			words="security=selinux enforcing=1 systemd.getty_auto=0 systemd.show_status=0" tree=$cache/debian-$kernel
			debian "$release" "$tree" selinux-policy-default,policycoreutils,auditd
			;;
		esac
		kernel "$release"
		disk "$release" "$tree"
		say "$kernel: $(cat "$cache/kernel-$release/version"), to $out"
		boot "$release" "$out" $memory "$words" || say "$kernel: the VM ended with status $?"
		;;
	esac
	grep -aq '^MATRIX end' "$out" || { say "$kernel: it did not come to its end"; failed=yes; }
	harvest "$kernel" "$out"
done
[ -z "$failed" ]
