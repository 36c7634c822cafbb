package programs

import (
	"time"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"vifproxy/firewall/switchboard/handover"
)

// Fields of struct bpf_sock_ops, include/uapi/linux/bpf.h.
const (
	opsOp        = 0
	opsFamily    = 20
	opsLocalIP4  = 28 // in network order
	opsLocalPort = 68 // in the machine's order
)

// Events of a socket, BPF_SOCK_OPS_*_CB.
const (
	connecting        = 3
	activeEstablished = 4
	listening         = 11
)

// An option is one of setsockopt(2). bpf_setsockopt knows all of these since Linux 6.1.
type option struct{ level, name, value int32 }

// connectMax bounds an attempt to connect. The kernel sends a SYN at 0, 1 and 3 s, since Linux 6.5 at 0, 1, 2 and 3 s
// (net.ipv4.tcp_syn_linear_timeouts), so two of them may be lost. TCP_SYNCNT cannot say this: with 1 the kernel gives up after 3 s, and
// before Linux 6.5 it has sent two; with 2 it gives up after 7 s.
const connectMax = 4 * time.Second

// A peer that has vanished is noticed 75 s after its last packet: after keepaliveIdle and keepaliveProbes times keepaliveInterval.
// tinyproxy itself would keep the connection, and its place among MaxClients, until its Timeout. These are times of a machine that
// is awake: while the firewall VM sleeps, they stand still. An AppVM that is paused for longer loses its connections. A peer that
// vanishes with data on the way to it is not asked in this way, and keeps its place until tinyproxy's Timeout.
const (
	keepaliveIdle     = 45 * time.Second
	keepaliveInterval = 10 * time.Second
	keepaliveProbes   = 3
)

// bounded and unbounded are options of a socket that connects, and of one that has. TCP_USER_TIMEOUT would also end a connection whose peer
// reads nothing for that long, such as a download that a person has paused.
var (
	bounded   = option{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int32(connectMax.Milliseconds())}
	unbounded = option{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 0}
)

// lasting are options of all connections. One that a proxy accepts has them from the listening socket (sk_clone_lock in
// net/core/sock.c, tcp_create_openreq_child in net/ipv4/tcp_minisocks.c), so they cost nothing while the AppVM waits.
//
// TCP_NODELAY is among them because tinyproxy moves tunnels in pieces of 2048 bytes and does not set it (in any version up to
// 1.11.2): Nagle's algorithm and the peer's delayed acknowledgement held up an HTTPS page by 40 ms.
var lasting = []option{
	{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int32(keepaliveIdle / time.Second)},
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int32(keepaliveInterval / time.Second)},
	{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepaliveProbes},
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
}

func (a *Attached) sockOps() asm.Instructions {
	const (
		value  = -4 // on the stack
		key    = -8 // as in the maps
		cookie = -16
	)
	set := func(options ...option) (all asm.Instructions) {
		for _, o := range options {
			all = append(all,
				asm.StoreImm(asm.R10, value, int64(o.value), asm.Word),
				asm.Mov.Reg(asm.R1, asm.R6),
				asm.Mov.Imm(asm.R2, o.level),
				asm.Mov.Imm(asm.R3, o.name),
				asm.Mov.Reg(asm.R4, asm.R10),
				asm.Add.Imm(asm.R4, value),
				asm.Mov.Imm(asm.R5, 4),
				asm.FnSetsockopt.Call(),
			)
		}
		return all
	}
	program := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R2, asm.R6, opsOp, asm.Word),
		asm.JEq.Imm(asm.R2, connecting, "connecting"),
		asm.JEq.Imm(asm.R2, activeEstablished, "established"),
		asm.JNE.Imm(asm.R2, listening, "end"),
	}
	program = append(append(program, set(lasting...)...),
		// A listening socket is kept if the daemon expects one at its address, and once: what a proxy that somebody owns opens beside
		// its own, it opens in vain.
		asm.LoadMem(asm.R2, asm.R6, opsFamily, asm.Word),
		asm.JNE.Imm(asm.R2, unix.AF_INET, "end"),
		asm.LoadMem(asm.R2, asm.R6, opsLocalIP4, asm.Word),
		asm.StoreMem(asm.R10, key, asm.R2, asm.Word),
		asm.LoadMem(asm.R2, asm.R6, opsLocalPort, asm.Word),
		asm.StoreMem(asm.R10, key+4, asm.R2, asm.Word),
		asm.LoadMapPtr(asm.R1, a.expected.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, key),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "end"),
		asm.LoadMem(asm.R2, asm.R0, 0, asm.Word),
		asm.JNE.Imm(asm.R2, handover.AboutToListen, "end"),
		asm.StoreImm(asm.R0, 0, handover.Listens, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.FnGetSocketCookie.Call(),
		asm.StoreMem(asm.R10, cookie, asm.R0, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, a.sockets.FD()),
		asm.Mov.Reg(asm.R3, asm.R10),
		asm.Add.Imm(asm.R3, cookie),
		asm.Mov.Imm(asm.R4, unix.BPF_NOEXIST),
		asm.FnSockHashUpdate.Call(),
		asm.Ja.Label("end"),
	)
	part := func(symbol string, options ...option) {
		part := set(options...)
		part[0] = part[0].WithSymbol(symbol)
		program = append(append(program, part...), asm.Ja.Label("end"))
	}
	part("connecting", bounded)
	part("established", append(lasting[:len(lasting):len(lasting)], unbounded)...)
	return append(program, asm.Mov.Imm(asm.R0, 1).WithSymbol("end"), asm.Return())
}
