package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"vifproxy/internal/lab"
	"vifproxy/tinyproxy"
)

// proxies are the processes of our user ids in the firewall VM's network, without the resolver.
func (s *site) proxies() []int {
	s.Helper()
	return s.processes(func(uid uint32) bool { return uid != tinyproxy.NamesUID })
}

// ours are all of these, the resolver too.
func (s *site) ours() []int {
	s.Helper()
	return s.processes(func(uint32) bool { return true })
}

// processes are those of our user ids in the firewall VM's network.
func (s *site) processes(are func(uid uint32) bool) (pids []int) {
	s.Helper()
	s.must(s.Do(func() error {
		here, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		processes, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			return err
		}
		for _, dir := range processes {
			var stat syscall.Stat_t
			if syscall.Stat(dir, &stat) != nil || stat.Uid>>28 != 7 || !are(stat.Uid) {
				continue
			}
			if there, err := os.Readlink(dir + "/ns/net"); err == nil && there == here {
				var pid int
				fmt.Sscan(filepath.Base(dir), &pid)
				pids = append(pids, pid)
			}
		}
		return nil
	}))
	return pids
}

// inFirewall runs a program in the firewall VM and returns what it prints.
func (s *site) inFirewall(name string, args ...string) string {
	s.Helper()
	out, err := s.Command(s.Context(), name, args...).CombinedOutput()
	if err != nil {
		s.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// counted are the elements of sets that the kernel fills as packets pass, and of those that the resolver has pinned.
var counted = regexp.MustCompile(`(?s)(flags (?:dynamic|timeout)[^\n]*\n(?:\t\t(?:timeout|gc-interval) [^\n]*\n)*)\t\telements = \{.*?\}\n`)

// counts are how many elements a set has now, as nft 1.1.7 says behind its size, with -s too.
var counts = regexp.MustCompile(`\t# count \d+\n`)

// ruleset is all rules of the firewall VM as text, without what is counted. Those of iptables are as iptables shows them, which
// makes and removes chains without rules as it likes.
func (s *site) ruleset() string {
	s.Helper()
	all := counts.ReplaceAllString(s.inFirewall("nft", "-s", "list", "ruleset"), "\n")
	all = counted.ReplaceAllString(all, "$1")
	if s.Ruleset == lab.R42 {
		return all
	}
	var rules strings.Builder
	for _, table := range []string{"raw", "nat", "filter"} {
		rules.WriteString(s.inFirewall("iptables", "-t", table, "-S"))
	}
	for table := range strings.SplitSeq(all, "\n}\n") {
		if strings.Contains(table, "vifproxy {") {
			rules.WriteString(table)
		}
	}
	return rules.String()
}

// admission is our rule in the chain INPUT of iptables, as nft shows it: without its comment.
const admission = "ct original proto-dst 8100"

// noProxies waits until nothing of a daemon that was killed runs any more.
func (s *site) noProxies() {
	s.Helper()
	s.until("no process of ours is left", func() error {
		if pids := s.ours(); len(pids) > 0 {
			return fmt.Errorf("%v", pids)
		}
		return nil
	})
}

func (s *site) nothingLeft() {
	s.Helper()
	if pids := s.ours(); len(pids) > 0 {
		s.Errorf("processes left: %v", pids)
	}
	if text := s.inFirewall("nft", "list", "ruleset"); strings.Contains(strings.ToLower(text), "vifproxy") || strings.Contains(text, admission) {
		s.Errorf("rules left:\n%s", text)
	}
}
