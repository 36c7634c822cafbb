#!/bin/sh
# One would expect that a BPF program of type sk_lookup runs when a connection comes in, once for each. It is called when the transport layer
# looks for a listening socket "for an incoming packet", says the kernel's documentation (Documentation/bpf/prog_sk_lookup.rst).
#
# It also runs when no packet has come: for whoever asks sock_diag(7) which socket has an address, because that is the same look-up
# (inet_diag_find_one_icsk, inet_lookup; Linux 6.18). The program then sees the interface that the question names, 0 if none, which no packet
# has. Its verdict is the answer: the question for port 80 is answered with a socket that listens at 9000, although nobody has bound 80. A
# rule of nftables with the expression "socket" asks in the same way, so beside such a rule the program runs twice for a connection (nft 1.0.6).
#
# It matters to a program that counts, or that decides by the interface: it counts connections that were never made, and what asks whether
# somebody listens gets an answer that is true for no packet. A dump of all sockets, which is what ss makes, does not run it. Seen when a
# daemon asked who owns a port that such a program guards.
set -eu
. "$(dirname "$0")/common"
need $nft $ip $python $python_more

nft --version
echo "Linux $(uname -r)"
ip link set lo up
seen=$(python3.11 - <<-'EOF'
	import ctypes, errno, os, platform, socket, struct, subprocess

	number = {"x86_64": 321, "aarch64": 280}[platform.machine()]
	libc = ctypes.CDLL(None, use_errno=True)

	def bpf(command, attributes):
	    attributes += bytes(128 - len(attributes))
	    result = libc.syscall(number, command, attributes, len(attributes))
	    if result < 0:
	        raise OSError(ctypes.get_errno(), "bpf command %d" % command)
	    return result

	def address(buffer):
	    return ctypes.addressof(buffer)

	class Map:
	    def __init__(self, kind):  # of two numbers
	        self.fd = bpf(0, struct.pack("IIII", kind, 4, 8, 2))
	    def call(self, command, key, value):
	        k, v = ctypes.create_string_buffer(struct.pack("I", key)), ctypes.create_string_buffer(struct.pack("Q", value))
	        bpf(command, struct.pack("IIQQQ", self.fd, 0, address(k), address(v), 0))
	        return struct.unpack("Q", v.raw[:8])[0]
	    def __getitem__(self, key):
	        return self.call(1, key, 0)
	    def __setitem__(self, key, value):
	        self.call(2, key, value)

	seen, sockets = Map(2), Map(15)  # ARRAY, SOCKMAP

	def i(code, to=0, source=0, offset=0, value=0):  # an instruction
	    return struct.pack("<BBhi", code, to | source << 4, offset, value)

	def element(table, key, unless):  # r0 is the address of table[key]; over so many instructions if there is none
	    return (i(0x62, 10, 0, -4, key) + i(0xbf, 2, 10) + i(0x07, 2, value=-4) +
	            i(0x18, 1, 1, value=table.fd) + i(0) + i(0x85, value=1) + i(0x15, 0, 0, unless))

	# For port 80: counts in seen[0], notes the interface in seen[1], and assigns sockets[0].
	for_port = (element(seen, 0, 2) + i(0xb7, 1, value=1) + i(0xdb, 0, 1) +
	            element(seen, 1, 2) + i(0x61, 1, 6, 64) + i(0x7b, 0, 1) +
	            element(sockets, 0, 7) + i(0xbf, 7, 0) + i(0xbf, 1, 6) + i(0xbf, 2, 7) + i(0xb7, 3) + i(0x85, value=124) +
	            i(0xbf, 1, 7) + i(0x85, value=86))
	code = i(0xbf, 6, 1) + i(0x61, 1, 6, 60) + i(0x55, 1, 0, len(for_port) // 8, 80) + for_port + i(0xb7, value=1) + i(0x95)
	text, license = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
	program = bpf(5, struct.pack("IIQQ", 30, len(code) // 8, address(text), address(license)) + bytes(44) + struct.pack("I", 36))
	here = os.open("/proc/self/ns/net", os.O_RDONLY)
	bpf(28, struct.pack("III", program, here, 36))  # attached as long as its descriptor is open

	server = socket.create_server(("127.0.0.1", 9000))
	sockets[0] = server.fileno()

	def connect():
	    before = seen[0]
	    client = socket.create_connection(("127.0.0.1", 80))
	    runs = seen[0] - before
	    client.close()
	    server.accept()[0].close()
	    return "runs %d, interface %d" % (runs, seen[1])

	def ask(interface):  # SOCK_DIAG_BY_FAMILY for one socket, TCP, by its address
	    before = seen[0]
	    s = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 4)
	    peer = socket.inet_aton("127.0.0.1") + bytes(12)
	    s.send(struct.pack("=IHHIIBBBBI", 72, 20, 1, 1, 0, 2, 6, 0, 0, 0xffffffff) + struct.pack("!HH", 80, 0) + peer + peer +
	           struct.pack("=Iq", interface, -1))
	    answer = s.recv(65536)
	    if answer[4:6] == struct.pack("=H", 2):
	        what = errno.errorcode[-struct.unpack("=i", answer[16:20])[0]]
	    else:
	        what = "a socket at port %d" % struct.unpack("!H", answer[20:22])
	    return what + ", runs %d, interface %d" % (seen[0] - before, seen[1])

	print("connection:", connect())
	print("question:", ask(0))
	print("with an interface:", ask(5))
	before = seen[0]
	print("listed:", ":80 " in subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout, "runs", seen[0] - before)
	subprocess.run(["nft", "-f", "-"], input="""
	    table ip x {
	        chain in {
	            type filter hook input priority filter
	            tcp dport 80 socket wildcard 0 counter
	        }
	    }
	""", text=True, check=True)
	print("beside a rule:", connect())
EOF
) || changed "the program failed"
is() {
	saw "$1" "$3" "$(echo "$seen" | sed -n "s/^$2: //p")"
}
is "a connection to port 80" connection "runs 1, interface 1"
is "a question to sock_diag for port 80" question "a socket at port 9000, runs 1, interface 0"
is "the same, by an interface that does not exist" "with an interface" "a socket at port 9000, runs 1, interface 5"
is "port 80 is in the list of ss" listed "False runs 0"
is "a connection to port 80, beside a rule with \"socket\"" "beside a rule" "runs 2, interface 1"
