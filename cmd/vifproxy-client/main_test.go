package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"vifproxy/internal/await"
	"vifproxy/qubes/qubestest"
)

// patience is how long a condition may take to come true. It bounds a hang; no test measures time with it.
const patience = 90 * time.Second

// The test program is also the program that is tested, and qrexec-client-vm.
func TestMain(m *testing.M) {
	switch {
	case filepath.Base(os.Args[0]) == client:
		os.Exit(qubestest.QrexecClientMain())
	case os.Getenv("VIFPROXY_CLIENT") != "":
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A session is one of a user: a bus, qrexec, and a directory.
type session struct {
	*testing.T
	dir   string
	env   []string
	calls <-chan *qubestest.Call
}

func newSession(t *testing.T) *session {
	t.Helper()
	dir := t.TempDir()
	s := &session{T: t, dir: dir, calls: qubestest.ServeQrexec(t, dir+"/qrexec")}
	must(t, os.Mkdir(dir+"/bin", 0o755))
	own, err := os.Executable()
	must(t, err)
	must(t, os.Symlink(own, filepath.Join(dir, "bin", client)))

	bus := exec.Command("dbus-daemon", "--session", "--nofork", "--nosyslog", "--print-address=1", "--address=unix:path="+dir+"/bus")
	bus.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := bus.StdoutPipe()
	must(t, err)
	must(t, bus.Start())
	t.Cleanup(func() {
		bus.Process.Kill() //nolint:errcheck // it may have ended
		bus.Wait()         //nolint:errcheck // by the signal
	})
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil { // it listens
		t.Fatalf("dbus-daemon: %v", err)
	}
	s.env = []string{"VIFPROXY_CLIENT=1", "QREXEC_SOCKET=" + dir + "/qrexec", "PATH=" + dir + "/bin:" + os.Getenv("PATH"),
		"DBUS_SESSION_BUS_ADDRESS=unix:path=" + dir + "/bus", "XDG_RUNTIME_DIR=" + dir, "LC_ALL=C.UTF-8", "TZ=UTC"}
	return s
}

// called returns the next call, which has to be of this service.
func (s *session) called(service string) *qubestest.Call {
	s.Helper()
	select {
	case c := <-s.calls:
		if c.Args != "@default "+service {
			s.Fatalf("called: %s, want %s", c.Args, service)
		}
		return c
	case <-time.After(patience):
		s.Fatalf("waited in vain for a call of %s", service)
	}
	return nil
}

// refuse says lines of the stream.
func refuse(c *qubestest.Call, site string, hosts ...string) {
	var b strings.Builder
	for _, host := range hosts {
		name, port, _ := strings.Cut(host, ":")
		if port == "" {
			port = "443"
		}
		fmt.Fprintf(&b, `{"time":"2026-11-30T01:02:03Z","host":%q,"port":%s,"reason":"list","site":%q}`+"\n", name, port, site)
	}
	c.Say(b.String())
}

// A program is the program that is tested.
type program struct {
	*exec.Cmd
	log lockedBuffer
}

func (s *session) start(args ...string) *program {
	s.Helper()
	own, err := os.Executable()
	must(s.T, err)
	p := &program{Cmd: exec.Command(own, args...)}
	p.Env, p.Stderr = s.env, &p.log
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(s.T, p.Start())
	ended := make(chan struct{})
	go func() {
		p.Wait() //nolint:errcheck // its state tells
		close(ended)
	}()
	s.Cleanup(func() {
		p.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
		select {
		case <-ended:
		case <-time.After(patience):
			s.Errorf("%v does not end", args)
			p.Process.Kill() //nolint:errcheck // as above
			<-ended
		}
		if s.Failed() {
			s.Logf("%v logs\n%s", args, p.log.String())
		}
	})
	return p
}

// run runs the program to its end.
func (s *session) run(stdin string, args ...string) (out string, status int) {
	s.Helper()
	own, err := os.Executable()
	must(s.T, err)
	cmd := exec.Command(own, args...)
	cmd.Env, cmd.Stdin = s.env, strings.NewReader(stdin)
	text, err := cmd.CombinedOutput()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		s.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// A screen is a program that shows notifications, and presses their buttons.
type screen struct {
	*session
	conn         *dbus.Conn
	capabilities []string
	shown        chan notification
	mu           sync.Mutex
	last         uint32
}

type notification struct {
	id, replaces uint32
	title, body  string
	actions      []string
}

func (s *session) screen(capabilities ...string) *screen {
	s.Helper()
	conn, err := dbus.Connect("unix:path=" + s.dir + "/bus")
	must(s.T, err)
	sc := &screen{session: s, conn: conn, capabilities: capabilities, shown: make(chan notification, 1000)}
	s.Cleanup(func() { conn.Close() })
	must(s.T, conn.ExportMethodTable(map[string]any{
		"GetCapabilities": func() ([]string, *dbus.Error) { return sc.capabilities, nil },
		"Notify": func(app string, replaces uint32, icon, title, body string, actions []string, _ map[string]dbus.Variant, _ int32) (uint32, *dbus.Error) {
			sc.mu.Lock()
			defer sc.mu.Unlock()
			id := replaces
			if id == 0 {
				sc.last++
				id = sc.last
			}
			sc.shown <- notification{id, replaces, title, body, actions}
			return id, nil
		},
	}, notificationsPath, notifications))
	reply, err := conn.RequestName(notifications, dbus.NameFlagDoNotQueue|dbus.NameFlagReplaceExisting|dbus.NameFlagAllowReplacement)
	must(s.T, err)
	if reply != dbus.RequestNameReplyPrimaryOwner {
		s.Fatalf("the name is taken: %d", reply)
	}
	return sc
}

// next returns the next notification.
func (sc *screen) next() notification {
	sc.Helper()
	select {
	case n := <-sc.shown:
		return n
	case <-time.After(patience):
		sc.Fatal("waited in vain for a notification")
	}
	return notification{}
}

// press presses a button. As desktops do, the notification closes.
func (sc *screen) press(id uint32, key string) {
	sc.Helper()
	must(sc.T, sc.conn.Emit(notificationsPath, notifications+".ActionInvoked", id, key))
	must(sc.T, sc.conn.Emit(notificationsPath, notifications+".NotificationClosed", id, uint32(closedByPerson)))
}

// await waits for a notification as it has to be in the end. Before that it may have had fewer lines.
func (sc *screen) await(title, body string, buttons bool) notification {
	sc.Helper()
	var actions []string
	if buttons {
		actions = []string{keyMinutes, "10 minutes", keyAlways, "Always"}
	}
	for {
		n := sc.next()
		if n.title != title || !slices.Equal(n.actions, actions) {
			sc.Fatalf("shown: %+v\nwant %q, %q, %v", n, title, body, actions)
		}
		if n.body == body {
			return n
		}
		sc.Logf("not yet %q: %+v", body, n)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (s *session) until(what string, met func() error) {
	s.Helper()
	await.Success(s.T, what, met)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
