package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/internal/await"
	"vifproxy/internal/lab"
	"vifproxy/tinyproxy/kernel"
)

// needsLandlock skips a test where the kernel has no Landlock, or a container refuses it.
func (s *site) needsLandlock() {
	s.Helper()
	for _, lack := range kernel.Lacks() {
		if lack.Mechanism == "landlock" && !lack.InPart {
			s.Skip(lack)
		}
	}
}

// TestOwnedProxy has the daemon run a program that its AppVM owns in tinyproxy's place, and has the same program run
// once more as root and free: there every attempt must succeed, or its failure here would prove nothing.
func TestOwnedProxy(t *testing.T) {
	onBoth(t, func(s *site) {
		s.needsLandlock()
		// It forks until nothing goes. Processes are counted by uid, over all network namespaces, so the proxies of other tests must
		// have other uids, and so other addresses.
		subnet := map[lab.Ruleset]string{lab.R42: "10.137.2.", lab.R41: "10.137.3."}[s.Ruleset]
		workIP, otherIP := subnet+"11", subnet+"12"
		build := exec.Command("go", "build", "-trimpath", "-o", s.TempDir()+"/hostile", "vifproxy/tinyproxy/confine/hostile")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			s.Fatalf("%v: %s", err, out)
		}
		hostile, err := os.ReadFile(build.Args[4])
		s.must(err)
		real, err := os.ReadFile("/usr/bin/tinyproxy")
		s.must(err)

		// The other AppVM's proxy is a tinyproxy, and stays one: what is in its place now has no targets, and ends.
		s.program(string(real))
		// Its list opens port 22, which is closed to the owned proxy all the same, by its own sandbox and by the fence.
		s.rules("other."+otherIP, "#: port 22", bank, `^neighbour\.example$`, `^alias\.example$`)
		s.Host("lan.example", netip.MustParseAddr("10.9.8.7"))
		s.Host("neighbour.example", netip.MustParseAddr(neighbour))
		s.Host("six.example", netip.MustParseAddr("2001:db8::6"))
		s.Host("fleeting.example", netip.MustParseAddr(fleeting))
		s.Alias("alias.example", "edge.example")
		s.listensOutside(lab.OtherNameServer, 853) // at 53 it answers
		s.barSpare()
		at := s.next("other", otherIP)
		at.Gateway = netip.MustParseAddr("10.138.2.1")
		s.must(s.Attach(at))
		s.start("--tinyproxy=" + filepath.Join(s.dir, "tinyproxy"))
		s.attach("spare", subnet+"13") // has the usual gateway
		s.inside()
		s.listens(at.Gateway.String() + ":80")
		s.opens("other", "http://bank.example/", "http://neighbour.example/", "http://alias.example/")
		other := s.show()["other"]
		targets := s.targets(other, workIP, otherIP)
		s.program(string(hostile))
		s.rules("work."+workIP, append(targets, "^Pinned-"+hex.EncodeToString([]byte(strconv.Itoa(pinnedFor)))+"$",
			`^listed\.example$`, `^lan\.example$`, `^alias\.example$`, `^fleeting\.example$`)...)
		neighbours := s.keepAsking(uidOf(netip.MustParseAddr(otherIP)), "bank.example")
		s.attach("work", workIP)
		s.until("the owned proxy has asked all its questions", func() error { // and waits for the end of a pin then
			log, err := os.ReadFile(filepath.Join(s.runDir(), "work", "log"))
			if !strings.Contains(string(log), "ask as many questions as it can") {
				return fmt.Errorf("%w: %.300s", err, log)
			}
			return nil
		})
		s.until("the owned proxy has tried everything", func() error {
			work := s.show()["work"]
			if strings.Contains(work.Error, "words-of-an-owned-proxy") || work.State == control.Refused {
				s.Fatalf("its dying words are believed: %+v", work)
			}
			// After a run of 10 s, the next one begins at once, and show does not have the error any more. A process that ends has no
			// sockets a moment before its status is known, and whoever looks then says so.
			for _, end := range []string{"which had served, exited with status 65", "does not listen on"} {
				if strings.Contains(s.daemon.log.String(), end) {
					return nil
				}
			}
			return fmt.Errorf("%+v", work)
		})
		var log []byte
		s.until("the log has the last attempt", func() (err error) { // whoever looks at sockets may be faster than who reads what it said
			if log, err = os.ReadFile(filepath.Join(s.runDir(), "work", "log")); !strings.Contains(string(log), "from the port where it listens") {
				return fmt.Errorf("%w: %.300s", err, log)
			}
			return nil
		})
		inside := attempts(string(log))
		if !strings.Contains(strings.ReplaceAll(string(log), `\t`, "\t"), "permitted\tdone") {
			s.Errorf("it was not permitted what its list permits:\n%.1000s", log)
		}
		s.undisturbedBy(string(log), neighbours())

		free := s.TempDir()
		s.must(writeFile(filepath.Join(free, "rules"), []byte(strings.Join(targets, "\n")), 0o600))
		s.must(writeFile(filepath.Join(free, "config"), fmt.Appendf(nil, "Port 61096\nListen %s\n", lab.Gateway), 0o600))
		output, err := os.Create(filepath.Join(free, "output")) // which takes what is written as fast as it comes, as a pipe would not
		s.must(err)
		defer output.Close()
		cmd := s.Command(t.Context(), filepath.Join(s.dir, "tinyproxy"), "-d", "-c", filepath.Join(free, "config"))
		cmd.Stdout = output
		cmd.Run() //nolint:errcheck // what it says tells how it went
		said, err := os.ReadFile(output.Name())
		s.must(err)
		outside := attempts(string(said))

		var table strings.Builder
		w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "ATTEMPT\tOF AN OWNED PROXY\tFREE")
		for i, a := range outside {
			if i >= len(inside) {
				break
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", a[0], inside[i][1], a[1])
			if inside[i][1] == "done" && a[0] == "ask as many questions as it can" && asksSlowly(string(log)) {
				s.Logf("this machine was too slow to %s", a[0])
			} else if inside[i][1] == "done" {
				s.Errorf("an owned proxy can: %s", a[0])
			}
			if want := deniedBy[a[0]]; want != "" && inside[i][1] != want {
				s.Errorf("%s: %s, want %s", a[0], inside[i][1], want)
			}
			if status, _ := os.ReadFile("/proc/self/status"); a[1] == unix.EPERM.Error() && strings.Contains(string(status), "\nSeccomp:\t2\n") {
				s.Run(a[0], func(t *testing.T) { t.Skip("the seccomp filter of a container refuses it to this test too") })
			} else if a[1] != "done" {
				s.Errorf("without confinement and fence, too, one cannot: %s: %s", a[0], a[1])
			}
		}
		w.Flush()
		s.Logf("\n%s", &table)
		if len(inside) < len(outside) || len(outside) < 92 {
			s.Errorf("%d attempts by the proxy, %d by the free program", len(inside), len(outside))
		}
		s.until("all odd questions are told of", func() error {
			if n := s.ownedCount("work"); n < oddQuestions {
				return fmt.Errorf("%d of %d", n, oddQuestions)
			}
			return nil
		})
		if now := s.show()["other"]; now.PID != other.PID || now.State != control.Running {
			s.Errorf("the other AppVM's proxy is now %+v, before %+v", now, other)
		}
		s.opens("other", "http://bank.example/")
		s.stop()
	})
}

