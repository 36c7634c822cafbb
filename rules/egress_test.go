package rules

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestEgress(t *testing.T) {
	for _, c := range []struct{ text, want, err string }{
		{"192.168.1.0/24", "192.168.1.0/24", ""},
		{"10.0.0.0/8", "10.0.0.0/8", ""},
		{"192.168.1.5", "192.168.1.5/32", ""},
		{"192.168.1.5:8443", "192.168.1.5/32:8443", ""},
		{"127.0.0.1/32:3128", "127.0.0.1/32:3128", ""},
		{"203.0.113.0/24:8443", "203.0.113.0/24:8443", ""},
		{"fd00:1::/64", "fd00:1::/64", ""},
		{"fc00::/7", "fc00::/7", ""},
		{"fd00:1::5", "fd00:1::5/128", ""},
		{"[fd00:1::/64]:443", "[fd00:1::/64]:443", ""},
		{"[fd00:1::5]:443", "[fd00:1::5/128]:443", ""},

		{"", "", `"" is no network (write it like`},
		{"nas.lan", "", `"nas.lan" is no network`},
		{"192.168.1.0/33", "", "is no network"},
		{"192.168.01.0/24", "", "is no network"},
		{"fe80::1%eth0", "", "is no network"},
		{"[fd00::/64]", "", "is no network with a port"},
		{"[fd00::/64", "", "is no network with a port"},
		{"[fd00::/64]443", "", "is no network with a port"},
		{"::ffff:10.0.0.1", "", "is IPv4 written as IPv6"},
		{"10.0.0.1:", "", "has no port from 1 to 65535"},
		{"10.0.0.1:0", "", "has no port"},
		{"10.0.0.1:65536", "", "has no port"},
		{"10.0.0.1:+80", "", "has no port"},
		{"10.0.0.1:080", "", "has no port"},
		{"192.168.1.5/24", "", "(write 192.168.1.0/24 for the network, 192.168.1.5/32 for the one address)"},
		{"fd00::1/64", "", "(write fd00::/64 for the network, fd00::1/128 for the one address)"},
		{"0.0.0.0/0", "", `"0.0.0.0/0" is too wide: it opens more than any private network has (name what is`},
		{"10.0.0.0/4", "", "is too wide"},
		{"10.0.0.0/7", "", "the length is at least 8)"},
		{"0.0.0.0/0:8080", "", "is too wide"},
		{"::/0", "", "the length is at least 7)"},
	} {
		f, err := ParseFile(somePath, []byte("#: egress "+c.text+"\n^a$\n"))
		if c.text == "" {
			c.err = "unknown directive"
		}
		checkError(t, c.text, err, c.err)
		if err == nil && (len(f.Egress) != 1 || f.Egress[0].String() != c.want) {
			t.Errorf("%s: %v, want %s", c.text, f.Egress, c.want)
		}
		list, err := ParseEgress(c.text)
		if (err == nil) != (c.want != "") || err == nil && list[0].String() != c.want {
			t.Errorf("%s in a list: %v, %v", c.text, list, err)
		}
	}
	list, err := ParseEgress("10.1.0.0/16, [fd00::/64]:443,10.1.0.0/16")
	if got := fmt.Sprint(list); err != nil || got != "[10.1.0.0/16 [fd00::/64]:443]" {
		t.Errorf("list: %s, %v", got, err)
	}
}

func TestEgressLines(t *testing.T) {
	text := "^a$\n#: egress 10.1.0.0/16\n #:egress\t10.1.0.0/16 \n#: egress 10.2.0.0/16:81\n"
	f, err := ParseFile(somePath, []byte(text))
	if got := fmt.Sprint(f.Egress); err != nil || got != "[10.1.0.0/16 10.2.0.0/16:81]" ||
		f.Egress[0].Line != 2 || f.Egress[1].Line != 4 {
		t.Errorf("%s, %+v, %v", got, f.Egress, err)
	}
	_, err = ParseFile(somePath, []byte("^a$\n#: egress  10.1.0.0/16x\n"))
	if e, ok := err.(*Error); !ok || e.Line != 2 || e.Col != 12 {
		t.Errorf("%#v", err)
	}
	for _, text := range []string{"#: egress", "#: egress 10.1.0.0/16 10.2.0.0/16"} {
		if _, err := ParseFile(somePath, []byte(text)); err == nil || !strings.Contains(err.Error(), "unknown directive") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestEgressCovers(t *testing.T) {
	net := func(text string, port uint16) Egress { return Egress{To: netip.MustParsePrefix(text), Port: port} }
	for _, c := range []struct {
		a, b Egress
		want bool
	}{
		{net("10.0.0.0/8", 0), net("10.0.0.0/8", 0), true},
		{net("10.0.0.0/8", 0), net("10.1.0.0/16", 0), true},
		{net("10.1.0.0/16", 0), net("10.0.0.0/8", 0), false},
		{net("10.1.0.0/16", 0), net("10.2.0.0/16", 0), false},
		{net("10.0.0.0/8", 0), net("10.0.0.0/8", 80), false}, // 80 may not be open everywhere for ever
		{net("10.0.0.0/8", 80), net("10.0.0.0/8", 0), false},
		{net("10.0.0.0/8", 80), net("10.1.0.0/16", 80), true},
		{net("fd00::/8", 0), net("10.1.0.0/16", 0), false},
		{net("10.1.2.3/32", 0), net("10.1.2.3/32", 0), true},
		{net("10.0.0.0/8", 0), net("10.1.2.3/32", 0), false}, // which may be an AppVM's: only the single address leads there
	} {
		if got := c.a.Covers(c.b); got != c.want {
			t.Errorf("%v covers %v: %v", c.a, c.b, got)
		}
	}
}
