#!/bin/sh
# One would expect that a service with Type=notify has started when it has sent READY=1, and that systemd cuts a status that is too long.
# sd_notify(3) names no size, and its example sends READY=1 and STATUS= in one message.
#
# systemd 252 of Debian 12 throws away each message of more than 4096 bytes, with all that is in it. The service has sent it without an error,
# and only the manager's own log has a line, which does not name the service. If READY=1 was in the message, the start fails
# when TimeoutStartSec= is over. A status by itself leaves the one before in place (manager_dispatch_notify_fd in src/core/manager.c,
# NOTIFY_BUFFER_MAX).
#
# It matters to a service whose status has a text of any length, such as an error, a path or a list of what is wrong: it starts as long as
# there is little to tell. Seen when it was looked at what a daemon may tell systemd.
set -eu
. "$(dirname "$0")/common"
need $python $python_more $systemd

user_manager

cat >/run/notify.py <<-'EOF'
	import os, socket, sys, time
	s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
	s.connect(os.environ["NOTIFY_SOCKET"])
	for message in sys.argv[1:]:
	    text, length = message.split("+")
	    sent = s.send(text.replace(",", "\n").encode().ljust(int(length), b"."))
	    print("sent", sent, file=open("/run/sent", "a"))
	time.sleep(1000)
EOF

# unit NAME MESSAGE... makes a service that sends messages, each filled up to a length.
unit() {
	name=$1
	shift
	cat >"/run/user/systemd/user/$name.service" <<-EOF
		[Service]
		Type=notify
		TimeoutStartSec=5
		Environment=PYTHONHOME=$PYTHONHOME LD_LIBRARY_PATH=$LD_LIBRARY_PATH
		ExecStart=$root/usr/bin/python3.11 /run/notify.py $*
	EOF
}
unit whole READY=1,STATUS=new+4096
unit long READY=1,STATUS=new+4097
unit apart STATUS=old+10 STATUS=new+4097 READY=1+7
"$root/bin/systemctl" --user daemon-reload

# started NAME prints what becomes of its start, and the status that is shown.
started() {
	"$root/bin/systemctl" --user start "$1" 2>/dev/null || true
	"$root/bin/systemctl" --user show --value --property=ActiveState,Result,StatusText "$1" | cut -c 1-10 | sort | xargs
}
saw "READY=1 and a status, 4096 bytes" "active new....... success" "$(started whole)"
saw "READY=1 and a status, 4097 bytes" "failed timeout" "$(started long)"
saw "a status, one of 4097 bytes, READY=1, each by itself" "active old success" "$(started apart)"
saw "bytes that the services could send" "4096 4097 10 4097 7" "$(sed 's/sent //' /run/sent | xargs)"