// pinnedFor is after how many seconds an address is no longer open whose answer has a TTL of 0: 60 and 30 (pinLeast and pinSlack in package
// names), and 2 to be sure.
const pinnedFor = 92

// oddQuestions is how many questions the hostile program asks that no tinyproxy with its list does.
const oddQuestions = 19

// deniedBy says what some attempts meet, if it matters.
var deniedBy = map[string]string{
	"connect to port 22 outside":                        unix.EACCES.Error(), // the other list opens it: this is Landlock
	"ask for the name that a listed one is an alias of": "rcode 5",
	"leave a dead child to the daemon":                  unix.EPERM.Error(),
	"connect to an address when its time is over":       unix.ECONNREFUSED.Error(),
	"connect to an address that its neighbour was told": unix.ECONNREFUSED.Error(),
	"connect to a name server, to ask it by HTTPS":      unix.ECONNREFUSED.Error(),
	"ask for a listed name that leads into the LAN":     "no record",
}

// ownedCount returns how many odd questions of an AppVM's proxy have been told of.
func (s *site) ownedCount(vm string) (n int) {
	for _, m := range regexp.MustCompile(`somebody has taken it over.* vm=`+vm+` .*\bcount=([0-9]+)`).FindAllStringSubmatch(s.daemon.log.String(), -1) {
		count, err := strconv.Atoi(m[1])
		s.must(err)
		n += count
	}
	return n
}

// A question is one that somebody has asked, and how long the answer took.
type question struct {
	at   time.Time
	took time.Duration
	err  error
}

