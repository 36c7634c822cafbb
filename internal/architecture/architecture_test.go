// Package architecture_test holds the packages against the plan of the house: which may import which, what each program links,
// and how long a package or a file may be.
package architecture_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const top = "../.."

// house is the floors, from the ground up. A floor has wings; a wing is packages with all that is below them. A package may
// import what is on a lower floor or in its own wing. On floor 2 the wings are the six parts that do not know one another: what
// two of them need is on floor 1, and what joins them is above.
var house = [][]string{
	1: {"internal/agenda internal/await internal/backlog internal/backoff internal/beat internal/browsers internal/capability internal/cgroup internal/defaults internal/events " +
		"internal/filegroup internal/footprint internal/kept internal/lease internal/logtail internal/netlink internal/notroot internal/pace internal/regular internal/resolvconf internal/screen internal/secret internal/settings internal/unanswered " +
		"internal/sightings internal/sockdiag internal/stops internal/terminal internal/upstreams internal/usage internal/vanish internal/watchfile internal/manpage names/wire"},
	2: {"tinyproxy", "rules", "netwatch", "firewall", "control", "qubes"},
	3: {"internal/policy", "internal/dom0", "internal/mailbox", "internal/lessons", "internal/lab internal/bench", "names", "internal/nameserver"},
	4: {"internal/explain internal/proxies internal/trials", "internal/doctor", "internal/plan internal/news internal/uses", "internal/proxyctl", "internal/check internal/review", "internal/callers", "internal/edit", "internal/display", "internal/live", "internal/picker internal/propose internal/learning", "internal/complete"},
	5: {"supervisor"},
	6: {"cmd/vifproxyd", "cmd/vifproxyctl", "cmd/vifproxy-confine", "cmd/vifproxy-names", "cmd/vifproxy-switchboard", "cmd/vifproxy-client", "cmd/vifproxy-qrexec", "cmd/vifproxylab",
		"internal/bounds", "internal/architecture", "internal/simulate", "packaging"},
}

