package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/await"
	"vifproxy/internal/events"
)

// fakeDaemon knows two VMs, writes down what it is asked, and can be told to block.
type fakeDaemon struct {
	mu    sync.Mutex
	asked []string

	fail    error
	entered chan struct{} // told when a verb has begun to block; nil: verbs do not block
	left    chan error    // how its context ended
}

var twoVMs = Status{
	Backend: "nftables",
	VMs: []VM{
		{Name: "bank", IP: "10.137.0.12", Interfaces: []string{"vif7.0"}, PID: 99, Port: 61003, State: Running,
			Since: time.Date(2024, 11, 23, 7, 31, 8, 0, time.UTC), Restarts: 2},
		{Name: "social", IP: "10.137.0.13", State: Waiting},
	},
}

func (f *fakeDaemon) do(ctx context.Context, verb string, names ...string) (Status, error) {
	f.mu.Lock()
	f.asked = append(f.asked, strings.TrimSpace(verb+" "+strings.Join(names, " ")))
	f.mu.Unlock()
	if f.entered != nil {
		f.entered <- struct{}{}
		<-ctx.Done()
		f.left <- ctx.Err()
		return Status{}, ctx.Err()
	}
	var unknown []string
	for _, name := range names {
		if name != "bank" && name != "social" {
			unknown = append(unknown, name)
		}
	}
	if unknown != nil {
		return Status{}, &UnknownError{Names: unknown, Known: []string{"bank", "social"}}
	}
	return twoVMs, f.fail
}

func (f *fakeDaemon) Status(ctx context.Context) (Status, error) { return f.do(ctx, "status") }
func (f *fakeDaemon) AppVMs(ctx context.Context) (Status, error) { return f.do(ctx, "appvms") }
func (f *fakeDaemon) Update(ctx context.Context) (Status, error) { return f.do(ctx, "update") }
func (f *fakeDaemon) Start(ctx context.Context, names []string) (Status, error) {
	return f.do(ctx, "start", names...)
}
func (f *fakeDaemon) Stop(ctx context.Context, names []string) (Status, error) {
	return f.do(ctx, "stop", names...)
}
func (f *fakeDaemon) Restart(ctx context.Context, names []string) (Status, error) {
	return f.do(ctx, "restart", names...)
}
func (f *fakeDaemon) KillAll(ctx context.Context, restart bool) (Status, error) {
	return f.do(ctx, fmt.Sprintf("kill-all restart=%t", restart))
}

func (f *fakeDaemon) Allow(ctx context.Context, t Temporary) (Status, error) {
	return f.do(ctx, fmt.Sprintf("allow %s %q %d", t.Name, t.Hosts, t.Seconds))
}
func (f *fakeDaemon) Explain(ctx context.Context, name, url string) (Explanation, error) {
	_, err := f.do(ctx, "explain "+url, name)
	return Explanation{VM: name, Request: url}, err
}

func (f *fakeDaemon) Denied(ctx context.Context, names []string, since time.Time) ([]events.Denied, error) {
	_, err := f.do(ctx, "denied", names...)
	return []events.Denied{{VM: "bank", IP: "10.137.0.12", Forgotten: 3, Hosts: []events.DeniedHost{
		{Host: "\x1b<shop>", Count: 7, First: since, Last: since.Add(time.Hour)},
	}}}, err
}

func (f *fakeDaemon) Review(ctx context.Context, names []string) ([]ListUse, error) {
	_, err := f.do(ctx, "review", names...)
	return []ListUse{{VM: "bank", Path: "bank.10.137.0.12", Counted: 3, Lines: []LineUse{{Pattern: "^<a>$", Count: 7}}}}, err
}

// Watch sends events until it may not, one after the other and without a pause.
func (f *fakeDaemon) Watch(ctx context.Context, names []string, send func(events.Event) error) error {
	_, err := f.do(ctx, "watch", names...)
	for n := 1; err == nil; n++ {
		if err = ctx.Err(); err == nil {
			err = send(events.Event{Event: events.Watching, About: events.About{Count: n}})
		}
	}
	if f.left != nil {
		f.left <- err
	}
	return err
}