// keepAsking has a uid ask for a name over and over, until the function that it returns is called, which returns all questions.
func (s *site) keepAsking(uid uint32, name string) func() []question {
	ctx, cancel := context.WithCancel(s.Context())
	s.Cleanup(cancel)
	asked := make(chan []question, 1)
	go func() {
		var all []question
		for ctx.Err() == nil {
			q := question{at: time.Now()}
			_, q.took, q.err = s.Question(uid, lab.NameServers[0], name)
			all = append(all, q)
			time.Sleep(5 * time.Millisecond) // the processors are for others too
		}
		asked <- all
	}()
	return func() []question {
		cancel()
		return <-asked
	}
}

// mostQuestions is how many a proxy may send in a second (questionRate in firewall/nft).
const mostQuestions = 8000

// asksSlowly reports whether the hostile program has sent no more questions than a proxy may.
func asksSlowly(log string) bool {
	for _, m := range floodLine.FindAllStringSubmatch(strings.ReplaceAll(log, `\t`, "\t"), -1) {
		first, _ := strconv.ParseInt(m[2], 10, 64)
		last, _ := strconv.ParseInt(m[3], 10, 64)
		packets, _ := strconv.ParseFloat(m[4], 64)
		if m[1] == "questions" && packets < mostQuestions*(1+time.Duration(last-first).Seconds()) { // as many may come at once
			return true
		}
	}
	return false
}

var floodLine = regexp.MustCompile(`flood\t(\w+)\t(\d+)\t(\d+)\t(\d+)`)

// undisturbedBy checks that a neighbour's questions were answered while the hostile program asked as fast as it could, and about as
// soon as while it sent as many packets elsewhere.
func (s *site) undisturbedBy(log string, asked []question) {
	s.Helper()
	median := map[string]time.Duration{}
	for _, m := range floodLine.FindAllStringSubmatch(strings.ReplaceAll(log, `\t`, "\t"), -1) {
		first, _ := strconv.ParseInt(m[2], 10, 64)
		last, _ := strconv.ParseInt(m[3], 10, 64)
		packets, _ := strconv.Atoi(m[4])
		var took []time.Duration
		lost := 0
		for _, q := range asked {
			if at := q.at.UnixNano(); at < first || at > last {
				continue
			}
			if took = append(took, q.took); q.err != nil {
				lost++
			}
		}
		slices.Sort(took)
		if len(took) == 0 || lost > len(took)/4 {
			s.Errorf("while it sends %s: %d questions of its neighbour, %d without an answer", m[1], len(took), lost)
			return
		}
		median[m[1]] = took[len(took)/2]
		s.Logf("while it sends %.0f %s a second: a neighbour's question takes %v (%d questions, %d lost)", float64(packets)/
			time.Duration(last-first).Seconds(), m[1], median[m[1]], len(took), lost)
	}
	// Twice as long is the promise. The machine has other tests to run, and both floods take a processor; behind a flood a question would be lost.
	if others, questions := median["others"], median["questions"]; questions == 0 || others == 0 || questions > 10*others+200*time.Millisecond {
		s.Errorf("a neighbour's question takes %v beside a flood of questions, and %v beside another one", questions, others)
	}
}

// listensOutside has somebody listen at a port of an address in the internet.
func (s *site) listensOutside(addr netip.Addr, port uint16) {
	s.Helper()
	s.must(s.DoInternet(func() error {
		l, err := net.Listen("tcp4", netip.AddrPortFrom(addr, port).String())
		if err == nil {
			s.Cleanup(func() { l.Close() })
		}
		return err
	}))
}

