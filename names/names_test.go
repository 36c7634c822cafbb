package names

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"vifproxy/internal/await"
	"vifproxy/names/wire"
)

// A zone is what a name server of the test answers. A nil entry makes it silent.
type zone func(q dnsmessage.Question) *reply

type reply struct {
	code    dnsmessage.RCode
	records []dnsmessage.Resource
}

// a is the reply that a name has addresses, at ttl seconds.
func a(q dnsmessage.Question, ttl uint32, addrs ...string) *reply {
	r := &reply{}
	for _, text := range addrs {
		addr := netip.MustParseAddr(text)
		h := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: ttl}
		switch {
		case addr.Is4() && q.Type == dnsmessage.TypeA:
			r.records = append(r.records, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: addr.As4()}})
		case addr.Is6() && q.Type == dnsmessage.TypeAAAA:
			r.records = append(r.records, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
		}
	}
	return r
}

// A nameServer answers at port 53 of an address of the loopback, and counts the names that it was asked for.
type nameServer struct {
	addr netip.Addr
	mu   sync.Mutex
	seen map[string]int // by name in lower case, with the period
}

func (s *nameServer) asked(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[name]
}

func serve(tb testing.TB, z zone) *nameServer {
	tb.Helper()
	n := rand.Uint32()
	s := &nameServer{addr: netip.AddrFrom4([4]byte{127, 1 + byte(n)%60, byte(n >> 8), 1 + byte(n>>16)%254}), seen: map[string]int{}}
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.addr, serverPort)))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			s.mu.Lock()
			s.seen[strings.ToLower(q.Name.String())]++
			s.mu.Unlock()
			r := z(q)
			if r == nil {
				continue
			}
			m.Additionals, m.Answers = nil, r.records
			m.Response, m.RCode, m.RecursionAvailable = true, r.code, true
			if text, err := m.Pack(); err == nil {
				conn.WriteToUDPAddrPort(text, from) //nolint:errcheck // who asked asks again
			}
		}
	}()
	return s
}

// A machine is a Resolver, and the test in the place of the daemon.
type machine struct {
	testing.TB
	port    uint16
	encoder *wire.Encoder[wire.Order]
	nextID  int64

	mu      sync.Mutex
	changed *sync.Cond
	reports []wire.Report
	pinned  map[netip.Addr]uint32
	refuse  bool                        // pins
	judge   func(wire.Doubt) bool       // what a real tinyproxy would say
	unheard int                         // so many judgements fail
	acked   func(p *wire.Pin)           // is called before a pin is acknowledged
	closed  func(id int64)              // is called when a gate is closed
	at      map[uint32]netip.Addr       // askers
	answers map[int64]chan *wire.Answer // of the daemon's own questions
}

func start(tb testing.TB, settings wire.Settings) *machine {
	tb.Helper()
	questions, err := net.ListenUDP("udp4", &net.UDPAddr{})
	if err != nil {
		tb.Fatal(err)
	}
	raw, err := questions.SyscallConn()
	if err != nil {
		tb.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { // as the daemon does
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	})
	if err != nil {
		tb.Fatal(err)
	}
	return startAt(tb, questions, settings)
}

// startAt runs a resolver until the test ends.
func startAt(tb testing.TB, questions *net.UDPConn, settings wire.Settings) *machine {
	tb.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range pair {
		file := os.NewFile(uintptr(fd), "")
		if ends[i], err = net.FileConn(file); err != nil {
			tb.Fatal(err)
		}
		file.Close()
	}
	r, err := New(ends[1], questions)
	if err != nil {
		tb.Fatal(err)
	}
	m := &machine{TB: tb, port: questions.LocalAddr().(*net.UDPAddr).AddrPort().Port(), encoder: wire.NewEncoder[wire.Order](ends[0]),
		pinned: map[netip.Addr]uint32{}, at: map[uint32]netip.Addr{}, answers: map[int64]chan *wire.Answer{}}
	m.changed = sync.NewCond(&m.mu)
	ended := make(chan error, 1)
	go func() {
		ended <- r.Run(context.Background())
		ends[1].Close()
	}()
	tb.Cleanup(func() {
		ends[0].Close()
		if err := await.Value(tb, "the end of the resolver", ended); err != nil {
			tb.Errorf("the resolver ended: %v", err)
		}
	})
	go m.listen(wire.NewDecoder[wire.Report](ends[0]))
	m.order(wire.Order{Settings: &settings})
	return m
}

