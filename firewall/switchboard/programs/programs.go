// Package programs has the two programs of BPF by which the kernel itself hands an AppVM's connection to its proxy, without NAT.
//
// They are assembled here, so that no compiler and no object file is needed. vifproxy-switchboard loads and attaches them, and hands
// over what is left to do: entries of maps (package handover says which). The programs:
//
//   - "lookup" runs in the network namespace when the kernel looks for the socket of a new connection (sk_lookup). For a TCP
//     connection over IPv4 to the proxies' port it takes the socket that (vif, AppVM) is bound to, or refuses the connection if that
//     socket has gone. It refuses connections to the ports where proxies listen, but for those from 127.0.0.0/8. It lets everything else pass.
//   - "connections" runs at events of sockets in the proxies' cgroup (sock_ops). It sets options of their connections, and keeps
//     listening sockets that are expected.
//
// They need Linux 6.1: sk_lookup knows the interface since 5.17, a map can be changed without a capability since 6.0, and
// bpf_setsockopt knows TCP_NODELAY since 6.1. Without the last one, the programs can be loaded and do half of their work.
//
// Concurrency: Attach may be called from any goroutine, whose thread has to be in the network namespace. An Attached is for one
// goroutine at once.
package programs

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"vifproxy/firewall/switchboard/handover"
)

// Attached are the maps, and the links that keep the programs attached. The maps and links that are not handed over to another process
// end with Close, or with this process.
type Attached struct {
	bindings, sockets, expected, port *ebpf.Map
	connections, lookup               *link.RawLink
}

// Attach makes the maps, loads the programs, and attaches them to a cgroup of version 2 and to the network namespace of this thread.
// Programs of others may be attached to both, before and after.
func Attach(cgroup string) (_ *Attached, err error) {
	version, err := features.LinuxVersionCode()
	if err != nil {
		return nil, err
	}
	if err := tooOld(version); err != nil {
		return nil, err
	}
	a := new(Attached)
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	for _, m := range []struct {
		to   **ebpf.Map
		like handover.Map
	}{{&a.bindings, handover.Bindings}, {&a.sockets, handover.Sockets}, {&a.expected, handover.Expected}, {&a.port, handover.Port}} {
		if *m.to, err = ebpf.NewMap(&ebpf.MapSpec{
			Name: m.like.Name, Type: ebpf.MapType(m.like.Type), Flags: m.like.Flags,
			KeySize: m.like.KeySize, ValueSize: m.like.ValueSize, MaxEntries: m.like.MaxEntries,
		}); err != nil {
			return nil, explain("make the map "+m.like.Name, err)
		}
	}
	dir, err := os.Open(cgroup)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if a.connections, err = attach(dir, ebpf.AttachCGroupSockOps, &ebpf.ProgramSpec{
		Name: "connections", Type: ebpf.SockOps, Instructions: a.sockOps(),
	}); err != nil {
		return nil, explain("attach a program to the cgroup "+cgroup, err)
	}
	namespace, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer namespace.Close()
	if a.lookup, err = attach(namespace, ebpf.AttachSkLookup, &ebpf.ProgramSpec{
		Name: "lookup", Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup, Instructions: a.skLookup(),
	}); err != nil {
		return nil, explain("attach a program to this network namespace", err)
	}
	return a, nil
}

// tooOld returns an error if a kernel of this version (KERNEL_VERSION of linux/version.h) cannot do what the programs need.
func tooOld(version uint32) error {
	major, minor := version>>16, version>>8&0xff
	if major > 6 || major == 6 && minor >= 1 {
		return nil
	}
	return fmt.Errorf("this is Linux %d.%d, and Linux 6.1 is needed", major, minor)
}

// attach loads a program and attaches it. A link of a cgroup lets others attach too (cgroup_bpf_link_attach in the kernel's
// kernel/bpf/cgroup.c: BPF_F_ALLOW_MULTI), and so does one of a network namespace.
func attach(to *os.File, how ebpf.AttachType, spec *ebpf.ProgramSpec) (*link.RawLink, error) {
	spec.License = "Apache-2.0" // what they call is not reserved to programs under the GPL
	program, err := ebpf.NewProgram(spec)
	if err != nil {
		return nil, err
	}
	defer program.Close()
	return link.AttachRawLink(link.RawLinkOptions{Target: int(to.Fd()), Program: program, Attach: how})
}

// explain says in plain words why something could not be done.
func explain(what string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM): // the library advises to raise a limit, which the kernel has not applied since 5.11
		return fmt.Errorf("%s: the kernel or a container does not let programs of BPF be loaded: %w", what, unix.EPERM)
	case errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("%s: this kernel has no BPF: %w", what, unix.ENOSYS)
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%s: this takes Linux 6.1: %w", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Descriptors returns what there is to hand over. It is valid until Close.
func (a *Attached) Descriptors() []handover.Descriptor {
	return []handover.Descriptor{
		{Name: handover.Bindings.Name, FD: a.bindings.FD()}, {Name: handover.Sockets.Name, FD: a.sockets.FD()},
		{Name: handover.Expected.Name, FD: a.expected.FD()}, {Name: handover.Port.Name, FD: a.port.FD()},
		{Name: handover.ConnectionsName, FD: a.connections.FD()}, {Name: handover.LookupName, FD: a.lookup.FD()},
	}
}

