package rules

import (
	"net/netip"
	"strings"
	"testing"
)

func TestParseFileName(t *testing.T) {
	for _, c := range []struct{ base, name, addr, err string }{
		{"social.10.137.2.13", "social", "10.137.2.13", ""},
		{"my-vm_2.1.10.137.2.13", "my-vm_2.1", "10.137.2.13", ""},
		{"a.1.2.3.4.5", "a.1", "2.3.4.5", ""},
		{strings.Repeat("a", 31) + ".10.0.0.1", strings.Repeat("a", 31), "10.0.0.1", ""},

		{"config", "", "", ""},
		{"config.old", "", "", ""},
		{"README.1.2.3", "", "", ""},
		{"social.10.137.2.13~", "", "", ""},
		{"social.10.137.2.13.bak", "", "", ""},
		{"social.10.137.2.13.rpmnew", "", "", ""},
		{"social.10.137.2.13.swp", "", "", ""},
		{".social.10.137.2.13.swp", "", "", ""},
		{".#social.10.137.2.13", "", "", ""}, // Emacs' lock, a link that leads nowhere
		{"#social.10.137.2.13#", "", "", ""},
		{"4913", "", "", ""}, // vim tries whether it can write
		{"backup-12:30:45", "", "", ""},
		{"notes.12:30:45", "", "", ""},
		{"", "", "", ""},

		{"social.10.137.2.256", "social", "", `"10.137.2.256" is not an IPv4 address`},
		{"social.10.137.02.13", "social", "", `"10.137.02.13" is not an IPv4 address`},
		{"social.10.137.2.1300000000000000000000", "social", "", "is not an IPv4 address"},
		{"10.137.2.13", "", "10.137.2.13", "no VM's name before it (name it like banking.10.137.2.13)"},
		{"2social.10.137.2.13", "", "10.137.2.13", `"2social" is not a VM name`},
		{"so cial.10.137.2.13", "", "10.137.2.13", `"so cial" is not a VM name`},
		{"so\ncial.10.137.2.13", "", "10.137.2.13", `"so\ncial" is not a VM name`},
		{"so\xffcial.10.137.2.13", "", "10.137.2.13", `"so\xffcial" is not a VM name`},
		{strings.Repeat("a", 32) + ".10.0.0.1", "", "10.0.0.1", "is not a VM name"},
		{"social.fd00::13", "social", "fd00::13", "IPv6 addresses are not supported yet"},
		{"social.::ffff:10.137.2.13", "social", "::ffff:10.137.2.13", "IPv6"},
		{"social.v2.fe80::1%vif3.0", "social.v2", "fe80::1", "IPv6"},
	} {
		name, addr, err := ParseFileName("/rules/" + c.base)
		if c.base == "" {
			name, addr, err = ParseFileName("")
		}
		var want netip.Addr
		if c.addr != "" {
			want = netip.MustParseAddr(c.addr)
		}
		if name != c.name || addr != want {
			t.Errorf("%q: got %q %v, want %q %v", c.base, name, addr, c.name, want)
		}
		checkError(t, c.base, err, c.err)
		if err != nil && err.(*Error).Remedy == "" {
			t.Errorf("%q: error without a remedy: %v", c.base, err)
		}
	}
}

func checkError(t *testing.T, what string, err error, want string) {
	t.Helper()
	switch {
	case err == nil && want != "":
		t.Errorf("%q: no error, want %q", what, want)
	case err != nil && (want == "" || !strings.Contains(err.Error(), want)):
		t.Errorf("%q: error %q, want %q", what, err, want)
	}
}

func FuzzParseFileName(f *testing.F) {
	for _, seed := range []string{"social.10.137.2.13", "a.b.1.2.3.4", "x.fd00::1", "x.1.2.3.4~",
		".x.1.2.3.4", "10.0.0.1", "x.256.1.1.1", "x.01.1.1.1", "config", "x.::ffff:1.2.3.4", "a..1.2.3.4"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, base string) {
		if strings.Contains(base, "/") {
			return // not the name of a file
		}
		name, addr, err := ParseFileName(base)
		if name != "" && !vmName.MatchString(name) {
			t.Fatalf("%q: impossible VM name %q", base, name)
		}
		if err == nil && addr.IsValid() && (!addr.Is4() || name+"."+addr.String() != base) {
			t.Fatalf("%q: read as %q and %v", base, name, addr)
		}
		if err == nil && !addr.IsValid() && name != "" {
			t.Fatalf("%q: unrelated, yet of VM %q", base, name)
		}
		if err != nil && strings.ContainsFunc(err.Error(), isControl) {
			t.Fatalf("%q: control characters in %q", base, err)
		}
	})
}
