//go:build e2e

package packaging

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"vifproxy/internal/cgroup"
)

// attached returns how many links keep programs attached to the machine's network namespace, and to the cgroup of its unit. The kernel is
// the one out here.
func (m *machine) attached() (lookups, connections int) {
	m.Helper()
	namespace, err := os.Stat("/run/netns/" + m.Name + "-fw")
	must(m.T, err)
	units := m.unitGroups()
	links := new(link.Iterator)
	defer links.Close()
	for links.Next() {
		info, err := links.Link.Info()
		if err != nil {
			continue // of a kind that others use
		}
		if ns := info.NetNs(); ns != nil && uint64(ns.NetnsInode) == inode(namespace) && uint32(ns.AttachType) == uint32(ebpf.AttachSkLookup) {
			lookups++
		}
		if group := info.Cgroup(); group != nil && units[group.CgroupId] && uint32(group.AttachType) == uint32(ebpf.AttachCGroupSockOps) {
			connections++
		}
	}
	must(m.T, links.Err())
	return lookups, connections
}

// unitGroups returns the cgroups of units vifproxyd.service on this computer, by their ids.
func (m *machine) unitGroups() map[uint64]bool {
	m.Helper()
	own, err := cgroup.Own()
	must(m.T, err)
	ids := map[uint64]bool{}
	must(m.T, filepath.WalkDir(own, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return nil // it has gone
		}
		if info, err := entry.Info(); err == nil && entry.Name() == "vifproxyd.service" {
			ids[inode(info)] = true // the id is the inode's number (cgroup_id in the kernel's include/linux/cgroup.h)
		}
		return nil
	}))
	return ids
}

func inode(info fs.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }

func (m *machine) untilAttached(want int) {
	m.Helper()
	m.until(fmt.Sprintf("%d programs are attached", want), func() error {
		if lookups, connections := m.attached(); lookups != want || connections != want {
			return fmt.Errorf("to the network namespace %d, to the cgroup of the unit %d", lookups, connections)
		}
		return nil
	})
}

// The daemon gets the switchboard, from this start of its unit, and without a capability for it. Nothing of it stays.
func (m *machine) switchboardIsAttachedOnce() {
	has := func() {
		m.Helper()
		m.untilAttached(1)
		var maps, links int
		daemon := m.property("MainPID")
		open, _ := m.try("sh", "-c", "readlink /proc/"+daemon+"/fd/*") // it fails if one is closed meanwhile
		for _, file := range strings.Fields(open) {
			switch {
			case strings.Contains(file, "bpf-map"):
				maps++
			case strings.Contains(file, "bpf_link"), strings.Contains(file, "bpf-link"):
				links++
			}
		}
		if maps != 4 || links != 2 {
			m.Errorf("the daemon has %d maps and %d links", maps, links)
		}
		if doctor, _ := m.try("vifproxyctl", "doctor"); !strings.Contains(doctor, "the kernel hands connections to the proxies, without NAT") {
			m.Errorf("doctor says: %s", doctor)
		}
		if n := m.property("NFileDescriptorStore"); n != "6" {
			m.Errorf("systemd keeps %s descriptors", n)
		}
		if failed, err := m.try("journalctl", "--boot", "--output=cat", "--grep=vifproxy-switchboard"); err == nil {
			m.Errorf("vifproxy-switchboard says: %s", failed)
		}
	}
	has()
	m.run("systemctl", "restart", "vifproxyd")
	has()
	pid := m.property("MainPID")
	m.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "vifproxyd")
	m.until("another daemon is there", func() error {
		if now := m.property("MainPID"); now == pid || now == "0" || m.property("ActiveState") != "active" {
			return errors.New(now)
		}
		return nil
	})
	has()
	m.run("systemctl", "stop", "vifproxyd")
	m.untilAttached(0)
	m.run("systemctl", "start", "vifproxyd")
	has()
	m.served("banking", "bank.example", "shop.example")

	// Somebody does without it, and comes back to it.
	options := filepath.Join(m.rw(), "config/vifproxyd.options")
	must(m.T, os.WriteFile(options, []byte("OPTIONS=--switchboard=off\n"), 0o644))
	m.run("systemctl", "restart", "vifproxyd")
	m.served("banking", "bank.example", "shop.example")
	if doctor, _ := m.try("vifproxyctl", "doctor"); !strings.Contains(doctor, "NAT leads connections to the proxies") ||
		!strings.Contains(doctor, "--switchboard=off") {
		m.Errorf("doctor says: %s", doctor)
	}
	lookups, connections := m.attached()
	m.Logf("with --switchboard=off %d and %d programs are attached", lookups, connections)
	must(m.T, os.Remove(options))
	m.run("systemctl", "restart", "vifproxyd")
	has()
	m.served("banking", "bank.example", "shop.example")
}