// forbidden are packages and modules that others do not even reach through third ones, and why.
var forbidden = []struct{ from, to, why string }{
	{"cmd/vifproxyctl", "vifproxy/tinyproxy/process", "it runs no proxy"},
	{"cmd/vifproxyctl", "vifproxy/tinyproxy/confine", "it confines nothing"},
	{"cmd/vifproxyctl", "github.com/elastic/go-seccomp-bpf", "it confines nothing"},
	{"cmd/vifproxyctl", "github.com/cilium/ebpf", "vifproxy-switchboard loads programs into the kernel"},
	{"firewall/switchboard/handover", "github.com/cilium/ebpf", "the daemon links it"},
	{"cmd/vifproxyd", "github.com/cilium/ebpf", "vifproxy-switchboard loads programs into the kernel"},
	{"cmd/vifproxyd", "vifproxy/internal/propose", "what a person accepts is decided at the terminal"},
	{"cmd/vifproxyd", "vifproxy/internal/learning", "what a person accepts is decided at the terminal"},
	{"cmd/vifproxyd", "vifproxy/internal/display", "vifproxyctl writes for people"},
	{"cmd/vifproxyd", "github.com/gdamore/tcell", "people look at a terminal of vifproxyctl"},
	{"cmd/vifproxyd", "vifproxy/internal/screen", "people look at a terminal of vifproxyctl"},
	{"cmd/vifproxy-qrexec", "github.com/gdamore/tcell", "AppVMs call it as root: it does three things"},
	{"cmd/vifproxyctl", "vifproxy/internal/screen/screentest", "only tests use it"},
	{"cmd/vifproxyctl", "vifproxy/supervisor", "it speaks to the daemon by the control socket"},
	{"cmd/vifproxyd", "golang.org/x/net/dns/dnsmessage", "vifproxy-names reads messages of DNS"},
	{"cmd/vifproxy-names", "net/http", "it is in memory as long as the daemon, and reads what strangers send"},
	{"cmd/vifproxy-names", "vifproxy/rules/hostname", "it is in memory as long as the daemon, and compares names with compiled lines only"},
	{"cmd/vifproxy-qrexec", "vifproxy/tinyproxy/process", "AppVMs call it as root: it does three things"},
	{"cmd/vifproxy-qrexec", "vifproxy/tinyproxy/confine", "AppVMs call it as root: it does three things"},
	{"cmd/vifproxy-qrexec", "vifproxy/internal/doctor", "AppVMs call it as root: it does three things"},
	{"cmd/vifproxy-switchboard", "vifproxy/tinyproxy", "it runs as root, and knows sockets only"},
	{"cmd/vifproxyd", "github.com/godbus/dbus", "vifproxy-client speaks to desktops"},
	{"cmd/vifproxyctl", "github.com/godbus/dbus", "vifproxy-client speaks to desktops"},
	{"cmd/vifproxy-client", "vifproxy/control", "it is in another VM than vifproxyd"},
	{"cmd/vifproxy-client", "vifproxy/tinyproxy", "it is in another VM than vifproxyd"},
	{"cmd/vifproxy-client", "vifproxy/qubes/qubestest", "only tests use it"},
	{"internal/explain", "vifproxy/tinyproxy/process", "it is given what tries a request"},
	{"internal/plan", "vifproxy/tinyproxy/process", "a plan is computed from values"},
	{"internal/policy", "vifproxy/tinyproxy/process", "a policy is a value"},
	{"tinyproxy", "vifproxy/tinyproxy/process", "what tinyproxy says does not depend on who runs it"},

	{"cmd/vifproxyd", "vifproxy/internal/lab", "the workshop is not shipped"},
	{"cmd/vifproxyd", "vifproxy/internal/bench", "the workshop is not shipped"},
	{"cmd/vifproxyd", "vifproxy/internal/await", "only tests use it"},
	{"cmd/vifproxyd", "vifproxy/internal/simulate/model", "only tests use it"},
	{"cmd/vifproxyd", "vifproxy/rules/rulestest", "only tests use it"},
	{"cmd/vifproxyd", "vifproxy/internal/policy/policytest", "only tests use it"},
	{"cmd/vifproxyd", "vifproxy/firewall/firewalltest", "only tests use it"},
	{"cmd/vifproxyd", "vifproxy/qubes/qubestest", "only tests use it"},
	{"cmd/vifproxyd", "github.com/google/nftables", "only tests look with other eyes"},
	{"cmd/vifproxyd", "github.com/rogpeppe/go-internal", "only tests have scripts"},
	{"cmd/vifproxyctl", "vifproxy/internal/lab", "the workshop is not shipped"},
	{"cmd/vifproxyctl", "vifproxy/internal/bench", "the workshop is not shipped"},
	{"cmd/vifproxyctl", "vifproxy/internal/await", "only tests use it"},
	{"cmd/vifproxyctl", "vifproxy/rules/rulestest", "only tests use it"},
	{"cmd/vifproxyctl", "vifproxy/internal/policy/policytest", "only tests use it"},
	{"cmd/vifproxyctl", "vifproxy/firewall/firewalltest", "only tests use it"},
	{"cmd/vifproxyctl", "github.com/google/nftables", "only tests look with other eyes"},
	{"cmd/vifproxyctl", "github.com/rogpeppe/go-internal", "only tests have scripts"},
}

const (
	packageLines = 3000 // outside of tests
	fileLines    = 400
)

// A pack is a package as `go list` prints it.
type pack struct {
	ImportPath, Dir  string
	GoFiles, Imports []string
	Deps             []string
	Standard         bool
}

// path returns where the package is in the repository.
func (p pack) path() string { return strings.TrimPrefix(p.ImportPath, "vifproxy/") }

