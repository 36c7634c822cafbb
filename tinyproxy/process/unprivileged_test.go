package process

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vifproxy/tinyproxy/leftover"
)

// somebody is who the unit has the daemon be, by way of an example.
const somebody = 64123

// asUnit prepares this program to play a role with the rights that the unit gives.
func asUnit(t *testing.T, role string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVar+"="+role)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: somebody}, // and root's group
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETPCAP,
			unix.CAP_KILL},
	}
	return cmd
}

// TestDaemonIsNotRoot has proxies started by a daemon whose capabilities nothing takes away at a change of user.
func TestDaemonIsNotRoot(t *testing.T) {
	dir := openDir(t)
	helper := build(t, dir, "vifproxy/cmd/vifproxy-confine")
	for name, more := range map[string]string{"free": "", "confined": "," + helper} {
		t.Run(name, func(t *testing.T) {
			run := filepath.Join(openDir(t), "run")
			if err := os.Mkdir(run, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(run, somebody, 0); err != nil { // as systemd does for RuntimeDirectory=
				t.Fatal(err)
			}
			daemon := asUnit(t, "daemon:"+run+","+realBinary+more)
			out, err := daemon.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := daemon.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = daemon.Process.Kill()
				_ = daemon.Wait()
			}()
			var pids []int
			if err := json.NewDecoder(bufio.NewReader(out)).Decode(&pids); err != nil || len(pids) != 3 {
				t.Fatalf("%d: %v", pids, err)
			}
			for _, pid := range pids {
				for _, set := range []string{"Inh", "Prm", "Eff", "Bnd", "Amb"} {
					if got := leftover.StatusField(pid, "Cap"+set+":"); got != "0000000000000000" {
						t.Errorf("Cap%s: %q", set, got)
					}
				}
				if uid := leftover.StatusField(pid, "Uid:"); !strings.HasPrefix(uid, "18") {
					t.Errorf("Uid: %q", uid)
				}
				if groups := leftover.StatusField(pid, "Groups:"); groups != "" {
					t.Errorf("Groups: %q", groups)
				}
			}
			gid := leftover.StatusField(pids[0], "Gid:")
			for _, path := range []string{"vm0", "vm0/61500", "vm0/61500/config", "vm0/61500/rules"} {
				info, err := os.Stat(filepath.Join(run, path))
				if err != nil {
					t.Fatal(err)
				}
				stat := info.Sys().(*syscall.Stat_t)
				if stat.Uid != somebody || !strings.HasPrefix(gid, fmt.Sprint(stat.Gid)) || stat.Mode&7 != 0 {
					t.Errorf("%s: %v, of uid %d, gid %d; the proxy's is %s", path, info.Mode(), stat.Uid, stat.Gid, gid)
				}
			}
		})
	}
}

func TestVersionIsAskedByNobody(t *testing.T) {
	curious := program(t, `grep -E '^(Uid|CapPrm|CapAmb)' /proc/self/status | cut -f 2 | tr '\n' ' '`)
	out, err := asUnit(t, "version:"+curious).Output()
	const want = "65534 0000000000000000 0000000000000000"
	if err != nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("%v: got %q, want %q", err, out, want)
	}
}

// A VM that gets another address gets another group, and keeps its directory.
func TestOtherAddress(t *testing.T) {
	l := newLauncher(t, nil)
	start(t, l, realBinary, newSpec(l, "social", 61000)).Kill()
	p := start(t, l, realBinary, newSpec(l, "social", 61001))
	info, err := os.Stat(filepath.Join(l.options.RuntimeDir, "social"))
	if err != nil {
		t.Fatal(err)
	}
	if gid := info.Sys().(*syscall.Stat_t).Gid; gid != p.Spec.UID {
		t.Errorf("the directory belongs to group %d, want %d", gid, p.Spec.UID)
	}
}
