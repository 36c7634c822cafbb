package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/mailbox"
	"vifproxy/internal/policy"
	"vifproxy/internal/proxies"
	"vifproxy/internal/upstreams"
	"vifproxy/rules"
)

func TestOpeningsFollowRules(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)

		// Opened with the binding of the process that may use it, not before.
		m.file("social.10.137.0.1", "#: egress 10.1.0.0/16", "#: egress 10.2.0.0/16:81", "a")
		m.expect(m.after(time.Second), `start social (10.137.0.1) at 10.138.1.1: a egress 10.1.0.0/16 egress 10.2.0.0/16:81 :2
			unbind vif1.0 10.137.0.1 :1
			bind vif1.0 10.137.0.1 :2
			fence 70890001 10.1.0.0/16:0, 70890001 10.2.0.0/16:81`)
		m.file("social.10.137.0.1", "#: egress 10.2.0.0/16:81", "#: egress 10.1.0.0/16", "a")
		m.expect(m.after(time.Second), "") // the same in another order

		// Narrowed at once; what both permit is never closed.
		m.file("social.10.137.0.1", "#: egress 10.1.9.0/24", "#: egress 10.3.0.0/16", "a")
		m.expect(m.after(time.Second), `start social (10.137.0.1) at 10.138.1.1: a egress 10.1.9.0/24 egress 10.3.0.0/16 :3
			fence 70890001 10.1.9.0/24:0
			unbind vif1.0 10.137.0.1 :2
			bind vif1.0 10.137.0.1 :3
			fence 70890001 10.1.9.0/24:0, 70890001 10.3.0.0/16:0
			kill :2`)
		m.set(func() { m.alive[1].idle = true })
		m.expect(m.after(2*time.Second), "stop :1")
		m.connect()
		m.expect(m.after(time.Second), "unbind vif1.0 10.137.0.1 :3\nfence \nstop :3")
	})
}

// A refused rule file opens nothing.
func TestBadRulesOpenNothing(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.set(func() {
			m.startErr = func(*policy.Policy) error { return proxies.BadPolicy{Err: errors.New("bad regex")} }
		})
		m.file("social.10.137.0.1", "#: egress 10.1.0.0/16", "[")
		if got := m.after(time.Minute); strings.Contains(got, "fence") {
			t.Errorf("opened:\n%s", got)
		}
		m.file("social.10.137.0.1", "#: egress 0.0.0.0/0", "a")
		m.expect(m.after(time.Minute), "")
		const flaw = `social.10.137.0.1:1: "0.0.0.0/0" is too wide`
		if vm := m.vm("social"); vm.State != control.Running || !strings.Contains(vm.Error, flaw) {
			t.Errorf("%+v", vm)
		}
	})
}

const toUpstream = "Port {port}\nListen {bind_ip}\nFilter \"{rules_file}\"\nFilterDefaultDeny Yes\nConnectPort 563\nUpstream http %s\n"

func TestTemplateOpensTheFence(t *testing.T) {
	run(t, func(m *machine) {
		m.file("config", fmt.Sprintf(toUpstream, "10.0.0.5:3128"))
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.expect(m.after(time.Second), `start social (10.137.0.1) at 10.138.1.1: a :1
			fence all 10.0.0.5/32:3128, all :563
			bind vif1.0 10.137.0.1 :1`)

		// By name: it is looked up, again now and then, and what was last heard stays.
		m.set(func() { m.hosts = map[string]netip.Addr{"proxy.corp": netip.MustParseAddr("10.0.0.6")} })
		m.file("config", fmt.Sprintf(toUpstream, "proxy.corp:3128"))
		m.expect(m.after(time.Second), `start social (10.137.0.1) at 10.138.1.1: a :2
			fence all :563
			unbind vif1.0 10.137.0.1 :1
			bind vif1.0 10.137.0.1 :2
			fence all 10.0.0.6/32:3128, all :563
			kill :1`)
		m.set(func() { m.hosts["proxy.corp"] = netip.MustParseAddr("10.0.0.7") })
		m.expect(m.after(2*time.Minute), "fence all 10.0.0.6/32:3128, all 10.0.0.7/32:3128, all :563")
		m.expect(m.after(10*time.Minute), "fence all 10.0.0.7/32:3128, all :563")
		m.set(func() { delete(m.hosts, "proxy.corp") })
		m.expect(m.after(2*time.Minute), "")
		status, err := m.Status(m.ctx)
		if err != nil || len(status.Problems) != 1 || status.Problems[0] != "upstream proxy.corp: no such host proxy.corp" {
			t.Errorf("%+v, %v", status, err)
		}
		m.remove("config")
		m.after(time.Second)
		if status, _ := m.Status(m.ctx); len(status.Problems) != 0 {
			t.Errorf("nobody asks for it any more: %q", status.Problems)
		}
	})
}