func list(t *testing.T, args ...string) (all []pack) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,GoFiles,Imports,Deps,Standard"}, args...)...)
	cmd.Dir = top
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pack
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// below reports whether an import path is a package, or below it.
func below(path, parent string) bool {
	rest, ok := strings.CutPrefix(path, parent)
	return ok && (rest == "" || rest[0] == '/')
}

// place returns the floor and the wing of a package; floor 0 if it has none.
func place(path string) (floor, wing int) {
	for floor, wings := range house {
		for wing, packages := range wings {
			if slices.ContainsFunc(strings.Fields(packages), func(parent string) bool { return below(path, parent) }) {
				return floor, wing
			}
		}
	}
	return 0, 0
}

// Each package has a place in the house, and imports what is below it, or in its own wing, and nothing else of ours.
func TestArrowsGoDown(t *testing.T) {
	for _, p := range list(t, "./...") {
		floor, wing := place(p.path())
		if floor == 0 {
			t.Errorf("%s has no floor: give it one in this test, and a row in docs/architecture.md", p.path())
		}
		for _, imported := range p.Imports {
			path, ours := strings.CutPrefix(imported, "vifproxy/")
			if !ours {
				continue
			}
			if to, toWing := place(path); to > floor || to == floor && toWing != wing {
				t.Errorf("%s (floor %d) imports %s (floor %d)", p.path(), floor, path, to)
			}
		}
	}
	for _, wings := range house {
		for _, packages := range wings {
			for path := range strings.FieldsSeq(packages) {
				if _, err := os.Stat(filepath.Join(top, path)); err != nil {
					t.Errorf("the house has a package that does not exist: %v", err)
				}
			}
		}
	}
}

// What is forbidden is not reached through other packages either.
func TestForbiddenImports(t *testing.T) {
	packages := map[string]pack{}
	for _, p := range list(t, "./...") {
		packages[p.path()] = p
	}
	for _, f := range forbidden {
		from, ok := packages[f.from]
		if !ok {
			t.Errorf("there is no %s", f.from)
		}
		for _, path := range from.Deps {
			if below(path, f.to) {
				t.Errorf("%s links %s: %s", f.from, path, f.why)
			}
		}
	}
}

// asksNames matches what asks name servers in package net.
var asksNames = regexp.MustCompile(`\bnet\.(DefaultResolver|Resolver|Lookup[A-Z]\w*|Resolve(TCP|UDP|IP)Addr)\b`)

// The daemon asks for no name itself, because what reads answers has to be a process of its own: the resolver.
func TestTheDaemonAsksNoNameServer(t *testing.T) {
	for _, p := range list(t, "-deps", "./cmd/vifproxyd") {
		if p.Standard || !strings.HasPrefix(p.ImportPath, "vifproxy/") {
			continue
		}
		for _, file := range p.GoFiles {
			text, err := os.ReadFile(filepath.Join(p.Dir, file))
			if err != nil {
				t.Fatal(err)
			}
			if m := asksNames.Find(text); m != nil {
				t.Errorf("%s/%s uses %s", p.path(), file, m)
			}
		}
	}
}

// Every start of a proxy costs what the packages of vifproxy-confine cost: it links one beside the standard library.
func TestWhatConfineLinks(t *testing.T) {
	for _, p := range list(t, "-deps", "./cmd/vifproxy-confine") {
		if path := p.path(); !p.Standard && path != "cmd/vifproxy-confine" && path != "tinyproxy/confine/handover" {
			t.Errorf("vifproxy-confine links %s", p.ImportPath)
		}
	}
}

var inBackquotes = regexp.MustCompile("`([^`]+)`")

