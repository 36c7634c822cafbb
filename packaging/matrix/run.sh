#!/bin/sh
# run.sh [KERNEL...]: runs the tests that ask the kernel for something in small VMs (QEMU, without KVM), each with a kernel of
# Debian, and writes the table of docs/platforms.md. A KERNEL is a release of Debian. After it, +nolandlock leaves Landlock out of the
# kernel's list of security modules, and +small makes a VM of 256 MB, for the one test that wants it. For `make matrix`, by hand: each
# kernel takes a quarter of an hour and more.
#
# A test binary is built out here, and a guest has no Go. What its tests have Go build is built in advance (guest/go).
set -eu

cd "$(dirname "$0")/../.."
cache=${CACHE:-/var/tmp/vifproxy-matrix} # trees and kernels stay for the next run
busybox=$cache/debian/bin/busybox
page=docs/platforms.md
mirror=http://deb.debian.org/debian
keys=/usr/share/keyrings/debian-archive-keyring.gpg
# How long the tests of one package may take, and a VM in all, in seconds.
package_timeout=1200
vm_timeout=5400

# The packages with tests that a kernel decides. Each name is a folder; after @, the Linux that it needs; after a colon, which of its
# tests. Those of firewall/backend and firewall/nft that are left out are about many bindings, which is work for the processor and the
# same for every kernel.
suites=${SUITES:-"
internal/cgroup internal/netlink internal/sockdiag
firewall firewall/legacy firewall/pins firewall/ruleset firewall/forward
firewall/nft:Closed|Open|Pin|Packets|Expired|Watch|ProxyBounds|Known
firewall/backend:Traffic|Fence|Verdict|Tracking|InForce|Inspect|Open|Answers|Switch
firewall/switchboard@6.1 firewall/switchboard/programs@6.1 firewall/switchboard/handover@6.1
tinyproxy/kernel tinyproxy/confine tinyproxy/process:Confined|Hostile|Owned|Unprivileged|Trial
netwatch
cmd/vifproxyd:ProxiesEndBefore|ProxyStartsInTheGroup|OwnedProxy|Starvation
"}
small='cmd/vifproxyd:^TestSmallVM$'
kernels=${*:-"bullseye bookworm bookworm+small bookworm+nolandlock trixie trixie+nolandlock sid"}

say() { echo "matrix: $*" >&2; }

# debian makes the tree of the guests' system, once. What differs between the guests is the kernel.
debian() {
	[ -e "$cache/debian/etc/os-release" ] && return
	say "making $cache/debian with debootstrap, once"
	rm -rf "$cache/debian.new"
	debootstrap --variant=minbase \
		--include=systemd,systemd-sysv,dbus,nftables,iptables,iproute2,procps,tinyproxy-bin,kmod,busybox-static,curl \
		bookworm "$cache/debian.new" "$mirror" >"$cache/debootstrap.log" 2>&1 || { tail "$cache/debootstrap.log" >&2; exit 1; }
	rm -rf "$cache/debian"
	mv "$cache/debian.new" "$cache/debian"
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
		parts=$(apt-cache $options show --no-all-versions "$image" | grep '^Depends:' | grep -oE 'linux-(binary|modules)-[^ ,]+' || true)
		(cd "$apt/deb" && apt-get $options download "$image" $parts)
	}
	for deb in "$apt"/deb/*.deb; do dpkg-deb -x "$deb" "$dir/all"; done
	modules=$(echo "$dir"/all/lib/modules/* "$dir"/all/usr/lib/modules/* | tr ' ' '\n' | grep -v '\*')
	version=$(basename "$modules")
	# The modules of the network and of the guest's devices.
	mkdir -p "$dir/root/lib/modules/$version"
	(cd "$modules" && cp modules.builtin modules.builtin.modinfo modules.order "$dir/root/lib/modules/$version/" &&
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
	export CGO_ENABLED=0
	${GO:-go} build -trimpath -buildvcs=false -ldflags='-s -w' -o "$work/matrix/bin/" ./cmd/... ./tinyproxy/confine/hostile
	for suite in $suites $small; do
		folder=${suite%%[:@]*}
		[ ! -e "$work/matrix/src/$folder/test" ] || continue
		mkdir -p "$work/matrix/src/$folder"
		${GO:-go} test -c -trimpath -vet=off -o "$work/matrix/src/$folder/test" "./$folder"
		[ ! -d "$folder/testdata" ] || cp -r "$folder/testdata" "$work/matrix/src/$folder/"
	done
	mkdir -p "$work/matrix/src/packaging" "$work/matrix/src/rules"
	cp packaging/vifproxyd.service "$work/matrix/src/packaging/"
	cp rules/builtin.conf "$work/matrix/src/rules/"
	cp packaging/matrix/guest/* "$work/matrix/"
}

# disk makes the guest's disk. The guests write to a copy that is forgotten.
disk() { # the kernel's release
	root=$work/root
	rm -rf "$root" "$work/disk"
	mkdir "$root"
	cp -al "$cache/debian/." "$root/"
	cp -r "$cache/kernel-$1/root/." "$root/" 2>/dev/null || cp -r "$cache/kernel-$1/root/lib/modules" "$root/lib/"
	cp -r "$work/matrix" "$root/matrix"
	mke2fs -q -t ext4 -d "$root" "$work/disk" 3G
	rm -rf "$root"
}

# boot runs a guest: what it prints goes to a file. The clock of the guest counts its instructions (2 ns each) while it is busy, so no
# time limit of a test passes because this machine is slow.
boot() { # release, output, size of the memory, words for the kernel
	timeout $vm_timeout qemu-system-x86_64 -accel tcg,thread=single -icount shift=1 -cpu max -m "$3" -nographic -no-reboot -nic none \
		-kernel "$cache/kernel-$1/vmlinuz" -initrd "$cache/kernel-$1/initrd" \
		-drive "file=$work/disk,if=virtio,format=raw,snapshot=on" \
		-append "console=ttyS0 loglevel=3 panic=-1 $4" </dev/null >"$2" 2>&1
}

mkdir -p "$cache"
work=$(mktemp -d "$cache/work-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
debian
programs
echo "$suites" | tr -s ' ' '\n' | grep . >"$work/matrix/suites"
echo "$small" >"$work/matrix/suites-small"
echo $package_timeout >"$work/matrix/timeout"
failed=
for kernel in $kernels; do
	release=${kernel%%+*}
	kernel "$release"
	disk "$release"
	out=$cache/$kernel.out
	say "$kernel: $(cat "$cache/kernel-$release/version"), to $out"
	memory=1536 words=
	case $kernel in
	*+nolandlock) words="lsm=lockdown,yama,apparmor" ;;
	*+small) memory=256 words=suites=small ;;
	esac
	boot "$release" "$out" $memory "$words" || say "$kernel: the VM ended with status $?"
	grep -aq '^MATRIX end' "$out" || { say "$kernel: the VM did not come to its end"; failed=yes; continue; }
	packaging/matrix/table.sh "$kernel" "$out" $page
done
[ -z "$failed" ]
