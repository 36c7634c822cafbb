#!/bin/sh
# One would expect that a proxy which has all the clients that it may have (MaxClients) waits until one of them goes, and
# does nothing while all of them are silent.
#
# tinyproxy 1.11.1 (Debian 12) wakes up thousands of times a second for as long as it is full, even if nobody else waits to
# be served: its main loop calls usleep(16) between two looks (child_main_loop in src/child.c). With the usual timer slack of
# 50 us it wakes up every 100 us and takes a good part of a CPU. With a timer slack of 10 ms it wakes up a hundredth as often.
#
# It matters to somebody who runs one tinyproxy for each client: a client that keeps MaxClients tunnels open and says
# nothing costs CPU time all the same. The timer slack is a remedy that leaves tinyproxy as it is: PR_SET_TIMERSLACK before
# it is executed, or /proc/PID/timerslack_ns. Seen when idle virtual machines cost 40 % of a CPU each.
set -eu
. "$(dirname "$0")/common"
need $tinyproxy $ip $python

tinyproxy -v
echo "Linux $(uname -r)"
ip link set lo up
cat >"$root/tinyproxy.conf" <<-EOF
	Port 8888
	Listen 127.0.0.1
	MaxClients 3
EOF
tinyproxy -d -c "$root/tinyproxy.conf" >/dev/null 2>&1 &
proxy=$!
until_true listening 8888

# wakeups COUNT prints how often the proxy's main thread wakes up in a second, with that many silent clients.
wakeups() {
	python3.11 - <<-EOF
	import socket, time
	clients = [socket.create_connection(("127.0.0.1", 8888)) for _ in range($1)]
	def count():
	    with open("/proc/$proxy/status") as status:
	        return next(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))
	time.sleep(0.5)
	before = count()
	time.sleep(1)
	print(count() - before)
	EOF
}

few=$(wakeups 2)
full=$(wakeups 3)
echo 10000000 >"/proc/$proxy/timerslack_ns"
slack=$(wakeups 3)
echo "in a second: $few with 2 clients, $full with 3, and with a timer slack of 10 ms $slack"
saw "fewer than 20 with 2 clients" yes "$([ "$few" -lt 20 ] && echo yes || echo no)"
saw "over 1000 with 3" yes "$([ "$full" -gt 1000 ] && echo yes || echo no)"
saw "a tenth of that with a timer slack of 10 ms" yes "$([ "$slack" -lt $((full / 10)) ] && echo yes || echo no)"