// The page for the next engineer has a row for each package.
func TestEachPackageHasARow(t *testing.T) {
	rows := map[string]bool{}
	for _, line := range strings.Split(section(t, "## The house"), "\n") {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			for _, m := range inBackquotes.FindAllStringSubmatch(cells[1], -1) {
				rows[m[1]] = true
			}
		}
	}
	for _, p := range list(t, "./...") {
		path := p.path()
		for !rows[path] && strings.Contains(path, "/") { // a row speaks for what is below it too
			path = filepath.Dir(path)
		}
		if !rows[path] {
			t.Errorf("docs/architecture.md has no row | `%s` | … |", p.path())
		}
	}
}

// section returns the part of docs/architecture.md below a heading.
func section(t *testing.T, heading string) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(top, "docs/architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(page), "\n"+heading+"\n")
	if !found {
		t.Fatalf("docs/architecture.md has no section %q", heading)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	return text
}

// module is the path of a package that is not ours.
var module = regexp.MustCompile(`\b(?:github\.com|golang\.org)/[-\w./]*\w`)

// What the page says that the daemon depends on is what it links, and what it says of tests is not linked.
func TestDependenciesOfTheDaemon(t *testing.T) {
	text := section(t, "## Dependencies of the daemon")
	linked, tests, found := strings.Cut(text, "The daemon does not link these")
	if !found {
		t.Fatal("the section does not say what the daemon does not link")
	}
	said := module.FindAllString(linked, -1)
	var links []string
	for _, p := range list(t, "-deps", "./cmd/vifproxyd") {
		if !p.Standard && !below(p.ImportPath, "vifproxy") {
			links = append(links, p.ImportPath)
		}
	}
	for _, path := range links {
		if !slices.ContainsFunc(said, func(parent string) bool { return below(path, parent) }) {
			t.Errorf("the page does not say that the daemon links %s", path)
		}
		for _, parent := range module.FindAllString(tests[strings.Index(tests, "|"):], -1) {
			if below(path, parent) {
				t.Errorf("the page says that the daemon does not link %s", path)
			}
		}
	}
	for _, parent := range said {
		if !slices.ContainsFunc(links, func(path string) bool { return below(path, parent) }) {
			t.Errorf("the page says that the daemon links %s", parent)
		}
	}
}

// Packages and files are short enough to be read.
func TestLengths(t *testing.T) {
	measure := func(path string, lines, most int) {
		t.Helper()
		if lines > most {
			t.Errorf("%s has %d lines, and may have %d", path, lines, most)
		}
	}
	for _, p := range list(t, "./...") {
		sum := 0
		for _, file := range p.GoFiles {
			content, err := os.ReadFile(filepath.Join(p.Dir, file))
			if err != nil {
				t.Fatal(err)
			}
			lines := bytes.Count(content, []byte("\n"))
			measure(p.path()+"/"+file, lines, fileLines)
			sum += lines
		}
		measure(p.path(), sum, packageLines)
	}
}

// The race detector finds nothing where there is one goroutine. Packages that are tested without it have no more, and share nothing.
func TestPackagesWithoutTheRaceDetectorAreSequential(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(top, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(makefile), "\nSEQUENTIAL ")
	line, _, _ := strings.Cut(strings.ReplaceAll(rest, "\\\n", ""), "\n")
	packages := strings.Fields(strings.TrimLeft(line, "= "))
	if !found || len(packages) == 0 {
		t.Fatal("the Makefile names no packages that are SEQUENTIAL")
	}
	for _, name := range packages {
		files, err := filepath.Glob(filepath.Join(top, name, "*.go"))
		if err != nil || len(files) == 0 {
			t.Errorf("%s: %d files, %v", name, len(files), err)
		}
		for _, file := range files {
			tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range tree.Imports {
				if path := strings.Trim(i.Path.Value, `"`); path == "sync" || below(path, "sync") {
					t.Errorf("%s imports %s: test it with the race detector", file, path)
				}
			}
			ast.Inspect(tree, func(n ast.Node) bool {
				if _, starts := n.(*ast.GoStmt); starts {
					t.Errorf("%s starts a goroutine: test it with the race detector", file)
				}
				return true
			})
		}
	}
}
