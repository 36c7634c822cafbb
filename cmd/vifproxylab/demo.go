package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"vifproxy/internal/lab"
)

var (
	bank   = lab.VM{Name: "bank", IP: netip.MustParseAddr("10.137.0.11"), DomID: 2}
	social = lab.VM{Name: "social", IP: netip.MustParseAddr("10.137.0.12"), DomID: 3}
)

// patience is how long the demo waits for something that should happen at once.
const patience = 20 * time.Second

// A stage is a lab with all that the demo needs.
type stage struct {
	*lab.Lab
	ctx      context.Context
	out      io.Writer
	dir      string // rules, control.sock, the daemon's log; what the firewall VM's commands run in
	ctl      string
	daemon   *exec.Cmd
	exited   chan struct{}
	failures []string
}

// demo shows the whole life of two proxies. It fails if anything is not as it says.
func demo(ctx context.Context, out io.Writer, daemon, ctl string) (err error) {
	for _, path := range []*string{&daemon, &ctl} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
		if _, err := os.Stat(*path); err != nil {
			return fmt.Errorf("%w: build it with 'make build' or say where it is", err)
		}
	}
	l, err := lab.New(ctx, lab.Options{Name: "demo"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	dir, err := os.MkdirTemp("/run", "vifproxy-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := &stage{Lab: l, ctx: ctx, out: out, dir: dir, ctl: ctl}
	if err := s.prepare(); err != nil {
		return err
	}
	defer s.kill()
	for _, scene := range []func(string) error{
		s.lists, s.arrive, s.browse, s.edit, s.leave, s.end,
	} {
		if err := scene(daemon); err != nil {
			return err
		}
	}
	if len(s.failures) > 0 {
		return fmt.Errorf("%d of the demo's expectations were not met:\n%s", len(s.failures),
			strings.Join(s.failures, "\n"))
	}
	s.say("All of it was as expected.")
	return nil
}

func (s *stage) prepare() error {
	curlrc := fmt.Sprintf("silent\nshow-error\nmax-time = 15\ncacert = %q\n", filepath.Join(s.dir, "ca.pem")) +
		`write-out = "\n%{http_code} %{http_connect}"`
	for name, content := range map[string]string{
		".curlrc": curlrc, "ca.pem": string(s.CA),
		"rules/bank.10.137.0.11":   "#: format domains\nbank.example\n*.bank.example\n",
		"rules/social.10.137.0.12": "#: format domains\nchat.example\n",
	} {
		path := filepath.Join(s.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return os.Chmod(s.dir, 0o755) // the proxies' users pass through it
}

func (s *stage) lists(daemon string) error {
	s.say(`vifproxy gives every AppVM behind a Qubes firewall VM a web proxy of its own,
which opens only the hosts on that AppVM's list. Here the firewall VM, two AppVMs
("bank" and "social") and the internet are network namespaces on this machine;
vifproxyd, tinyproxy, the packet filter of Qubes R4.2 and curl are the real ones.`)
	s.scene("1. The firewall VM has a list for each of two AppVMs. vifproxyd starts.")
	s.run("cat", "rules/bank.10.137.0.11")
	s.run("cat", "rules/social.10.137.0.12")
	if err := s.start(daemon); err != nil {
		return err
	}
	s.show("bank waiting", "social waiting")
	return nil
}

func (s *stage) arrive(string) error {
	s.scene("2. The AppVMs start. Each gets a proxy, which it finds at its gateway: http://10.138.1.1:8100.")
	for _, vm := range []lab.VM{bank, social} {
		fmt.Fprintf(s.out, "   %s (%v) connects as %s\n", vm.Name, vm.IP, vm.Vif())
		if err := s.Attach(vm); err != nil {
			return err
		}
	}
	s.untilShown("bank running", "social running")
	s.show("bank running", "social running")
	return nil
}

func (s *stage) browse(string) error {
	s.scene("3. They browse. Each reaches what is on its own list, and nothing else.")
	s.curl("bank", "http://bank.example/", "200")
	s.curl("bank", "https://login.bank.example/", "200")
	s.curl("bank", "http://news.example/", "403")
	s.curl("bank", "https://news.example/", "403")
	s.curl("social", "https://chat.example/", "200")
	s.curl("social", "https://bank.example/", "403")
	s.note("social tries the port behind which bank's proxy listens:")
	port := fmt.Sprintf("%v:%d", lab.Gateway, s.port("bank"))
	s.curl("social", "https://bank.example/", "none", "--proxy", port)
	n, err := s.Reached("news.example", 0)
	if err != nil {
		return err
	}
	s.check(n == 0, "news.example was reached %d times so far", n)
	return nil
}

func (s *stage) edit(string) error {
	s.scene("4. The list of bank is edited while it runs. The page opens.")
	s.run("sh", "-c", "echo news.example >> rules/bank.10.137.0.11")
	s.run(s.ctl, "--socket=control.sock", "update")
	s.curl("bank", "https://news.example/", "200")
	s.curl("social", "https://news.example/", "403")
	return nil
}

func (s *stage) leave(string) error {
	s.scene("5. bank shuts down. Its proxy and its way through the packet filter are gone.")
	bindings := s.run("nft", "list", "set", "ip", "vifproxy", "bindings")
	for _, vm := range []lab.VM{bank, social} {
		s.check(strings.Contains(bindings, vm.Vif()), "%s reaches its proxy", vm.Name)
	}
	fmt.Fprintf(s.out, "   bank disconnects from %s\n", bank.Vif())
	if err := s.Detach(bank.Vif()); err != nil {
		return err
	}
	s.untilShown("bank waiting")
	s.show("bank waiting", "social running")
	bindings = s.run("nft", "list", "set", "ip", "vifproxy", "bindings")
	s.check(!strings.Contains(bindings, bank.Vif()), "bank has no way to a proxy")
	s.curl("social", "https://chat.example/", "200")
	return nil
}

func (s *stage) end(string) error {
	s.scene("6. vifproxyd stops. Nothing of it is left.")
	s.prompt("firewall", "kill -TERM "+fmt.Sprint(s.daemon.Process.Pid))
	if err := s.daemon.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-s.exited:
		status := s.daemon.ProcessState.ExitCode()
		s.check(status == 0, "vifproxyd has ended with exit status %d", status)
	case <-time.After(patience):
		s.check(false, "vifproxyd has ended")
	}
	tables := s.run("nft", "list", "tables") + s.run("nft", "list", "chain", "ip", "qubes", "custom-input")
	s.check(!strings.Contains(tables, "vifproxy"), "the packet filter is Qubes' own again")
	s.check(s.run("ss", "-Hltn") == "", "nobody listens in the firewall VM")
	s.curl("social", "https://chat.example/", "none")
	return nil
}

// start runs vifproxyd in the firewall VM as systemd would, and waits until it says that it is ready.
func (s *stage) start(program string) error {
	address := &net.UnixAddr{Name: filepath.Join(s.dir, "notify"), Net: "unixgram"}
	notify, err := net.ListenUnixgram("unixgram", address)
	if err != nil {
		return err
	}
	defer notify.Close()
	log, err := os.Create(filepath.Join(s.dir, "daemon.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{"--rules-dir=" + s.dir + "/rules", "--runtime-dir=" + s.dir + "/run", "--state-dir=" + s.dir + "/state",
		"--control-socket=" + s.dir + "/control.sock"}
	s.prompt("firewall", filepath.Base(program)+" "+strings.Join(args, " \\\n              "))
	s.daemon = s.Command(s.ctx, program, append(args, "--log-format=text")...)
	s.daemon.Env = append(os.Environ(), "NOTIFY_SOCKET="+address.Name)
	s.daemon.Stdout, s.daemon.Stderr = log, log
	if err := s.daemon.Start(); err != nil {
		return err
	}
	s.exited = make(chan struct{})
	go func() {
		s.daemon.Wait() //nolint:errcheck // ProcessState has it
		notify.Close()  // so that nothing waits for a READY=1 that cannot come
		close(s.exited)
	}()
	if err := notify.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	for message := make([]byte, 4096); ; {
		n, err := notify.Read(message)
		if err != nil {
			said, _ := os.ReadFile(log.Name())
			return fmt.Errorf("vifproxyd does not become ready; it said:\n%s", said)
		}
		if bytes.Contains(message[:n], []byte("READY=1")) {
			s.check(true, "vifproxyd is ready")
			return nil
		}
	}
}

// kill ends vifproxyd if the demo has not done so.
func (s *stage) kill() {
	if s.daemon != nil && s.daemon.Process != nil {
		s.daemon.Process.Kill() //nolint:errcheck // it has ended already if all went well
		<-s.exited
	}
}

// run shows a command in the firewall VM and what it prints, and returns that.
func (s *stage) run(name string, args ...string) string {
	shown := strings.Join(append([]string{filepath.Base(name)}, args...), " ")
	if name == "sh" {
		shown = args[1]
	}
	s.prompt("firewall", shown)
	cmd := s.Command(s.ctx, name, args...)
	cmd.Dir = s.dir
	text, err := cmd.CombinedOutput()
	s.indent(string(text))
	if err != nil {
		s.check(false, "it succeeds: %v", err)
	}
	return string(text)
}

// show prints the table of vifproxyctl and checks that it has lines with the given NAME and STATE.
func (s *stage) show(expected ...string) {
	table := s.run(s.ctl, "--socket=control.sock", "show")
	for _, e := range expected {
		name, state, _ := strings.Cut(e, " ")
		line := regexp.MustCompile(`(?m)^` + name + ` .* ` + state + ` `)
		if !line.MatchString(table) {
			s.check(false, "%s is %s", name, state)
		}
	}
}

type shown struct {
	Name, State string
	Port        int
}

func (s *stage) shown() (vms []shown) {
	text, err := s.Command(s.ctx, s.ctl, "--socket="+s.dir+"/control.sock", "show", "--json").Output()
	if err == nil {
		err = json.Unmarshal(text, &vms)
	}
	if err != nil {
		s.check(false, "vifproxyctl show --json works: %v", err)
	}
	return vms
}

func (s *stage) port(name string) int {
	for _, vm := range s.shown() {
		if vm.Name == name {
			return vm.Port
		}
	}
	return 0
}

// untilShown waits until vifproxyctl shows the given NAMEs in the given STATEs.
func (s *stage) untilShown(expected ...string) {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		states := map[string]bool{}
		for _, vm := range s.shown() {
			states[vm.Name+" "+vm.State] = true
		}
		met := true
		for _, e := range expected {
			met = met && states[e]
		}
		if met || time.Now().After(end) || s.ctx.Err() != nil || len(s.failures) > 0 {
			return
		}
	}
}

// curl shows a real curl in an AppVM, and its result in one line: the status, or "none" without an answer. It does not show the proxy in
// curl's environment, and the .curlrc that makes curl print the status.
func (s *stage) curl(vm, page, expected string, options ...string) {
	cmd := s.VMCommand(s.ctx, vm, "curl", append(options, page)...)
	proxy := fmt.Sprintf("http://%v:%d", lab.Gateway, lab.ProxyPort)
	cmd.Env = append(os.Environ(), "CURL_HOME="+s.dir, "http_proxy="+proxy, "https_proxy="+proxy, "no_proxy=")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	text := strings.TrimSpace(stdout.String())
	codes := strings.Fields(text[strings.LastIndexByte(text, '\n')+1:])
	status, first := "none", strings.TrimSpace(strings.SplitN(stderr.String(), "\n", 2)[0])
	switch {
	case err == nil && len(codes) == 2:
		status = codes[0]
		first, _, _ = strings.Cut(text, "\n")
		if title := regexp.MustCompile(`<title>(.*)</title>`).FindStringSubmatch(text); title != nil {
			first = fmt.Sprintf("a page of the proxy: %s", title[1])
		}
	case len(codes) == 2 && codes[1] != "000": // the proxy's answer to CONNECT
		status = codes[1]
	}
	met := ""
	if status != expected {
		met = fmt.Sprintf("   WRONG, expected %s", expected)
		s.failures = append(s.failures, fmt.Sprintf("%s: curl %s: %s, expected %s", vm, page, status, expected))
	}
	command := strings.Join(append(append([]string{"curl"}, options...), page), " ")
	if len(command) > 32 { // its outcome goes below it, into the same column
		s.prompt(vm, command)
		fmt.Fprintf(s.out, "%46s", "")
	} else {
		fmt.Fprintf(s.out, "   %-8s $ %-32s", vm, command)
	}
	fmt.Fprintf(s.out, "  %-4s %s%s\n", status, first, met)
}

func (s *stage) prompt(where, command string) { fmt.Fprintf(s.out, "   %-8s $ %s\n", where, command) }

func (s *stage) say(text string)   { fmt.Fprintf(s.out, "\n%s\n", text) }
func (s *stage) scene(text string) { fmt.Fprintf(s.out, "\n%s\n\n", text) }
func (s *stage) note(text string)  { fmt.Fprintf(s.out, "   %s\n", text) }

func (s *stage) indent(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintf(s.out, "              %s\n", strings.TrimRight(strings.ReplaceAll(line, "\t", "  "), "\n"))
	}
}

// check prints what is the case, or fails if it is not as it should be.
func (s *stage) check(met bool, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !met {
		s.failures = append(s.failures, "not so: "+text)
		text = "WRONG, not so: " + text
	}
	fmt.Fprintf(s.out, "              -> %s\n", text)
}