func (m *machine) order(o wire.Order) {
	if err := m.encoder.Encode(o); err != nil {
		m.Error(err)
	}
}

// listen does the daemon's part.
func (m *machine) listen(decoder *wire.Decoder[wire.Report]) {
	for {
		r, err := decoder.Decode()
		if err != nil {
			return
		}
		m.mu.Lock()
		m.reports = append(m.reports, r)
		var answer wire.Order
		switch {
		case r.Pin != nil:
			if m.acked != nil {
				m.acked(r.Pin)
			}
			if !m.refuse {
				for _, a := range r.Pin.Addrs {
					m.pinned[a] = r.Pin.UID
				}
			}
			answer.Pinned = &wire.Done{ID: r.Pin.ID, OK: !m.refuse}
		case r.Unpin != nil:
			for _, a := range r.Unpin.Addrs {
				delete(m.pinned, a)
			}
		case r.Closed != 0 && m.closed != nil:
			m.closed(r.Closed)
		case r.Judge != nil:
			if answer.Judged = (&wire.Judged{ID: r.Judge.ID, Failed: m.unheard > 0}); m.unheard > 0 {
				m.unheard--
			} else {
				answer.Judged.Permits = m.judge(*r.Judge)
			}
		case r.Answer != nil:
			m.answers[r.Answer.ID] <- r.Answer
		}
		m.changed.Broadcast()
		m.mu.Unlock()
		if answer != (wire.Order{}) {
			m.order(answer)
		}
	}
}

// until waits until a report satisfies a condition, and returns it. It looks at all reports since the start.
func (m *machine) until(what string, is func(wire.Report) bool) wire.Report {
	m.Helper()
	late := time.AfterFunc(30*time.Second, m.changed.Broadcast)
	defer late.Stop()
	began := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	for seen := 0; ; {
		for ; seen < len(m.reports); seen++ {
			if is(m.reports[seen]) {
				return m.reports[seen]
			}
		}
		if time.Since(began) > 30*time.Second {
			m.Fatalf("there is no report of %s in %s", what, describe(m.reports))
		}
		m.changed.Wait()
	}
}

func describe(all []wire.Report) string {
	var b strings.Builder
	for _, r := range all {
		if err := wire.NewEncoder[wire.Report](&b).Encode(r); err != nil {
			return err.Error()
		}
	}
	return b.String()
}

// count counts reports.
func (m *machine) count(is func(wire.Report) bool) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.reports {
		n += set(is(r))
	}
	return n
}

func set(is bool) int {
	if is {
		return 1
	}
	return 0
}

// before reports whether the first report of one kind comes before the first one of the other kind.
func (m *machine) before(one, other func(wire.Report) bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	first, second := slices.IndexFunc(m.reports, one), slices.IndexFunc(m.reports, other)
	return first >= 0 && first < second
}

// event waits for an event of a uid.
func (m *machine) event(uid uint32, f wire.Failure) *wire.Event {
	m.Helper()
	return m.until("event "+string(f), func(r wire.Report) bool {
		return r.Event != nil && r.Event.UID == uid && r.Event.Failure == f
	}).Event
}

// events returns how much was counted until now.
func (m *machine) events(uid uint32, f wire.Failure) (count int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.reports {
		if r.Event != nil && r.Event.UID == uid && r.Event.Failure == f {
			count += r.Event.Count
		}
	}
	return count
}

func (m *machine) isPinned(addr string, uid uint32) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	by, ok := m.pinned[netip.MustParseAddr(addr)]
	return ok && by == uid
}

