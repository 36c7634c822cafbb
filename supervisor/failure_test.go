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
	"vifproxy/firewall"
	"vifproxy/internal/mailbox"
	"vifproxy/internal/policy"
	"vifproxy/internal/proxies"
	"vifproxy/internal/sockdiag"
	"vifproxy/internal/upstreams"
	proc "vifproxy/tinyproxy/process"
)

func TestDeathUnbindsAndComesBack(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Minute)
		m.proxy("social").gone("die", errors.New("killed"))
		m.expect(m.after(time.Second), `die :1
			start social (10.137.0.1) at 10.138.1.1: a :2
			unbind vif1.0 10.137.0.1 :1
			bind vif1.0 10.137.0.1 :2`)
		if vm := m.vm("social"); vm.Restarts != 1 {
			t.Errorf("%+v", vm)
		}
	})
}

func TestFailingStartsBackOff(t *testing.T) {
	run(t, func(m *machine) {
		m.set(func() { m.startErr = func(*policy.Policy) error { return errors.New("tinyproxy is missing") } })
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		got := m.after(10 * time.Minute)
		if n := strings.Count(got, "start "); n < 20 || n > 40 {
			t.Errorf("%d starts in ten minutes", n)
		}
		if vm := m.vm("social"); vm.State != control.Failed || vm.Error != "tinyproxy is missing" {
			t.Errorf("%+v", vm)
		}
		m.set(func() { m.startErr = nil })
		status, err := m.Update(m.ctx)
		if err != nil || status.VMs[0].State != control.Running || status.VMs[0].Error != "" {
			t.Errorf("update tries at once: %+v, %v", status, err)
		}
	})
}

// A port of somebody else's is not the policy's fault.
func TestTakenPortsArePassed(t *testing.T) {
	run(t, func(m *machine) {
		taken := 3
		m.set(func() {
			m.startErr = func(*policy.Policy) error {
				if taken--; taken >= 0 {
					return proxies.TakenPort{Err: errors.New("another process listens")}
				}
				return nil
			}
		})
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.expect(m.after(50*time.Millisecond), `start social (10.137.0.1) at 10.138.1.1: a :1
			start social (10.137.0.1) at 10.138.1.1: a :2
			start social (10.137.0.1) at 10.138.1.1: a :3
			start social (10.137.0.1) at 10.138.1.1: a :4
			bind vif1.0 10.137.0.1 :4`)
		if vm := m.vm("social"); vm.State != control.Running || vm.Error != "" {
			t.Errorf("%+v", vm)
		}

		m.set(func() { taken = 1000 })
		m.connect()
		m.after(time.Second)
		m.connect("vif1.0 10.137.0.1")
		got := m.after(10 * time.Minute)
		if n := strings.Count(got, "start "); n < 20*(portTriesMax+1) || n > 40*(portTriesMax+1) {
			t.Errorf("%d starts in ten minutes", n)
		}
		if vm := m.vm("social"); vm.Error != "another process listens" {
			t.Errorf("%+v", vm)
		}
	})
}

// TestRefusedStaysRefused: rules that tinyproxy has refused stay so when a later start fails for another reason, such as a
// lack of descriptors. The last good ones serve on.
func TestRefusedStaysRefused(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Minute)
		m.set(func() {
			m.startErr = func(*policy.Policy) error { return proxies.BadPolicy{Err: errors.New("bad regex")} }
		})
		m.file("social.10.137.0.1", "b(")
		m.after(time.Second)
		m.set(func() { m.startErr = func(*policy.Policy) error { return errors.New("too many open files") } })
		if got := m.after(time.Hour); !strings.Contains(got, "start ") || strings.Contains(got, "bind ") {
			t.Errorf("%s", got)
		}
		if vm := m.vm("social"); vm.State != control.Running || vm.Error != "too many open files" {
			t.Errorf("%+v", vm)
		}
		if status, err := m.Update(m.ctx); err != nil || status.VMs[0].State != control.Running {
			t.Errorf("%+v, %v", status, err)
		}
		m.set(func() { m.startErr = nil })
		if status, err := m.Update(m.ctx); err != nil || status.VMs[0].Error != "" {
			t.Errorf("%+v, %v", status, err)
		}
	})
}

