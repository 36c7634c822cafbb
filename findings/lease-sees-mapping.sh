#!/bin/sh
# One would expect that a file which no process has open for writing is as it will stay. fcntl(2) says that a read lease is
# granted if nobody has the file open for writing, so somebody who wants to know asks for a lease, or looks through /proc/*/fd.
#
# But a shared, writable mapping outlives its descriptor: when the descriptor is closed, /proc/*/fd has nothing of that file,
# and the process goes on writing. The kernel counts the mapping as a writer: it refuses the lease with EAGAIN until munmap().
# So the lease knows more than its man page says, and a search through /proc/*/fd knows less (Linux 6.18).
#
# It matters to whoever waits until a file is complete. inotify is of no help either: IN_CLOSE_WRITE comes when the descriptor
# is closed, before the last byte is written. Seen when a daemon had to tell half-written files from complete ones.
set -eu
. "$(dirname "$0")/common"
need $python $python_more

echo "Linux $(uname -r)"
mount -t tmpfs none /mnt
seen=$(python3.11 - <<-'EOF'
	import fcntl, mmap, os

	path = "/mnt/list"
	with open(path, "wb") as f:
	    f.write(bytes(4096))

	def lease():
	    reader = os.open(path, os.O_RDONLY)
	    try:
	        fcntl.fcntl(reader, fcntl.F_SETLEASE, fcntl.F_RDLCK)
	        return "granted"
	    except BlockingIOError:
	        return "refused"
	    finally:
	        os.close(reader)

	def in_proc():
	    return sum(os.path.realpath(f"/proc/self/fd/{fd}") == path for fd in os.listdir("/proc/self/fd"))

	print("closed:", lease())
	writer = os.open(path, os.O_RDWR)
	print("open:", lease())
	mapping = mmap.mmap(writer, 4096)
	os.closerange(3, 100)  # of the file, and the one that Python's mmap keeps
	print("mapped:", lease(), "descriptors:", in_proc())
	mapping[0] = 1
	print("written:", open(path, "rb").read(1) == b"\1")
	mapping.close()
	print("unmapped:", lease())
EOF
) || changed "the program failed"
saw "a read lease on a file that nobody writes" "closed: granted" "$(echo "$seen" | grep ^closed)"
saw "while a descriptor is open for writing" "open: refused" "$(echo "$seen" | grep ^open)"
saw "while there is only a mapping" "mapped: refused descriptors: 0" "$(echo "$seen" | grep ^mapped)"
saw "what is written through it is in the file" "written: True" "$(echo "$seen" | grep ^written)"
saw "after munmap" "unmapped: granted" "$(echo "$seen" | grep ^unmapped)"
