//go:build e2e

package packaging

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"vifproxy/internal/lab"
	"vifproxy/qubes/qubestest"
)

// pkg is one build of the packages.
type pkg struct{ version, deb, rpm, clientDeb, clientRPM string }

var builds struct {
	sync.Once
	now, before pkg
	err         error
}

// packages builds what is in the working tree, and the same as an earlier version, for upgrades.
func packages(t *testing.T) (now, before pkg) {
	t.Helper()
	builds.Do(func() {
		var dir string
		if dir, builds.err = os.MkdirTemp("", "vifproxy-packages-"); builds.err != nil {
			return
		}
		atEnd = append(atEnd, func() { os.RemoveAll(dir) })
		if builds.now, builds.err = build(dir, "9.0"); builds.err == nil {
			builds.before, builds.err = build(dir, "8.9")
		}
	})
	must(t, builds.err)
	return builds.now, builds.before
}

// atEnd is what to do when all tests have run.
var atEnd []func()

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == qubestest.QrexecClient {
		os.Exit(qubestest.QrexecClientMain())
	}
	code := m.Run()
	for _, f := range atEnd {
		f()
	}
	os.Exit(code)
}

// build runs `make package` in a directory of its own.
func build(dir, version string) (pkg, error) {
	dir, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return pkg{}, err
	}
	cmd := exec.Command("make", "--no-print-directory", "-C", "..", "package", "BIN="+filepath.Join(dir, "bin"),
		"DIST="+dir, "VERSION=v"+version, "PACKAGE_VERSION="+version)
	// Not what the make that runs this test has for itself.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "MAKE") })
	if out, err := cmd.CombinedOutput(); err != nil {
		return pkg{}, fmt.Errorf("make package: %w\n%s", err, out)
	}
	p := pkg{version: "v" + version}
	for kind, path := range map[string]*string{"vifproxy_*.deb": &p.deb, "vifproxy-[0-9]*.rpm": &p.rpm,
		"vifproxy-client_*.deb": &p.clientDeb, "vifproxy-client-[0-9]*.rpm": &p.clientRPM} {
		found, err := filepath.Glob(filepath.Join(dir, kind))
		if err != nil || len(found) != 1 {
			return pkg{}, fmt.Errorf("make package made %v %v", found, err)
		}
		*path = found[0]
	}
	return p, nil
}

func TestSameSourcesSameBytes(t *testing.T) {
	now, _ := packages(t)
	again, err := build(t.TempDir(), strings.TrimPrefix(now.version, "v"))
	must(t, err)
	for _, pair := range [][2]string{{now.deb, again.deb}, {now.rpm, again.rpm}, {now.clientDeb, again.clientDeb},
		{now.clientRPM, again.clientRPM}} {
		var sums [2][32]byte
		for i, path := range pair {
			text, err := os.ReadFile(path)
			must(t, err)
			sums[i] = sha256.Sum256(text)
		}
		if sums[0] != sums[1] {
			t.Errorf("%s and %s differ", pair[0], pair[1])
		}
	}
}

func TestLintianIsContent(t *testing.T) {
	now, _ := packages(t)
	out, err := exec.Command("lintian", "--allow-root", "--fail-on=error,warning", now.deb, now.clientDeb).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("lintian: %v\n%s", err, out)
	}
}

// contents are files that both packages have, apart from documentation.
var contents = []string{
	"/etc/default/vifproxyd",
	"/etc/qubes-rpc/vifproxy.Allow",
	"/etc/qubes-rpc/vifproxy.AllowAlways",
	"/etc/qubes-rpc/vifproxy.Denied",
	"/usr/bin/vifproxyctl",
	"/usr/bin/vifproxyd",
	"/usr/lib/systemd/catalog/vifproxy.catalog",
	"/usr/lib/systemd/system-preset/50-vifproxyd.preset",
	"/usr/lib/systemd/system/vifproxyd.service",
	"/usr/lib/vifproxy/vifproxy-confine",
	"/usr/lib/vifproxy/vifproxy-names",
	"/usr/lib/vifproxy/vifproxy-qrexec",
	"/usr/lib/vifproxy/vifproxy-switchboard",
	"/usr/share/bash-completion/completions/vifproxyctl",
	"/usr/share/fish/vendor_completions.d/vifproxyctl.fish",
	"/usr/share/man/man1/vifproxyctl.1.gz",
	"/usr/share/man/man5/vifproxy-rules.5.gz",
	"/usr/share/man/man8/vifproxyd.8.gz",
}

