package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/lab"
	"vifproxy/qubes/qubestest"
)

// What dom0 has decided counts, through the real daemon and a double of QubesDB.

func (s *site) qubesDB() (*qubestest.Daemon, string) {
	d := qubestest.Start(s.T, filepath.Join(s.dir, "qubesdb.ro.sock"))
	d.Write("/name", "sys-fw")
	return d, "--qubesdb=" + d.Socket
}

// goes waits until the AppVM is refused a page. A change in dom0 reaches the daemon as an event.
func (s *site) goes(vm, page string) {
	s.Helper()
	s.until(vm+" is refused "+page, func() error {
		if r := s.Get(vm, page); r.Status != 403 {
			return fmt.Errorf("status %d (%v)", r.Status, r.Err)
		}
		return nil
	})
}

func TestListsFromDom0(t *testing.T) {
	onBoth(t, func(s *site) {
		const feature = "/vm-config/vifproxy.banking.10.137.0.11"
		d, option := s.qubesDB()
		d.Write(feature, "bank.example")
		s.rules("banking.10.137.0.11", shop) // does not count
		s.rules("work.10.137.0.12", shop)
		s.attach("banking", "10.137.0.11")
		s.attach("work", "10.137.0.12")
		s.start(option)
		s.opens("banking", "http://bank.example/")
		s.refuses("banking", "http://shop.example/")
		s.opens("work", "http://shop.example/")
		if vm := s.show()["banking"]; vm.Origin != control.InDom0 || vm.Path != feature {
			s.Errorf("show: %+v", vm)
		}
		if log := s.daemon.log.String(); !strings.Contains(log, `msg="list found" vm=banking ip=10.137.0.11 what="in dom0"`) ||
			!strings.Contains(log, `msg="list found" vm=work ip=10.137.0.12`+"\n") {
			s.Errorf("the log does not say where lists are:\n%s", log)
		}

		// It changes at run time, and what is taken away is closed.
		d.Write(feature, "shop.example")
		s.opens("banking", "http://shop.example/")
		s.goes("banking", "http://bank.example/")

		// QubesDB has a second to answer a command.
		says := func(status int, want string, args ...string) {
			s.Helper()
			s.until(strings.Join(args, " "), func() error {
				if out, errs, is := s.ctl(args...); is != status || !strings.Contains(out, want) {
					return fmt.Errorf("exit status %d:\n%s%s", is, out, errs)
				}
				return nil
			})
		}
		// allow and deny cannot write there. They say what does.
		const set = "\nqvm-features sys-fw vm-config.vifproxy.banking.10.137.0.11 "
		says(1, set+"'shop.example git.example:22'\n", "allow", "banking", "git.example:22")
		says(1, set+"'shop.example *.bank.example'\n", "allow", "banking", "*.bank.example")
		says(1, set+"''\n", "deny", "banking", "shop.example")
		says(0, "as it should be", "allow", "banking", "shop.example")
		says(0, "", "allow", "banking", "bank.example", "--for=1h")
		s.opens("banking", "http://bank.example/")
		says(0, "and no more: bank.example", "deny", "banking", "bank.example")
		s.goes("banking", "http://bank.example/")

		// They do not write a file that does not count because the address has another name in dom0.
		own, other := filepath.Join(s.rulesDir(), "banking.10.137.0.11"), filepath.Join(s.rulesDir(), "bank2.10.137.0.11")
		s.must(os.Rename(own, other))
		for _, name := range []string{"bank2", "bank2.10.137.0.11"} {
			out, errs, status := s.ctl("allow", name, "git.example")
			if now, err := os.ReadFile(other); status != 1 || string(now) != shop+"\n" ||
				!strings.Contains(errs, "bank2.10.137.0.11 does not count: 10.137.0.11 has the list "+feature+" in dom0 (`vifproxyctl allow banking HOST` says") {
				s.Errorf("allow %s: exit status %d:\n%s%s\nthe file: %q %v", name, status, out, errs, now, err)
			}
		}
		s.must(os.Rename(other, own))

		if out, _, _ := s.ctl("explain", "banking", "http://bank.example:22/"); !strings.Contains(out, "add bank.example:22 to the feature vm-config.vifproxy.banking.10.137.0.11") &&
			!strings.Contains(out, "vifproxyctl allow banking bank.example:22") {
			s.Errorf("explain:\n%s", out)
		}
		if out, _, _ := s.ctl("show"); !strings.Contains(out, "LIST\n") || !strings.Contains(out, "dom0\n") || !strings.Contains(out, "file\n") {
			s.Errorf("show:\n%s", out)
		}

		// A mistake keeps the last good list, and says what to type.
		d.Write(feature, "https://bank.example/ shop.example")
		s.told("banking", control.Running, feature+`:1: "https://bank.example/" is not a host name (write bank.example; in dom0: `+
			`qvm-features sys-fw vm-config.vifproxy.banking.10.137.0.11 'bank.example shop.example')`)
		s.opens("banking", "http://shop.example/")
		if out, errs, status := s.ctl("check", "banking"); status != 1 || !strings.Contains(out, feature+`:1: "https://bank.example/" is not a host name`) ||
			!strings.Contains(strings.Join(strings.Fields(out), " "), `vm-config.vifproxy.banking.10.137.0.11 'bank.example shop.example'`) {
			s.Errorf("check of a mistake in dom0: exit status %d:\n%s%s", status, out, errs)
		}
		d.Write(feature, "bank.example BANK.example shop.example")
		s.opens("banking", "http://bank.example/")
		if out, errs, status := s.ctl("check", "banking"); status != 1 || !strings.HasPrefix(out, feature+":2:") ||
			!strings.Contains(strings.Join(strings.Fields(out), " "), `vm-config.vifproxy.banking.10.137.0.11 'bank.example shop.example'`) {
			s.Errorf("check of a line twice in dom0: exit status %d:\n%s%s", status, out, errs)
		}
		d.Write(feature, "https://bank.example/ shop.example")
		s.told("banking", control.Running, feature+`:1: "https://bank.example/" is not a host name (write bank.example; in dom0: `+
			`qvm-features sys-fw vm-config.vifproxy.banking.10.137.0.11 'bank.example shop.example')`)

		// An AppVM that comes when that is so has no last good list, and not that of the file.
		s.detach("banking")
		s.until("banking is gone", func() error {
			if vm := s.show()["banking"]; len(vm.Interfaces) > 0 {
				return errors.New("it is connected")
			}
			return nil
		})
		s.attach("banking", "10.137.0.11")
		s.until("banking is refused", func() error {
			if vm := s.show()["banking"]; vm.State != control.Refused {
				return fmt.Errorf("%+v", vm)
			}
			return nil
		})
		s.must(s.cutOff("banking"))

		// A black list would permit what it does not name.
		s.rules("config", strings.Split(strings.Replace(whiteList, "Yes", "No", 1), "\n")...)
		d.Write(feature, "shop.example")
		s.until("a black list is refused", func() error {
			if vm := s.show()["banking"]; vm.State != control.Refused || !strings.Contains(vm.Error, "FilterDefaultDeny Yes") {
				return fmt.Errorf("%+v", vm)
			}
			return nil
		})
		s.removeRules("config")

		// Without a list in dom0 the file counts.
		d.Remove(feature)
		s.opens("banking", "http://shop.example/")
		if vm := s.show()["banking"]; vm.Origin != control.InFile {
			s.Errorf("show: %+v", vm)
		}
		s.stop()
	})
}

