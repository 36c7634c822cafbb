package qubes

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"vifproxy/internal/await"
	"vifproxy/qubes/qubestest"
)

// both returns a daemon, a Source of it that watches, and where its hints arrive.
func both(t *testing.T) (*qubestest.Daemon, *Source, <-chan struct{}) {
	t.Helper()
	d := qubestest.Start(t, filepath.Join(t.TempDir(), "qubesdb.ro.sock"))
	s := NewSource(d.Socket, true)
	hints := make(chan struct{}, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			_ = s.Watch(ctx, func() { hints <- struct{}{} }, func(error) {})
			time.Sleep(time.Millisecond)
		}
	}()
	t.Cleanup(func() { cancel(); await.Value(t, "the end of watching", ended) })
	await.Value(t, "the hint that watching has begun", hints)
	return d, s, hints
}

func lists(t *testing.T, s *Source) (all map[string]List) {
	t.Helper()
	got, err := s.Lists(t.Context())
	for late := time.Now().Add(time.Minute); errors.Is(err, errSilent) && time.Now().Before(late); { // the machine stood still
		got, err = s.Lists(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	all = map[string]List{}
	for _, l := range got {
		all[l.Path] = l
	}
	return all
}

func TestLists(t *testing.T) {
	d, s, hints := both(t)
	if got := lists(t, s); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
	d.Write("/vm-config/vifproxy.banking.10.137.0.11", "bank.example *.bank.example git.example:22  egress=192.168.1.5/32:8443 port=22,23")
	await.Value(t, "a hint", hints)
	d.Write("/vm-config/other", "x")
	d.Write("/vm-config/vifproxy.nobody", "bank.example")
	await.Value(t, "a hint", hints)
	d.Firewall("10.137.0.12", "drop", "action=accept dsthost=bank.example proto=tcp dstports=443-444", "action=accept dst4=93.184.216.34/32 proto=tcp dstports=80-80",
		"action=accept dst6=2001:db8::1/128 proto=tcp dstports=443-443", "action=accept specialtarget=dns", "action=accept proto=icmp", "action=drop")
	await.Value(t, "a hint", hints)
	d.Firewall("10.137.0.13", "accept", "action=accept") // names nobody
	await.Value(t, "a hint", hints)
	got := lists(t, s)
	for from, want := range map[string]List{
		"/vm-config/vifproxy.banking.10.137.0.11": {Name: "banking", Addr: netip.MustParseAddr("10.137.0.11"),
			Lines: []string{"bank.example", "*.bank.example", "git.example:22", "#: egress 192.168.1.5/32:8443", "#: port 22 23"}},
		"/qubes-firewall/10.137.0.12": {Addr: netip.MustParseAddr("10.137.0.12"), Firewall: true,
			Lines: []string{"#: egress 93.184.216.34/32:80", "#: egress [2001:db8::1/128]:443", "93.184.216.34:80", "[2001:db8::1]:443",
				"bank.example:443", "bank.example:444"}},
	} {
		want.Path = from
		if !reflect.DeepEqual(got[from], want) {
			t.Errorf("%s: %+v, want %+v", from, got[from], want)
		}
	}
	if l := got["/vm-config/vifproxy.nobody"]; l.Err == nil {
		t.Errorf("without an address: %+v", l)
	}
	if len(got) != 3 {
		t.Errorf("%d lists: %v", len(got), got)
	}
	d.Remove("/vm-config/vifproxy.banking.10.137.0.11")
	await.Value(t, "a hint", hints)
	if got := lists(t, s); len(got) != 2 {
		t.Errorf("after it was removed: %v", got)
	}
}

// What settings mean for a list.
func TestSettings(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, test := range []struct {
		policy      string
		rules       []string
		text, wrong string
	}{
		{"drop", []string{"action=accept dsthost=a.example"}, "a.example\n", ""},
		{"accept", []string{"action=accept dsthost=a.example", "action=drop"}, "a.example\n", ""},
		{"drop", []string{"action=accept dsthost=a.example proto=udp dstports=53-53"}, "", ""},
		{"drop", []string{"action=accept dsthost=a.example expire=999", "action=accept dsthost=b.example expire=1001"}, "b.example\n", ""},
		{"drop", []string{"action=accept dst4=192.168.0.0/16", "action=accept dsthost=a.example"}, "#: egress 192.168.0.0/16\na.example\n", ""},
		{"drop", []string{"action=drop", "action=accept dsthost=a.example"}, "", ""},
		{"accept", []string{"action=accept dsthost=a.example"}, "", "does not end in drop"},
		{"drop", []string{"action=accept dsthost=a.example", "action=accept"}, "", "accepts all hosts"},
		{"drop", []string{"action=accept dsthost=a.example", "action=accept proto=tcp dstports=443-443"}, "", "accepts all hosts"},
		{"drop", []string{"action=drop dst4=10.0.0.0/8", "action=accept dsthost=a.example"}, "", "drops something"},
		{"drop", []string{"action=accept dsthost=a.example dstports=1-65535"}, "", "too many ports"},
		{"drop", []string{"action=accept dsthost=a.example dstports=0-3"}, "", "too many ports"},
		{"drop", []string{"action=allow dsthost=a.example"}, "", "no action"},
		{"drop", []string{"action=accept dsthost=a.example later=1"}, "", "unknown"},
		{"drop", []string{"action=accept dsthost=a.example dst4=x"}, "", "rule 0000"},
		{"accept", []string{"action=accept dsthost=a.example", ""}, "", "rule 0001: it has no action"},
		{"drop", []string{"action=accept dsthost=a.example", "dsthost=b.example"}, "", "no action"},
		{"drop", []string{"action=drop dsthost=a.example proto=TCP", "action=accept dsthost=a.example"}, "", "no protocol"},
		{"drop", []string{"action=drop dsthost=a.example expire=9223372036854775807", "action=accept dsthost=a.example"}, "", "value out of range"},
		{"drop", []string{"action=drop action=accept dsthost=a.example"}, "", "action twice"},
		{"accept", []string{"action=accept dsthost=a.example", "action=drop dst4="}, "", "no value"},
		{"drop", []string{"action=accept dsthost=a.example\x00.example"}, "a.example\x00.example\n", ""}, // which is no name to a list
	} {
		settings := map[string]string{"policy": test.policy}
		for i, r := range test.rules {
			settings["000"+string(rune('0'+i))] = r
		}
		lines, until, named, err := listOf(settings, now)
		if !named || (err == nil) != (test.wrong == "") || err != nil && !strings.Contains(err.Error(), test.wrong) {
			t.Errorf("%q: named %t, %v", test.rules, named, err)
		}
		if text := strings.Join(append(lines, ""), "\n"); err == nil && text != test.text {
			t.Errorf("%q: %q, want %q", test.rules, text, test.text)
		}
		if expires := strings.Contains(test.rules[0], "expire"); err == nil && expires != !until.IsZero() {
			t.Errorf("%q: until %v", test.rules, until)
		}
	}
}

// Numbers of rules that are not in order as texts, or that Qubes does not read, make a list of which nobody knows what it means.
func TestNumbersOfRules(t *testing.T) {
	for _, key := range []string{"1", "00001", "10000", "99999999999"} {
		_, _, named, err := listOf(map[string]string{"policy": "drop", "0000": "action=accept dsthost=a.example", key: "action=accept dsthost=b.example"}, time.Now())
		if !named || err == nil || !strings.Contains(err.Error(), "rule "+key+": its number does not have 4 digits") {
			t.Errorf("rule %s: named %t, %v", key, named, err)
		}
	}
	if lines, _, _, err := listOf(map[string]string{"policy": "drop", "0000": "action=accept dsthost=a.example", "9999": "action=accept dsthost=b.example"}, time.Now()); err != nil || len(lines) != 2 {
		t.Errorf("numbers that jump: %q, %v", lines, err)
	}
}

// What dom0 has not finished is not believed, whether somebody watches or not.
func TestIncomplete(t *testing.T) {
	d, s, hints := both(t)
	const addr = "10.137.0.12"
	d.Firewall(addr, "drop", "action=accept dsthost=a.example", "action=accept dsthost=b.example")
	await.Value(t, "a hint", hints)
	from := "/qubes-firewall/" + addr
	for _, step := range []func(){
		func() { d.Remove(from + "/") },
		func() { d.Write(from+"/policy", "drop") },
		func() { d.Write(from+"/0000", "action=accept dsthost=b.example") },
	} {
		step()
		if l := lists(t, s)[from]; !errors.Is(l.Err, ErrIncomplete) {
			t.Errorf("meanwhile: %+v", l)
		}
	}
	d.Write(from, "")
	await.Value(t, "a hint", hints)
	if l := lists(t, s)[from]; l.Err != nil || !slices.Equal(l.Lines, []string{"b.example"}) {
		t.Errorf("afterwards: %+v", l)
	}

	alone := NewSource(d.Socket, true)
	d.Write("/name", "sys-fw")
	d.Remove(from + "/")
	d.Between(func() { d.Write(from+"/policy", "drop"); d.Write(from+"/0000", "action=accept dsthost=c.example") }) // of the first answer
	if _, err := alone.Lists(t.Context()); !errors.Is(err, ErrIncomplete) {
		t.Errorf("alone, meanwhile: %v", err)
	}
	if l := lists(t, alone)[from]; !slices.Equal(l.Lines, []string{"c.example"}) {
		t.Errorf("alone, afterwards: %+v", l)
	}
}

// A change that is finished while it is read is not believed by half.
func TestFinishedMeanwhile(t *testing.T) {
	d, s, hints := both(t)
	const from = "/qubes-firewall/10.137.0.12"
	d.Firewall("10.137.0.11", "drop", "action=accept dsthost=z.example")
	<-hints
	d.Firewall("10.137.0.12", "drop", "action=accept dsthost=a.example", "action=accept dsthost=b.example")
	<-hints
	time.Sleep(settleTime) // the Source has watched for so long
	for name, rest := range map[string]func(){
		"removed": func() { d.Remove(from + "/") },
		"half": func() {
			d.Remove(from + "/")
			d.Write(from+"/policy", "drop")
			d.Write(from+"/0000", "action=accept dsthost=b.example")
		},
	} {
		rest()
		d.Between(func() {
			d.Write(from+"/policy", "drop")
			d.Write(from+"/0000", "action=accept dsthost=b.example")
			d.Write(from+"/0001", "action=accept dsthost=c.example")
			d.Write(from, "")
		})
		if l := lists(t, s)[from]; !errors.Is(l.Err, ErrIncomplete) {
			t.Errorf("%s, meanwhile: %+v", name, l)
		}
		<-hints
		if l := lists(t, s)[from]; l.Err != nil || !slices.Equal(l.Lines, []string{"b.example", "c.example"}) {
			t.Errorf("%s, afterwards: %+v", name, l)
		}
	}
}

// A daemon that is silent, gone or not itself: nothing is known, and nobody waits for long. Then it works again.
func TestBadDaemon(t *testing.T) {
	d, s, hints := both(t)
	d.Write("/vm-config/vifproxy.a.10.137.0.11", "a.example")
	await.Value(t, "a hint", hints)
	ask := func() ([]List, error) { // although it has just failed
		s.mu.Lock()
		s.last.at = time.Time{}
		s.mu.Unlock()
		return s.Lists(t.Context())
	}
	for name, nonsense := range map[string][]byte{
		"another kind":     make([]byte, headerSize),
		"a path of others": qubestestHeader(11, "/etc/passwd", 0),
		"a long value":     qubestestHeader(11, "/vm-config/vifproxy.x", valueMax),
		"an endless path":  qubestestHeader(11, strings.Repeat("/", pathSize), 0),
	} {
		d.Nonsense(nonsense)
		if got, err := ask(); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v: %v", name, got, err)
		}
	}
	d.Silence(true)
	if got, err := ask(); !errors.Is(err, errSilent) {
		t.Errorf("silent: %v: %v", got, err)
	}
	d.Silence(false)
	d.Stop()
	if got, err := ask(); err == nil || errors.Is(err, errSilent) {
		t.Errorf("gone: %v: %v", got, err)
	}
	for len(hints) > 0 {
		<-hints
	}
	d.Restart(t)
	await.Value(t, "the hint that it watches again, and has missed something", hints)
	if got := lists(t, s); len(got) != 1 {
		t.Errorf("afterwards: %v", got)
	}
	d.Write("/vm-config/vifproxy.a.10.137.0.11", "b.example")
	await.Value(t, "a hint", hints)

	// The conversation that watches hangs in the middle of an answer.
	d.Nonsense([]byte("the beginning of one"))
	if !s.Changed(t.Context()) {
		t.Error("nothing has changed, although nobody knows")
	}
	await.Value(t, "the hint that it watches again", hints)
	if got := lists(t, s); len(got) != 1 {
		t.Errorf("watching again: %v", got)
	}
}

// An event that comes in the middle of an answer does not disturb it.
func TestEventInAnAnswer(t *testing.T) {
	d := qubestest.Start(t, filepath.Join(t.TempDir(), "qubesdb.ro.sock"))
	d.Write("/vm-config/vifproxy.a.10.137.0.11", "a.example")
	d.Write("/vm-config/vifproxy.b.10.137.0.12", "b.example")
	c, hangUp, err := dial(t.Context(), d.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer hangUp()
	if err := c.send(cmdWatch, configPrefix); err != nil {
		t.Fatal(err)
	}
	if m, err := c.receive(); err != nil || m.kind != answerOK {
		t.Fatal(m, err)
	}
	d.Between(func() { d.Write("/vm-config/other", "") })
	got, err := c.dump(listPrefix)
	if err != nil || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
}

func qubestestHeader(kind byte, path string, size int) []byte {
	h := make([]byte, headerSize)
	h[0] = kind
	copy(h[1:1+pathSize], path)
	h[sizeAt], h[sizeAt+1] = byte(size), byte(size>>8)
	return h
}

func FuzzSettings(f *testing.F) {
	f.Add("drop", "action=accept dsthost=a.example dstports=1-2", "action=drop")
	f.Fuzz(func(t *testing.T, policy, first, second string) {
		lines, _, named, err := listOf(map[string]string{"policy": policy, "0000": first, "0001": second}, time.Unix(1000, 0))
		if (err != nil || !named) && lines != nil {
			t.Errorf("%q, although %v", lines, err)
		}
		for _, line := range lines {
			if strings.ContainsAny(line, "\n\r") {
				t.Errorf("%q is more than a line", line)
			}
		}
	})
}

// What a feature has that is no name.
func TestWords(t *testing.T) {
	for _, test := range []struct{ word, line, wrong string }{
		{"bank.example", "bank.example", ""},
		{"port=22,8443", "#: port 22 8443", ""},
		{"egress=[fd00::/8]:22", "#: egress [fd00::/8]:22", ""},
		{"#", "", "no comments"},
		{"bank.example#old", "", "no comments"},
		{"format=patterns", "", "write a name"},
		{"=", "", "write a name"},
	} {
		line, err := lineOf(test.word)
		switch {
		case test.wrong != "":
			if err == nil || !strings.Contains(err.Error(), test.wrong) {
				t.Errorf("%s: %v", test.word, err)
			}
		case err != nil || line != test.line || WordOf(line) != test.word:
			t.Errorf("%s: %q, %v, and back %q", test.word, line, err, WordOf(line))
		}
	}
	addr := netip.MustParseAddr("10.137.0.11")
	for want, words := range map[string][]string{
		"qvm-features sys-firewall vm-config.vifproxy.a.10.137.0.11 'HOST...'":               nil,
		"qvm-features sys-firewall vm-config.vifproxy.a.10.137.0.11 ''":                      {},
		"qvm-features sys-firewall vm-config.vifproxy.a.10.137.0.11 bank.example":            {"bank.example"},
		"qvm-features sys-firewall vm-config.vifproxy.a.10.137.0.11 'a.example *.a.example'": {"a.example", "*.a.example"},
		`qvm-features sys-firewall vm-config.vifproxy.a.10.137.0.11 '$(x) '\''y'`:            {"$(x)", "'y"},
	} {
		if got := Feature("sys-firewall", KeyFor("a", addr), words); got != want {
			t.Errorf("%q: %s, want %s", words, got, want)
		}
	}
}

// A machine without the directory of the socket has no lists. When there is one, the socket is watched, and if there is none, this is an
// error.
func TestNoSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "later", "qubesdb.ro.sock")
	s := NewSource(path, false)
	if got, err := s.Lists(t.Context()); got != nil || err != nil || s.Changed(t.Context()) {
		t.Errorf("without a socket: %v, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	hints, ended := make(chan struct{}, 1000), make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil { // there is a socket before anybody listens at it
			_ = s.Watch(ctx, func() { hints <- struct{}{} }, func(error) {})
			time.Sleep(time.Millisecond)
		}
	}()
	defer func() { cancel(); await.Value(t, "the end of watching", ended) }()
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Lists(t.Context()); err == nil { // qubesdb-daemon is down
		t.Errorf("without the socket, in its directory: %v", got)
	}
	d := qubestest.Start(t, path)
	d.Write("/vm-config/vifproxy.a.10.137.0.11", "a.example")
	await.Value(t, "a hint", hints)
	if got, err := s.Lists(t.Context()); len(got) != 1 || err != nil {
		t.Errorf("with a socket: %v, %v", got, err)
	}
	d.Stop()
	if got, err := s.Lists(t.Context()); err == nil {
		t.Errorf("without the socket: %v", got)
	}
}