func TestContents(t *testing.T) {
	now, _ := packages(t)
	for kind, list := range map[string]*exec.Cmd{
		"deb": exec.Command("sh", "-c", `dpkg-deb --fsys-tarfile "$1" | tar t | sed 's/^\.//'`, "sh", now.deb),
		"rpm": exec.Command("rpm", "-qlp", now.rpm),
	} {
		out, err := list.Output()
		must(t, err)
		files := slices.DeleteFunc(strings.Fields(string(out)), func(file string) bool {
			return strings.HasSuffix(file, "/") || file == "/usr/lib/vifproxy" || strings.HasPrefix(file, "/usr/share/doc/") ||
				strings.HasPrefix(file, "/usr/share/licenses/") || strings.HasPrefix(file, "/usr/share/lintian/") ||
				strings.HasPrefix(file, "/usr/share/zsh/") // where depends on the distribution
		})
		slices.Sort(files)
		if !slices.Equal(files, contents) {
			t.Errorf("the .%s has\n%s\nwant\n%s", kind, strings.Join(files, "\n"), strings.Join(contents, "\n"))
		}
	}
	query := func(args ...string) string {
		out, err := exec.Command("rpm", append([]string{"-qp", now.rpm}, args...)...).Output()
		must(t, err)
		return string(out)
	}
	if out := query("--requires"); !strings.Contains(out, "tinyproxy >= 1.10\n") || strings.Contains(out, "nftables") {
		t.Errorf("the .rpm requires\n%s", out)
	}
	if out := query("--recommends"); out != "nftables\n" {
		t.Errorf("the .rpm recommends\n%s", out)
	}
	if out := query("--configfiles"); out != "/etc/default/vifproxyd\n" {
		t.Errorf("configuration files of the .rpm:\n%s", out)
	}
	flags := query("--queryformat", "[%{FILEFLAGS:fflags} %{FILENAMES}\n]")
	if !strings.Contains(flags, "cn /etc/default/vifproxyd\n") { // config, noreplace
		t.Errorf("an upgrade would replace users' options:\n%s", flags)
	}
}

// The .rpm's scripts, by rpm, with a real systemd. There is no Fedora to be had from Debian.
func TestRPM(t *testing.T) {
	now, before := packages(t)
	m := newMachine(t, lab.R42)
	m.newRoot(nil)
	m.boot()
	m.rule("banking.10.137.0.11", "#: format domains", "bank.example")
	m.attach("banking", "10.137.0.11")
	m.install(before.rpm)
	if state := m.property("ActiveState") + " " + m.property("UnitFileState"); state != "inactive enabled" {
		t.Errorf("after the installation the unit is %s", state)
	}
	m.run("systemctl", "start", "vifproxyd")
	m.served("banking", "bank.example", "shop.example")
	m.run("sh", "-c", `echo 'OPTIONS="--log-level=debug"' >> /etc/default/vifproxyd`)
	m.install(now.rpm)
	if out := m.run("vifproxyctl", "version"); !strings.Contains(out, now.version) {
		t.Errorf("after the upgrade: %s", out)
	}
	m.served("banking", "bank.example", "shop.example")
	if out := m.run("cat", "/etc/default/vifproxyd"); !strings.Contains(out, "\nOPTIONS=") {
		t.Errorf("the upgrade took away options:\n%s", out)
	}
	m.run("rpm", "--erase", "vifproxy")
	m.nothingLeft()
	if out := m.run("find", "/etc/systemd", "/etc/qubes-rpc", "/usr", "-name", "*vifproxy*"); out != "" {
		t.Errorf("after the removal there is\n%s", out)
	}
	must(t, m.Detach("vif2.0"))
	m.halt()
}

// README and what it leads to are in the package as they are in the sources, so that each link leads somewhere.
func TestLinksOfTheDocumentation(t *testing.T) {
	now, _ := packages(t)
	dir := t.TempDir()
	if out, err := exec.Command("dpkg-deb", "--extract", now.deb, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	home := filepath.Join(dir, "usr/share/doc/vifproxy")
	pages, err := filepath.Glob(home + "/docs/*.md")
	must(t, err)
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`) // none with a scheme
	links := 0
	for _, page := range append(pages, home+"/README.md") {
		text, err := os.ReadFile(page)
		must(t, err)
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: %v", strings.TrimPrefix(page, home), err)
			}
		}
	}
	if len(pages) == 0 || links == 0 {
		t.Errorf("%d links on %d pages", links, len(pages))
	}
}

// What came as a tarball, or belongs to another user than root, has a version too, and git does not complain.
func TestVersionWithoutGit(t *testing.T) {
	cmd := exec.Command("make", "--no-print-directory", "-C", "..", "--eval=version: ; @echo '$(PACKAGE_VERSION) $(SOURCE_DATE_EPOCH)'", "version")
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "MAKE") }), "GIT_DIR=/nowhere")
	out, err := cmd.CombinedOutput()
	if err != nil || !regexp.MustCompile(`^0~unknown [0-9]+\n$`).Match(out) {
		t.Errorf("%v\n%s", err, out)
	}
}