// The AppVM of the guide is served by what the guide has people type in dom0.
func TestBankingVMOfTheGuide(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	d, option := s.qubesDB()
	s.start(option)
	guide, err := os.ReadFile("../../docs/guide.md")
	s.must(err)
	command := regexp.MustCompile(`\$ qvm-features sys-firewall "vm-config(\.vifproxy\.banking\.)\$\(qvm-prefs banking ip\)" '(.*)'\n`).FindStringSubmatch(string(guide))
	if command == nil {
		t.Fatal("the guide has another command")
	}
	d.Write("/vm-config/"+command[1][1:]+"10.137.0.11", command[2])
	s.attach("banking", "10.137.0.11")
	began := time.Now()
	s.opens("banking", "https://bank.example/")
	t.Logf("served %v after it was connected", time.Since(began).Round(time.Millisecond))
	s.opens("banking", "https://www.bank.example/")
	s.refuses("banking", "http://shop.example/")
	out, errs, status := s.ctl("show")
	for _, want := range []string{"banking", "running", "10.137.0.11", "dom0"} {
		if !strings.Contains(out, want) {
			s.Errorf("show: exit status %d, without %s:\n%s%s", status, want, out, errs)
		}
	}
	began = time.Now()
	d.Write("/vm-config/"+command[1][1:]+"10.137.0.11", "shop.example")
	s.opens("banking", "http://shop.example/")
	t.Logf("another list serves %v after it was set", time.Since(began).Round(time.Millisecond))
	s.goes("banking", "https://bank.example/")
	s.stop()
}

