// Package confine locks a tinyproxy in, on the assumption that an AppVM owns it, and likewise the resolver, vifproxy-names. Packages
// tinyproxy/process and internal/nameserver take care of session, environment and descriptors. This package adds what the kernel
// offers: a uid, no capabilities in any set, no_new_privs, seccomp filters, Landlock, resource limits, and a cgroup if systemd
// delegates one.
//
// The daemon prepares all of it here. vifproxy-confine, a small program that then executes tinyproxy, puts it into force. A
// program of its own is needed because Landlock and seccomp apply to the thread that asks for them and to what it executes, and
// Go can do nothing between fork and exec.
//
// Sandbox.Missing says at the start what the kernel does not have. What the kernel has is in force, or the proxy does not start.
//
// Concurrency: a Sandbox may be used from any goroutine, a Cell from one at a time.
package confine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"

	"vifproxy/internal/capability"
	"vifproxy/internal/cgroup"
	"vifproxy/internal/unanswered"
	"vifproxy/tinyproxy/confine/handover"
	"vifproxy/tinyproxy/kernel"
	"vifproxy/tinyproxy/limits"
)

var native = binary.NativeEndian

// A Sandbox is what all proxies are confined by.
type Sandbox struct {
	Applied []string      // mechanisms in force for every proxy
	Missing []kernel.Lack // what this machine does not have

	helper     *os.File        // vifproxy-confine as it was when this daemon started: an upgrade may replace it
	null       *os.File        // for its standard input and output, with a number above helper's (see openHelper)
	gateFilter *os.File        // of seccomp, for execve; nil if the kernel has no filters
	callFilter *os.File        // of seccomp, for all calls of a proxy; nil if the kernel has no filters
	nameFilter *os.File        // the same for the resolver
	abi        int             // of Landlock; 0 if the kernel has none
	groups     *groups         // nil if there is no cgroup of ours
	private    *cgroup.Private // that, if systemd has delegated none; nil otherwise
	ceilings   limits.Ceilings // of what a proxy may have

	unanswered unanswered.Questions // by path

	mu       sync.Mutex
	programs map[any]program // by identity
}

// What the kernel adds when it has to end a process for lack of memory, in thousandths of the memory (oom_score_adj, proc(5)). It ends
// any proxy first, and the vifproxy-confine that waits. The resolver may use a quarter of the memory, so with a quarter added it comes
// after every proxy. Qubes' own services have 0, and the unit gives the daemon -900.
const (
	ProxyScore = "500"
	NamesScore = "250"
)

// A Box is what one proxy may do.
type Box struct {
	Program  string       // path of the tinyproxy
	Identity any          // comparable; another one means that the program has been replaced
	Read     []string     // files, and directories with what is in them
	Port     uint16       // where it listens
	Bind     []uint16     // TCP ports that it binds, Port included; 0 for any of the ephemeral ones
	Connect  []uint16     // TCP ports that it may connect to
	Clients  int          // at a time
	Rules    limits.Rules // its list

	TimerSlack int // how many nanoseconds late it may be woken
}

// New finds out what this machine can do. helper is the path of vifproxy-confine.
func New(helper string) (*Sandbox, error) { return open(helper, seccomp.ActionErrno) }

// NewStrict is New with a filter that kills a proxy instead of making a system call fail, so that a call that is missing on
// the list is noticed. For tests.
func NewStrict(helper string) (*Sandbox, error) { return open(helper, seccomp.ActionKillProcess) }

func open(helper string, denied seccomp.Action) (_ *Sandbox, err error) {
	s := &Sandbox{programs: map[any]program{}, Applied: []string{"uid", "capabilities", "no_new_privs", "rlimits"}}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := s.openHelper(helper); err != nil {
		return nil, err
	}
	if s.ceilings, err = limits.ReadCeilings(); err != nil {
		return nil, err
	}
	s.checkCapabilities()
	if err := s.openFilters(denied); err != nil {
		return nil, err
	}
	var lacks []kernel.Lack
	s.abi, lacks = kernel.Landlock()
	s.Missing = append(s.Missing, lacks...)
	if s.abi > 0 {
		s.Applied = append(s.Applied, "landlock")
	}
	dir, err := cgroup.Own()
	if err == nil {
		s.groups, err = openGroups(dir)
	}
	if err == nil {
		s.Applied = append(s.Applied, "cgroup")
		err = s.groups.lacking()
	}
	if err != nil {
		s.Missing = append(s.Missing, kernel.Lack{
			Mechanism: "cgroup", Cause: err.Error(), Remedy: groupsRemedy(err), InPart: errors.Is(err, errControllers)})
	}
	return s, nil
}

