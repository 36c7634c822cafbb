package match

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"vifproxy/rules"
	"vifproxy/rules/expression"
	"vifproxy/rules/rulestest/randomlist"
)

// addressesOf returns the addresses of a white list that a person has written.
func addressesOf(t testing.TB, most int, l expression.Language, lines ...string) ([]netip.Addr, int) {
	t.Helper()
	f, err := rules.ParseFile("/rules/social.10.137.2.13", []byte(strings.Join(lines, "\n")+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	s := rules.Syntax{Language: l}
	compiled, err := f.Lines(s)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, line := range compiled {
		texts = append(texts, line.Text)
	}
	return Addresses(texts, s.Compiled(), most)
}

func TestAddresses(t *testing.T) {
	for _, tt := range []struct {
		line string
		want string // addresses, or "endless"
	}{
		{`^bank\.example$`, ""},
		{`\.example\.de$`, ""},
		{`^www\.example\.`, ""},
		{`banking`, ""},
		{`^bank\.example\.\?$`, ""},
		{`^1\.2\.3\.4\.\?$`, "1.2.3.4"},
		{`^[^.]*\.bank\.example$`, ""},
		{`^93\.184\.216\.34$`, "93.184.216.34"},
		{`^93\.184\.216\.3[45]$`, "93.184.216.34 93.184.216.35"},
		{`^93\.184\.216\.300$`, ""},
		{`^1\.2$`, "1.0.0.2"},
		{`^1\.2\.3$`, "1.2.0.3"},
		{`^1\.2\.65536$`, ""},
		{`^1\.16777215$`, "1.255.255.255"},
		{`^4294967295$`, "255.255.255.255"},
		{`^4294967296$`, ""},
		{`^0*1\.02\.0x3\.0X0a$`, "1.2.3.10"},
		{`^037777777777$`, "255.255.255.255"},
		{`^08\.1\.1\.1$`, ""},
		{`^0x$`, ""},
		{`^1\.2\.3\.4\.$`, ""},
		{`^1\.\.2$`, ""},
		{`^\.1$`, ""},
		{`^1\.2\.3\.4\.5$`, ""},
		{`^(1|2)\.2\.3\.4$`, ""}, // basic: parentheses are characters
		{`^\(1\|www\.\)2\.3\.4$`, "12.3.0.4"},
		{`^10\.0\.0\.[0-9]\{1,2\}$`, "endless"}, // 100 of at most 64
		{`^93\.184\.`, "endless"},
		{`cafe`, "endless"}, // 0xcafe
		{`3`, "endless"},
		{`^[.]*$`, ""},
		{`.`, "endless"},
		{`^2001:db8::1$`, "2001:db8::1"},
		{`^::ffff:1\.2\.3\.4$`, "1.2.3.4"},
	} {
		addrs, endless := addressesOf(t, 64, expression.Basic, tt.line)
		got := strings.Trim(fmt.Sprint(addrs), "[]")
		if endless >= 0 {
			got = "endless"
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.line, got, tt.want)
		}
	}
	if _, endless := addressesOf(t, 64, expression.Basic, "a.example", `^1\.`, "2"); endless != 1 {
		t.Errorf("the endless line is %d", endless)
	}
	if _, endless := Addresses([]string{"^a$"}, rules.Syntax{DefaultAllow: true}, 64); endless != 0 {
		t.Errorf("a black list: %d", endless)
	}
}

// numericTexts returns texts that look like numbers, many of which are.
func numericTexts(r *rand.Rand, n int) (all []string) {
	parts := []string{"0", "1", "7", "8", "9", "00", "010", "08", "12", "255", "256", "0x", "0x1", "0XfF", "0x100", "x1", "a", "f0", "65535",
		"65536", "16777216", "4294967295", "4294967296", "037777777777", "040000000000", "00000000000000000000001", "0x00000000000000001", ""}
	for range n {
		text := randomlist.One(r, parts)
		for range r.IntN(5) {
			text += "." + randomlist.One(r, parts)
		}
		all = append(all, text)
	}
	return all
}

// Each text that the C library takes for an address is found, with this address, and no other is.
func TestNumbersAreTheCLibrarys(t *testing.T) {
	r := rand.New(rand.NewPCG(20, 26))
	texts := slices.Compact(slices.Sorted(slices.Values(append(numericTexts(r, 400), "1.2.3.4", "1.2.3.4.", "0x7f.1", "1.2.3.0x4", "0b1", "1e1"))))
	texts = append(slices.DeleteFunc(texts, func(text string) bool { return text == "" }), "")
	// In this network nobody answers but the C library itself. It wants an address that is not loopback's, to find any.
	ask := exec.Command("unshare", "--net", "sh", "-c",
		`ip link set lo up; ip address add 192.0.2.1/32 dev lo; while read text; do echo $(getent ahostsv4 "$text"); done`)
	ask.Stdin = strings.NewReader(strings.Join(texts, "\n"))
	out, err := ask.Output()
	said := strings.Split(string(out), "\n")
	if err != nil || len(said) < len(texts) {
		t.Fatalf("%d answers for %d texts: %v", len(said), len(texts), err)
	}
	numbers := 0
	for i, text := range texts {
		want, _, _ := strings.Cut(said[i], " ")
		addrs, endless := addressesOf(t, 1, expression.Basic, "^"+strings.ReplaceAll(text, ".", `\.`)+"$")
		if got := strings.Trim(fmt.Sprint(addrs), "[]"); got != want || endless >= 0 {
			t.Errorf("%s: %s (%d), and the C library says %q", text, got, endless, want)
		}
		if want != "" {
			numbers++
		}
	}
	if t.Logf("%d of %d texts are numbers", numbers, len(texts)); numbers < len(texts)/20 {
		t.Error("too few")
	}
}

// What a list permits by number is among its addresses, unless they are endless.
func TestNoNumberIsMissed(t *testing.T) {
	r := rand.New(rand.NewPCG(20, 26))
	parts := strings.Fields(`1 2 12 0 0x x f [0-9] [12] [a-f] [0-9a-fx] .* \. \. \. . (1|2) (0x|0)? 1* 0+ {1,2} [^.] 255 a ( | ) www`)
	found, endlessLists := 0, 0
	for range 1000 {
		line := randomlist.Line(r, parts)
		if r.IntN(3) > 0 {
			line = "^" + line + "$"
		}
		f, err := rules.ParseFile("/rules/social.10.137.2.13", []byte(line+"\n"))
		if err != nil || len(f.Entries()) != 1 {
			continue
		}
		s := rules.Syntax{Language: expression.Extended}
		compiled, err := f.Lines(s)
		if err != nil || len(compiled) == 0 {
			continue
		}
		m := New([]string{compiled[0].Text}, s.Compiled())
		addrs, endless := Addresses([]string{compiled[0].Text}, s.Compiled(), 300)
		if endless >= 0 {
			endlessLists++
			continue
		}
		for _, text := range append(numericTexts(r, 100), "1", "1.2", "12.1", "0x1", "1.1.1.1", "1.2.2.1", "2.2.1") {
			n, ok := number{}, true
			for _, c := range slices.Backward([]byte(strings.ToLower(text))) {
				if n, ok = n.next(c); !ok {
					break
				}
			}
			addr, whole := n.addr()
			if permits, _ := m.Permits(text); ok && whole && permits {
				if found++; !slices.Contains(addrs, addr) {
					t.Errorf("%s permits %s, and %s is not among %v", line, text, addr, addrs)
				}
			}
		}
	}
	if t.Logf("%d numbers are permitted, %d lists are endless", found, endlessLists); found < 100 {
		t.Error("too few")
	}
}

// A list whose numbers cannot be counted takes no longer than one that is as long.
func TestAddressesAreBounded(t *testing.T) {
	var lines []string
	for i := range 20000 {
		lines = append(lines, fmt.Sprintf(`^(.+\.)?host-%d\.example\.(de|ae)$`, i))
	}
	began := time.Now()
	if addrs, endless := addressesOf(t, 64, expression.Extended, lines...); len(addrs) > 0 || endless >= 0 {
		t.Errorf("%v, %d", addrs, endless)
	}
	usual := time.Since(began)
	began = time.Now()
	if _, endless := addressesOf(t, 1<<20, expression.Extended, `(0|0x|[0-9a-f]{1,9}\.)*[0-9a-f]{250}`); endless != 0 {
		t.Errorf("endless is %d", endless)
	}
	t.Logf("20000 lines: %v, one that cannot be counted: %v", usual, time.Since(began))
}

// tinyproxy connects to what a list permits by number.
func TestTinyproxyTakesNumbers(t *testing.T) {
	s := rules.Syntax{Language: expression.Extended}
	addrs, _ := addressesOf(t, 9, expression.Extended, `^127\.1$`, `^0x7f\.0\.0\.[12]$`)
	if want := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}; !slices.Equal(addrs, want) {
		t.Errorf("got %v", addrs)
	}
	proxy, err := randomlist.Start(t, s.Compiled(), []string{`^127\.1$`, `^0x7f\.0\.0\.[12]$`})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]int{"127.1": 200, "0x7f.0.0.2": 200, "127.0.0.1": 403} {
		if code := proxy.Status("GET", "http://"+host+"/"); code != want {
			t.Errorf("%s: status %d, want %d", host, code, want)
		}
	}
}
