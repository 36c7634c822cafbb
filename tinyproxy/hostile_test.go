package tinyproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"

	"vifproxy/tinyproxy/confine"
)

// TestHostile runs a program that its AppVM owns in tinyproxy's place, confined as tinyproxy is, and once more as
// root and free: there every attempt must succeed, or its failure in confinement would prove nothing.
func TestHostile(t *testing.T) {
	dir := openDir(t)
	program := build(t, dir, "vifproxy/tinyproxy/confine/hostile")
	internet(t)
	ssh, err := net.Listen("tcp4", "127.0.0.1:22")
	if err != nil {
		t.Fatal(err)
	}
	defer ssh.Close()
	l := newLauncher(t, confined(t, confine.New))
	other := start(t, l, realBinary, newSpec(l, "other", 61001))
	spec := newSpec(l, "social", 61000)

	path := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.WriteFile(path("secret"), []byte("x"), 0o644), os.Mkdir(path("open"), 0o755),
		os.Chmod(path("open"), 0o777)); err != nil {
		t.Fatal(err)
	}
	const abstract = "@vifproxy-test"
	for _, name := range []string{path("socket"), abstract} {
		socket, err := net.Listen("unix", name)
		if err != nil {
			t.Fatal(err)
		}
		defer socket.Close()
	}
	if err := os.Chmod(path("socket"), 0o777); err != nil {
		t.Fatal(err)
	}
	same := exec.Command("sleep", "1000")
	same.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: spec.UID, Gid: spec.UID}}
	if err := same.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		same.Process.Kill()
		same.Wait()
	}()

	targets, err := json.Marshal(map[string]any{
		"Secret": path("secret"), "OtherRules": l.Paths("other", 61001).RulesFile, "Writable": path("open"),
		"Unix": path("socket"), "Abstract": abstract, "SameUser": same.Process.Pid, "OtherProxy": other.PID,
		"Daemon": os.Getpid(),
	})
	if err != nil {
		t.Fatal(err)
	}
	spec.Rules = []Line{{string(targets), 1}}
	_, err = l.Start(bounded(t), program, spec)
	if err == nil || !strings.Contains(err.Error(), "exited with status 3") {
		t.Fatal(err)
	}
	inside := attempts(read(t, l.options.RuntimeDir, "social/log"))

	if err := os.WriteFile(path("rules"), targets, 0o600); err != nil {
		t.Fatal(err)
	}
	said, _ := exec.Command(program, "-d", "-c", path("config")).Output()
	outside := attempts(string(said))

	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ATTEMPT\tCONFINED\tFREE")
	for i, a := range outside {
		if i >= len(inside) {
			break
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", a[0], inside[i][1], a[1])
		if inside[i][1] == "done" {
			t.Errorf("a confined proxy can: %s", a[0])
		}
		if a[1] != "done" {
			t.Errorf("without confinement, too, one cannot: %s: %s", a[0], a[1])
		}
	}
	w.Flush()
	t.Logf("\n%s", &table)
	if len(inside) != len(outside) || len(inside) < 30 {
		t.Errorf("%d attempts in confinement, %d outside", len(inside), len(outside))
	}
	select {
	case <-other.Done():
		t.Errorf("the other proxy has ended: %v", other.Err())
	default:
	}
}

// attempts are the lines of the hostile program: what it tried, and the result.
func attempts(said string) (all [][2]string) {
	for line := range strings.Lines(said) {
		if _, rest, ok := strings.Cut(strings.ReplaceAll(strings.TrimSpace(line), `\t`, "\t"), "attempt\t"); ok {
			name, result, _ := strings.Cut(rest, "\t")
			all = append(all, [2]string{name, result})
		}
	}
	return all
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
		if got := statusField(p.PID, name); got != want {
			t.Errorf("%s %s, want %s", name, got, want)
		}
	}
	if slack := read(t, fmt.Sprintf("/proc/%d/timerslack_ns", p.PID)); slack != fmt.Sprintln(timerSlack) {
		t.Errorf("timer slack %q", slack)
	}
	left, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.PID))
	if err != nil || len(left) < 4 || len(left) > 5 { // the usual three, its socket, and maybe another
		t.Errorf("descriptors %q, %v", left, err)
	}
	line := read(t, fmt.Sprintf("/proc/%d/cmdline", p.PID))
	if !strings.HasPrefix(line, realBinary+"\x00-d\x00-c\x00") {
		t.Errorf("command line %q", line)
	}
}