func TestOneThatComesUpAndDiesBacksOff(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		starts := 0
		for range 600 {
			starts += strings.Count(m.after(time.Second), "start ")
			m.set(func() {
				for _, p := range m.alive {
					go p.gone("die", errors.New("ended by itself with status 0"))
				}
			})
		}
		m.took() // until the last death is known
		if starts > 40 {
			t.Errorf("%d starts in ten minutes of a proxy that never stays up", starts)
		}
		if vm := m.vm("social"); vm.State != control.Failed || vm.Error != "ended by itself with status 0" {
			t.Errorf("%+v", vm)
		}
		m.after(time.Minute)
		if vm := m.vm("social"); vm.State != control.Running || vm.Error != "" {
			t.Errorf("it stays up now: %+v", vm)
		}
		m.proxy("social").gone("die", errors.New("killed"))
		m.after(50 * time.Millisecond)
		if vm := m.vm("social"); vm.State != control.Running {
			t.Errorf("one that served for long is back at once: %+v", vm)
		}
	})
}

func TestDeafProxyIsReplaced(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Minute)
		p := m.proxy("social")
		m.set(func() { p.deaf = errors.New("another process listens") })
		got := m.after(40 * time.Second)
		unbind, kill, bind := strings.Index(got, "unbind vif1.0 10.137.0.1 :1\n"), strings.Index(got, "kill :1\n"),
			strings.Index(got, "\nbind vif1.0 10.137.0.1 :2")
		if unbind < 0 || unbind > kill || kill > bind {
			t.Errorf("done:\n%s", got)
		}
		if vm := m.vm("social"); vm.State != control.Running || vm.Restarts != 1 {
			t.Errorf("%+v", vm)
		}
	})
}

// As with nftables, where the next look at everything is far away.
func TestSocketsAreLookedAtAgain(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Minute)
		ill := make(chan error, 100)
		for range 20 {
			ill <- errors.New("no netlink")
		}
		m.mail.Post(func(l *loop) {
			l.Resync = time.Hour
			l.Read.Listeners = func() (sockdiag.Listeners, error) {
				select {
				case err := <-ill:
					return nil, err
				default:
					return nil, nil
				}
			}
			m.Wake(mailbox.Force)
		})
		m.after(time.Minute)
		if status, _ := m.Status(m.ctx); len(status.Problems) != 1 {
			t.Errorf("problems: %q", status.Problems)
		}
		syncs := func() (n int) {
			m.set(func() { n = m.syncs })
			return n
		}
		before := syncs()
		m.Wake(mailbox.Firewall) // the next try may be far away
		m.after(time.Second)
		if syncs() == before {
			t.Error("what somebody did to the firewall waits for the sockets")
		}
		m.after(10 * time.Minute)
		if status, _ := m.Status(m.ctx); len(status.Problems) > 0 {
			t.Errorf("nobody looks again: %q", status.Problems)
		}
	})
}

// It is not tried again, so it is told once and not shown as what is wrong now.
func TestForgettingThatFailsIsToldOnly(t *testing.T) {
	run(t, func(m *machine) {
		told := watched(m)
		m.mail.Post(func(l *loop) {
			l.Connections.Forget = func(netip.AddrPort, []netip.AddrPort) error { return errors.New("no netlink") }
		})
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.mail.Post(func(l *loop) {
			l.Connections.ForgetAll = func([]firewall.Binding) (int, error) { return 0, errors.New("no netlink at all") }
			l.cleaned = false
		})
		m.connect()
		m.after(time.Second)
		const one, all = "still-tracked vm=social port=1 err=no netlink\n", "still-tracked err=no netlink at all"
		if got := told() + "\n"; strings.Count(got, one) != 1 || strings.Count(got, all) != 1 {
			t.Errorf("told:\n%s", got)
		}
		if status, _ := m.Status(m.ctx); len(status.Problems) > 0 {
			t.Errorf("problems: %q", status.Problems)
		}
	})
}

func TestFirewallFailureClosesAndIsRetried(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a", "b")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.set(func() { m.fwErr = errors.New("nft: busy") })
		m.file("social.10.137.0.1", "a")
		got := m.after(50 * time.Millisecond)
		if !strings.Contains(got, "kill :1") {
			t.Errorf("the process with the revoked line must go, bound or not:\n%s", got)
		}
		m.set(func() { m.fwErr = nil })
		m.expect(m.after(time.Minute), "unbind vif1.0 10.137.0.1 :1\nbind vif1.0 10.137.0.1 :2")
	})
}

