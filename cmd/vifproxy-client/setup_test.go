package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vifproxy/internal/browsers"
	"vifproxy/internal/settings"
	"vifproxy/qubes/qubestest"
)

// A vm is a VM without anything but its files.
type vm struct {
	*testing.T
	setup
	journal *lockedBuffer
}

func newVM(t *testing.T) *vm {
	t.Helper()
	v := &vm{T: t, journal: &lockedBuffer{}}
	v.setup = setup{log: slog.New(slog.NewTextHandler(v.journal, nil)), root: t.TempDir(), port: 8100, wait: patience,
		gateway: func(context.Context) (string, error) { return "10.138.1.1", nil },
		answers: func(context.Context, browsers.Proxy) bool { return true }}
	for _, dir := range []string{"/etc/apt", "/etc/dnf", "/run/qubes-service"} {
		must(t, os.MkdirAll(v.root+dir, 0o755))
	}
	return v
}

func (v *vm) off() {
	ctx, cancel := context.WithCancel(context.Background())
	v.answers = func(context.Context, browsers.Proxy) bool { return false }
	if err := v.run(ctx, cancel); !errors.Is(err, context.Canceled) {
		v.Fatal(err)
	}
}

// files returns all files by their paths.
func (v *vm) files() map[string]string {
	v.Helper()
	all := map[string]string{}
	must(v.T, filepath.WalkDir(v.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, v.root)] = string(text)
		return err
	}))
	return all
}

func (v *vm) write(path, text string) {
	v.Helper()
	must(v.T, os.MkdirAll(filepath.Dir(v.root+path), 0o755))
	must(v.T, os.WriteFile(v.root+path, []byte(text), 0o644))
}

func (v *vm) up() {
	v.Helper()
	must(v.T, v.run(v.Context(), func() {}))
}

// Setup takes back its own files, and nothing else.
func TestSetupAndBack(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	v.write("/etc/apt/apt.conf.d/99mine", "Acquire::http::Proxy \"DIRECT\";\n")
	v.write("/etc/environment", "LANG=C\n")
	before := v.files()
	v.up()
	want, err := settings.Files(browsers.Proxy{Host: "10.138.1.1", Port: 8100})
	must(t, err)
	first := v.files()
	for _, f := range want {
		if !strings.Contains(first[f.Path], "10.138.1.1:8100") || !signed([]byte(first[f.Path])) {
			t.Errorf("%s:\n%s", f.Path, first[f.Path])
		}
		if info, err := os.Stat(v.root + f.Path); err != nil || info.Mode() != 0o644 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	}
	v.up()
	if again := v.files(); !maps.Equal(again, first) || len(first) != len(before)+len(want) {
		t.Errorf("there are %q", slices.Sorted(maps.Keys(again)))
	}
	v.gateway = func(context.Context) (string, error) { return "10.138.2.2", nil }
	v.up()
	if text := v.files()["/etc/apt/apt.conf.d/00vifproxy"]; !strings.Contains(text, "10.138.2.2") {
		t.Errorf("another gateway: %s", text)
	}
	v.off()
	if after := v.files(); !maps.Equal(after, before) {
		t.Errorf("what is left: %q", slices.Sorted(maps.Keys(after)))
	}
}

// A file that is a user's stays, whatever it is, and the journal names it. So does one of ours that a user has changed.
func TestWhatAUserWroteStays(t *testing.T) {
	t.Parallel()
	const policies, apt = "/etc/firefox/policies/policies.json", "/etc/apt/apt.conf.d/00vifproxy"
	v := newVM(t)
	v.write(policies, `{"policies": {}}`)
	must(t, os.MkdirAll(v.root+"/etc/chromium/policies/managed/00-vifproxy.json", 0o755)) // no file
	v.up()
	if text := v.files()[policies]; text != `{"policies": {}}` {
		t.Errorf("%s", text)
	}
	for _, path := range []string{policies, "/etc/chromium/policies/managed/00-vifproxy.json"} {
		if !strings.Contains(v.journal.String(), "file="+path) {
			t.Errorf("the journal does not name %s:\n%s", path, v.journal)
		}
	}
	if !strings.Contains(v.journal.String(), "`vifproxy-client settings firefox-policy` prints") {
		t.Errorf("no remedy:\n%s", v.journal)
	}
	all, err := settings.Files(browsers.Proxy{})
	must(t, err)
	for _, f := range all {
		if _, err := settings.FormatNamed(f.Format); err != nil {
			t.Errorf("%s: %v", f.Path, err)
		}
	}
	changed := v.files()[apt] + "Acquire::Retries 3;\n"
	v.write(apt, changed)
	v.up()
	v.off()
	if now := v.files(); len(now) != 2 || now[policies] != `{"policies": {}}` || now[apt] != changed {
		t.Errorf("there are %q", now)
	}
}

