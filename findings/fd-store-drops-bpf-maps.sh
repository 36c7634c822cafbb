#!/bin/sh
# One would expect that systemd keeps what a service stores with it (FDSTORE=1) until the service takes it out or has ended. sd_notify(3)
# says that it drops a descriptor on EPOLLHUP or EPOLLERR, "in particular" what "is broken", such as a connection whose peer is gone.
#
# A map of BPF is dropped at once, although it is in order: epoll accepts it, unlike a memfd, and reports EPOLLERR, since the kernel says
# so for each kind of map that nobody can wait for (bpf_map_poll in kernel/bpf/syscall.c). systemd answers nothing, logs it at level
# debug, and the service misses its map when it is started again. With FDPOLL=0 (systemd 246) the map stays.
#
# It matters to whoever hands maps from a privileged step to an unprivileged service. Seen when a daemon found that its descriptor store was
# empty. systemd 252 of Debian 12, as the manager of a user, Linux 6.18.
set -eu
. "$(dirname "$0")/common"
need $python $python_more $systemd

user_manager

cat >/run/store.py <<-'EOF'
	import ctypes, os, platform, select, socket, struct, time

	number = {"x86_64": 321, "aarch64": 280}[platform.machine()]
	call = ctypes.CDLL(None, use_errno=True).syscall

	def bpf_map():  # an array of one element: BPF_MAP_CREATE, BPF_MAP_TYPE_ARRAY
	    fd = call(number, 0, struct.pack("IIII", 2, 4, 4, 1) + bytes(56), 72)
	    if fd < 0:
	        raise OSError(ctypes.get_errno(), "bpf")
	    return fd

	def says(fd):
	    e = select.epoll()
	    try:
	        e.register(fd, 0)
	    except PermissionError:
	        return "refused"
	    return "error" if e.poll(0) == [(fd, select.EPOLLERR)] else "nothing"

	s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
	s.connect(os.environ["NOTIFY_SOCKET"])
	memfd, first, second = os.memfd_create("x"), bpf_map(), bpf_map()
	print("epoll of a memfd: %s, of a map: %s" % (says(memfd), says(first)), file=open("/run/said", "w"))
	socket.send_fds(s, [b"FDSTORE=1\nFDNAME=memfd"], [memfd])
	socket.send_fds(s, [b"FDSTORE=1\nFDNAME=map"], [first])
	if os.environ["KEEP"]:
	    socket.send_fds(s, [b"FDSTORE=1\nFDPOLL=0\nFDNAME=kept"], [second])
	s.send(b"READY=1")
	time.sleep(1000)
EOF
for keep in "" yes; do
	cat >"/run/user/systemd/user/store$keep.service" <<-EOF
	[Service]
	Type=notify
	FileDescriptorStoreMax=9
	Environment=KEEP=$keep PYTHONHOME=$PYTHONHOME LD_LIBRARY_PATH=$LD_LIBRARY_PATH
	ExecStart=$root/usr/bin/python3.11 /run/store.py
	EOF
done
"$root/bin/systemctl" --user daemon-reload

stored() {
	"$root/bin/systemctl" --user start "store$1" || changed "the service did not start"
	"$root/bin/systemctl" --user show --value --property=NFileDescriptorStore "store$1"
}
saw "stored: a memfd and a map; kept" 1 "$(stored "")"
saw "what the kernel says" "epoll of a memfd: refused, of a map: error" "$(cat /run/said)"
saw "the same, and a map with FDPOLL=0; kept" 2 "$(stored yes)"
