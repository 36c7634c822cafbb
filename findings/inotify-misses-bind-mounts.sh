#!/bin/sh
# One would expect that whoever watches a file by inotify is told when another file takes its place. inotify(7) has IN_UNMOUNT, "filesystem
# containing watched object was unmounted", and events for what is moved, deleted or made there.
#
# A mount is none of these. Whoever watches a directory, and the one above it, is told nothing when something is mounted over it, and goes
# on hearing of what is hidden below. IN_UNMOUNT is about a file system as a whole, and not about what was mounted: when a bind mount is
# removed, whoever watches a file in it is told nothing, and hears of that file for ever, though the path leads elsewhere. If a file system
# is mounted twice, only the last umount is told; after "umount --lazy", that comes when the last file has been closed
# (fsnotify_sb_delete in fs/notify/fsnotify.c, called by generic_shutdown_super, Linux 6.18).
#
# It matters to whoever watches a configuration. Qubes OS has files of an AppVM persist by bind mounts, container engines put /etc/resolv.conf
# there by one, and the program goes on with what is hidden. Seen when a list of permitted hosts was replaced in this way.
set -eu
. "$(dirname "$0")/common"
need $python $python_more

echo "Linux $(uname -r)"
mount -t tmpfs none /mnt
seen=$(python3.11 - <<-'EOF'
	import ctypes, os, struct, subprocess

	libc = ctypes.CDLL(None)
	names = {0x100: "IN_CREATE", 0x2: "IN_MODIFY", 0x2000: "IN_UNMOUNT"}

	def run(command):
	    subprocess.run(command.split(), check=True)

	def write(path):
	    with open(path, "w") as f:
	        f.write("x")

	class Watch:
	    def __init__(self, *paths):
	        self.fd = libc.inotify_init1(os.O_NONBLOCK)
	        for path in paths:
	            if libc.inotify_add_watch(self.fd, path.encode(), 0xfff) < 0:
	                raise OSError(path)

	    def told(self):
	        try:
	            data = os.read(self.fd, 65536)
	        except BlockingIOError:
	            return "nothing"
	        events = []
	        while data:
	            _, mask, _, length = struct.unpack("iIII", data[:16])
	            events += [name for bit, name in names.items() if mask & bit]
	            data = data[16 + length:]
	        return " ".join(events)

	for name in "config", "other", "second", "hidden":
	    os.mkdir("/mnt/" + name)
	write("/mnt/config/list")
	write("/mnt/other/list")
	hidden = Watch("/mnt", "/mnt/config", "/mnt/config/list")
	os.link("/mnt/config/list", "/mnt/hidden/list")
	hidden.told()
	run("mount --bind /mnt/other /mnt/config")
	print("bind mount over it:", hidden.told())
	write("/mnt/config/list")
	print("write to the path:", hidden.told())
	write("/mnt/hidden/list")
	print("write to what is hidden:", hidden.told())
	bound = Watch("/mnt/config", "/mnt/config/list")
	run("umount /mnt/config")
	print("umount of a bind mount:", bound.told())
	run("mount -t tmpfs none /mnt/config")
	run("mount --bind /mnt/config /mnt/second")
	whole = Watch("/mnt/config")
	run("umount /mnt/config")
	print("umount of one of two:", whole.told())
	run("umount /mnt/second")
	print("umount of the other:", whole.told())
	run("mount -t tmpfs none /mnt/config")
	write("/mnt/config/list")
	f = open("/mnt/config/list")
	lazy = Watch("/mnt/config")
	run("umount --lazy /mnt/config")
	print("lazy umount:", lazy.told())
	f.close()
	print("last file closed:", lazy.told())
EOF
) || changed "the program failed"
is() {
	saw "$1" "$3" "$(echo "$seen" | sed -n "s/^$2: //p")"
}
is "watched: a file and both directories above; something is mounted over the inner one" "bind mount over it" nothing
is "somebody writes to the path of that file" "write to the path" nothing
is "somebody writes to the file that is hidden, by another name" "write to what is hidden" "IN_MODIFY"
is "watched: a file in a bind mount, which is removed" "umount of a bind mount" nothing
is "watched: a file system that is mounted twice, and removed once" "umount of one of two" nothing
is "and again" "umount of the other" IN_UNMOUNT
is "watched: a file system that is removed lazily, while a file is open" "lazy umount" nothing
is "that file is closed" "last file closed" IN_UNMOUNT
