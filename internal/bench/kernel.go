package bench

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"vifproxy/tinyproxy"
)

// What the kernel holds in the firewall VM, and what it tells of processes.

// dump has the kernel list all that vifproxyd is about: links, addresses, routes, bindings, listening sockets.
// Nobody looks at the answers. It must be called in the firewall VM.
func dump() error {
	for kind, body := range map[int]nl.NetlinkRequestData{
		unix.RTM_GETLINK:  nl.NewIfInfomsg(unix.AF_UNSPEC),
		unix.RTM_GETADDR:  nl.NewIfAddrmsg(unix.AF_INET),
		unix.RTM_GETROUTE: nl.NewRtMsg(),
	} {
		request := nl.NewNetlinkRequest(kind, unix.NLM_F_DUMP)
		request.AddData(body)
		if _, err := request.Execute(unix.NETLINK_ROUTE, 0); err != nil {
			return fmt.Errorf("list links, addresses, routes: %w", err)
		}
	}
	for _, set := range [][2]string{{"vifproxy", "ports"}, {"vifproxy", "bindings"}, {"qubes", "vifproxy"}} {
		request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP)
		request.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET})
		request.AddData(nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_TABLE, nl.ZeroTerminated(set[0])))
		request.AddData(nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_SET, nl.ZeroTerminated(set[1])))
		_, err := request.Execute(unix.NETLINK_NETFILTER, 0)
		if err != nil && (set[1] != "ports" || !errors.Is(err, unix.ENOENT)) { // beside a switchboard there is no nat
			return fmt.Errorf("list %s of table %s: %w", set[1], set[0], err)
		}
	}
	const listening = 10 // include/net/tcp_states.h
	diag := make([]byte, 56)
	diag[0], diag[1] = unix.AF_INET, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(diag[4:], 1<<listening)
	request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	request.AddRawData(diag)
	if _, err := request.Execute(unix.NETLINK_INET_DIAG, 0); err != nil {
		return fmt.Errorf("list listening sockets: %w", err)
	}
	return nil
}

// bindings are the "vif address" that the kernel lets connect to a proxy, sorted.
func (s *site) bindings() (all []string, err error) {
	err = s.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "vifproxy"}
		set, err := conn.GetSetByName(table, "bindings")
		if err != nil {
			return err
		}
		elements, err := conn.GetSetElements(set)
		for _, e := range elements {
			vif, _, _ := bytes.Cut(e.Key[:16], []byte{0})
			if string(vif) != "lo" { // by which the daemon asks a proxy itself
				all = append(all, fmt.Sprintf("%s %d.%d.%d.%d", vif, e.Key[16], e.Key[17], e.Key[18], e.Key[19]))
			}
		}
		return err
	})
	slices.Sort(all)
	return all, err
}

// proxies returns the users of the proxies in the firewall VM's network, by process.
func (s *site) proxies() (map[int]uint32, error) {
	return s.Processes(tinyproxy.FirstUID, tinyproxy.NamesUID-1)
}

// cpuTime is what all threads of a process have used, those that have ended too, to the nanosecond
// (CPUCLOCK_SCHED in include/linux/posix-timers.h). Asking does not wake it.
func cpuTime(pid int) (time.Duration, error) {
	const sched = 2
	var t unix.Timespec
	err := unix.ClockGettime(int32(^pid<<3|sched), &t)
	return time.Duration(t.Nano()), err
}

// cpuTimes is cpuTime of several processes.
func cpuTimes(pids []int) (all [2]time.Duration, err error) {
	for i, pid := range pids {
		if all[i], err = cpuTime(pid); err != nil {
			return all, err
		}
	}
	return all, nil
}

// footprint is the resident memory of a process in MiB: all of it, that which is backed by no file, and its
// proportional share, where a page that n processes have counts 1/n.
type footprint struct{ resident, anonymous, share float64 }

func memory(pid int) (f footprint, err error) {
	fields, err := status(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return f, err
	}
	rollup, err := status(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	mib := func(kib int) float64 { return float64(kib) / 1024 }
	return footprint{mib(fields["VmRSS"]), mib(fields["RssAnon"]), mib(rollup["Pss"])}, err
}

// shares returns the proportional shares of a process and of those that it has started, in MiB, by the names of their programs.
func shares(pid int) (parts map[string]float64, err error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	pids := fmt.Sprint(pid)
	for _, path := range threads {
		text, failed := os.ReadFile(path)
		pids, err = pids+" "+string(text), errors.Join(err, failed)
	}
	parts = map[string]float64{}
	for one := range strings.FieldsSeq(pids) {
		argv, failed := os.ReadFile("/proc/" + one + "/cmdline")
		f, gone := status("/proc/" + one + "/smaps_rollup")
		name, _, _ := strings.Cut(string(argv), "\x00")
		parts[filepath.Base(name)] += float64(f["Pss"]) / 1024
		err = errors.Join(err, failed, gone)
	}
	return parts, err
}

// switches is how often a process's threads went to sleep of their own accord.
func switches(pid int) (n int, err error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, path := range threads {
		fields, err := status(path)
		if err != nil {
			return 0, err
		}
		n += fields["voluntary_ctxt_switches"]
	}
	return n, err
}

// status is the numbers in a file like /proc/PID/status.
func status(path string) (map[string]int, error) {
	text, err := os.ReadFile(path)
	fields := map[string]int{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if words := strings.Fields(value); len(words) > 0 {
			if n, err := strconv.Atoi(words[0]); err == nil {
				fields[name] = n
			}
		}
	}
	return fields, err
}
