// Package limits says how much of a machine one proxy may take, and whether this machine has that much.
//
// Concurrency: every function may be called from any goroutine.
package limits

import (
	"fmt"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A proxy needs more if it serves more clients at once (its MaxClients), or if its rules are longer. The numbers are those of
// tinyproxy 1.11.1 on x86-64, with room to spare. At 100 silent clients it has 101 threads, 2.4 MB of memory (3.9 MB if they
// send headers) and 28 MB of writable address space, mostly stacks of 256 KiB. To compile a line of a rule file takes 2.4 KB
// and 90 times its length. In use, a line takes three to four times as much, because the C library keeps what it finds out
// about each (2 KB for each state, build_trtable in posix/regexec.c of glibc): after 600 requests 15.4 KB for "^a.example$"
// and 23.9 KB for "^([a-z]+\.)+a.example$", with names of 14 letters. A list of which each host is asked for takes 32 KB a line, and may so
// come to the bound of its proxy, which then starts anew. Where an Upstream is, lines are joined (JoinURLs in rules/expression): of
// 1000 hosts each takes 9 KB, and 34 KB by itself.
const (
	generations = 18 // of one AppVM's proxy at once; they share its uid, by which RLIMIT_NPROC counts
	threads     = 16
	descriptors = 64
	memory      = 32 << 20
	perRule     = 16 << 10
	perRuleByte = 192
	perClient   = 256 << 10 // resident, with what the kernel keeps for its thread and its connections
	perStack    = 512 << 10 // writable address space
	perProcess  = 1 << 20   // tinyproxy 1.10 has a process for each client
	addresses   = 4 << 30   // what malloc reserves, and the Go runtime of vifproxy-confine: 1.2 GiB

	scratchSize = 1 << 20 // of each file that tinyproxy 1.10 makes
	clientsMax  = 1 << 20 // no machine serves so many
)

// Limits are what the proxy of one AppVM may take.
type Limits struct {
	Tasks       uint64 // processes and threads, of all generations together
	Memory      uint64 // bytes, of one generation
	Descriptors uint64 // of one process
}

// Rules is the length of a list: its lines, and their bytes with repetitions written out.
type Rules struct{ Lines, Bytes int }

// SizeOf returns the length of a list.
func SizeOf(lines []string) Rules {
	r := Rules{Lines: len(lines)}
	for _, line := range lines {
		r.Bytes += WrittenOut(line)
	}
	return r
}

func (r Rules) memory() uint64 { return perRule*uint64(r.Lines) + perRuleByte*uint64(r.Bytes) }

// repeated matches a number of repetitions in an expression, after the end of a group or after something else.
var repeated = regexp.MustCompile(`(\)?)\\?\{([0-9]*),?([0-9]*)\\?\}`)

// writtenOutMax limits an expression whose repetitions are written out, see weightMax in rules/expression.
const writtenOutMax = 4096

// WrittenOut returns the length of an expression after its repetitions are written out, as the C library does. The result may
// be too large.
func WrittenOut(text string) int {
	n := len(text)
	if !strings.Contains(text, "{") {
		return n
	}
	for _, m := range repeated.FindAllStringSubmatch(text, -1) {
		least, _ := strconv.Atoi(m[2])
		most, _ := strconv.Atoi(m[3])
		times := min(max(1, least, most), writtenOutMax)
		if m[1] != "" {
			n *= times
		} else {
			n += times
		}
		n = min(n, len(text)+writtenOutMax)
	}
	return n
}

// Of returns the limits of a proxy that serves so many clients at once by a list. This machine may allow less: see
// Ceilings.Fits.
func Of(clients int, rules Rules) Limits { return Need(clients, rules, false).Limits }

// Needs are the limits of one proxy in detail.
type Needs struct {
	Limits
	Serving  uint64 // tasks of the generation that serves
	Writable uint64 // bytes of address space
}

// Need returns what a proxy needs. Its numbers cannot overflow. If forks is set, each client has its own process.
func Need(clients int, rules Rules, forks bool) Needs {
	c, r := uint64(min(clients, clientsMax)), rules.memory()
	n := Needs{Serving: c + threads}
	// The generation that serves may be full. So may those that finish their connections, taken together. Another one may be
	// starting.
	n.Tasks = 2*c + generations + 2*threads
	// A client has two connections, and during a look-up two sockets and a file.
	n.Descriptors = descriptors + 4*c
	n.Memory = memory + r + perClient*c
	n.Writable = memory + r + perStack*c
	if forks {
		n.Memory += (perProcess - perClient) * c
	}
	return n
}

// Ceilings are the hard limits of the daemon, which those of a proxy cannot exceed without CAP_SYS_RESOURCE (setrlimit(2)),
// and the memory of the machine.
type Ceilings struct {
	tasks, descriptors, writable, addresses uint64
	memory                                  uint64
}

func ReadCeilings() (c Ceilings, err error) {
	for _, l := range []struct {
		resource int
		value    *uint64
	}{
		{unix.RLIMIT_NPROC, &c.tasks},
		{unix.RLIMIT_NOFILE, &c.descriptors},
		{unix.RLIMIT_DATA, &c.writable},
		{unix.RLIMIT_AS, &c.addresses},
	} {
		var limit unix.Rlimit
		if err := unix.Getrlimit(l.resource, &limit); err != nil {
			return c, fmt.Errorf("read our own limits: %w", err)
		}
		*l.value = limit.Max
	}
	c.memory, err = Memory()
	return c, err
}

// Memory returns how many bytes of memory the machine has now.
func Memory() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("read the size of the memory: %w", err)
	}
	return uint64(info.Totalram) * uint64(info.Unit), nil
}

