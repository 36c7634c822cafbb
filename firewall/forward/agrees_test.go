package forward

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	. "vifproxy/firewall/firewalltest"
	"vifproxy/internal/await"
)

var (
	rulesets    = flag.Int("rulesets", 100, "how many rulesets TestForwardAgreesWithTheKernel makes")
	rulesetSeed = flag.Uint64("rulesets.seed", 1, "and from which seed")
)

// A yard is a firewall VM that forwards what an AppVM sends to public addresses, by one of three uplinks, and counts what leaves.
type yard struct {
	t      testing.TB
	socket int    // at the AppVM's end of its vif
	vif    []byte // its hardware address
	sent   int
	port   uint16
}

var uplinks = []string{"eth0", "eth1", "wg0"}

// kinds are what proxies send.
var kinds = []struct {
	name     string
	protocol byte
	port     uint16
}{{"http", 6, 80}, {"https", 6, 443}, {"dns", 17, 53}}

func newYard(t testing.TB) *yard {
	t.Helper()
	EnterNamespace(t)
	var meter strings.Builder
	meter.WriteString("table inet seen {\ncounter arrived {\n}\n")
	var rules strings.Builder
	commands := "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0\n"
	for i, name := range append([]string{"vif1.0", "vif2.0"}, uplinks...) {
		commands += fmt.Sprintf("ip link add %s type veth peer name far%d\nip link set %s up\nip link set far%d up\n", name, i, name, i)
		if i < 2 {
			commands += fmt.Sprintf("ip link set %s group 2\nip route add 10.137.0.1%d dev %s\n", name, i+1, name)
			continue
		}
		commands += fmt.Sprintf("ip addr add 10.9.%d.1/24 dev %s\nip route add 1%d.0.0.0/8 via 10.9.%d.2 dev %s\nip neigh replace 10.9.%d.2 lladdr 02:00:00:00:00:01 dev %s\n",
			i, name, i, i, name, i, name)
		for _, k := range kinds {
			fmt.Fprintf(&meter, "counter %s_%s {\n}\n", name, k.name)
			fmt.Fprintf(&rules, "oifname %s meta l4proto %d th dport %d counter name %s_%s\n", name, k.protocol, k.port, name, k.name)
		}
	}
	Run(t, "", "sh", "-ec", commands+"ip link set eth1 group 7")
	fmt.Fprintf(&meter, "chain pre {\ntype filter hook prerouting priority -500\niifname vif1.0 ip saddr 10.137.0.11 counter name arrived\n}\n"+
		"chain post {\ntype filter hook postrouting priority 500\n%s}\n}\n", rules.String())
	Run(t, meter.String(), "nft", "-f", "-")
	vif, err := net.InterfaceByName("vif1.0")
	Must(t, err)
	far, err := net.InterfaceByName("far0")
	Must(t, err)
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	Must(t, err)
	t.Cleanup(func() { unix.Close(socket) })
	Must(t, unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: 0, Ifindex: far.Index}))
	return &yard{t: t, socket: socket, vif: vif.HardwareAddr, port: 1024}
}

// send has the AppVM begin a connection.
func (y *yard) send(to [4]byte, protocol byte, port uint16) {
	y.t.Helper()
	y.port++
	from := [4]byte{10, 137, 0, 11}
	var l4 []byte
	if protocol == 6 {
		l4 = make([]byte, 20)
		l4[12], l4[13], l4[14] = 5<<4, 2, 0xff // a SYN
	} else {
		l4 = make([]byte, 8+12)
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	}
	binary.BigEndian.PutUint16(l4, y.port)
	binary.BigEndian.PutUint16(l4[2:], port)
	pseudo := slices.Concat(from[:], to[:], []byte{0, protocol, 0, byte(len(l4))}, l4)
	at := 16
	if protocol == 17 {
		at = 6
	}
	binary.BigEndian.PutUint16(l4[at:], checksum(pseudo))
	ip := slices.Concat([]byte{0x45, 0, 0, byte(20 + len(l4)), 0, 0, 0x40, 0, 64, protocol, 0, 0}, from[:], to[:])
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	frame := slices.Concat(y.vif, []byte{2, 0, 0, 0, 0, 9, 8, 0}, ip, l4)
	if _, err := unix.Write(y.socket, frame); err != nil {
		y.t.Fatal(err)
	}
	y.sent++
}

func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

var counted = regexp.MustCompile(`counter (\S+) \{\s+packets (\d+)`)

func (y *yard) counts() map[string]int {
	y.t.Helper()
	all := map[string]int{}
	for _, m := range counted.FindAllStringSubmatch(Run(y.t, "", "nft", "list", "counters", "table", "inet", "seen"), -1) {
		all[m[1]], _ = strconv.Atoi(m[2])
	}
	return all
}