// open opens a gate, and returns its id when it is in force.
func (m *machine) open(g wire.Gate) int64 {
	m.Helper()
	m.nextID++
	g.ID = m.nextID
	if g.Language == "" {
		g.Language = "ere"
	}
	g.At = m.asker(g.UID)
	m.order(wire.Order{Open: &g})
	m.until("the open gate", func(r wire.Report) bool { return r.Opened == g.ID })
	return g.ID
}

func (m *machine) close(id int64) {
	m.Helper()
	m.order(wire.Order{Close: id})
	m.until("the closed gate", func(r wire.Report) bool { return r.Closed == id })
}

// asker returns where the questions of a uid go to.
func (m *machine) asker(uid uint32) netip.Addr {
	if at, ok := m.at[uid]; ok {
		return at
	}
	at := netip.AddrFrom4([4]byte{127, 64, byte(uid >> 8), byte(uid)})
	m.at[uid] = at
	return at
}

// look asks as the daemon does.
func (m *machine) look(uid uint32, name string) *wire.Answer {
	m.nextID++
	answer := make(chan *wire.Answer, 1)
	m.mu.Lock()
	m.answers[m.nextID] = answer
	m.mu.Unlock()
	m.order(wire.Order{Ask: &wire.Question{ID: m.nextID, UID: uid, Name: name}})
	return await.Value(m, "the answer for "+name, answer)
}

// A proxy is a socket of a uid's proxy.
type proxy struct {
	testing.TB
	*net.UDPConn
	last uint16 // the number of the last question
}

// proxy returns a new socket of a uid, as the packet filter leads it.
func (m *machine) proxy(uid uint32) *proxy {
	m.Helper()
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(m.asker(uid), m.port)))
	if err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() { conn.Close() })
	return &proxy{TB: m.TB, UDPConn: conn}
}

// question returns a message that asks.
func question(id uint16, name string, t dnsmessage.Type) []byte {
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: t, Class: dnsmessage.ClassINET}}}
	text, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return text
}

// send sends a message and returns the answer.
func (p *proxy) send(text []byte) *dnsmessage.Message {
	p.Helper()
	if _, err := p.Write(text); err != nil {
		p.Fatal(err)
	}
	return p.receive()
}

func (p *proxy) receive() *dnsmessage.Message {
	p.Helper()
	_ = p.SetReadDeadline(time.Now().Add(30 * time.Second))
	buf := make([]byte, 1500)
	n, err := p.Read(buf)
	if err != nil {
		p.Fatal(err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(buf[:n]); err != nil {
		p.Fatal(err)
	}
	if n > replyMax {
		p.Errorf("an answer of %d bytes", n)
	}
	return &m
}

// ask asks, once more after 10 s, as programs do, and returns the addresses and the code. A question may be lost beside a load.
func (p *proxy) ask(name string, t dnsmessage.Type) (addrs []string, code dnsmessage.RCode) {
	p.Helper()
	id := uint16(rand.Uint32())
	text := question(id, name, t)
	again := time.AfterFunc(10*time.Second, func() { _, _ = p.Write(text) })
	m := p.send(text)
	again.Stop()
	for m.ID != id && m.ID == p.last { // the second answer to the one before
		m = p.receive()
	}
	p.last = id
	if m.ID != id || !m.Response || m.Truncated || len(m.Questions) != 1 || m.Questions[0].Name.String() != name || m.Questions[0].Type != t {
		p.Errorf("an answer that the C library takes for none: %+v", m)
	}
	return addressesOf(m), m.RCode
}

func addressesOf(m *dnsmessage.Message) (addrs []string) {
	for _, r := range m.Answers {
		switch body := r.Body.(type) {
		case *dnsmessage.AResource:
			addrs = append(addrs, netip.AddrFrom4(body.A).String())
		case *dnsmessage.AAAAResource:
			addrs = append(addrs, netip.AddrFrom16(body.AAAA).String())
		}
	}
	return addrs
}

// counts are the numbers of the sections of a message.
func setCount(text []byte, section int, n uint16) []byte {
	binary.BigEndian.PutUint16(text[4+2*section:], n)
	return text
}