// Changed is faster than what watching tells, and also says so if nobody watches.
func TestChanged(t *testing.T) {
	d, s, _ := both(t)
	alone := NewSource(d.Socket, true)
	for _, s := range []*Source{s, alone} {
		lists(t, s)
		for name, change := range map[string]func(){
			"feature":  func() { d.Write("/vm-config/vifproxy.a.10.137.0.11", "a.example "+time.Now().String()) },
			"settings": func() { d.Write("/qubes-firewall/10.137.0.11/0000", "action=accept "+time.Now().String()) },
		} {
			await.Until(t, "nothing has changed before there is a "+name, func() bool {
				if !s.Changed(t.Context()) {
					return true
				}
				lists(t, s) // whatever has not answered in time may have changed
				return false
			})
			if change(); !s.Changed(t.Context()) {
				t.Errorf("%s: not changed", name)
			}
			lists(t, s)
		}
	}
}

// Gateways that dom0 shows in the place of others. A text that is none counts as missing.
func TestShown(t *testing.T) {
	d, s, hints := both(t)
	for addr, gateway := range map[string]string{
		"10.137.0.11": "192.168.7.1", "10.137.0.12": "127.0.0.1", "10.137.0.13": "0.0.0.0", "10.137.0.14": "224.0.0.1", "10.137.0.15": "fd00::1",
		"10.137.0.16": "gateway", "10.137.0.17": "", "fd00::2": "192.168.7.1", "nobody": "192.168.7.1",
	} {
		d.Write("/mapped-ip/"+addr+"/visible-gateway", gateway)
		<-hints
	}
	d.Write("/mapped-ip/10.137.0.18/visible-ip", "192.168.7.5")
	<-hints
	lists(t, s)
	want := map[netip.Addr]netip.Addr{netip.MustParseAddr("10.137.0.11"): netip.MustParseAddr("192.168.7.1")}
	if got := s.Shown(); !reflect.DeepEqual(got, want) {
		t.Errorf("shown: %v", got)
	}
	d.Remove("/mapped-ip/")
	<-hints
	if lists(t, s); len(s.Shown()) != 0 {
		t.Errorf("taken away: %v", s.Shown())
	}
}
