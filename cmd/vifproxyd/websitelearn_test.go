//go:build browsers

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/await"
	"vifproxy/internal/lab"
	"vifproxy/internal/screen/screentest"
)

// A person makes the list of a new AppVM in one sitting: it learns while a browser loads the shop, and all proposed lines are ticked. Behind
// the list the same page loads whole, nothing of it is refused, and each line is used. Keys and time are counted.
func TestBrowserLearnsAWebsite(t *testing.T) {
	s := newSite(t, lab.R42)
	w := serveWebsite(s)
	if hosts := websiteHosts(); len(hosts) != 40 {
		t.Fatalf("%d hosts: %v", len(hosts), hosts)
	}
	s.start()
	s.attach("web", "10.137.32.11")
	began := time.Now()

	shell := s.shell()
	keys := shell.enters("vifproxyctl allow web.10.137.32.11 shop.example")
	shell.Shows("in force after")
	keys += shell.enters("vifproxyctl learn web")
	shell.Shows("Ctrl-C ends that")
	loading := time.Now()
	// No lesson opens a port. A line is proposed for a request that was refused for that reason.
	s.loads(w, "web", []string{"https://www.pay.example/ (https://api.pay.example:8443/methods)"}, []string{"api.pay.example"})
	took := time.Since(loading)
	shell.Type("C-c")
	shell.Shows("Tick lines")
	shell.Type("a", "Enter")
	shell.Shows("This is the list as it would be", "+ ")
	shell.Type("Enter")
	keys += len([]string{"C-c", "a", "Enter", "Enter"})
	shell.Shows("port 8443 is for all hosts", "in force after")
	whole := time.Since(began)

	behind := time.Now()
	s.loads(w, "web", nil, nil)
	client := control.NewClient(s.socket())
	denied, err := client.Denied(t.Context(), []string{"web"}, behind)
	s.must(err)
	for _, h := range denied[0].Hosts {
		if h.Browser == "" {
			t.Errorf("refused behind the list: %+v", h)
		} else {
			t.Logf("refused behind the list: %s:%d, %d times; %s", h.Host, h.Port, h.Count, h.Browser)
		}
	}
	lines := 0
	s.until("each line of the list is used", func() error {
		reviews, err := client.Review(t.Context(), []string{"web"})
		if err != nil {
			return err
		}
		lines = len(reviews[0].Lines)
		for _, l := range reviews[0].Lines {
			if l.Count == 0 {
				err = errors.Join(err, fmt.Errorf("%q is not", l.Pattern))
			}
		}
		return err
	})
	t.Logf("%d lines; %d keys; %v from the new AppVM to its list, of which the page took %v", lines, keys, whole.Round(time.Millisecond), took.Round(time.Millisecond))
	s.stop()
}

// A shell is one of the firewall VM, in a terminal.
type shell struct{ *screentest.Terminal }

func (s *site) shell() shell {
	s.Helper()
	bin := filepath.Join(s.dir, "bin")
	s.must(os.Mkdir(bin, 0o755))
	// vifproxyctl finds the daemon of a real firewall VM without an option.
	script := fmt.Sprintf("#!/bin/sh\nexec %s --socket=%s \"$@\"\n", filepath.Join(programs, "vifproxyctl"), s.socket())
	s.must(writeFile(filepath.Join(bin, "vifproxyctl"), []byte(script), 0o755))
	enter := s.Command(s.Context(), "").Args
	term := screentest.New(s.T, enter[:len(enter)-1], 100, 40, nil,
		"env", "PATH="+bin+":"+os.Getenv("PATH"), "PS1=# ", "sh") // tmux takes PATH from who starts it
	term.Shows("#")
	return shell{term}
}

// enters types a command, key by key, and Enter. It returns how many keys that were.
func (s shell) enters(command string) int {
	for _, key := range command {
		if key == ' ' {
			s.Type("Space")
		} else {
			s.Type(string(key))
		}
	}
	s.Type("Enter")
	return len(command) + 1
}

// loads has a new browser load the shop. All of it comes but what is missing, and all hosts are asked but those that are silent.
func (s *site) loads(w *website, vm string, missing, silent []string) {
	s.Helper()
	w.forget()
	defer s.browser(vm)()
	if got := await.Value(s.T, "the shop is loaded", w.loaded); !slices.Equal(got, missing) {
		s.Errorf("the page misses %q, want %q", got, missing)
	}
	s.until("all hosts are asked", func() error {
		if got := w.missing(); !slices.Equal(got, silent) {
			return fmt.Errorf("these are not: %q, want %q", got, silent)
		}
		return nil
	})
}

// browser starts Chromium in an AppVM, with an empty profile and the policy that vifproxyctl prints for it.
func (s *site) browser(vm string) (end func()) {
	s.Helper()
	home, err := os.MkdirTemp("/run", "vifproxy-chromium-")
	s.must(err)
	s.Cleanup(func() { os.RemoveAll(home) })
	policy := map[string]any{}
	printed, errs, status := s.ctl("client", vm, "--format=chromium-policy")
	if status != 0 {
		s.Fatal(errs)
	}
	s.must(json.Unmarshal([]byte(printed), &policy))
	authority, _ := pem.Decode(s.CA)
	policy["CACertificates"] = [][]byte{authority.Bytes}
	policy["EnableOnlineRevocationChecks"] = true
	text, err := json.Marshal(policy)
	s.must(err)
	s.must(os.MkdirAll(filepath.Join(home, "etc/policies/managed"), 0o755))
	s.must(os.WriteFile(filepath.Join(home, "etc/policies/managed/vifproxy.json"), text, 0o644))
	ctx, cancel := context.WithCancel(s.Context())
	// `ip netns exec` has mounts of its own. Chromium's sandbox is for users who are not root. Without the port for debuggers
	// it would end with the page.
	cmd := s.VMCommand(ctx, vm, "sh", "-c", `mount --bind "$HOME/etc" /etc/chromium && exec chromium "$@"`, "sh", "--headless=new", "--no-sandbox", "--disable-gpu",
		"--no-first-run", "--remote-debugging-port=0", "--user-data-dir="+home, shopFront)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + home, "TMPDIR=" + home}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = patience
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	s.must(cmd.Start())
	return func() {
		cancel()
		cmd.Wait() //nolint:errcheck // it was ended
		if s.Failed() {
			s.Logf("Chromium said: %s", said.Bytes())
		}
	}
}
