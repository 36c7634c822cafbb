package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/firewall/switchboard/handover"
	"vifproxy/internal/lab"
)

// The kernel cannot load the rules for the switchboard: nat leads AppVMs to their proxies then, the daemon says why, and nothing stays
// attached when it ends. The daemon by its unit gets the programs of BPF from systemd, the one by hand loads them itself.
func TestNatInsteadOfASwitchboardWithoutRules(t *testing.T) {
	t.Parallel()
	for name, user := range map[string]int{"by the unit": 64123, "by hand": 0} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, lab.R42)
			s.user = user
			s.must(os.Chown(s.dir, user, 0))
			s.leaveRoomForHooks(roomForOneSkeleton)
			s.rules("work.10.137.61.11", bank)
			s.rules("play.10.137.61.12", shop)
			s.attach("work", "10.137.61.11")
			s.attach("play", "10.137.61.12")
			s.start()

			const why = "firewall: load rules for the switchboard: nftables: load rules: argument list too long"
			if is := s.way(); is != (control.Switchboard{Loaded: true, Why: why}) {
				t.Errorf("show --json says %+v", is)
			}
			s.says("doctor", "ok     switchboard  NAT leads connections to the proxies: "+why+"\n")
			if is := s.untilState("work", control.Running).Switchboard; is != nil && is.Used {
				t.Errorf("show says %+v", is)
			}

			s.opens("work", "http://bank.example/", "https://bank.example/")
			s.opens("play", "http://shop.example/")
			s.refuses("play", "http://bank.example/")
			s.comesNowhere("play", s.show()["work"].Port)
			s.until("a connection of the AppVM is translated", func() error {
				if err := s.page("work", "http://bank.example/"); err != nil || !s.translated("10.137.61.11") {
					return fmt.Errorf("page: %v", err)
				}
				return nil
			})
			if user != 0 {
				s.takesNothing()
			}

			attached := s.links()
			if len(attached) != 2 {
				t.Errorf("the daemon has links %v, and not one for each program", attached)
			}
			s.stop()
			s.keep(nil) // as systemd does when the unit has ended
			s.until("nothing is attached", func() error {
				for _, id := range attached {
					l, err := link.NewFromID(id)
					if err == nil {
						l.Close()
					}
					if !errors.Is(err, os.ErrNotExist) {
						return fmt.Errorf("link %d is there: %w", id, err)
					}
				}
				return nil
			})
		})
	}
}

// roomForOneSkeleton is enough for the chains of nat or of the switchboard in hook output of IPv4, but not for both at once, as it is
// while the kernel puts the one in the place of the other (nf_tables_commit takes chains away after new ones are there).
const roomForOneSkeleton = 4

// leaveRoomForHooks has another program fill hook output of IPv4, in which the kernel lets 1024 chains be (MAX_HOOK_COUNT in
// net/netfilter/core.c), but for some.
func (s *site) leaveRoomForHooks(room int) {
	s.Helper()
	s.inFirewall("nft", "add table ip crowd")
	chains := 0
	for step := 1024; step > 0; step /= 2 {
		var batch strings.Builder
		for i := range step {
			fmt.Fprintf(&batch, "add chain ip crowd c%d { type filter hook output priority 1000; }\n", chains+i)
		}
		nft := s.Command(s.Context(), "nft", "-f", "-")
		nft.Stdin = strings.NewReader(batch.String())
		switch out, err := nft.CombinedOutput(); {
		case err == nil:
			chains += step
		case !strings.Contains(string(out), "Argument list too long"): // E2BIG
			s.Fatalf("fill a hook: %v\n%.1000s", err, out)
		}
	}
	for i := range room {
		s.inFirewall("nft", fmt.Sprintf("delete chain ip crowd c%d", chains-1-i))
	}
}

// translated reports whether connection tracking knows a connection of an AppVM that goes to another port than the AppVM has asked for.
func (s *site) translated(addr string) (is bool) {
	s.Helper()
	s.must(s.Do(func() error {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		for _, f := range flows {
			is = is || f.Forward.SrcIP.String() == addr && f.Forward.DstPort == lab.ProxyPort && f.Reverse.SrcPort != lab.ProxyPort
		}
		return err
	}))
	return is
}

// takesNothing checks that the program which looks sockets up is told no port.
func (s *site) takesNothing() {
	s.Helper()
	m, err := ebpf.NewMapFromFD(s.stored(handover.Port.Name))
	s.must(err)
	defer m.Close()
	var port uint32
	s.must(m.Lookup(uint32(0), &port))
	if port != 0 {
		s.Errorf("connections to port %d are looked up", port)
	}
}

// links returns the numbers of the links of BPF that the daemon has open. Each keeps a program attached.
func (s *site) links() (all []link.ID) {
	s.Helper()
	descriptors, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", s.daemon.cmd.Process.Pid))
	s.must(err)
	for _, path := range descriptors {
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) { // closed meanwhile
			continue
		}
		s.must(err)
		if _, after, is := strings.Cut(string(text), "\nlink_id:\t"); is {
			var id link.ID
			_, err := fmt.Sscan(after, &id)
			s.must(err)
			all = append(all, id)
		}
	}
	return all
}
