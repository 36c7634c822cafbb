package process

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/tinyproxy"
	"vifproxy/tinyproxy/confine"
	"vifproxy/tinyproxy/leftover"
)

// build builds a program as it is shipped.
func build(t testing.TB, dir, pkg string) string {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	return filepath.Join(dir, filepath.Base(pkg))
}

// confined has a launcher run its proxies in a sandbox.
func confined(t testing.TB, new func(string) (*confine.Sandbox, error)) func(*Options) {
	t.Helper()
	s, err := new(build(t, t.TempDir(), "vifproxy/cmd/vifproxy-confine"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	t.Logf("in force: %q; missing: %q", s.Applied, s.Missing)
	return func(o *Options) { o.Sandbox = s }
}

// TestConfinedTraffic has a proxy serve ten thousand requests of all kinds where a single system call that is not
// allowed would be its end.
func TestConfinedTraffic(t *testing.T) {
	const requests, atOnce = 10_000, 16
	internet(t)
	l := newLauncher(t, confined(t, confine.NewStrict))
	spec := trafficSpec(t, l, "social", 61000)
	p := start(t, l, realBinary, spec)
	var wg sync.WaitGroup
	slots := make(chan bool, atOnce)
	for i := range requests {
		slots <- true
		wg.Go(func() {
			defer func() { <-slots }()
			if err := demands[i%len(demands)].make(spec.Listen); err != nil {
				t.Error(err)
			}
		})
		if t.Failed() {
			break
		}
	}
	wg.Wait()
	// Its end is made of system calls too.
	if err := unix.Kill(p.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if conn, err := net.Dial("tcp", spec.Listen.String()); err == nil { // it may sleep over the signal
		conn.Close()
	}
	if err := p.Err(); err == nil || !strings.Contains(err.Error(), "ended by itself with status 0") {
		t.Error(err)
	}
}

// TestStrictSandboxKills shows that the test above could fail.
func TestStrictSandboxKills(t *testing.T) {
	l := newLauncher(t, confined(t, confine.NewStrict))
	spec := newSpec(l, "social", 61000)
	spec.Rules = []tinyproxy.FilterLine{{Text: "^Secret-2f$", Number: 1}}
	p, err := l.Start(bounded(t), build(t, openDir(t), "vifproxy/tinyproxy/confine/hostile"), spec)
	if err == nil { // it listened before it tried
		err = p.Err()
	}
	if err == nil || !strings.Contains(err.Error(), "killed by SIGSYS") {
		t.Error(err)
	}
}

// TestConfinedProcess looks at a running proxy from outside.
func TestConfinedProcess(t *testing.T) {
	l := newLauncher(t, confined(t, confine.New))
	p := start(t, l, realBinary, newSpec(l, "social", 61000))
	for name, want := range map[string]string{
		"CapInh:": "0000000000000000", "CapPrm:": "0000000000000000", "CapEff:": "0000000000000000",
		"CapBnd:": "0000000000000000", "CapAmb:": "0000000000000000", "NoNewPrivs:": "1", "Seccomp:": "2",
		"Groups:": "",
	} {
		if got := leftover.StatusField(p.PID, name); got != want {
			t.Errorf("%s %s, want %s", name, got, want)
		}
	}
	ids, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Uid:", "Gid:"} { // real, effective, saved, of the file system
		if want := name + strings.Repeat(fmt.Sprintf("\t%d", p.Spec.UID), 4) + "\n"; !strings.Contains(string(ids), want) {
			t.Errorf("not %q:\n%s", want, ids)
		}
	}
	if slack := read(t, fmt.Sprintf("/proc/%d/timerslack_ns", p.PID)); slack != fmt.Sprintln(timerSlack) {
		t.Errorf("timer slack %q", slack)
	}
	left, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.PID))
	if err != nil || len(left) < 4 || len(left) > 5 { // the readySteady three, its socket, and maybe another
		t.Errorf("descriptors %q, %v", left, err)
	}
	line := read(t, fmt.Sprintf("/proc/%d/cmdline", p.PID))
	if !strings.HasPrefix(line, realBinary+"\x00-d\x00-c\x00") {
		t.Errorf("command line %q", line)
	}
}

