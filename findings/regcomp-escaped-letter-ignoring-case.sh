#!/bin/sh
# One would expect that an expression matches at least as much when case is ignored as when it counts. A backslash before a letter that has
# no meaning there is taken "as if the '\' had not been present", says regex(7); POSIX leaves it open.
#
# With REG_ICASE, glibc 2.36 has such a letter match nothing if it is a lower-case one. The expression ^\quit$ then matches neither quit nor
# QUIT, and there is no error; when case counts it matches quit. With a capital letter, ^\Quit$ matches both. To ignore case, the library
# turns all that it reads into capitals, but takes the letter behind a backslash as it was written (peek_token in posix/regcomp.c).
#
# It matters to lists of expressions that people write: one line of them is accepted and never matches. tinyproxy 1.11.1 ignores case unless
# it is told otherwise, so its white list refuses the host that such a line names. Seen when a reader of these lists was compared with
# tinyproxy itself.
set -eu
. "$(dirname "$0")/common"
apart() {
	fetch "$root/glibc" $glibc
}
need $tinyproxy $ip $python $python_more

# with_glibc PROGRAM... runs it with the libc6 in $root/glibc.
with_glibc() {
	program=$(command -v "$1")
	shift
	exec "$(echo "$root"/glibc/lib/*/ld-linux*)" --library-path "$(echo "$root"/glibc/lib/*-linux-gnu):$LD_LIBRARY_PATH" "$program" "$@"
}

ip link set lo up
tinyproxy -v
glibc_getent --version | head -n 1
seen=$(with_glibc python3.11 - <<-'EOF'
	import ctypes

	libc = ctypes.CDLL("libc.so.6")
	REG_EXTENDED, REG_ICASE = 1, 2

	def matched(pattern, flags):
	    expression = ctypes.create_string_buffer(256)
	    if libc.regcomp(expression, pattern, flags):
	        return "an error"
	    return " ".join(t for t in ("quit", "QUIT") if libc.regexec(expression, t.encode(), 0, None, 0) == 0) or "nothing"

	for name, pattern in ("plain", rb"^quit$"), ("small", rb"^\quit$"), ("capital", rb"^\Quit$"):
	    print(name, "counts:", matched(pattern, REG_EXTENDED))
	    print(name, "ignored:", matched(pattern, REG_EXTENDED | REG_ICASE))
EOF
) || changed "the program failed"
is() {
	saw "$1" "$3" "$(echo "$seen" | sed -n "s/^$2: //p")"
}
is "quit matches" "plain counts" quit
is "ignoring case" "plain ignored" "quit QUIT"
is "quit, with a backslash before the q, matches" "small counts" quit
is "ignoring case" "small ignored" nothing
is "Quit, with a backslash before the Q, matches" "capital counts" nothing
is "ignoring case" "capital ignored" "quit QUIT"

# An origin, and two tinyproxies whose white list has the host with a backslash before its first letter.
python3.11 - <<-'EOF' &
	import socket
	server = socket.create_server(("127.0.0.1", 80))
	while True:
	    client, _ = server.accept()
	    request = client.makefile("rb", 0)
	    while request.readline().strip():
	        pass
	    client.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
	    client.close()
EOF
printf '%s\n' '^\localhost$' >"$root/list"
for how in "8888 No" "8889 Yes"; do
	cat >"$root/tinyproxy.${how% *}" <<-EOF
		Port ${how% *}
		Listen 127.0.0.1
		Filter "$root/list"
		FilterType ere
		FilterDefaultDeny Yes
		FilterCaseSensitive ${how#* }
	EOF
	with_glibc tinyproxy -d -c "$root/tinyproxy.${how% *}" >/dev/null 2>&1 &
	until_true listening "${how% *}"
done
until_true listening 80

status() {
	python3.11 - "$1" <<-'EOF'
	import socket, sys
	proxy = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
	proxy.sendall(b"GET http://localhost/ HTTP/1.0\r\n\r\n")
	print(proxy.makefile().readline().split()[1])
	EOF
}
saw "tinyproxy that distinguishes case answers" 200 "$(status 8889)"
saw "tinyproxy that ignores case answers" 403 "$(status 8888)"