// Firefox would not read this one any more.
func TestWhatAFileWouldHide(t *testing.T) {
	t.Parallel()
	const mine = "/usr/lib/firefox-esr/distribution/policies.json"
	v := newVM(t)
	v.write(mine, `{"policies": {}}`)
	v.up()
	if _, written := v.files()["/etc/firefox/policies/policies.json"]; written || !strings.Contains(v.journal.String(), "file="+mine) {
		t.Errorf("written: %v; the journal:\n%s", written, v.journal)
	}
}

// The service counts although nobody answers yet.
func TestTheServiceFlag(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	v.answers = func(context.Context, browsers.Proxy) bool { return false }
	v.write(serviceFlag, "")
	v.up()
	if len(v.files()) < 5 {
		t.Errorf("there are %q", v.files())
	}
}

// A proxy that answers later is found; the session does not wait for it.
func TestAProxyThatComesLater(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	ready := false
	v.answers = func(context.Context, browsers.Proxy) bool { return ready }
	must(t, v.run(t.Context(), func() { ready = true }))
	if len(v.files()) < 5 {
		t.Errorf("there are %q", v.files())
	}
}

// Only a tinyproxy is a proxy. Others that listen at the port are not, nor is one that never answers.
func TestWhatIsNoProxy(t *testing.T) {
	t.Parallel()
	for _, says := range []string{"HTTP/1.0 200 OK\r\nServer: nginx\r\n\r\n", "220 mail\r\n", "", "tinyproxy"} {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		must(t, err)
		defer l.Close()
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				conn.Write([]byte(says)) //nolint:errcheck // it may have hung up
				if says != "" {
					conn.Close()
				}
			}
		}()
		if answers(t.Context(), browsers.Proxy{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port}) {
			t.Errorf("what says %q is taken for a proxy", says)
		}
		l.Close()
		if answers(t.Context(), browsers.Proxy{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port}) {
			t.Error("nobody is taken for a proxy")
		}
	}
}

// QubesDB says where the proxy is, and which VM has none.
func TestGateway(t *testing.T) {
	t.Parallel()
	d := qubestest.Start(t, filepath.Join(t.TempDir(), "qubesdb.sock"))
	for kind, want := range map[string]string{"AppVM": "10.138.9.9", "DispVM": "10.138.9.9", "StandaloneVM": "10.138.9.9", "NetVM": "", "ProxyVM": "", "TemplateVM": ""} {
		d.Write(kindKey, kind)
		d.Write(gatewayKey, "10.138.9.9")
		got, err := gatewayBy(t.Context(), d.Socket)
		if got != want || errors.Is(err, errNoClient) != (want == "") {
			t.Errorf("%s: %q, %v", kind, got, err)
		}
	}
	v := newVM(t)
	v.write(serviceFlag, "")
	v.gateway = func(ctx context.Context) (string, error) { return gatewayBy(ctx, d.Socket) }
	d.Write(kindKey, "ProxyVM")
	v.up()
	if len(v.files()) != 1 {
		t.Errorf("a firewall VM has %q", v.files())
	}
}

func TestDefaultRoute(t *testing.T) {
	const head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	for table, want := range map[string]string{
		head: "",
		head + "eth0\t00000000\t01018A0A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n":                                                             "10.138.1.1",
		head + "eth0\t01018A0A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\neth0\t00000000\t01018A0A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n": "10.138.1.1",
		head + "tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n":                                                             "", // half of a default route
		head + "eth0\t00000000\tx\t0003\t0\t0\t0\t00000000\t0\t0\t0\n":                                                                    "",
		head + "eth0\t00000000\n": "",
	} {
		if got, err := defaultRoute(table); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", table, got, err)
		}
	}
}