// The guide's command for dom0 finds the lists whose AppVM is gone, or has another address, in what qvm-features prints (print_table of
// qubes-core-admin-client 4.4.0).
func TestListsWithoutAnAppVM(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("../../docs/guide.md")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`(?m)^\[dom0\]\$ (qvm-features sys-firewall \| .*)$`).FindStringSubmatch(string(guide))
	if command == nil {
		t.Fatal("the guide has another command")
	}
	bin := t.TempDir()
	for name, script := range map[string]string{
		"qvm-features": `printf '%s\n' 'vm-config.vifproxy.banking.10.137.0.11  bank.example *.bank.example' \
			'vm-config.vifproxy.gone.10.137.0.12     a.example' 'vm-config.vifproxy.a.b.10.137.0.13      ' 'vm-config.other  x' 'service.vifproxy  1'`,
		"qvm-prefs": `case "$1" in banking) echo 10.137.0.11 ;; a.b) echo 10.137.0.99 ;; *) echo "no such domain: $1" >&2; exit 1 ;; esac`,
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", command[1])
	cmd.Env = []string{"PATH=" + bin + ":/usr/bin:/bin"}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "gone 10.137.0.12\na.b 10.137.0.13\n" {
		t.Errorf("%v: %s", err, out)
	}
}

// While QubesDB is silent, gone or talks nonsense, what runs goes on, files are followed, and AppVMs that come wait.
func TestQubesDBIsBroken(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	d, option := s.qubesDB()
	d.Write("/vm-config/vifproxy.banking.10.137.0.11", "bank.example")
	s.rules("work.10.137.0.12", shop, bank)
	s.attach("banking", "10.137.0.11")
	s.attach("work", "10.137.0.12")
	s.start(option)
	s.opens("banking", "http://bank.example/")
	s.opens("work", "http://bank.example/")
	for i, broken := range []struct {
		how, says    string
		begins, ends func()
	}{
		{"silent", "does not answer", func() { d.Silence(true) }, func() { d.Silence(false) }},
		{"gone", "QubesDB", d.Stop, func() { d.Restart(t) }},
	} {
		broken.begins()
		s.rules("work.10.137.0.12", shop) // the file is followed
		s.goes("work", "http://bank.example/")
		newcomer := fmt.Sprintf("new%d", i)
		s.rules(fmt.Sprintf("%s.10.137.0.%d", newcomer, 20+i), bank)
		s.attach(newcomer, fmt.Sprintf("10.137.0.%d", 20+i))
		s.says("show", "lists from dom0: ", broken.says, "AppVMs that come wait")
		s.says("doctor", "lists from dom0: ")
		time.Sleep(100 * time.Millisecond)
		s.must(s.cutOff(newcomer))
		s.opens("banking", "http://bank.example/")

		broken.ends()
		s.opens(newcomer, "http://bank.example/")
		s.until(broken.how+" is over", func() error {
			if out, errs, _ := s.ctl("show"); strings.Contains(out+errs, "lists from dom0") || strings.Contains(out+errs, "QubesDB") {
				return errors.New(out + errs)
			}
			return nil
		})
		s.rules("work.10.137.0.12", shop, bank)
		s.opens("work", "http://bank.example/")
	}
	s.stop()
}

// At the start QubesDB may be silent. Nobody knows then for whom dom0 has a list that permits less than a file.
func TestQubesDBIsSilentAtTheStart(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	d, option := s.qubesDB()
	d.Write("/vm-config/vifproxy.work.10.137.0.12", "bank.example")
	d.Silence(true)
	s.rules("work.10.137.0.12", shop, bank)
	s.attach("work", "10.137.0.12")
	s.start(option)
	s.says("show", "lists from dom0: ")
	s.must(s.cutOff("work"))
	d.Silence(false)
	d.Restart(t)
	s.opens("work", "http://bank.example/")
	s.refuses("work", "http://shop.example/")
	s.stop()
}

