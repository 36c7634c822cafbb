package process

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"vifproxy/tinyproxy"
)

// nameServer is where the C library of a confined proxy asks, which can read no resolv.conf. The tests' resolv.conf points there too, for
// those that are not confined; see TestMain.
const nameServer = "127.0.0.1"

// internet serves names, origins and upstream proxies in the namespace of the tests.
func internet(t testing.TB) {
	t.Helper()
	listen := func(addr string, serve func(net.Conn)) {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					serve(conn)
				}()
			}
		}()
	}
	udp, err := net.ListenPacket("udp", nameServer+":53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { udp.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			udp.WriteTo(resolve(b[:n], false), from)
		}
	}()
	listen(nameServer+":53", func(conn net.Conn) {
		var size [2]byte
		for {
			if _, err := io.ReadFull(conn, size[:]); err != nil {
				return
			}
			b := make([]byte, int(size[0])<<8|int(size[1]))
			if _, err := io.ReadFull(conn, b); err != nil {
				return
			}
			answer := resolve(b, true)
			conn.Write(append([]byte{byte(len(answer) >> 8), byte(len(answer))}, answer...))
		}
	})
	web, err := net.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(origin)}
	go server.Serve(web)
	t.Cleanup(func() { server.Close() })
	listen(":443", func(conn net.Conn) { io.Copy(conn, conn) })
	listen("127.0.0.1:1080", socks)
}

// origin is a web server with what a proxy meets: long answers, chunks, none.
func origin(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/long":
		w.Header().Set("Content-Length", "1000000")
		w.Write(make([]byte, 1000000))
	case "/chunks":
		for range 10 {
			w.Write(make([]byte, 3000))
			w.(http.Flusher).Flush()
		}
	case "/hangup":
		if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
			conn.Close()
		}
	default:
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, "hello", n)
	}
}

// socks plays an upstream of either version that takes whoever comes to the origin.
func socks(conn net.Conn) {
	in := bufio.NewReader(conn)
	version, _ := in.ReadByte()
	skip := func(n int) []byte {
		b := make([]byte, n)
		io.ReadFull(in, b)
		return b
	}
	switch version {
	case 4:
		ip := skip(7)[3:]
		in.ReadString(0)
		if ip[0] == 0 { // 4a: a name follows
			in.ReadString(0)
		}
		conn.Write([]byte{0, 0x5a, 0, 0, 0, 0, 0, 0})
	case 5:
		skip(int(skip(1)[0]))
		conn.Write([]byte{5, 0})
		skip(4)
		skip(int(skip(1)[0]) + 2) // a name and a port
		conn.Write([]byte{5, 0, 0, 1, 127, 0, 0, 1, 0, 80})
	default:
		return
	}
	there, err := net.Dial("tcp", "127.0.0.1:80")
	if err != nil {
		return
	}
	defer there.Close()
	go io.Copy(there, in)
	io.Copy(conn, there)
}

// resolve answers a query: names that have one address, many, only IPv6, an alias, an answer too long for UDP.
func resolve(query []byte, tcp bool) []byte {
	var p dnsmessage.Parser
	head, err := p.Start(query)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	head.Response, head.RecursionAvailable = true, true
	name := q.Name
	host, _, _ := strings.Cut(name.String(), ".")
	if host == "missing" || !strings.HasSuffix(name.String(), ".example.") {
		head.RCode = dnsmessage.RCodeNameError
	}
	if host == "broken" {
		head.RCode = dnsmessage.RCodeServerFailure
	}
	head.Truncated = host == "big" && !tcp
	b := dnsmessage.NewBuilder(nil, head)
	b.EnableCompression()
	b.StartQuestions()
	b.Question(q)
	b.StartAnswers()
	if head.RCode == dnsmessage.RCodeSuccess && !head.Truncated {
		if host == "alias" {
			target := dnsmessage.MustNewName("one.example.")
			b.CNAMEResource(dnsmessage.ResourceHeader{Name: name, Class: q.Class}, dnsmessage.CNAMEResource{CNAME: target})
			name = target
		}
		count := map[string]int{"many": 4, "big": 200}[host] + 1
		h := dnsmessage.ResourceHeader{Name: name, Class: q.Class, TTL: 1}
		for i := range count {
			switch {
			case q.Type == dnsmessage.TypeA && host != "six":
				b.AResource(h, dnsmessage.AResource{A: [4]byte{127, 0, 0, byte(1 + i)}})
			case q.Type == dnsmessage.TypeAAAA && (host == "six" || host == "many"):
				b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: netip.IPv6Loopback().As16()})
			}
		}
	}
	answer, err := b.Finish()
	if err != nil {
		panic(err)
	}
	return answer
}

