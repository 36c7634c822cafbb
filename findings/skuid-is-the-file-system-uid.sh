#!/bin/sh
# One would expect that "meta skuid" is the user that a process runs as: nft(8) calls it the UID of the originating socket, and
# ps, /proc/PID/status and systemd show the real and the effective uid.
#
# It is neither. It is the file system uid (setfsuid(2)) of the *thread* that made the socket, at the moment when it made it
# (nft_meta.c: f_cred->fsuid, Linux 6.18; nft 1.0.6). So a process whose real and effective uid are 0 has sockets of uid 1234
# if one of its threads opens files as that user, as file servers do. And a socket that was made before a change of user
# keeps the old uid for as long as it lives, whoever sends through it.
#
# It matters to rules that allow or refuse by uid. A file server that opens a socket, say to ask for a name, while a thread
# acts for a user meets the rules of that user. And with socket activation a service sends as the user that made the socket,
# mostly root. Seen when rules by uid were tested.
set -eu
. "$(dirname "$0")/common"
need $nft $ip $python $python_more

nft --version
echo "Linux $(uname -r)"
ip link set lo up
nft -f - <<-EOF
	table ip x {
		counter root { }
		counter user { }
		chain out {
			type filter hook output priority filter
			udp dport 9000 meta skuid 0 counter name root
			udp dport 9000 meta skuid 1234 counter name user
		}
	}
EOF

# counted prints how many packets root and the user have sent since the last time.
counted() {
	for name in root user; do
		nft reset counter ip x $name | sed -n 's/.*packets \([0-9]*\).*/'$name' \1/p'
	done | xargs
}

# send CODE runs CODE, which makes a socket s and changes the user before or after, and sends one packet.
send() {
	python3.11 - <<-EOF
	import ctypes, os, socket
	libc = ctypes.CDLL(None)
	def new():
	    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
	$1
	s.sendto(b"x", ("127.0.0.1", 9000))
	EOF
	counted
}

saw "a socket of root" "root 1 user 0" "$(send 's = new()')"
saw "made with fsuid 1234, real and effective uid 0" "root 0 user 1" \
	"$(send 'libc.setfsuid(1234); s = new(); libc.setfsuid(0)')"
saw "made by root, sent by a process that is user 1234 now" "root 1 user 0" "$(send 's = new(); os.setuid(1234)')"
saw "made and sent by user 1234" "root 0 user 1" "$(send 'os.setuid(1234); s = new()')"
