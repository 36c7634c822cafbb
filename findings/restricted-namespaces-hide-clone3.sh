#!/bin/sh
# RestrictNamespaces= of systemd denies new namespaces. One would expect that a service which makes none does not notice.
#
# It loses clone3(2) altogether, with ENOSYS as if the kernel were older than 5.3: a seccomp filter cannot read the flags, which clone3 has
# in memory, so systemd refuses the whole call (252 of Debian 12). The C library and Go then use clone(2). But what only clone3 can do
# cannot be done: a child that begins in another cgroup (CLONE_INTO_CGROUP; UseCgroupFD of Go's SysProcAttr), or with a pid of its own choice.
#
# It matters to a hardened service that starts each child in a cgroup of its own: it has to move the child there, which takes milliseconds
# and comes too late for what the child forks at once.
set -eu
. "$(dirname "$0")/common"
need $python $python_more $systemd
user_manager

cat >/run/child.py <<-'EOF'
	import ctypes, errno, os, struct, sys

	call = ctypes.CDLL(None, use_errno=True).syscall
	group = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
	into_cgroup, sigchld = 0x200000000, 17
	arguments = struct.pack("11Q", into_cgroup, 0, 0, 0, sigchld, 0, 0, 0, 0, 0, group)
	pid = call(435, arguments, len(arguments))
	if pid == 0:
	    os._exit(0)
	if pid > 0:
	    os.waitpid(pid, 0)
	print("a child" if pid > 0 else errno.errorcode[ctypes.get_errno()], file=open(sys.argv[2], "w"))
EOF
mkdir -p /sys/fs/cgroup/child

# born SETTING... says what comes of clone3 in a service with these settings.
born() {
	{
		printf '[Service]\nType=oneshot\nEnvironment=PYTHONHOME=%s LD_LIBRARY_PATH=%s\n' "$PYTHONHOME" "$LD_LIBRARY_PATH"
		echo "ExecStart=$root/usr/bin/python3.11 /run/child.py /sys/fs/cgroup/child /run/said"
		[ $# = 0 ] || printf '%s\n' "$@"
	} >/run/user/systemd/user/child.service
	"$root/bin/systemctl" --user daemon-reload
	"$root/bin/systemctl" --user start child || changed "the service did not start"
	cat /run/said
}
saw "clone3 into a cgroup" "a child" "$(born)"
saw "the same with RestrictNamespaces=yes" ENOSYS "$(born RestrictNamespaces=yes)"
saw "the same with RestrictNamespaces=net, so that all others are allowed to nobody" ENOSYS "$(born RestrictNamespaces=net)"