// Firewall settings that name hosts are a list, if that is switched on; one of an AppVM's own counts before.
func TestListsOfFirewallSettings(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	d, option := s.qubesDB()
	const addr = "10.137.0.12"
	http := "action=accept dsthost=%s proto=tcp dstports=80-80"
	d.Firewall(addr, "drop", fmt.Sprintf(http, "bank.example"), fmt.Sprintf(http, "nowhere.invalid"), "action=accept specialtarget=dns", "action=drop")
	d.Firewall("10.137.0.13", "accept", "action=accept dsthost=bank.example", "action=accept")
	s.attach("work", addr)
	s.attach("open", "10.137.0.13")
	s.start(option)
	s.must(s.cutOff("work")) // it is off
	s.stop()

	s.start(option, "--qubes-firewall=on")
	s.opens("work", "http://bank.example/")
	s.refuses("work", "http://shop.example/")
	vm := s.show()["vm-"+addr]
	if vm.Origin != control.InFirewall || vm.Path != "/qubes-firewall/"+addr {
		s.Errorf("show: %+v", s.show())
	}
	if vm := s.show()["vm-10.137.0.13"]; vm.State != control.Refused || !strings.Contains(vm.Error, "accepts all hosts") {
		s.Errorf("settings that permit all: %+v", vm)
	}
	if _, errs, status := s.ctl("allow", vm.Name, "shop.example:8443"); status != 1 || !strings.Contains(strings.Join(strings.Fields(errs), " "),
		"accept dsthost=shop.example proto=tcp dstports=8443-8443") {
		s.Errorf("allow: exit status %d:\n%s", status, errs)
	}

	// Such settings also open the addresses themselves. The line of the guide closes them, and leaves the proxy alone.
	direct := netip.AddrPortFrom(origin(0), 80).String()
	passes := func() bool {
		ctx, cancel := context.WithTimeout(s.Context(), time.Second)
		defer cancel()
		conn, err := s.Dial(ctx, "work", "tcp", direct)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}
	const closes, closes6 = "rule ip qubes custom-forward iifgroup 2 drop", "rule ip6 qubes custom-forward iifgroup 2 drop"
	if guide, err := os.ReadFile("../../docs/guide.md"); err != nil || !strings.Contains(string(guide), "\nnft add "+closes+"\nnft add "+closes6+"\n") {
		s.Errorf("the guide has another line (%v)", err)
	}
	if !passes() {
		s.Error("the address is closed before it is")
	}
	for _, rule := range []string{closes, closes6} {
		s.must(s.Command(s.Context(), "nft", append([]string{"add"}, strings.Fields(rule)...)...).Run())
	}
	if passes() {
		s.Error("the address is still open")
	}
	s.ctl("update")
	s.opens("work", "http://bank.example/")

	// What dom0 has not finished is not believed.
	d.Remove("/qubes-firewall/" + addr + "/")
	d.Write("/qubes-firewall/"+addr+"/policy", "drop")
	d.Write("/qubes-firewall/"+addr+"/0000", fmt.Sprintf(http, "shop.example"))
	s.ctl("update")
	s.opens("work", "http://bank.example/")
	s.refuses("work", "http://shop.example/")
	d.Write("/qubes-firewall/"+addr, "")
	s.opens("work", "http://shop.example/")
	s.goes("work", "http://bank.example/")

	// A file of its own counts before.
	s.rules("work."+addr, "#: format domains", "bank.example")
	s.opens("work", "http://bank.example/")
	s.goes("work", "http://shop.example/")
	want := "qvm-features sys-fw vm-config.vifproxy.work." + addr + " bank.example\n"
	if out, errs, status := s.ctl("export", "work"); status != 0 || out != want {
		s.Errorf("export: exit status %d: %s%s, want %s", status, out, errs, want)
	}
	if out, errs, status := s.ctl("import", "--from-dom0"); status != 0 || !strings.Contains(out, "/qubes-firewall/"+addr+"\n    nowhere") &&
		!strings.Contains(out, "/qubes-firewall/"+addr+"\n    shop.example:80\n") {
		s.Errorf("import --from-dom0: exit status %d:\n%s%s", status, out, errs)
	}
	s.stop()
}
