package firewall

import (
	"bytes"
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var testConfig = Config{ProxyPort: 8100, FirstPort: 61000, LastPort: 64999, FirstUID: 0x70000000, LastUID: 0x71ffffff}

// machine is a kind of firewall VM: what rules are there already, and the backend for it.
type machine struct {
	name, kind string
	iptables   string // the variant that the machine's own rules are made with
	foreign    string // file in testdata
}

var machines = []machine{
	{"qubes", "nftables", "", "qubes-r4.2.nft"},
	{"nft", "nftables", "", ""},
	{"iptables-nft", "iptables", "/usr/sbin/iptables-nft", "qubes-r4.1.iptables"},
	{"iptables-legacy", "iptables", "/usr/sbin/iptables-legacy", "qubes-r4.1.iptables"},
}

// onEach runs a test on each kind of machine, in a network namespace of its own with the foreign rules
// loaded.
func onEach(t *testing.T, test func(t *testing.T, m machine)) {
	for _, m := range machines {
		t.Run(m.name, func(t *testing.T) {
			enterNamespace(t)
			m.loadForeign(t)
			test(t, m)
		})
	}
}

// enterNamespace moves this goroutine's thread to a new network namespace. Both end with the test.
func enterNamespace(t testing.TB) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread is of no use to others any more
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	run(t, "", "ip", "link", "set", "lo", "up")
}

// startedIn is the network namespace that the tests were started in.
var startedIn, _ = os.Readlink("/proc/self/ns/net")

// inNamespace makes sure that this thread does not work on the firewall of the computer the tests run on.
// Every subtest and sub-benchmark is a goroutine of its own, and must enter a namespace of its own.
func inNamespace(t testing.TB) {
	t.Helper()
	here, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil || startedIn == "" || here == startedIn {
		t.Fatalf("not in a network namespace of the test's own (%s, started in %q, %v)", here, startedIn, err)
	}
}

func (m machine) loadForeign(t testing.TB) {
	t.Helper()
	if m.foreign == "" {
		return
	}
	text, err := os.ReadFile(filepath.Join("testdata", m.foreign))
	if err != nil {
		t.Fatal(err)
	}
	if m.iptables == "" {
		run(t, string(text), "nft", "-f", "-")
	} else {
		run(t, string(text), m.iptables+"-restore")
	}
}

func (m machine) open(t testing.TB) Backend {
	t.Helper()
	inNamespace(t)
	b, err := Open(t.Context(), quiet, m.kind, testConfig)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// rules prints everything in the namespace's firewall, without counters: with iptables, its tables and then ours.
func (m machine) rules(t testing.TB) string {
	t.Helper()
	if m.iptables == "" {
		return likeOlder(run(t, "", "nft", "-s", "list", "ruleset"))
	}
	all := m.iptablesRules(t)
	for _, ours := range []string{"ip vifproxy", "inet vifproxy"} {
		if strings.Contains(run(t, "", "nft", "list", "tables"), ours+"\n") {
			all += likeOlder(run(t, "", "nft", append([]string{"-s", "list", "table"}, strings.Fields(ours)...)...))
		}
	}
	return all
}

var (
	newerFlags = regexp.MustCompile(`tcp flags & \(([a-z, |]+)\) (==|!=) ([a-z]+(?:(?: \| |,)[a-z]+)*)`)
	newerTimes = regexp.MustCompile(`(?m)^(\t*policy = \{.*) (\d+)s\b`)
)

// likeOlder writes what nft 1.1 (Debian 13) prints as 1.0.6 (Debian 12) prints it, so that one golden file does for both:
//
//	tcp flags & (syn | ack) != syn      tcp flags != syn / syn,ack
//	policy = { close : 3s }             policy = { close : 3 }
func likeOlder(list string) string {
	list = newerFlags.ReplaceAllStringFunc(list, func(found string) string {
		part := newerFlags.FindStringSubmatch(strings.ReplaceAll(found, " | ", ","))
		return "tcp flags " + strings.TrimPrefix(part[2]+" ", "== ") + part[3] + " / " + part[1]
	})
	for newerTimes.MatchString(list) {
		list = newerTimes.ReplaceAllString(list, "$1 $2")
	}
	return list
}

func (m machine) iptablesRules(t testing.TB) string {
	t.Helper()
	six := strings.Replace(m.iptables, "iptables", "ip6tables", 1)
	return run(t, "", m.iptables, "-S") + run(t, "", m.iptables, "-t", "nat", "-S") + run(t, "", six, "-S")
}

// shell runs commands in the namespace; "iptables" and "ip6tables" stand for the variant that the machine has.
func (m machine) shell(t testing.TB, commands string) {
	t.Helper()
	if m.iptables != "" {
		six := strings.Replace(m.iptables, "iptables", "ip6tables", 1)
		commands = strings.NewReplacer("ip6tables", six, "iptables", m.iptables).Replace(commands)
	}
	run(t, "", "sh", "-ec", commands)
}

var quiet = slog.New(slog.DiscardHandler)

// run runs a program in this thread's network namespace and returns what it prints.
func run(t testing.TB, stdin, name string, args ...string) string {
	t.Helper()
	inNamespace(t)
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, &errs)
	}
	return out.String()
}

func binding(vif, addr, to string) Binding {
	return Binding{Vif: vif, Addr: netip.MustParseAddr(addr), To: netip.MustParseAddrPort(to)}
}

func bind(t testing.TB, b Backend, want ...Binding) (writes int) {
	t.Helper()
	inNamespace(t)
	return syncState(t, b, State{Bindings: want})
}

func syncState(t testing.TB, b Backend, want State) (writes int) {
	t.Helper()
	inNamespace(t)
	writes, err := b.Sync(t.Context(), want, func() {})
	if err != nil {
		t.Fatal(err)
	}
	return writes
}

// golden compares the rules with a file of the machine's: of iptables there is one for all stages, since its rules stay as
// they are, and ours are those of the machine "nft".
func (m machine) golden(t *testing.T, stage string) {
	t.Helper()
	name, got := m.name+"-"+stage, ""
	if m.iptables == "" {
		got = m.rules(t)
	} else {
		name, got = "iptables", m.iptablesRules(t)
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
	if got != string(want) {
		t.Errorf("rules differ from %s (go test -update rewrites it):\n%s", path, diff(string(want), got))
	}
}

// diff shows the lines that only one of the texts has.
func diff(want, got string) string {
	gone, added := changes(want, got)
	var out strings.Builder
	for _, line := range gone {
		out.WriteString("- " + line + "\n")
	}
	for _, line := range added {
		out.WriteString("+ " + line + "\n")
	}
	return out.String()
}

func init() { trackedMax = func() int { return 65536 } } // the same on every machine