// Close detaches the programs, unless somebody else holds the links too.
func (a *Attached) Close() error {
	var all []error
	for _, l := range []*link.RawLink{a.lookup, a.connections} {
		if l != nil {
			all = append(all, l.Close())
		}
	}
	for _, m := range []*ebpf.Map{a.bindings, a.sockets, a.expected, a.port} {
		if m != nil {
			all = append(all, m.Close())
		}
	}
	return errors.Join(all...)
}

// Fields of struct bpf_sk_lookup, include/uapi/linux/bpf.h.
const (
	lookupFamily    = 8
	lookupProtocol  = 12
	lookupRemoteIP4 = 16 // in network order
	lookupLocalIP4  = 40 // in network order
	lookupLocalPort = 60 // in the machine's order
	lookupInterface = 64
)

// noInterface is the index with which sock_diag(7) looks for the listener at an address: it runs the program too (inet_diag_find_one_icsk in
// net/ipv4/inet_diag.c, Linux 6.18, findings/who-asks-runs-sk-lookup.sh).
// Packets of this machine itself do not have that of lo, but of the interface whose address they are for (inet_iif; orig_oif in
// net/ipv4/route.c), so they are known by their source.
const (
	noInterface = 0
	loopback    = 127 // of 127.0.0.0/8
)

// What sk_lookup may return, enum sk_action.
const (
	drop = 0
	pass = 1
)

// Flags of bpf_sk_assign. A program of others that ran before may have taken another socket. Other sockets may share the port of the
// one that is bound (SO_REUSEPORT).
const (
	replace     = 1 << 0
	noReuseport = 1 << 1
)

func (a *Attached) skLookup() asm.Instructions {
	const (
		key    = -8 // on the stack, as in the maps
		cookie = -16
	)
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R2, asm.R6, lookupFamily, asm.Word),
		asm.JNE.Imm(asm.R2, unix.AF_INET, "pass"),
		asm.LoadMem(asm.R2, asm.R6, lookupProtocol, asm.Word),
		asm.JNE.Imm(asm.R2, unix.IPPROTO_TCP, "pass"),
		asm.LoadMapValue(asm.R1, a.port.FD(), 0),
		asm.LoadMem(asm.R1, asm.R1, 0, asm.Word),
		asm.LoadMem(asm.R2, asm.R6, lookupLocalPort, asm.Word),
		asm.JNE.Reg(asm.R2, asm.R1, "direct"),

		asm.LoadMem(asm.R2, asm.R6, lookupInterface, asm.Word),
		asm.StoreMem(asm.R10, key, asm.R2, asm.Word),
		asm.LoadMem(asm.R2, asm.R6, lookupRemoteIP4, asm.Word),
		asm.StoreMem(asm.R10, key+4, asm.R2, asm.Word),
		asm.LoadMapPtr(asm.R1, a.bindings.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, key),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),

		asm.LoadMem(asm.R2, asm.R0, 0, asm.DWord),
		asm.StoreMem(asm.R10, cookie, asm.R2, asm.DWord),
		asm.LoadMapPtr(asm.R1, a.sockets.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, cookie),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "drop"),

		asm.Mov.Reg(asm.R7, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Mov.Imm(asm.R3, replace|noReuseport),
		asm.FnSkAssign.Call(),
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.FnSkRelease.Call(),
		asm.JNE.Imm(asm.R8, 0, "drop"),
		asm.Ja.Label("pass"),

		asm.StoreMem(asm.R10, key+4, asm.R2, asm.Word).WithSymbol("direct"),
		asm.LoadMem(asm.R2, asm.R6, lookupInterface, asm.Word),
		asm.JEq.Imm(asm.R2, noInterface, "pass"),
		asm.LoadMem(asm.R2, asm.R6, lookupRemoteIP4, asm.Word),
		asm.HostTo(asm.BE, asm.R2, asm.Word),
		asm.RSh.Imm(asm.R2, 24),
		asm.JEq.Imm(asm.R2, loopback, "pass"),
		asm.LoadMem(asm.R2, asm.R6, lookupLocalIP4, asm.Word),
		asm.StoreMem(asm.R10, key, asm.R2, asm.Word),
		asm.LoadMapPtr(asm.R1, a.expected.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, key),
		asm.FnMapLookupElem.Call(),
		asm.JNE.Imm(asm.R0, 0, "drop"),

		asm.Mov.Imm(asm.R0, pass).WithSymbol("pass"),
		asm.Return(),
		asm.Mov.Imm(asm.R0, drop).WithSymbol("drop"),
		asm.Return(),
	}
}