func (s *Sandbox) openFilters(denied seccomp.Action) error {
	if lacks := kernel.Seccomp(); len(lacks) > 0 {
		s.Missing = append(s.Missing, lacks...)
		return nil
	}
	machine, err := arch.GetInfo("")
	if err != nil {
		s.Missing = append(s.Missing, kernel.Lack{Mechanism: "seccomp", Cause: err.Error(), Remedy: "run vifproxy on amd64 or arm64"})
		return nil
	}
	gate, err := gateFilter()
	if err != nil {
		return err
	}
	calls, err := callFilter(machine, denied, allowedCalls, allowedCallsIf(), "sendto")
	if err != nil {
		return err
	}
	names, err := callFilter(machine, denied, nameCalls, nameCallsIf(), "sendmsg")
	if err != nil {
		return err
	}
	if s.gateFilter, err = inMemory("seccomp-gate", gate); err != nil {
		return err
	}
	if s.callFilter, err = inMemory("seccomp-calls", calls); err != nil {
		return err
	}
	if s.nameFilter, err = inMemory("seccomp-names", names); err != nil {
		return err
	}
	s.Applied = append(s.Applied, "seccomp")
	return nil
}

// inMemory makes a file that nobody can change, not even vifproxy-confine.
func inMemory(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.Write(content)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS,
			unix.F_SEAL_SEAL|unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("keep %s in memory: %w", name, err)
	}
	return f, nil
}

// Close releases what New took. Proxies stay confined.
func (s *Sandbox) Close() {
	for _, f := range []*os.File{s.helper, s.null, s.gateFilter, s.callFilter, s.nameFilter} {
		if f != nil {
			f.Close()
		}
	}
	if s.groups != nil {
		s.groups.root.Close()
	}
	if s.private != nil {
		_ = s.private.Leave() // what stays is removed by the next one
	}
}

// Group returns the directory of the cgroup that has this process and all proxies, and nobody else; "" if there is none.
func (s *Sandbox) Group() string {
	if s.groups == nil {
		return ""
	}
	return s.groups.root.Name()
}

// EnterGroup moves this process to a cgroup of its own if systemd has delegated none and this process is root. It has to come before
// the start of any proxy.
func (s *Sandbox) EnterGroup() error {
	if s.groups != nil || os.Geteuid() != 0 {
		return nil
	}
	private, err := cgroup.Enter()
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(private.Dir)
	if err != nil {
		return errors.Join(err, private.Leave())
	}
	s.private, s.groups = private, &groups{root: root, place: "."}
	return nil
}

// Stayed returns an error if cgroups of an earlier run cannot be removed. No proxy gets one of them.
func (s *Sandbox) Stayed() error {
	if s.groups == nil {
		return nil
	}
	return s.groups.stayed
}

// Fits reports whether this machine can give a proxy what it needs, see limits.Ceilings.Fits.
func (s *Sandbox) Fits(clients int, rules limits.Rules) error { return s.ceilings.Fits(clients, rules) }

// ListRoom returns how many bytes the resolver has for lists.
func (s *Sandbox) ListRoom() uint64 { return s.ceilings.ListRoom() }

// A Cell is one confined start.
type Cell struct {
	sandbox *Sandbox
	limits  string
	slack   int
	ruleset int
	calls   *os.File // filter of seccomp
	program *os.File // nil: the file that argv[0] names
	needs   limits.Needs
	weight  string // of its cgroup, cpu.weight
	room    Room
}

// A Room is the cgroup in which a vifproxy-confine waits, and in which it becomes a proxy. It moves there in advance, because the kernel
// takes 5 to 20 ms for a move (a grace period of RCU, cgroup_attach_lock in the kernel's kernel/cgroup/cgroup.c of 6.18). The zero
// Room is none.
type Room struct {
	group *group
	procs *os.File // cgroup.procs
}