// TestConfinedStartErrors has the messages of what vifproxy-confine cannot do.
func TestConfinedStartErrors(t *testing.T) {
	l := newLauncher(t, confined(t, confine.New))
	dir := openDir(t)
	bad, hidden := filepath.Join(dir, "bad"), filepath.Join(dir, "closed/tinyproxy")
	if err := errors.Join(os.WriteFile(bad, []byte("\x00\x01"), 0o755), os.Mkdir(filepath.Dir(hidden), 0o700),
		os.WriteFile(hidden, []byte("\x00\x01"), 0o755)); err != nil {
		t.Fatal(err)
	}
	for binary, want := range map[string]string{
		bad: "cannot execute " + bad + " as uid 1888087624: exec format error " +
			"(it is not a program for this machine; reinstall the package tinyproxy)",
		hidden: "cannot execute " + hidden + " as uid 1888087624: permission denied " +
			"(its directories must be searchable by everybody, its file system not mounted noexec)",
		script(t, "exit 3"): "is a script: confinement lets no interpreter in (name the program itself with --tinyproxy)",
	} {
		_, err := l.Start(bounded(t), binary, newSpec(l, "social", 61000))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwant: %s", err, want)
		}
	}
	if _, err := confine.New(filepath.Join(dir, "missing")); err == nil ||
		!strings.Contains(err.Error(), "reinstall vifproxy") {
		t.Error(err)
	}
}

// BenchmarkConfinedStart is what confinement costs from the call to the listening socket, and
// BenchmarkConfinedThroughput what it costs in a request. Both take turns with and without, since nothing else
// compares on a busy machine, and report medians: the confined one, its ratio to the free one, the difference.
func BenchmarkConfinedStart(b *testing.B) {
	takeTurns(b, func(l *Launcher) (func(), func()) {
		var p *Proxy
		spec := newSpec(l, "social", 61000)
		return func() { p = start(b, l, realBinary, spec) }, func() { p.Kill() }
	})
}

func BenchmarkConfinedThroughput(b *testing.B) {
	internet(b)
	for name, d := range map[string]demand{"small": demands[0], "megabyte": long} {
		b.Run(name, func(b *testing.B) {
			port := uint16(61000)
			takeTurns(b, func(l *Launcher) (func(), func()) {
				spec := trafficSpec(b, l, "social", port)
				port++
				start(b, l, realBinary, spec)
				return func() {
					if err := d.make(spec.Listen); err != nil {
						b.Fatal(err)
					}
				}, func() {}
			})
		})
	}
}

// takeTurns measures work for a free and for a confined launcher; what follows it is not measured.
func takeTurns(b *testing.B, prepare func(*Launcher) (work, after func())) {
	var took [2][]time.Duration
	var work, after [2]func()
	for i, change := range []func(*Options){nil, confined(b, confine.New)} {
		work[i], after[i] = prepare(newLauncher(b, change))
	}
	for b.Loop() {
		for i := range work {
			began := time.Now()
			work[i]()
			took[i] = append(took[i], time.Since(began))
			after[i]()
		}
	}
	var median [2]float64 // in ms
	for i, all := range took {
		slices.Sort(all)
		median[i] = float64(all[len(all)/2].Nanoseconds()) / 1e6
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median[1], "ms")
	b.ReportMetric(median[1]/median[0], "ratio")
	b.ReportMetric(median[1]-median[0], "ms-more")
}

// long is read to its last byte.
var long = demand{"GET http://one.example/long HTTP/1.1\r\nHost: one.example\r\n\r\n",
	"200 " + strings.Repeat("\x00", 1_000_000)}

// TestRecruits: what waits for an order has no more than it takes to become a proxy, may die meanwhile, and ends with
// the launcher.
func TestRecruits(t *testing.T) {
	t.Cleanup(func() { // after the launcher's end
		entries, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			t.Error(err)
		}
		for _, dir := range entries {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			if leftover.StatusField(pid, "PPid:") == fmt.Sprint(os.Getpid()) { // one that has ended counts until somebody has waited for it
				t.Errorf("%s (%s) is left", dir, leftover.StatusField(pid, "State:"))
			}
		}
	})
	l := newLauncher(t, confined(t, confine.New))
	r := <-l.recruits
	const setids = "00000000000001c0" // CAP_SETGID, CAP_SETUID, CAP_SETPCAP
	for _, name := range []string{"CapPrm:", "CapEff:", "CapBnd:"} {
		if got := leftover.StatusField(r.pid, name); got != setids {
			t.Errorf("%s %s, want %s", name, got, setids)
		}
	}
	if err := unix.Kill(r.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for ctx := bounded(t); !leftover.IsDead(r.pidfd); { // until then it could be given the order, and die with it
		if ctx.Err() != nil {
			t.Fatal("it does not die")
		}
	}
	taken := make(chan bool)
	go func() { l.recruits <- r; close(taken) }()
	for port, done := uint16(61000), false; !done; port++ {
		start(t, l, realBinary, newSpec(l, "social", port)).Kill()
		select {
		case <-taken:
			done = true
		default:
		}
	}
	start(t, l, realBinary, newSpec(l, "social", 61999))
}
