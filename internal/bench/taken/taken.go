// Package taken says what a process takes of the machine, as the kernel counts it.
//
// Concurrency: its functions may be called from any goroutine.
package taken

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CPU returns what all threads of a process have used, those that have ended too, to the nanosecond
// (CPUCLOCK_SCHED in include/linux/posix-timers.h). Asking does not wake it.
func CPU(pid int) (time.Duration, error) {
	const sched = 2
	var t unix.Timespec
	err := unix.ClockGettime(int32(^pid<<3|sched), &t)
	return time.Duration(t.Nano()), err
}

// CPUs returns the same for several processes.
func CPUs(pids []int) (all []time.Duration, err error) {
	all = make([]time.Duration, len(pids))
	for i, pid := range pids {
		if all[i], err = CPU(pid); err != nil {
			return all, err
		}
	}
	return all, nil
}

// A Footprint is the resident memory of a process in MiB: all of it, that which is backed by no file, and its
// proportional share, where a page that n processes have counts 1/n.
type Footprint struct{ Resident, Anonymous, Share float64 }

// Memory returns what a process takes of memory.
func Memory(pid int) (f Footprint, err error) {
	fields, err := status(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return f, err
	}
	rollup, err := status(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	mib := func(kib int) float64 { return float64(kib) / 1024 }
	return Footprint{mib(fields["VmRSS"]), mib(fields["RssAnon"]), mib(rollup["Pss"])}, err
}

// Shares returns the proportional shares of a process and of those that it has started, in MiB, by the names of their programs.
func Shares(pid int) (parts map[string]float64, err error) {
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

// Switches returns how often a process's threads went to sleep of their own accord.
func Switches(pid int) (n int, err error) {
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

// status returns the numbers in a file like /proc/PID/status.
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