// targets are what there is to attack in the lab, as lines of the rule file of AppVM work. Each can be reached by some uid, so
// that it is not the target that refuses.
func (s *site) targets(other control.VM, workIP, otherIP string) []string {
	s.Helper()
	path := func(name string) string { return filepath.Join(s.dir, name) }
	s.must(writeFile(path("secret"), []byte("x"), 0o644))
	s.must(os.Mkdir(path("open"), 0o755))
	s.must(os.Chmod(path("open"), 0o777))
	abstract := "@" + s.Name
	listen := func(name string) error {
		socket, err := net.Listen("unix", name)
		if err == nil {
			s.Cleanup(func() { socket.Close() })
		}
		return err
	}
	s.must(listen(path("socket")))
	s.must(os.Chmod(path("socket"), 0o777))
	s.must(s.Do(func() error { return listen(abstract) })) // abstract names are a network namespace's

	uid := uidOf(netip.MustParseAddr(workIP))
	same := exec.Command("sleep", "infinity")
	same.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	s.must(same.Start())
	s.Cleanup(func() {
		same.Process.Kill()
		same.Wait()
	})
	targets := []string{
		"Secret=" + path("secret"),
		"OtherRules=" + filepath.Join(s.runDir(), "other", fmt.Sprint(other.Port), "rules"),
		"Writable=" + path("open"),
		"Unix=" + path("socket"),
		"Abstract=" + abstract,
		"Control=" + s.socket(),
		fmt.Sprintf("SameUser=%d", same.Process.Pid),
		fmt.Sprintf("OtherProxy=%d", other.PID),
		fmt.Sprintf("Daemon=%d", s.daemon.cmd.Process.Pid),
		"Gateway=" + lab.Gateway.String(),
		"OtherGateway=10.138.2.1",
		"Barred=" + spareHost,
		"AppVM=" + otherIP,
		"LAN=10.9.8.7",
		"World=198.51.100.9",
		"Neighbour=" + neighbour,
		"Fleeting=" + fleeting,
		"NameServer=10.139.1.1",
		"OtherNameServer=" + lab.OtherNameServer.String(),
		"Resolver=" + s.asker(uidOf(netip.MustParseAddr(otherIP))),
	}
	for i, t := range targets {
		name, value, _ := strings.Cut(t, "=")
		targets[i] = fmt.Sprintf("^%s-%x$", name, value)
	}
	return targets
}

// asker returns the address and the port to which the kernel sends the questions of a uid on.
func (s *site) asker(uid uint32) string {
	s.Helper()
	elements := s.inFirewall("nft", "--json", "list", "map", "ip", "vifproxy", "askers")
	m := regexp.MustCompile(fmt.Sprintf(`\[\s*%d,\s*\{\s*"concat":\s*\[\s*"([0-9.]+)",\s*([0-9]+)`, uid)).FindStringSubmatch(elements)
	if m == nil {
		s.Fatalf("uid %d asks nowhere: %s", uid, elements)
	}
	return m[1] + ":" + m[2]
}

// neighbour is the address of a host that the list of another AppVM has, and fleeting of one that is open for a time.
const (
	neighbour = "198.51.100.77"
	fleeting  = "198.51.100.78"
)

// spareHost is a host in the world that is behind another interface than all others.
const spareHost = "203.0.113.99"

// barSpare makes that interface, and has nothing of AppVMs forwarded to it.
func (s *site) barSpare() {
	s.Helper()
	for _, args := range []string{
		"link add spare0 type veth peer name spare1 netns " + s.Name + "-net", "addr add 100.64.9.2/24 dev spare0", "link set spare0 up",
		"-n " + s.Name + "-net addr add 100.64.9.1/24 dev spare1", "-n " + s.Name + "-net link set spare1 up",
		"route add " + spareHost + " via 100.64.9.1",
	} {
		s.inFirewall("ip", strings.Fields(args)...)
	}
	if s.Ruleset == lab.R42 {
		s.inFirewall("nft", "add", "rule", "ip", "qubes", "custom-forward", "oifname", "spare0", "drop")
	} else {
		s.inFirewall("iptables", "-I", "FORWARD", "-o", "spare0", "-j", "DROP")
	}
}

// listens has somebody listen in the firewall VM.
func (s *site) listens(addr string) {
	s.Helper()
	s.must(s.Do(func() error {
		l, err := net.Listen("tcp4", addr)
		if err == nil {
			s.Cleanup(func() { l.Close() })
		}
		return err
	}))
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

// TestConfinement: what proxies are confined by is shown, and what is missing refuses a start where all is required.
func TestConfinement(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.needsLandlock()
	s.startWork()
	c := s.show()["work"].Confinement
	if c == nil || !slices.Contains(c.Applied, "seccomp") || !slices.Contains(c.Applied, "landlock") {
		t.Fatalf("confinement %+v", c)
	}
	if told := strings.Count(s.daemon.log.String(), "proxies are "); told != 1 {
		t.Errorf("it is told %d times", told)
	}
	s.stop()
	if len(c.Missing) == 0 {
		s.start("--require-confinement")
		s.stop()
		return
	}
	d := s.launch("--require-confinement")
	await.Value(s.T, "the end of vifproxyd", d.exited)
	if log := d.log.String(); d.err == nil || !strings.Contains(log, c.Missing[0].Cause) {
		t.Errorf("required where there is no %+v: %v\n%s", c.Missing, d.err, log)
	}
	s.nothingLeft()
}
