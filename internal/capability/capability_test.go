package capability

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// role has the test program do something and then execute a look at what it has handed down.
const role = "VIFPROXY_TEST_ROLE"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(role) {
	case "":
		os.Exit(m.Run())
	case "drop":
		runtime.LockOSThread()
		err = Drop()
	case "keep":
		err = Keep()
	}
	have := fmt.Sprintf("Have:\t%t\n", Have(unix.CAP_NET_ADMIN) && Have(unix.CAP_SETUID))
	out, err2 := exec.Command("grep", "^Cap", "/proc/self/status").Output()
	fmt.Printf("%s%s", have, out)
	if err != nil || err2 != nil {
		fmt.Println(err, err2)
	}
	os.Exit(0)
}

// as runs this program in a role as somebody who has capabilities as a unit gives them, and returns what it says.
func as(t *testing.T, what string, uid uint32) string {
	t.Helper()
	return runAs(t, "/proc/self/exe", what, uid)
}

func runAs(t *testing.T, program, what string, uid uint32) string {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), role+"="+what)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid}}
	if uid != 0 {
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SETUID, unix.CAP_SETPCAP}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func TestDrop(t *testing.T) {
	for _, uid := range []uint32{0, 64123} {
		out := as(t, "drop", uid)
		for _, set := range []string{"Inh", "Prm", "Eff", "Bnd", "Amb"} {
			if !strings.Contains(out, "Cap"+set+":\t0000000000000000\n") {
				t.Errorf("uid %d: %s", uid, out)
			}
		}
		if !strings.Contains(out, "Have:\ttrue\n") {
			t.Errorf("uid %d has lost its own: %s", uid, out)
		}
	}
	if out := as(t, "nothing", 64123); !strings.Contains(out, "CapAmb:\t0000000000001180\n") {
		t.Errorf("nothing is handed down, so that this test shows nothing: %s", out)
	}
}

func TestKeep(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // others must be able to execute it
		t.Fatal(err)
	}
	program := filepath.Join(dir, "without-cgo")
	build := exec.Command("go", "test", "-c", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out := runAs(t, program, "keep", 64123)
	for _, want := range []string{"CapPrm:\t0000000000000000\n", "CapAmb:\t0000000000000000\n", "Have:\ttrue\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
	// As root it is the user id that gives capabilities.
	if out := runAs(t, program, "keep", 0); !strings.Contains(out, "CapAmb:\t0000000000000000\n") ||
		strings.Contains(out, "CapPrm:\t0000000000000000\n") {
		t.Errorf("root: %s", out)
	}
}