// passes says by which uplinks which kind of packet is forwarded.
func (y *yard) passes() map[string]bool {
	y.t.Helper()
	before := y.counts()
	for i := range uplinks {
		for _, k := range kinds {
			y.send([4]byte{byte(12 + i), 0, 0, 1}, k.protocol, k.port)
		}
	}
	y.send([4]byte{10, 137, 0, 12}, 17, 9) // the last one: then all others have gone their way
	var after map[string]int
	await.Until(y.t, "packets arrive", func() bool {
		after = y.counts()
		return after["arrived"] == y.sent
	})
	all := map[string]bool{}
	for name, n := range after {
		all[name] = n > before[name]
	}
	return all
}

// A writer writes rulesets that nobody would.
type writer struct{ *rand.Rand }

func (w writer) of(texts ...string) string { return texts[w.IntN(len(texts))] }

func (w writer) uplink() string { return w.of(`"eth0"`, `"eth1"`, `"wg0"`) }

func (w writer) name() string { return w.of(`"eth0"`, `"eth1"`, `"wg0"`, `"eth*"`, `"wg*"`, `"usb0"`) }

func (w writer) vif() string { return w.of(`"vif1.0"`, `"vif*"`, `"vif2.0"`, `"eth0"`) }

// byOut is a match that is about the interface by which a packet leaves.
func (w writer) byOut() string {
	not := w.of("", "", "!= ")
	switch w.IntN(16) {
	case 15: // some of it; without the interface, this would be by the order of packets, or by where they go
		return "oifname " + not + w.uplink() + " " + w.of("limit rate over 1/minute burst 1 packets", "numgen inc mod 2 0", "jhash ip daddr mod 2 0")
	case 12:
		return "rt ipsec " + w.of("missing", "exists")
	case 13:
		return "ipsec out reqid " + not + w.of("1", "2")
	case 14:
		return "rt ip nexthop " + not + w.of("10.9.2.2", "10.9.3.2", "10.9.4.2")
	case 0, 1:
		return "oifname " + not + w.name()
	case 2:
		return "oifname " + not + "{ " + w.name() + ", " + w.uplink() + " }"
	case 3:
		return "oif " + not + w.uplink()
	case 4:
		return "oif " + not + "{ " + w.uplink() + ", " + w.uplink() + " }"
	case 5:
		return "oifgroup " + not + w.of("0", "7", "{ 0, 3 }", "5-9")
	case 6:
		return "fib daddr oifname " + not + w.uplink()
	case 7:
		return "iifname . oifname " + not + "{ " + w.vif() + " . " + w.uplink() + ", " + w.vif() + " . " + w.name() + " }"
	case 8:
		return "oifname . meta l4proto " + not + "{ " + w.uplink() + " . tcp, " + w.uplink() + " . udp }"
	case 9:
		return "oifname . th dport " + not + "{ " + w.uplink() + " . 80, " + w.uplink() + " . 1-100, " + w.uplink() + " . 443 }"
	case 10:
		return "ip saddr . oifname " + not + "{ 10.137.0.11 . " + w.uplink() + ", 10.137.0.12 . " + w.uplink() + " }"
	}
	return "ip saddr . iif . oif " + not + `{ 10.137.0.11 . "vif1.0" . ` + w.uplink() + " }"
}

// match is one that is about something else.
func (w writer) match() string {
	return w.of(`iifname "vif*"`, `iifname "vif1.0"`, `iifgroup 2`, `iifname != "vif*"`, `iifname { "vif*", "wg0" }`, `iifname "eth0"`,
		`ip saddr 10.137.0.0/16`, `ip saddr != 10.137.0.11`, `ip daddr != 192.168.0.0/16`, `ip daddr 10.0.0.0/8`,
		`ip daddr { 0.0.0.0/1, 128.0.0.0/1 }`, `tcp dport { 80, 443 }`, `udp dport 53`, `meta l4proto tcp`, `meta l4proto { tcp, udp }`,
		`ct state new`, `ct state established,related`, `ct state != invalid`, `meta mark 1`, `meta mark & 2 == 2`, `ct mark 1`,
		`meta mark != 1`, `th dport != 22`, `ip protocol udp`, `tcp flags syn`, `limit rate 100000/second burst 10000 packets`,
		`limit name "high"`, `limit name "below"`, `quota name "much"`, `quota name "little"`, `meta nfproto ipv4`, `meta protocol ip`,
		`tcp dport 22`, `meta oiftype != 1`, `fib daddr type unicast`, `rt ip nexthop != 10.9.2.99`,
		`meta skuid 0`, `meta skuid != 0`, `meta cgroup 0`, `meta ipsec missing`, `ct label 1`, `ct label != 1`, `ip daddr @noted`, `ip daddr != @noted`,
		`ip ttl 63`, `meta oifkind "veth"`, `meta protocol arp`, `meta protocol != arp`, `ct count over 0`, `jhash ip saddr mod 2 0`,
		`meta hour 00:00-12:00`, `ct direction original`, `meta mark ^ 1 == 1`, `ct status snat`)
}