// NewRoom makes a Room, if there is a cgroup of ours. The caller removes it, or hands it over to a Cell.
func (s *Sandbox) NewRoom() (r Room, err error) {
	if s.groups != nil {
		if r.group, r.procs, err = s.groups.add(); err != nil {
			return Room{}, fmt.Errorf("make a cgroup: %w", err)
		}
	}
	return r, nil
}

// Shut closes the door. Processes that are in stay.
func (r Room) Shut() {
	if r.procs != nil {
		r.procs.Close()
	}
}

// Remove ends what is left in the cgroup, and removes it.
func (r Room) Remove() error {
	if r.group == nil {
		return nil
	}
	return r.group.remove()
}

// Prepare makes what a start needs.
func (s *Sandbox) Prepare(b Box) (*Cell, error) {
	p, err := s.program(b)
	if err != nil {
		return nil, err
	}
	n := limits.Need(b.Clients, b.Rules, p.scratch)
	c := &Cell{sandbox: s, limits: s.ceilings.Rlimits(n, p.scratch), slack: b.TimerSlack, ruleset: -1, calls: s.callFilter, needs: n,
		weight: proxyWeight}
	if s.abi > 0 {
		if c.ruleset, err = s.ruleset(b, p); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// HandOver makes a vifproxy-confine, which waits in a Room and at the other end of a SOCK_SEQPACKET socket, become argv[0] as the
// given user. output becomes its standard output and error, and what is passed its descriptors 3 and 4. Without an error, the Room is
// the Cell's. The error is EPIPE or ECONNRESET if the vifproxy-confine has ended.
func (c *Cell) HandOver(room Room, socket int, uid uint32, output int, argv []string, pass ...int) error {
	if room.group != nil {
		if err := room.group.limit(c.needs, c.weight); err != nil {
			return fmt.Errorf("limit its cgroup: %w", err)
		}
	}
	m := handover.Message{UID: uid, Limits: c.limits, Slack: c.slack, Argv: argv,
		Output: output, Ruleset: c.ruleset, Gate: -1, Calls: -1, Program: -1, Pass: [2]int{-1, -1}}
	if c.calls != nil {
		m.Gate, m.Calls = int(c.sandbox.gateFilter.Fd()), int(c.calls.Fd())
	}
	if c.program != nil {
		m.Program = int(c.program.Fd())
	}
	copy(m.Pass[:], pass)
	text, fds := m.Encode()
	if err := unix.Sendmsg(socket, []byte(text), unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL); err != nil {
		return os.NewSyscallError("sendmsg", err)
	}
	c.room = room
	return nil
}

func (s *Sandbox) program(b Box) (program, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.programs[b.Identity]
	if !ok {
		var err error
		if p, err = inspect(b.Program); err != nil {
			return p, err
		}
		clear(s.programs) // there is one program, or there was another one
		s.programs[b.Identity] = p
	}
	return p, nil
}

// Started closes what the child has been given.
func (c *Cell) Started() {
	if c.ruleset >= 0 {
		unix.Close(c.ruleset)
		c.ruleset = -1
	}
}

// Group returns the id of the cell's cgroup, as sock_diag(7) tells it of sockets; 0 if it has none.
func (c *Cell) Group() uint64 {
	if c.room.group == nil {
		return 0
	}
	return c.room.group.id
}

// Kill ends every process in the cell, if it has a cgroup.
func (c *Cell) Kill() {
	if c.room.group != nil {
		c.room.group.kill()
	}
}

// Remove ends what is left in the cell, and removes it.
func (c *Cell) Remove() error { return c.room.Remove() }

// checkCapabilities notes what becomeUser in cmd/vifproxy-confine cannot do.
func (s *Sandbox) checkCapabilities() {
	if !capability.Have(unix.CAP_SETPCAP) {
		s.Missing = append(s.Missing, kernel.Lack{Mechanism: "capabilities", Cause: "the bounding set stays, idle, without CAP_SETPCAP",
			Remedy: "start vifproxyd by its unit, or as root", InPart: true})
	}
}
