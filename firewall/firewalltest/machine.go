// Package firewalltest makes what tests of the firewall need: machines with rules of others, AppVMs around them, and another program
// that changes the ruleset. Everything is in network namespaces of its own.
//
// Concurrency: a test calls all of it from its own goroutine, whose thread is in the namespace.
package firewalltest

import (
	"bytes"
	"embed"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/firewall"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var TestConfig = firewall.Config{ProxyPort: 8100, FirstPort: 61000, LastPort: 64999, FirstUID: 0x70000000, LastUID: 0x71ffffff,
	NamesUID: NamesUID}

//go:embed testdata
var foreign embed.FS

// Machine is a kind of firewall VM: what rules are there already, and the backend for it.
type Machine struct {
	Name, Kind string
	Iptables   string // the variant that the machine's own rules are made with
	Foreign    string // file in testdata
}

var Machines = []Machine{
	{"qubes", "nftables", "", "qubes-r4.2.nft"},
	{"nft", "nftables", "", ""},
	{"iptables-nft", "iptables", "/usr/sbin/iptables-nft", "qubes-r4.1.iptables"},
	{"iptables-legacy", "iptables", "/usr/sbin/iptables-legacy", "qubes-r4.1.iptables"},
}

// OnEach runs a test on each kind of machine, in a network namespace of its own with the foreign rules loaded. It runs one after the
// other: a program that one test starts has a copy of the sockets of all others for a moment, so that what they closed is still open.
func OnEach(t *testing.T, test func(t *testing.T, m Machine)) {
	for _, m := range Machines {
		t.Run(m.Name, func(t *testing.T) {
			EnterNamespace(t)
			m.LoadForeign(t)
			test(t, m)
		})
	}
}

// EnterNamespace moves this goroutine's thread to a new network namespace. Both end with the test.
func EnterNamespace(t testing.TB) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread is of no use to others any more
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	Run(t, "", "ip", "link", "set", "lo", "up")
}

// startedIn is the network namespace that the tests were started in.
var startedIn, _ = os.Readlink("/proc/self/ns/net")

// InNamespace makes sure that this thread does not work on the firewall of the computer the tests run on.
// Every subtest and sub-benchmark is a goroutine of its own, and must enter a namespace of its own.
func InNamespace(t testing.TB) {
	t.Helper()
	here, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil || startedIn == "" || here == startedIn {
		t.Fatalf("not in a network namespace of the test's own (%s, started in %q, %v)", here, startedIn, err)
	}
}

func (m Machine) LoadForeign(t testing.TB) {
	t.Helper()
	if m.Foreign == "" {
		return
	}
	text, err := foreign.ReadFile("testdata/" + m.Foreign)
	if err != nil {
		t.Fatal(err)
	}
	if m.Iptables == "" {
		Run(t, string(text), "nft", "-f", "-")
	} else {
		Run(t, string(text), m.Iptables+"-restore")
	}
}

// Rules prints everything in the namespace's firewall, without counters: with iptables, its tables and then ours.
func (m Machine) Rules(t testing.TB) string {
	t.Helper()
	if m.Iptables == "" {
		return LikeOlder(Run(t, "", "nft", "-s", "list", "ruleset"))
	}
	all := m.IptablesRules(t)
	for _, ours := range []string{"ip vifproxy", "inet vifproxy"} {
		if strings.Contains(Run(t, "", "nft", "list", "tables"), ours+"\n") {
			all += LikeOlder(Run(t, "", "nft", append([]string{"-s", "list", "table"}, strings.Fields(ours)...)...))
		}
	}
	return all
}

var (
	newerFlags = regexp.MustCompile(`tcp flags & \(([a-z, |]+)\) (==|!=) ([a-z]+(?:(?: \| |,)[a-z]+)*)`)
	elements   = regexp.MustCompile(`elements = \{ (.*) \}`)
	brokenLine = regexp.MustCompile(`,\n\t+ *`)
	newerTimes = regexp.MustCompile(`(?m)^(\t*policy = \{.*) ((?:\d+[hms])+)`)
)

// LikeOlder writes what nft 1.1 (Debian 13) prints as 1.0.6 (Debian 12) prints it, so that one golden file does for both:
//
//	tcp flags & (syn | ack) != syn      tcp flags != syn / syn,ack
//	policy = { close : 3s }             policy = { close : 3 }
//	policy = { established : 2h4m }     policy = { established : 7440 }
//	hook output priority dstnat - 1     hook output priority -101
func LikeOlder(list string) string {
	list = newerFlags.ReplaceAllStringFunc(list, func(found string) string {
		part := newerFlags.FindStringSubmatch(strings.ReplaceAll(found, " | ", ","))
		return "tcp flags " + strings.TrimPrefix(part[2]+" ", "== ") + part[3] + " / " + part[1]
	})
	for newerTimes.MatchString(list) {
		list = newerTimes.ReplaceAllStringFunc(list, func(found string) string {
			part := newerTimes.FindStringSubmatch(found)
			d, err := time.ParseDuration(part[2])
			if err != nil {
				panic(err) // the expression finds nothing else
			}
			return fmt.Sprintf("%s %d", part[1], d/time.Second)
		})
	}
	return strings.ReplaceAll(list, "hook output priority dstnat - 1;", "hook output priority -101;")
}