// trafficConfig is a template with much of what tinyproxy can do.
func trafficConfig(dir string) []string {
	return []string{
		"MaxClients 60", "StartServers 10", "MinSpareServers 5", "MaxSpareServers 20", "Timeout 20", "Allow 127.0.0.0/8", "Allow ::1",
		"ConnectPort 443", `AddHeader "X-One" "1"`, `ViaProxyName "here"`, "XTinyproxy Yes", `StatHost "stat.test"`,
		fmt.Sprintf("ErrorFile 403 %q", dir+"/403.html"), fmt.Sprintf("DefaultErrorFile %q", dir+"/other.html"),
		fmt.Sprintf("StatFile %q", dir+"/stat.html"),
		`Upstream http 127.0.0.1:80 "upstream.example"`, `Upstream socks4 127.0.0.1:1080 "four.example"`,
		`Upstream socks5 127.0.0.1:1080 "five.example"`, `ReversePath "/reverse/" "http://one.example/"`,
	}
}

func trafficSpec(t testing.TB, l *Launcher, name string, port uint16) Spec {
	t.Helper()
	dir := openDir(t)
	for _, f := range []string{"403", "other", "stat"} {
		if err := os.WriteFile(filepath.Join(dir, f+".html"), []byte("page "+f+" {cause}\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	spec := newSpec(l, name, port, trafficConfig(dir)...)
	spec.Rules = []tinyproxy.FilterLine{{Text: `\.example$`, Number: 1}, {Text: `^stat\.test$`, Number: 2}}
	return spec
}

// A demand is a request as it goes over the wire, and the beginning of the answer.
type demand struct{ request, want string }

var demands = []demand{
	{"GET http://one.example/ HTTP/1.1\r\nHost: one.example\r\n\r\n", "200 hello 0"},
	{"GET http://many.example/long HTTP/1.1\r\nHost: many.example\r\n\r\n", "200"},
	{"GET http://six.example/chunks HTTP/1.1\r\nHost: six.example\r\n\r\n", "200"},
	{"GET http://big.example/ HTTP/1.0\r\n\r\n", "200 hello 0"},
	{"HEAD http://alias.example/ HTTP/1.1\r\nHost: alias.example\r\n\r\n", "200"},
	{"POST http://one.example/ HTTP/1.1\r\nHost: one.example\r\nContent-Length: 50000\r\n\r\n" +
		strings.Repeat("x", 50000), "200 hello 50000"},
	{"CONNECT one.example:443 HTTP/1.1\r\nHost: one.example:443\r\n\r\nping", "200 ping"},
	{"CONNECT one.example:22 HTTP/1.1\r\nHost: one.example:22\r\n\r\n", "403 page 403"},
	{"GET http://refused.test/ HTTP/1.1\r\nHost: refused.test\r\n\r\n", "403 page 403"},
	{"GET http://missing.example/ HTTP/1.1\r\nHost: missing.example\r\n\r\n", "500 page other"},
	{"GET http://broken.example/ HTTP/1.1\r\nHost: broken.example\r\n\r\n", "500 page other"},
	{"GET http://[::1]/ HTTP/1.1\r\nHost: [::1]\r\n\r\n", "403"},
	{"GET http://stat.test/ HTTP/1.1\r\nHost: stat.test\r\n\r\n", "200 page stat"},
	{"GET http://upstream.example/ HTTP/1.1\r\nHost: upstream.example\r\n\r\n", "200 hello 0"},
	{"GET http://four.example/ HTTP/1.1\r\nHost: four.example\r\n\r\n", "200 hello 0"},
	{"GET http://five.example/ HTTP/1.1\r\nHost: five.example\r\n\r\n", "200 hello 0"},
	{"GET /reverse/ HTTP/1.1\r\nHost: proxy\r\n\r\n", "200 hello 0"},
	{"GET http://one.example/hangup HTTP/1.1\r\nHost: one.example\r\n\r\n", ""},
	{"nonsense\r\n\r\n", "400 page other"},
	{"GET http://one.example/ HT", ""}, // and hangs up
	{"GET ftp://one.example/ HTTP/1.1\r\nHost: one.example\r\n\r\n", "200"},
}

// make sends the request to a proxy and checks the answer.
func (d demand) make(proxy netip.AddrPort) error {
	conn, err := net.Dial("tcp", proxy.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, d.request); err != nil {
		return err
	}
	if d.want == "" && !strings.HasSuffix(d.request, "\n") {
		return nil
	}
	in := bufio.NewReader(conn)
	line, err := in.ReadString('\n')
	if d.want == "" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%.40q: %w", d.request, err)
	}
	status, body, _ := strings.Cut(d.want, " ")
	if !strings.Contains(line, " "+status+" ") {
		return fmt.Errorf("%.40q: answer %q, want %s", d.request, line, status)
	}
	for line != "\r\n" && err == nil {
		line, err = in.ReadString('\n')
	}
	got := make([]byte, len(body))
	if _, err := io.ReadFull(in, got); err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got, []byte(body)) {
		return fmt.Errorf("%.40q: answer %q, want %q (%v)", d.request, got, body, err)
	}
	return nil
}