// Learn sends hosts until it may not, or 100.
func (f *fakeDaemon) Learn(ctx context.Context, r LearnRequest, send func(Lesson) error) error {
	_, err := f.do(ctx, fmt.Sprintf("learn %d", r.Seconds), r.Name)
	for port := uint16(1); err == nil && port <= 100; port++ {
		if err = ctx.Err(); err == nil {
			err = send(Lesson{Event: LessonHost, LearntHost: &LearntHost{Host: "a.example", Port: port}})
		}
	}
	if err == nil {
		err = send(Lesson{Event: LessonOver, Why: "its time is over"})
	}
	return err
}

func (f *fakeDaemon) Caller(ctx context.Context, name string) (Status, error) {
	return f.do(ctx, "caller", name)
}

// Refusals sends refusals until it may not, one after the other and without a pause.
func (f *fakeDaemon) Refusals(ctx context.Context, name string, send func(Refusal) error) error {
	_, err := f.do(ctx, "refusals", name)
	for port := uint16(0); err == nil; port++ {
		if err = ctx.Err(); err == nil {
			err = send(Refusal{Host: name, Port: port})
		}
	}
	return err
}

var _ Service = (*Client)(nil) // the client's verbs are the daemon's

// running is a fake daemon behind a real socket.
type running struct {
	*fakeDaemon
	socket string
	end    func() error // ends Serve and returns what it returned
}

func serveFake(t *testing.T, f *fakeDaemon, limits limits, group string) *running {
	t.Helper()
	socket := filepath.Join(openDir(t), "vifproxy", "control.sock")
	l, err := Listen(socket, group)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	go func() { result <- serve(ctx, l, f, log, limits) }()
	end := sync.OnceValue(func() error {
		cancel()
		return errors.Join(await.Value(t, "the end of Serve", result), l.Close())
	})
	t.Cleanup(func() {
		if err := end(); err != nil {
			t.Error(err)
		}
	})
	return &running{f, socket, end}
}

func TestVerbs(t *testing.T) {
	d := serveFake(t, &fakeDaemon{}, defaults, "")
	c := NewClient(d.socket)
	ctx := t.Context()
	want := nonNil(twoVMs)
	for _, verb := range []func() (Status, error){
		func() (Status, error) { return c.Status(ctx) },
		func() (Status, error) { return c.AppVMs(ctx) },
		func() (Status, error) { return c.Update(ctx) },
		func() (Status, error) { return c.Start(ctx, []string{"bank"}) },
		func() (Status, error) { return c.Stop(ctx, []string{"bank", "social"}) },
		func() (Status, error) { return c.Restart(ctx, []string{"social"}) },
		func() (Status, error) { return c.KillAll(ctx, false) },
		func() (Status, error) { return c.KillAll(ctx, true) },
	} {
		got, err := verb()
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v\nwant %+v", got, want)
		}
	}
	asked := []string{"status", "appvms", "update", "start bank", "stop bank social", "restart social",
		"kill-all restart=false", "kill-all restart=true"}
	if !reflect.DeepEqual(d.asked, asked) {
		t.Errorf("the daemon was asked %q, want %q", d.asked, asked)
	}
}

