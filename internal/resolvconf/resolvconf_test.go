package resolvconf

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"vifproxy/internal/await"
)

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	for text, want := range map[string]string{
		"": "[127.0.0.1]",
		"nameserver 10.139.1.1\nnameserver 10.139.1.2\n":                                               "[10.139.1.1 10.139.1.2]",
		"# nameserver 1.1.1.1\n; x\nsearch nameserver\n\tnameserver\t127.0.0.53 # stub\noptions edns0": "[127.0.0.53]",
		"nameserver fe80::1%eth0\nnameserver ::ffff:10.0.0.1\nnameserver fd00::1":                      "[fe80::1 10.0.0.1 fd00::1]",
		"nameserver\nnameserver nas.lan\n":                                                             "[127.0.0.1]",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := Read(path)
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q: %v, %v; want %s", text, got, err, want)
		}
	}
	if got, err := Read(path + "x"); err != nil || fmt.Sprint(got) != "[127.0.0.1]" {
		t.Errorf("no file: %v, %v", got, err)
	}
	if got, err := Read(filepath.Dir(path)); err == nil {
		t.Errorf("a directory: %v", got)
	}
}

// Every way in which programs change the file wakes.
func TestWatch(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "resolv.conf")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(path string) { must(os.WriteFile(path, []byte("nameserver 10.0.0.1\n"), 0o644)) }
	wakes := make(chan struct{}, 1000)
	go Watch(t.Context(), []string{path}, func() { wakes <- struct{}{} }, func(error) {}) //nolint:errcheck // ends with the test
	await.Value(t, "the wake that watching has begun", wakes)
	target := filepath.Join(elsewhere, "stub-resolv.conf")
	for _, step := range []struct {
		what string
		do   func()
	}{
		{"made", func() { write(path) }},
		{"written", func() { write(path) }},
		{"replaced", func() { write(path + ".new"); must(os.Rename(path+".new", path)) }},
		{"written after that", func() { write(path) }},
		{"a link", func() { write(target); must(os.Remove(path)); must(os.Symlink(target, path)) }},
		{"written behind the link", func() { write(target) }},
		{"replaced behind the link", func() { write(target + ".new"); must(os.Rename(target+".new", target)) }},
		{"removed", func() { must(os.Remove(path)) }},
	} {
		for len(wakes) > 0 {
			<-wakes
		}
		step.do()
		await.Value(t, "a wake: "+step.what, wakes)
	}
}

// Where proxies read resolv.conf themselves, one of its name servers has to be reached by IPv4.
func TestUnasked(t *testing.T) {
	four, six := netip.MustParseAddr("10.139.1.1"), netip.MustParseAddr("fd00::1")
	for _, test := range []struct {
		servers    []netip.Addr
		themselves bool
		want       error
	}{
		{[]netip.Addr{six, six}, true, errUnasked}, {[]netip.Addr{six, six}, false, nil}, {[]netip.Addr{six, four}, true, nil},
	} {
		if got := Unasked(test.servers, test.themselves); got != test.want {
			t.Errorf("%v, %t: %v", test.servers, test.themselves, got)
		}
	}
}