// TestRevokedThoughTheNewRulesDoNotStart: a disk may be full for days.
func TestRevokedThoughTheNewRulesDoNotStart(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a", "b")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.set(func() { m.startErr = func(*policy.Policy) error { return errors.New("no space left on device") } })
		m.file("social.10.137.0.1", "a", "b", "c")
		if c := counted(m.after(time.Second)); c["kill"]+c["unbind"] != 0 {
			t.Errorf("nothing was taken away: %v", c)
		}
		m.file("social.10.137.0.1", "a")
		if c := counted(m.after(quietPeriod + 5*time.Millisecond)); c["kill"] != 1 || c["unbind"] != 1 {
			t.Errorf("b can be reached: %v", c)
		}
		if vm := m.vm("social"); vm.State != control.Failed || vm.Error != "no space left on device" {
			t.Error(vm)
		}
		m.set(func() { m.startErr = nil })
		if c := counted(m.after(time.Minute)); c["start"] == 0 || c["bind"] != 1 {
			t.Errorf("it does not come back: %v", c)
		}
	})
}

// TestRevokedBeforeItsProcessIsUp: a list takes b away, and others follow before its process has come up, because that takes long, or
// because nothing may start without the fence. No list that cannot be used brings b back.
func TestRevokedBeforeItsProcessIsUp(t *testing.T) {
	for name, test := range map[string]struct {
		lists [][]string
		want  string // what serves at last; "" if nothing does
	}{
		"a mistake follows":                    {[][]string{{"a"}, {"a mistake"}}, "a"},
		"two mistakes follow":                  {[][]string{{"a"}, {"a mistake"}, {"another mistake"}}, "a"},
		"what tinyproxy refuses follows":       {[][]string{{"a"}, {"a", "refused"}}, "a"},
		"that and a mistake follow":            {[][]string{{"a"}, {"a", "refused"}, {"a mistake"}}, "a"},
		"what takes more away, and a mistake":  {[][]string{{"a", "c"}, {"c"}, {"a mistake"}}, "c"},
		"another list and a mistake follow":    {[][]string{{"a"}, {"c"}, {"a mistake"}}, "c"},
		"another one, which tinyproxy refuses": {[][]string{{"a"}, {"c", "refused"}}, "a"},
		"the same and a mistake":               {[][]string{{"a"}, {"c", "refused"}, {"a mistake"}}, ""},
		"a wider list and a mistake follow":    {[][]string{{"a"}, {"a", "c"}, {"a mistake"}}, "a"},
		"tinyproxy refuses it":                 {[][]string{{"a", "refused"}, {"a mistake"}}, "a b"},
		"tinyproxy refuses both":               {[][]string{{"a", "refused"}, {"a", "b", "refused"}}, "a b"},
		"the mistake is mended":                {[][]string{{"a"}, {"a mistake"}, {"a"}}, "a"},
		"b is given back":                      {[][]string{{"a"}, {"a mistake"}, {"a", "b", "c"}}, "a b c"},
	} {
		edit := func(m *machine) {
			for _, list := range test.lists {
				m.file("social.10.137.0.1", list...)
				m.after(time.Second)
			}
		}
		for what, edits := range map[string]func(*machine){
			"while it starts": func(m *machine) {
				m.set(func() { m.delay = 20 * time.Second })
				edit(m)
			},
			"without the fence": func(m *machine) {
				m.set(func() { m.fwErr = errFlushed })
				m.Wake(mailbox.Firewall)
				m.after(time.Second)
				edit(m)
				m.set(func() { m.fwErr = nil })
			},
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				run(t, func(m *machine) {
					m.set(func() {
						m.startErr = func(p *policy.Policy) error {
							if strings.Contains(p.String(), "refused") {
								return proxies.BadPolicy{Err: errors.New("bad regex")}
							}
							return nil
						}
					})
					m.file("social.10.137.0.1", "a", "b")
					m.connect("vif1.0 10.137.0.1")
					m.after(time.Second)
					edits(m)
					m.after(5 * time.Minute)
					got := ""
					m.set(func() {
						for _, b := range m.bindings {
							for _, line := range m.alive[b.To.Port()].policy.Rules {
								got += " " + line.Source
							}
						}
					})
					if got = strings.TrimSpace(got); got != test.want {
						t.Errorf("%q serves, want %q", got, test.want)
					}
				})
			})
		}
	}
}

func TestFilesThatCouldNotBeWrittenAreWrittenLater(t *testing.T) {
	run(t, func(m *machine) {
		m.set(func() { m.showErr = errors.New("no space left on device") })
		m.file("a.10.0.0.1", "x")
		m.connect("vif1.0 10.0.0.1")
		m.Update(m.ctx)
		m.set(func() { m.showErr = nil })
		m.Update(m.ctx)
		m.after(time.Millisecond)
		if m.set(func() {}); m.shown != m.proxy("a").port {
			t.Errorf("files tell of port %d, not of %d", m.shown, m.proxy("a").port)
		}
	})
}