// What all proxies and the resolver leave to the rest of the machine. A Debian with the daemon and Qubes' agents takes some 90 MiB.
const (
	restPart = 4        // one part in so many of the memory
	restMin  = 96 << 20 // bytes, unless that is more than half of it
)

// Together returns how many bytes all proxies and the resolver may use together on a machine with so much memory.
func Together(memory uint64) uint64 { return memory - max(memory/restPart, min(restMin, memory/2)) }

// TooManyClients is the error of a template that asks for more clients than this machine has room for.
type TooManyClients struct {
	Asked, Possible int // clients at once
	Scarce          string
	Remedy          string

	more string // what would give this machine room for more
}

func (e *TooManyClients) Error() string {
	return fmt.Sprintf("MaxClients %d: this machine has room for a proxy with %d: %s", e.Asked, e.Possible, e.Scarce)
}

// TooLong is the error of a list that needs more memory than this machine can give to one proxy, or the resolver to one list.
type TooLong struct {
	Lines, Possible int // of this length
	who             string
	Scarce          string
	Remedy          string
}

func (e *TooLong) Error() string {
	return fmt.Sprintf("a list of %d lines: %s %d such lines: %s", e.Lines, e.who, e.Possible, e.Scarce)
}

// Fits returns an error if this machine cannot give a proxy what it needs for so many clients and its list: a *TooLong if the
// clients alone would fit, otherwise a *TooManyClients.
func (c Ceilings) Fits(clients int, rules Rules) error {
	err := c.fit(clients, rules)
	if err == nil || c.fit(clients, Rules{}) != nil {
		return err
	}
	lines := sort.Search(rules.Lines, func(n int) bool {
		return c.fit(clients, Rules{n + 1, int(uint64(rules.Bytes) * uint64(n+1) / uint64(rules.Lines))}) != nil
	})
	least := err.(*TooManyClients)
	return &TooLong{Lines: rules.Lines, Possible: lines, who: "this machine has room for a proxy with", Scarce: least.Scarce, Remedy: "shorten it, or " + least.more}
}

func (c Ceilings) fit(clients int, rules Rules) error {
	const edit = "raise %s in the unit with `systemctl edit vifproxyd`"
	// Half of the memory is for the other AppVMs and the rest of the machine.
	fixed, half := memory+rules.memory(), c.memory/2
	least := &TooManyClients{Asked: clients, Possible: clientsMax, Scarce: "no machine serves more"}
	for _, l := range []struct {
		has, fixed, each uint64
		scarce, remedy   string
	}{
		{c.tasks, threads, 1, "RLIMIT_NPROC allows it %d processes and threads", fmt.Sprintf(edit, "LimitNPROC=")},
		{c.descriptors, descriptors, 4, "RLIMIT_NOFILE allows it %d descriptors", fmt.Sprintf(edit, "LimitNOFILE=")},
		{c.writable, fixed, perStack, "RLIMIT_DATA allows it %d bytes of data", fmt.Sprintf(edit, "LimitDATA=")},
		{c.addresses, addresses + fixed, perStack, "RLIMIT_AS allows it %d bytes of addresses",
			fmt.Sprintf(edit, "LimitAS=")},
		{half, fixed, perClient, "half of the memory is %d bytes", "give this VM more memory"},
	} {
		if possible := int(min((l.has-min(l.has, l.fixed))/l.each, clientsMax)); possible < least.Possible {
			least.Possible, least.Scarce, least.more = possible, fmt.Sprintf(l.scarce, l.has), l.remedy
		}
	}
	if clients <= least.Possible {
		return nil
	}
	least.Remedy = least.more
	if write := fmt.Sprintf("write MaxClients %d or less", least.Possible); least.Possible > 0 && least.more != "" {
		least.Remedy = write + ", or " + least.more
	} else if least.Possible > 0 {
		least.Remedy = write
	}
	return least
}

// Rlimits returns the resource limits in the form that vifproxy-confine takes. All generations share the limit of tasks, or
// the daemon's own if that is lower.
func (c Ceilings) Rlimits(n Needs, scratch bool) string {
	size := uint64(0) // a proxy writes to its pipe and to no file
	if scratch {
		size = scratchSize
	}
	var all []string
	for _, l := range []struct {
		resource int
		value    uint64
	}{
		{unix.RLIMIT_CORE, 0},
		{unix.RLIMIT_FSIZE, size},
		{unix.RLIMIT_MEMLOCK, 0},
		{unix.RLIMIT_MSGQUEUE, 0},
		{unix.RLIMIT_NOFILE, n.Descriptors},
		{unix.RLIMIT_NPROC, min(n.Tasks, c.tasks)},
		{unix.RLIMIT_DATA, n.Writable},
		{unix.RLIMIT_AS, min(addresses+n.Writable, c.addresses)},
	} {
		all = append(all, fmt.Sprintf("%d:%d", l.resource, l.value))
	}
	return strings.Join(all, ",")
}
