package doctor

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"vifproxy/internal/policy"
	"vifproxy/tinyproxy/kernel"
	"vifproxy/tinyproxy/limits"
)

// confinement names what this machine lacks to confine proxies with.
func (d *doctor) confinement() {
	const check = "confinement"
	missing := []kernel.Lack{}
	if d.status == nil { // what systemd gives is not known then
		missing = kernel.Lacks()
	}
	for _, lack := range d.setup.Confinement.Missing {
		missing = append(missing, kernel.Lack(lack))
	}
	for _, lack := range missing {
		level := Wrong
		if lack.InPart {
			level = Note
		}
		d.report(check, level, lack.Remedy, "%s: %s", lack.Mechanism, lack.Cause)
	}
	if len(missing) == 0 {
		d.report(check, OK, "", "this machine has all that proxies are confined with")
	}
}

// limits compares what all AppVMs together may take with what this machine has. The machine may have less: AppVMs seldom take all at
// once, and a proxy that takes too much ends before the daemon.
func (d *doctor) limits() {
	const check = "limits"
	config, _, err := policy.ConfigOf(d.rules.Template)
	if err != nil || d.rules.TemplateErr != nil || len(d.rules.Files) == 0 {
		return
	}
	var sum struct{ tasks, memory, tracked, descriptors, names uint64 }
	for _, file := range d.rules.Files {
		var texts []string
		if lines, err := file.Lines(policy.LinterFor(config.Filter).Syntax); err == nil {
			for _, line := range lines {
				texts = append(texts, line.Text)
			}
		}
		l := limits.Of(config.MaxClients, policy.SizeOf(config, texts))
		sum.tasks += l.Tasks
		sum.memory += l.Memory
		sum.tracked += connectionsPerClient * uint64(config.MaxClients)
		sum.descriptors += heldForEach
		sum.names += limits.SizeOf(texts).Names()
	}
	before := len(d.findings)
	for _, of := range []struct {
		need   uint64
		bits   int // that are not shown
		what   string
		has    scarce
		remedy string
	}{
		{sum.tasks, 0, "processes and threads", d.tasks(), "write a smaller MaxClients into the template, or give this VM more memory"},
		{sum.memory, 20, "MiB of memory", d.memory(), "write a smaller MaxClients into the template, or give this VM more memory"},
		{sum.tracked, 0, "tracked connections", scarce{"nf_conntrack_max", d.readNumber("/proc/sys/net/netfilter/nf_conntrack_max")},
			"sysctl net.netfilter.nf_conntrack_max=" + strconv.FormatUint(2*sum.tracked, 10) + ", or write a smaller MaxClients into the template"},
		{sum.descriptors + heldByItself, 0, "descriptors of vifproxyd", scarce{"its RLIMIT_NOFILE", d.openFiles()},
			"raise LimitNOFILE= in the unit with `systemctl edit vifproxyd`"},
		{sum.names, 20, "MiB of memory for lists in vifproxy-names", scarce{"the size of this VM", limits.ListRoom(d.allMemory())},
			"shorten the longest lists, or give this VM more memory: it has an eighth of it for lists, and 128 MiB at most"},
	} {
		if of.need <= of.has.limit {
			continue
		}
		if strings.HasSuffix(of.has.file, ".max") {
			of.remedy = fmt.Sprintf("raise what %s says: TasksMax=infinity, MemoryMax=infinity with `systemctl edit UNIT`", of.has.file)
		}
		d.report(check, Note, of.remedy, "%d AppVMs may together take %d %s, and %s allows %d", len(d.rules.Files),
			of.need>>of.bits, of.what, of.has.file, of.has.limit>>of.bits)
	}
	if len(d.findings) == before {
		d.report(check, OK, "", "this machine has what %d AppVMs may take: %d processes and threads, %d MiB, %d tracked connections",
			len(d.rules.Files), sum.tasks, sum.memory>>20, sum.tracked)
	}
}

// What the daemon holds open, and what the kernel tracks: a client's connection, and the one that is made for it.
const (
	heldForEach          = 40  // descriptors for an AppVM: process and output of 18 generations, a log, what a start takes
	heldByItself         = 256 // descriptors: 64 connections of the control socket, sockets, directories
	connectionsPerClient = 2
)

// A scarce is a limit that a file holds. It is math.MaxUint64 if it is unknown or unlimited.
type scarce struct {
	file  string
	limit uint64
}

func least(all ...scarce) scarce {
	return slices.MinFunc(all, func(a, b scarce) int {
		switch {
		case a.limit < b.limit:
			return -1
		case a.limit > b.limit:
			return 1
		}
		return 0
	})
}

func (d *doctor) tasks() scarce {
	all := []scarce{
		{"kernel.threads-max", d.readNumber("/proc/sys/kernel/threads-max")},
		{"kernel.pid_max", d.readNumber("/proc/sys/kernel/pid_max")},
	}
	return least(append(all, d.groups("pids.max")...)...)
}

func (d *doctor) memory() scarce {
	has := limits.Together(d.allMemory())
	all := append([]scarce{{"the bound for all proxies", has}}, d.groups("memory.max")...)
	return least(append(all, d.groups("memory.high")...)...)
}

// allMemory returns how many bytes of memory the machine has; math.MaxUint64 if it does not say.
func (d *doctor) allMemory() uint64 {
	text, _ := os.ReadFile(d.Root + "/proc/meminfo")
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			if kB := number64(strings.TrimSuffix(strings.TrimSpace(rest), " kB")); kB < math.MaxUint64 {
				return kB << 10
			}
		}
	}
	return math.MaxUint64
}

// groups returns a limit of the daemon's cgroup and of those above it.
func (d *doctor) groups(file string) (all []scarce) {
	if d.setup.PID == 0 {
		return nil
	}
	text, _ := os.ReadFile(fmt.Sprintf("%s/proc/%d/cgroup", d.Root, d.setup.PID))
	for line := range strings.Lines(string(text)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		for ; ok && path != "/" && path != "."; path = filepath.Dir(path) {
			name := filepath.Join("/sys/fs/cgroup", path, file)
			all = append(all, scarce{name, d.readNumber(name)})
		}
	}
	return all
}

// openFiles returns how many descriptors the daemon may have.
func (d *doctor) openFiles() uint64 {
	text, _ := os.ReadFile(fmt.Sprintf("%s/proc/%d/limits", d.Root, d.setup.PID))
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok && len(strings.Fields(rest)) > 0 {
			return number64(strings.Fields(rest)[0])
		}
	}
	return math.MaxUint64
}

// readNumber reads a file with one number in it.
func (c Config) readNumber(path string) uint64 {
	text, _ := os.ReadFile(c.Root + path)
	return number64(strings.TrimSpace(string(text)))
}

// number64 returns a number. "max", "unlimited" and what is not a number are no limit.
func number64(text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return math.MaxUint64
	}
	return n
}