func TestErrorsReachTheClient(t *testing.T) {
	var many []string
	for i := range 500 {
		many = append(many, fmt.Sprintf("vm%d", i))
	}
	tests := []struct {
		name  string
		fail  error
		names []string
		code  int
		text  string
	}{
		{"unknown", nil, []string{"bank", "bnak", "\x1b[2J"}, 404,
			`no rule file for "bnak", "\x1b[2J": there are "bank", "social"`},
		{"none known", &UnknownError{Names: []string{"x"}}, []string{"bank"}, 404,
			`no rule file for "x": there are no rule files at all`},
		{"many known", &UnknownError{Names: []string{strings.Repeat("x", 5000)}, Known: many}, []string{"bank"}, 404,
			`"vm19", 480 more`},
		{"failure", errors.New("read links: no buffer space"), []string{"bank"}, 500, "read links: no buffer space"},
		{"no names", nil, nil, 400, "0 names given: 1 to 1024 are allowed"},
		{"many names", nil, slicesRepeat("a", 1025), 400, "1025 names given: 1 to 1024 are allowed"},
		{"long names", nil, slicesRepeat(strings.Repeat("a", 1000), 100), 413, "the request is longer than 65536 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := serveFake(t, &fakeDaemon{fail: tt.fail}, defaults, "")
			_, err := NewClient(d.socket).Start(t.Context(), tt.names)
			var problem *DaemonError
			if !errors.As(err, &problem) || statuses[problem.Fault] != tt.code || !strings.Contains(problem.Message, tt.text) {
				t.Errorf("got %#v, want %d %s", err, tt.code, tt.text)
			}
			if err != nil && len(err.Error()) > 2000 {
				t.Errorf("a sentence of %d bytes", len(err.Error()))
			}
		})
	}
}

func slicesRepeat(s string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = s
	}
	return all
}

// Requests no client of ours would send.
func TestRawRequests(t *testing.T) {
	post := func(path, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	}
	tests := []struct{ name, request, status, body string }{
		{"empty body", post("/v1/update", ""), "200 OK", `"vms":[`},
		{"lists are never null", "GET /v1/status HTTP/1.0\r\n\r\n", "200 OK", `"interfaces":[],"gateway":"","pid":0`},
		{"no problems", "GET /v1/status HTTP/1.0\r\n\r\n", "200 OK", `"problems":[]}`},
		{"unknown field", post("/v1/start", `{"names":["bank"],"force":true}`), "400 Bad Request",
			`{"error":"the request is wrong: json: unknown field \"force\""}`},
		{"another verb's field", post("/v1/update", `{"restart":true}`), "400 Bad Request", `unknown field \"restart\"`},
		{"not JSON", post("/v1/start", "names=bank"), "400 Bad Request", `{"error":"the request is wrong: `},
		{"two objects", post("/v1/update", "{}{}"), "400 Bad Request", "something follows"},
		{"wrong type", post("/v1/start", `{"names":"bank"}`), "400 Bad Request", "cannot unmarshal string"},
		{"deep nesting", post("/v1/start", strings.Repeat("[", 60000)), "400 Bad Request", "the request is wrong"},
		{"unknown verb", post("/v1/explode", "{}"), "404 Not Found",
			`{"error":"vifproxyd does not know \"POST\" \"/v1/explode\": are vifproxyctl and vifproxyd of the same version?"}`},
		{"wrong method", "GET /v1/update HTTP/1.0\r\n\r\n", "404 Not Found", `does not know \"GET\"`},
		{"huge body", "POST /v1/start HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n" +
			strings.Repeat(" ", maxRequest+1), "413 Request Entity Too Large", "longer than 65536 bytes"},
		{"huge header", "GET /v1/status HTTP/1.1\r\nHost: " + strings.Repeat("x", 20000) + "\r\n\r\n",
			"431 Request Header Fields Too Large", ""},
		{"not HTTP", "\x16\x03\x01\r\n\r\n", "400 Bad Request", ""},
		{"chunk of nonsense", "POST /v1/start HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
			"400 Bad Request", `{"error":"read the request: `},
	}
	d := serveFake(t, &fakeDaemon{}, defaults, "")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn := dial(t, d.socket)
			go io.WriteString(conn, tt.request) // the server may stop reading before the end
			answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(answer.Body)
			if err != nil {
				t.Fatal(err)
			}
			if answer.Status != tt.status || !strings.Contains(string(body), tt.body) {
				t.Errorf("got %s: %s\nwant %s: %s", answer.Status, body, tt.status, tt.body)
			}
			if !answer.Close {
				t.Error("the connection is kept")
			}
		})
	}
	if asked := []string{"update", "status", "status"}; !reflect.DeepEqual(d.asked, asked) {
		t.Errorf("the daemon was asked %q, want %q", d.asked, asked)
	}
}