func (m Machine) IptablesRules(t testing.TB) string {
	t.Helper()
	six := strings.Replace(m.Iptables, "iptables", "ip6tables", 1)
	return Run(t, "", m.Iptables, "-S") + Run(t, "", m.Iptables, "-t", "nat", "-S") + Run(t, "", six, "-S")
}

// Shell runs commands in the namespace; "iptables" and "ip6tables" stand for the variant that the machine has.
func (m Machine) Shell(t testing.TB, commands string) {
	t.Helper()
	if m.Iptables != "" {
		six := strings.Replace(m.Iptables, "iptables", "ip6tables", 1)
		commands = strings.NewReplacer("ip6tables", six, "iptables", m.Iptables).Replace(commands)
	}
	Run(t, "", "sh", "-ec", commands)
}

var Quiet = slog.New(slog.DiscardHandler)

// Run runs a program in this thread's network namespace and returns what it prints.
func Run(t testing.TB, stdin, name string, args ...string) string {
	t.Helper()
	InNamespace(t)
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, &errs)
	}
	return out.String()
}

func BindingOf(vif, addr, to string) firewall.Binding {
	return firewall.Binding{Vif: vif, Addr: netip.MustParseAddr(addr), To: netip.MustParseAddrPort(to)}
}

func Bind(t testing.TB, b firewall.Backend, want ...firewall.Binding) (writes int) {
	t.Helper()
	InNamespace(t)
	return Sync(t, b, firewall.State{Bindings: want})
}

func Sync(t testing.TB, b firewall.Backend, want firewall.State) (writes int) {
	t.Helper()
	InNamespace(t)
	writes, err := b.Sync(t.Context(), want, func() {})
	if err != nil {
		t.Fatal(err)
	}
	return writes
}

// Golden compares the rules with a file of the machine's: of iptables there is one for all stages, since its rules stay as
// they are, and ours are those of the machine "nft".
func (m Machine) Golden(t *testing.T, stage string) {
	t.Helper()
	name, got := m.Name+"-"+stage, ""
	if m.Iptables == "" {
		got = m.Rules(t)
	} else {
		name, got = "iptables", m.IptablesRules(t)
	}
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want, got := inOrder(string(want)), inOrder(got); got != want {
		t.Errorf("rules differ from %s (go test -update rewrites it):\n%s", path, Diff(want, got))
	}
}

// inOrder returns a list with the elements of each set on one line and sorted. nft 1.1.3 prints each element of a map on a line of its
// own, 1.0.6 two; 1.1.7 sorts concatenated elements, and older ones do not.
func inOrder(list string) string {
	return elements.ReplaceAllStringFunc(brokenLine.ReplaceAllString(list, ", "), func(found string) string {
		all := strings.Split(elements.FindStringSubmatch(found)[1], ", ")
		slices.Sort(all)
		return "elements = { " + strings.Join(all, ", ") + " }"
	})
}

// Diff shows the lines that only one of the texts has.
func Diff(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	var out strings.Builder
	for _, line := range w {
		if !slices.Contains(g, line) {
			out.WriteString("- " + line + "\n")
		}
	}
	for _, line := range g {
		if !slices.Contains(w, line) {
			out.WriteString("+ " + line + "\n")
		}
	}
	return out.String()
}

// Users are rules of a person, which must survive everything.
func (m Machine) Users() string {
	switch m.Name {
	case "qubes":
		return `
			nft add rule ip qubes custom-input tcp dport 22 accept comment '"vifproxy"'
			nft add rule ip qubes custom-input jump custom-forward comment '"mine"'
			nft add set ip qubes mine '{ type ipv4_addr; }'`
	case "nft":
		return `
			nft add table ip mine
			nft add chain ip mine input '{ type filter hook input priority 0; }'
			nft add rule ip mine input tcp dport 22 accept comment '"vifproxy"'`
	}
	return `
		iptables -N MINE
		iptables -A MINE -m comment --comment vifproxy -j ACCEPT
		iptables -I INPUT -p tcp --dport 22 -m comment --comment "vifproxy -j VIFPROXY" -j MINE
		iptables -A INPUT -p tcp --dport 23 -m comment --comment vifproxy -j ACCEPT
		iptables -A INPUT -p tcp --dport 24 -m comment --comment "not kept by vifproxyd" -j ACCEPT
		iptables -t nat -A PREROUTING -p tcp --dport 22 -m comment --comment vifproxy -j ACCEPT`
}

// Sorted makes rules comparable where their order depends on history and means nothing: of tables and chains, and of
// elements.
func Sorted(rules string) string {
	elements := strings.NewReplacer("elements = { ", "", " }\n", "\n", ",\n", "\n", "\t", "", "     ", "")
	lines := strings.Split(elements.Replace(rules), "\n")
	input := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "-A INPUT") })
	if input >= 0 && strings.Contains(rules, firewall.AdmissionComment) && !strings.Contains(lines[input], `"`+firewall.AdmissionComment+`"`) {
		return "the admission is not first: " + rules
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