// TestNobodyWaitsForFilesThatAreNotWritten: neither the loop nor the other AppVMs.
func TestNobodyWaitsForFilesThatAreNotWritten(t *testing.T) {
	run(t, func(m *machine) {
		m.set(func() { m.showTakes = time.Second })
		m.file("a.10.0.0.1", "x", "y")
		m.connect("vif1.0 10.0.0.1")
		m.after(100 * time.Millisecond)
		m.file("a.10.0.0.1", "x")
		if c := counted(m.after(200 * time.Millisecond)); c["kill"] != 1 || m.vm("a").State != control.Running {
			t.Errorf("%v, %v", c, m.vm("a"))
		}
		if m.after(3 * time.Second); m.shown != m.proxy("a").port {
			t.Errorf("files tell of port %d, not of %d", m.shown, m.proxy("a").port)
		}
	})
}

// TestARuntimeDirectoryThatOnlySystemdMakes ends the daemon when a proxy cannot start, but not right after its start, and
// not where nobody starts it again.
func TestARuntimeDirectoryThatOnlySystemdMakes(t *testing.T) {
	for _, systemd := range []bool{true, false} {
		run(t, func(m *machine) {
			m.mail.Post(func(l *loop) { l.Systemd.MakesFiles, l.Setup.Started = systemd, time.Now() })
			m.file("a.10.0.0.1", "x")
			m.connect("vif1.0 10.0.0.1")
			m.after(time.Second)
			m.set(func() {
				m.startErr = func(*policy.Policy) error { return fmt.Errorf("%w\nMAINPID=1", proc.ErrRemoved) }
			})
			m.after(time.Second)
			m.file("b.10.0.0.2", "x")
			m.connect("vif1.0 10.0.0.1", "vif2.0 10.0.0.2")
			m.after(lifeMin - 3*time.Second)
			if m.vm("a").State != control.Running {
				t.Errorf("before its time: %v", m.vm("a"))
			}
			if systemd {
				m.ends = proc.ErrRemoved
			}
			m.after(time.Minute)
			select {
			case <-m.mail.Done():
				if !systemd {
					t.Error("nobody starts it again")
				}
				told := strings.Join(m.notified, "|")
				if !strings.Contains(told, "|STATUS="+proc.ErrRemoved.Error()+" MAINPID=1|") || strings.Contains(told, "\n") {
					t.Errorf("systemd is told %q", m.notified)
				}
			default:
				if systemd {
					t.Error("it goes on without a runtime directory")
				}
			}
		})
	}
}

// The daemon that gives up waits for no name server.
func TestWhoGivesUpWaitsForNoNameServer(t *testing.T) {
	run(t, func(m *machine) {
		asked := make(chan struct{}, 1)
		silent := func(ctx context.Context, _ string) ([]netip.Addr, error) {
			asked <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		m.mail.Post(func(l *loop) { l.Systemd.MakesFiles, l.Setup.Started, l.Names.LookUp = true, time.Now(), silent })
		m.file("a.10.0.0.1", "x")
		m.connect("vif1.0 10.0.0.1")
		m.after(lifeMin)
		m.set(func() {
			m.startErr = func(*policy.Policy) error { return proc.ErrRemoved }
			m.ends = proc.ErrRemoved
		})
		m.file("config", fmt.Sprintf(toUpstream, "proxy.corp:3128"))
		<-asked
		m.after(upstreams.LookUpTimeout / 2)
		select {
		case <-m.mail.Done():
		default:
			t.Error("it waits for the name server")
		}
	})
}

// TestADeathTellsOfConnectionsThatWereKnown: those of an older process, which is asked for them each second.
func TestADeathTellsOfConnectionsThatWereKnown(t *testing.T) {
	run(t, func(m *machine) {
		m.file("a.10.0.0.1", "x")
		m.connect("vif1.0 10.0.0.1")
		m.after(time.Second)
		old := m.proxy("a")
		m.set(func() { old.more = 2 })
		m.file("a.10.0.0.1", "x", "y")
		m.after(3 * time.Second)
		told := watched(m)
		told()
		old.gone("die", errors.New("killed"))
		if text := told(); !strings.Contains(text, "proxy-died vm=a") || !strings.Contains(text, "connections=3") {
			t.Error(text)
		}
		m.after(time.Minute)
		m.proxy("a").gone("die", errors.New("killed"))
		if text := told(); !strings.Contains(text, "proxy-died vm=a err=killed") {
			t.Error(text)
		}
	})
}