func (w writer) verdict(inside bool) string {
	if !inside && w.IntN(4) == 0 {
		return w.of("jump ", "goto ") + w.of("x", "y")
	}
	return w.of("drop", "accept", "return", "continue")
}

func (w writer) rule(inside bool) string {
	if w.IntN(6) == 0 {
		rest := w.of("", "", ", * : "+w.of("drop", "accept"))
		if w.IntN(2) == 0 {
			return fmt.Sprintf("oifname vmap { %s : %s, %s : %s%s }", w.name(), w.verdict(inside), w.name(), w.verdict(inside), rest)
		}
		return fmt.Sprintf("iifname . oifname vmap { %s . %s : %s, %s . %s : %s%s }", w.vif(), w.name(), w.verdict(inside),
			w.vif(), w.name(), w.verdict(inside), rest)
	}
	var parts []string
	if w.IntN(3) > 0 {
		parts = append(parts, w.byOut())
	}
	for w.IntN(5) < 2 {
		parts = append(parts, w.match())
	}
	w.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	end := w.verdict(inside)
	if w.IntN(3) == 0 {
		end = w.of("reject", "counter drop", "meta mark set 1", "ct mark set 1", "meta mark set meta mark | 2",
			"ct label set 1", "update @noted { ip daddr }", "synproxy mss 1460 wscale 7")
	}
	return strings.Join(append(parts, end), " ")
}

func (w writer) rules(n int, inside bool) string {
	var b strings.Builder
	for range n {
		b.WriteString(w.rule(inside) + "\n")
	}
	return b.String()
}

// ruleset is a table in the place of the one before.
func (w writer) ruleset() string {
	return "table ip t\ndelete table ip t\ntable inet t\ndelete table inet t\ntable " + w.of("ip", "inet") + " t {\n" +
		"limit high {\nrate over 100000/second burst 60000 packets\n}\nlimit below {\nrate 100000/second burst 60000 packets\n}\n" +
		"quota much {\nover 1 bytes\n}\nquota little {\n1 bytes\n}\n" +
		"set noted {\ntype ipv4_addr\nflags dynamic,timeout\ntimeout 1m\n}\n" + w.early() +
		"chain x {\n" + w.rules(w.IntN(3), true) + "}\nchain y {\n" + w.rules(w.IntN(3), true) + "}\n" +
		"chain c {\ntype " + w.of("filter hook forward", "filter hook forward", "filter hook postrouting", "nat hook postrouting") + " priority 0\npolicy " + w.of("accept", "accept", "drop") + "\n" +
		w.rules(1+w.IntN(4), false) + "}\n}\n"
}

// early is a chain that sees packets before their way is known, or none.
func (w writer) early() string {
	if w.IntN(3) > 0 {
		return ""
	}
	var b strings.Builder
	for range 1 + w.IntN(3) {
		b.WriteString(w.of("", w.match()+" ") + w.of("fib daddr oifname ", "fib daddr oif ") + w.of("", "!= ") + w.uplink() + " " +
			w.of("drop", "accept", "return", "meta mark set 1", "ct mark set 1", "ct label set 1") + "\n")
	}
	return "chain early {\ntype filter hook prerouting priority -100\n" + b.String() + w.of("", "", "drop\n") + "}\n"
}

// TestForwardAgreesWithTheKernel: if what an AppVM sends is dropped where it leaves by one interface, and not where it leaves by
// another, the first one is barred. More may be barred: a rule may be about another AppVM, or about something that is not known here.
func TestForwardAgreesWithTheKernel(t *testing.T) {
	y := newYard(t)
	loaded, bar, vain := 0, 0, 0
	for i := range *rulesets {
		w := writer{rand.New(rand.NewPCG(*rulesetSeed, uint64(i)))}
		text := w.ruleset()
		load := exec.Command("nft", "-f", "-")
		load.Stdin = strings.NewReader(text)
		if load.Run() != nil { // such as intervals that overlap
			continue
		}
		loaded++
		passes := y.passes()
		var r Reader
		f, err := r.Read(t.Context())
		if err != nil {
			t.Errorf("%s%v", text, err)
			continue
		}
		bars := strings.Fields(printedForward(f))
		for _, up := range uplinks {
			all, differs := true, false
			for _, k := range kinds {
				if all = all && passes[up+"_"+k.name]; passes[up+"_"+k.name] {
					continue
				}
				differs = differs || slices.ContainsFunc(uplinks, func(other string) bool { return passes[other+"_"+k.name] })
			}
			switch barred := slices.Contains(bars, up); {
			case differs && !barred:
				t.Errorf("seed %d, ruleset %d bars %q, and not %s\n%spasses: %v", *rulesetSeed, i, bars, up, text, passes)
			case differs:
				bar++
			case barred && all:
				vain++
			}
		}
	}
	t.Logf("%d of %d rulesets; %d interfaces are barred, %d more than the kernel does", loaded, *rulesets, bar, vain)
	if loaded < *rulesets/2 || bar < *rulesets/10 {
		t.Error("the rulesets show little")
	}
}
