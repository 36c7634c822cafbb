package peers

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"vifproxy/internal/lab"
)

// Each peer passes what is listed, for its client alone, and nothing else, and has ended when end returns.
func TestPeers(t *testing.T) {
	l, err := lab.New(t.Context(), lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client := netip.MustParseAddr("10.137.0.11")
	for i, vm := range []lab.VM{{Name: "client", IP: client, DomID: 2}, {Name: "other", IP: client.Next(), DomID: 3}} {
		if err := l.Attach(vm); err != nil {
			t.Fatal(i, err)
		}
	}
	rule := []string{"add", "rule", "ip", "qubes", "custom-input", "tcp", "dport", "8101", "accept"}
	if out, err := l.Command(t.Context(), "nft", rule...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, kind := range []Kind{Tinyproxy, Squid, Privoxy} {
		t.Run(kind.Name, func(t *testing.T) {
			s := Setup{Dir: passable(t), Listen: netip.AddrPortFrom(lab.Gateway, 8101), Client: client,
				Hosts: []string{"198.51.100.1", "bank.example"}}
			end, err := kind.Start(t.Context(), l, s)
			if errors.Is(err, ErrMissing) && kind.Name != Tinyproxy.Name {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, test := range []struct {
				vm, url string
				served  bool
			}{
				{"client", "https://bank.example/", true},
				{"client", "https://www.bank.example/", true},
				{"client", "https://198.51.100.1/", true},
				{"client", "http://bank.example/", true},
				{"client", "https://evil.example/", false},
				{"client", "http://evil.example/", false},
				{"client", "https://evilbank.example/", false},
				{"client", "https://198.51.100.10/", false},
				{"client", "https://bank.example:8443/", false},
				{"other", "https://bank.example/", false},
			} {
				got := l.Fetch(t.Context(), test.vm, s.Listen.String(), test.url)
				if served := got.Err == nil && got.Status == 200; served != test.served {
					t.Errorf("%s asks for %s: %+v", test.vm, test.url, got)
				}
			}
			end()
			if listens(l, s.Listen) {
				t.Error("it listens after its end")
			}
		})
	}
}

// passable returns a directory that users who are not root may pass.
func passable(t *testing.T) string {
	dir, err := os.MkdirTemp("", "peers-")
	if err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "peer")
}