// As with nftables, where the next look at everything is far away.
func TestUpstreamsAreAskedForBetweenLooks(t *testing.T) {
	run(t, func(m *machine) {
		m.mail.Post(func(l *loop) { l.Resync = time.Hour })
		m.set(func() { m.hosts = map[string]netip.Addr{"good.corp": netip.MustParseAddr("10.0.0.6")} })
		m.file("config", fmt.Sprintf(toUpstream, "good.corp:3128")+"Upstream http ill.corp:3128 \".ill\"\n")
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(5 * time.Minute)

		// Every 20 s the loop looks who holds slots of proxies, every 30 s it gives a sign of life, and once a minute both at once.
		const others = 10*(3+2-1) + 1
		asked, rounds, lookUp := map[string]int{}, 0, m.config.Names.LookUp
		m.mail.Post(func(l *loop) {
			l.Names.LookUp = func(ctx context.Context, name string) ([]netip.Addr, error) {
				m.set(func() { asked[name]++ })
				return lookUp(ctx, name)
			}
			l.Systemd.Notify = func(state string) {
				if state == "WATCHDOG=1" { // each round begins with it
					m.set(func() { rounds++ })
				}
			}
		})
		m.expect(m.after(10*time.Minute), "")
		m.set(func() {
			if n := asked["good.corp"]; n < 19 || n > 21 {
				t.Errorf("asked %d times in ten minutes", n)
			}
			if n := asked["ill.corp"]; n < 16 || n > 26 { // ±20 %
				t.Errorf("asked %d times for a host that is not there", n)
			}
			if n := asked["good.corp"] + asked["ill.corp"]; rounds > others+2*n { // a question and its answer, for each
				t.Errorf("%d rounds in ten minutes for %d questions", rounds, n)
			}
			m.hosts["good.corp"] = netip.MustParseAddr("10.0.0.7")
		})
		m.expect(m.after(31*time.Second), "fence all 10.0.0.6/32:3128, all 10.0.0.7/32:3128, all :563")

		m.remove("config")
		m.after(time.Minute)
		m.set(func() { clear(asked); rounds = 0 })
		m.after(10 * time.Minute)
		m.set(func() {
			if len(asked) > 0 || rounds > others {
				t.Errorf("nobody is to be asked for: %v, %d rounds in ten minutes", asked, rounds)
			}
		})
	})
}

// TestUpstreamsThatRotateStayOpen: a name server answers with one of several addresses, another each time, and tinyproxy
// asks for itself. All addresses of the last minutes are open, and no more than some.
func TestUpstreamsThatRotateStayOpen(t *testing.T) {
	run(t, func(m *machine) {
		answers, asked := 6, 0
		m.mail.Post(func(l *loop) {
			l.Names.LookUp = func(context.Context, string) ([]netip.Addr, error) {
				m.set(func() { asked++ })
				return []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 1, byte(asked % answers)})}, nil
			}
		})
		m.file("config", fmt.Sprintf(toUpstream, "proxy.corp:3128"))
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		open := func() (n int) {
			m.mail.Post(func(l *loop) { n = len(l.fenced.Openings) })
			m.took()
			return n
		}
		m.after(10 * time.Second)
		if n := open(); n != 6 {
			t.Errorf("%d of 6 addresses are open after some seconds", n)
		}
		m.after(time.Hour)
		if n := open(); n != 6 {
			t.Errorf("%d of 6 addresses are open after an hour", n)
		}
		// A name server that makes addresses up.
		m.set(func() { asked, answers = 0, 256 })
		m.mail.Post(func(l *loop) { l.Heartbeat = time.Second })
		m.after(5 * time.Minute)
		if n := open(); n != upstreams.AddressesMax {
			t.Errorf("%d addresses are open, want %d", n, upstreams.AddressesMax)
		}
		// One that fails takes nothing away.
		m.mail.Post(func(l *loop) {
			l.Names.LookUp = func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no such host") }
		})
		m.after(time.Hour)
		if n := open(); n != upstreams.AddressesMax {
			t.Errorf("%d addresses are open although nobody answers, want %d", n, upstreams.AddressesMax)
		}
	})
}