// Who sends slowly is cut off; who waits for a verb is not, however long that takes.
func TestSlowness(t *testing.T) {
	quick := defaults
	quick.receive = 50 * time.Millisecond
	d := serveFake(t, &fakeDaemon{entered: make(chan struct{}), left: make(chan error, 1)}, quick, "")
	patience, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	updated := make(chan error, 1)
	update := func() {
		_, err := NewClient(d.socket).Update(patience)
		updated <- err
	}
	go update()
	for under, late := false, time.After(time.Minute); !under; {
		select {
		case <-d.entered:
			under = true
		case <-updated: // this machine was as slow as the clients below
			go update()
		case <-late:
			t.Fatal("the daemon gets no request")
		}
	}

	for _, tt := range []struct{ name, sent, answer string }{
		{"silence", "", ""},
		{"half a header", "GET /v1/sta", "400 Bad Request"},
		{"half a body", "POST /v1/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{", "408 Request Timeout"},
	} {
		await.Until(t, tt.name+" gets "+tt.answer, func() bool {
			conn := dial(t, d.socket)
			defer conn.Close()
			if _, err := io.WriteString(conn, tt.sent); err != nil {
				return false // its time was over before
			}
			got, err := io.ReadAll(conn) // until the server hangs up
			return err == nil && strings.Contains(string(got), tt.answer)
		})
	}

	// Those came later than the update, and their time is over. The update's would be, if it had the same bounds.
	select {
	case err := <-updated:
		t.Fatalf("the update ended by itself: %v", err)
	case err := <-d.left:
		t.Fatalf("the update was ended: %v", err)
	default:
	}
	giveUp() // a client that hangs up: the daemon's work ends too
	if err := await.Value(t, "the end of the daemon's work", d.left); !errors.Is(err, context.Canceled) {
		t.Errorf("the verb's context: %v", err)
	}
	if err := await.Value(t, "the client's error", updated); !errors.Is(err, context.Canceled) {
		t.Errorf("the client's error: %v", err)
	}
}

// A daemon that stops answers what is under way, and Serve returns with nothing left behind.
func TestStopWhileUpdating(t *testing.T) {
	d := serveFake(t, &fakeDaemon{entered: make(chan struct{}), left: make(chan error, 1)}, defaults, "")
	silent := dial(t, d.socket) // must not hold up the end for long
	updated := make(chan error, 1)
	go func() {
		_, err := NewClient(d.socket).Update(t.Context())
		updated <- err
	}()
	await.Value(t, "a request for the daemon", d.entered)
	if err := d.end(); err != nil {
		t.Fatal(err)
	}
	var problem *DaemonError
	if err := await.Value(t, "the client's error", updated); !errors.As(err, &problem) || problem.Error() != "vifproxyd is stopping" {
		t.Errorf("the client's error: %v", err)
	}
	if n, err := silent.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes from a daemon that has ended", n)
	}
	var notRunning *NotRunningError
	if _, err := NewClient(d.socket).Status(t.Context()); !errors.As(err, &notRunning) {
		t.Errorf("after the end: %v", err)
	}
}

