#!/bin/sh
# One would expect that epoll tells of a mount until somebody has read the new list. proc(5) says that /proc/PID/mounts can be polled, and
# that a mount or unmount is a priority event (POLLPRI). Without EPOLLET, epoll(7) reports what is ready until it is ready no more.
#
# Here a look ends the event, and reading has no part in it. The kernel notes in the open file which change it has last reported, and
# takes each poll of that file for a report, whoever polls (mounts_poll in fs/proc_namespace.c, Linux 6.18). epoll_ctl() polls too, and
# tells nobody. So a mount between open() and epoll_ctl() is never reported. Of two epolls one is told. An epoll inside another one is told
# nothing at all, because the outer one has polled. With EPOLLIN and EPOLLET none of this is lost: the file can always be read, and epoll
# reports each wake-up.
#
# It matters to whoever has to notice what is mounted over a file. EPOLLPRI works when it is tried alone, and loses mounts in a larger
# event loop. Seen when a daemon had to follow such mounts.
set -eu
. "$(dirname "$0")/common"
need $python

echo "Linux $(uname -r)"
mount -t tmpfs none /mnt
seen=$(python3.11 - <<-'EOF'
	import os, select, subprocess

	def mounts():
	    return os.open("/proc/self/mountinfo", os.O_RDONLY)

	def change():
	    subprocess.run(["mount", "-t", "tmpfs", "none", "/mnt"], check=True)

	def epoll(fd, events):
	    e = select.epoll()
	    e.register(fd, events)
	    return e

	def poll(fd, events):
	    p = select.poll()
	    p.register(fd, events)
	    return told(p)

	def told(poller):
	    return "told" if poller.poll(0) else "nothing"

	for name, events in ("EPOLLPRI", select.EPOLLPRI), ("EPOLLIN and EPOLLET", select.EPOLLIN | select.EPOLLET):
	    def say(case, *what):
	        print("%s, %s: %s" % (name, case, ", ".join(what)))

	    fd = mounts()
	    first = epoll(fd, events)
	    told(first)
	    change()
	    say("one epoll, asked twice", told(first), told(first))
	    change()
	    os.pread(fd, 1 << 20, 0)
	    say("the list was read before", told(first))
	    change()
	    say("poll, then epoll", poll(fd, select.POLLPRI), told(first))
	    second = epoll(fd, events)
	    told(second)
	    change()
	    say("two epolls", told(first), told(second))
	    second.close()
	    outer = epoll(first.fileno(), select.EPOLLIN)
	    change()
	    say("epoll in another epoll", told(first) if told(outer) == "told" else "nothing")
	    fd = mounts()
	    change()
	    say("mounted before epoll_ctl", told(epoll(fd, events)))
EOF
) || changed "the program failed"
is() {
	saw "$1, $2" "$3" "$(echo "$seen" | sed -n "s/^$1, $2: //p")"
}
is EPOLLPRI "one epoll, asked twice" "told, nothing"
is EPOLLPRI "the list was read before" told
is EPOLLPRI "poll, then epoll" "told, nothing"
is EPOLLPRI "two epolls" "told, nothing"
is EPOLLPRI "epoll in another epoll" nothing
is EPOLLPRI "mounted before epoll_ctl" nothing
is "EPOLLIN and EPOLLET" "one epoll, asked twice" "told, nothing"
is "EPOLLIN and EPOLLET" "poll, then epoll" "told, told"
is "EPOLLIN and EPOLLET" "two epolls" "told, told"
is "EPOLLIN and EPOLLET" "epoll in another epoll" told
is "EPOLLIN and EPOLLET" "mounted before epoll_ctl" told
