#!/bin/sh
# One would expect that fchmod() of a listening unix socket changes the permissions of its file, as it does for every other file that is open,
# and that it can do nothing before bind(), when there is no file yet. unix(7) names umask(2), and chown(2) and chmod(2) of the path.
#
# It is the other way round. The socket and its file are two inodes. What is set before bind() is the mode of the file that bind() makes, less
# the umask (unix_bind_bsd in net/unix/af_unix.c, Linux 6.18). After bind(), fchmod() succeeds, fstat() shows the new mode, and the file stays
# open to whom it was: the mode of the file counts for connect(). fchown() succeeds too, and never reaches the file.
#
# It matters to a daemon whose socket is for some users only. With chmod() of the path there is a moment in which others can connect, umask() is
# for all threads, and fchmod() after bind() looks right and protects nothing; fchmod() before bind() does it without a gap. Seen when a daemon
# with many threads made its control socket.
set -eu
. "$(dirname "$0")/common"
need $python $python_more

echo "Linux $(uname -r)"
mount -t tmpfs -o mode=755 none /mnt
seen=$(python3.11 - <<-'EOF'
	import os, socket, stat

	os.umask(0o022)

	def changed(s):
	    os.fchmod(s.fileno(), 0o600)
	    os.fchown(s.fileno(), 1234, 1234)

	def nobody_connects(path):
	    child = os.fork()
	    if child == 0:
	        os.setuid(65534)
	        try:
	            socket.socket(socket.AF_UNIX).connect(path)
	        except PermissionError:
	            os._exit(0)
	        os._exit(1)
	    return "refused" if os.waitpid(child, 0)[1] == 0 else "connected"

	def say(case, s, path):
	    info, own = os.stat(path), os.fstat(s.fileno())
	    print("%s: file %o of uid %d, fstat() %o of uid %d" %
	          (case, stat.S_IMODE(info.st_mode), info.st_uid, stat.S_IMODE(own.st_mode), own.st_uid))

	before = socket.socket(socket.AF_UNIX)
	changed(before)
	before.bind("/mnt/before")
	before.listen()
	say("before", before, "/mnt/before")

	os.umask(0)
	after = socket.socket(socket.AF_UNIX)
	after.bind("/mnt/after")
	changed(after)
	after.listen()
	say("after", after, "/mnt/after")
	print("connect before:", nobody_connects("/mnt/before"))
	print("connect after:", nobody_connects("/mnt/after"))
EOF
) || changed "the program failed"
is() {
	saw "$1" "$3" "$(echo "$seen" | sed -n "s/^$2: //p")"
}
is "fchmod() to 600 and fchown() before bind()" before "file 600 of uid 0, fstat() 600 of uid 1234"
is "another user" "connect before" refused
is "the same after bind(), without a umask" after "file 777 of uid 0, fstat() 600 of uid 1234"
is "another user" "connect after" connected