// TestRoomForOthers fills the control socket. Connections beyond a bound are closed at once. Root is served beside any number of others,
// and one of the others leaves room for the rest. When some have ended, others are served again.
func TestRoomForOthers(t *testing.T) {
	few := defaults
	few.connections, few.each = 3, 2
	d := serveFake(t, &fakeDaemon{}, few, others)
	const one, two, three = nobody, nobody - 1, nobody - 2
	first, second := dialAs(t, d.socket, one), dialAs(t, d.socket, one)
	if isAnswered(dialAs(t, d.socket, one)) {
		t.Error("one uid has more than its share")
	}
	third := dialAs(t, d.socket, two) // and now there is no room
	if isAnswered(dialAs(t, d.socket, three)) {
		t.Error("others have more than there is")
	}
	var roots []net.Conn
	for range few.connections {
		roots = append(roots, dialAs(t, d.socket, 0))
	}
	if isAnswered(dialAs(t, d.socket, 0)) {
		t.Error("root has more than there is")
	}
	for i, conn := range append(roots, first, second, third) {
		if !isAnswered(conn) {
			t.Errorf("connection %d has no answer", i)
		}
	}
	// The server notices an end a little later than its client does.
	await.Until(t, "room for another uid", func() bool { return isAnswered(dialAs(t, d.socket, three)) })
	await.Until(t, "room for root", func() bool { return isAnswered(dialAs(t, d.socket, 0)) })
}

// isAnswered asks for the status by a new connection, and reports whether an answer comes.
func isAnswered(conn net.Conn) bool {
	defer conn.Close()
	io.WriteString(conn, "GET /v1/status HTTP/1.0\r\n\r\n")
	got, _ := io.ReadAll(conn)
	return strings.Contains(string(got), "200 OK")
}

// dialAs connects as a user in the group of the socket. Only this thread becomes that user (setresuid(2), "C library/kernel differences").
func dialAs(t *testing.T, socket string, uid int) net.Conn {
	t.Helper()
	gid, err := groupID(others)
	must(t, err)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const keep = ^uintptr(0)
	become := func(uid, gid int) {
		for _, id := range []struct{ call, to uintptr }{{unix.SYS_SETRESUID, 0}, {unix.SYS_SETRESGID, uintptr(gid)}, {unix.SYS_SETRESUID, uintptr(uid)}} {
			if _, _, errno := unix.RawSyscall(id.call, keep, id.to, keep); errno != 0 {
				panic(errno)
			}
		}
	}
	become(uid, gid)
	defer become(0, 0)
	return dial(t, socket)
}

// A peer that is not vifproxyd must not make the client hang, grow or print nonsense.
func TestHostileDaemon(t *testing.T) {
	tests := []struct{ name, answer, want string }{
		{"nothing", "", "vifproxyd broke off the conversation: see `journalctl -u vifproxyd`: EOF"},
		{"no HTTP", "220 smtp ready\r\n", "malformed HTTP"},
		{"no JSON", "HTTP/1.0 200 OK\r\n\r\n<html>", "cannot parse vifproxyd's reply"},
		{"error without JSON", "HTTP/1.0 502 Bad Gateway\r\n\r\n\x1b[2J", `vifproxyd answered 502 Bad Gateway: "\x1b[2J"`},
		{"huge", "HTTP/1.0 200 OK\r\n\r\n" + strings.Repeat(" ", maxReply+1), "request body too large"},
		{"broken off", "HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n{", "broke off the conversation"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			socket := filepath.Join(openDir(t), "s")
			l, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			served := make(chan struct{})
			go func() {
				defer close(served)
				conn, err := l.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					io.WriteString(conn, tt.answer)
				}
			}()
			_, err = NewClient(socket).Restart(t.Context(), []string{"bank"})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			l.Close()
			await.Value(t, "the end of the hostile daemon", served)
		})
	}
}