// A look-up that is under way asks the name servers that resolv.conf had when it began.
func TestFormerResolversStayOpenForAWhile(t *testing.T) {
	run(t, func(m *machine) {
		m.mail.Post(func(l *loop) { l.Resync = time.Hour })
		open := func() (text string) {
			m.mail.Post(func(l *loop) { text = fmt.Sprint(l.holds.Fence.Resolvers) })
			m.took()
			return text
		}
		listed := func(text string) {
			m.set(func() { m.resolvers = []netip.Addr{netip.MustParseAddr(text)} })
			m.Wake(mailbox.Resolvers)
			m.after(time.Second)
		}
		listed("10.139.1.1")
		listed("10.139.1.2")
		if got := open(); got != "[10.139.1.2 10.139.1.1]" {
			t.Errorf("open are %s", got)
		}
		if m.after(time.Minute); open() != "[10.139.1.2]" {
			t.Errorf("a minute later, open are %s", open())
		}

		// Nobody can read the file when it is time to close one.
		listed("10.139.1.3")
		m.set(func() { m.resolvErr = errors.New("input/output error") })
		m.Wake(mailbox.Resolvers)
		if m.after(5 * time.Minute); open() != "[10.139.1.3]" {
			t.Errorf("resolv.conf is not readable, and open are %s", open())
		}
	})
}

func TestRefusalsAreShown(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.file("work.10.137.0.2", "a")
		m.after(time.Second)
		m.set(func() { m.refused = map[uint32]uint64{0x70890002: 7} })
		if a, b := m.vm("social").EgressRefused, m.vm("work").EgressRefused; a != 0 || b != 7 {
			t.Errorf("%d and %d, want 0 and 7", a, b)
		}
	})
}

// TestSingleAddressesAloneLeadAnywhere: a person wrote them. Networks and what a name server says do not.
func TestSingleAddressesAloneLeadAnywhere(t *testing.T) {
	run(t, func(m *machine) {
		m.set(func() { m.hosts = map[string]netip.Addr{"proxy.corp": netip.MustParseAddr("127.0.0.1")} })
		m.mail.Post(func(l *loop) {
			l.Egress, _ = rules.ParseEgress("10.8.0.1:81,10.9.0.0/16,fd00::1,fd00::/64")
		})
		m.file("config", fmt.Sprintf(toUpstream, "proxy.corp:3128")+"Upstream http 127.0.0.1:3129 \".local\"\n")
		m.file("social.10.137.0.1", "a", "#: egress 127.0.0.1:9050", "#: egress 127.0.0.0/8", "#: egress 10.138.1.1/32")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		want := map[string]bool{
			"127.0.0.1/32:3128": false, "127.0.0.1/32:3129": true,
			"10.8.0.1/32:81": true, "10.9.0.0/16:0": false, "fd00::1/128:0": true, "fd00::/64:0": false,
			"127.0.0.1/32:9050": true, "127.0.0.0/8:0": false, "10.138.1.1/32:0": true,
		}
		m.mail.Post(func(l *loop) {
			for _, h := range append(l.fenced.Openings, l.fenced.Proxies[0].Openings...) {
				to := fmt.Sprintf("%s:%d", h.To, h.Port)
				if literal, ok := want[to]; !ok || literal != h.Literal {
					t.Errorf("%s literal: %v", to, h.Literal)
				}
				delete(want, to)
			}
		})
		if m.took(); len(want) > 0 {
			t.Errorf("not open: %v", want)
		}
	})
}