func dial(t *testing.T, socket string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestServeSaysWhenTheSocketFails(t *testing.T) {
	l, err := Listen(filepath.Join(openDir(t), "s"), "")
	must(t, err)
	must(t, l.Close())
	err = Serve(t.Context(), l, &fakeDaemon{}, slog.New(slog.DiscardHandler))
	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// watched waits until the kernel watches a file for this process (inotify in proc_pid_fdinfo(5)).
func watched(t *testing.T, path string) {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	want := fmt.Sprintf(" ino:%x ", info.Sys().(*syscall.Stat_t).Ino)
	await.Success(t, "a watch of "+path, func() error {
		all, err := filepath.Glob("/proc/self/fdinfo/*")
		for _, fd := range all {
			if text, err := os.ReadFile(fd); err == nil && strings.Contains(string(text), want) {
				return nil
			}
		}
		return errors.Join(err, errors.New("nobody watches it"))
	})
}

// TestARemovedSocketIsMadeAgain, with the directory around it. The kernel tells of all but a directory that is renamed.
func TestARemovedSocketIsMadeAgain(t *testing.T) {
	socket := filepath.Join(openDir(t), "vifproxy", "control.sock")
	l, err := Listen(socket, "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	log := slog.New(slog.DiscardHandler)
	for what, remove := range map[string]func() error{
		"the socket":            func() error { return os.Remove(socket) },
		"renamed":               func() error { return os.Rename(socket, socket+".old") },
		"its directory":         func() error { return os.RemoveAll(filepath.Dir(socket)) },
		"its directory renamed": func() error { return os.Rename(filepath.Dir(socket), filepath.Dir(socket)+".old") },
		"replaced":              func() error { return errors.Join(os.Remove(socket), os.WriteFile(socket, nil, 0o600)) },
		"replaced by a renaming": func() error {
			return errors.Join(os.WriteFile(socket+".new", nil, 0o600), os.Rename(socket+".new", socket))
		},
	} {
		limits := defaults
		limits.told, limits.look = time.Millisecond, 1000*time.Hour
		if what == "its directory renamed" {
			limits.look = time.Millisecond
		}
		for _, running := range []bool{true, false} {
			ended := make(chan error, 1)
			run := func(ctx context.Context) { ended <- serve(ctx, l, &fakeDaemon{}, log, limits) }
			if running {
				go run(t.Context())
				watched(t, socket)
			}
			must(t, remove())
			if !running {
				go run(t.Context())
			}
			if err := await.Value(t, "the end of Serve", ended); !errors.Is(err, ErrRemoved) {
				t.Errorf("%s: %v", what, err)
			}
			if strings.HasPrefix(what, "replaced") {
				if err := l.Again(); err == nil || !strings.Contains(err.Error(), "something else is there") {
					t.Errorf("over a file: %v", err)
				}
				must(t, os.Remove(socket))
			}
			must(t, l.Again())
			ctx, cancel := context.WithCancel(t.Context())
			go run(ctx)
			if _, err := NewClient(socket).Status(t.Context()); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			cancel()
			if err := await.Value(t, "the end of Serve", ended); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			must(t, l.Again())
			must(t, os.RemoveAll(filepath.Dir(socket)+".old"))
		}
	}
}

// TestASocketThatFailsIsMadeAgain: accept(2) may fail for good, as without memory, and nobody has removed the socket. Before that, there is
// nothing to make.
func TestASocketThatFailsIsMadeAgain(t *testing.T) {
	socket := filepath.Join(openDir(t), "control.sock")
	l, err := Listen(socket, "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	log := slog.New(slog.DiscardHandler)
	made := l.made
	must(t, l.Again())
	if l.made != made {
		t.Error("made again, before anything has failed")
	}
	must(t, l.socket.Close())
	for range 2 {
		if err := Serve(t.Context(), l, &fakeDaemon{}, log); err == nil || errors.Is(err, ErrRemoved) {
			t.Errorf("Serve ends with %v", err)
		}
	}
	must(t, l.Again())
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- Serve(ctx, l, &fakeDaemon{}, log) }()
	if _, err := NewClient(socket).Status(t.Context()); err != nil {
		t.Error(err)
	}
	cancel()
	if err := await.Value(t, "the end of Serve", ended); err != nil {
		t.Error(err)
	}
}
