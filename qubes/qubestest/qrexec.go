package qubestest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
)

// QrexecClient is the program by which a qube calls services of others.
const QrexecClient = "qrexec-client-vm"

// QrexecSocket is where [QrexecClientMain] finds the test, unless the variable QREXEC_SOCKET says another path.
const QrexecSocket = "/transport/qrexec.sock"

// QrexecClientMain stands for that program, and so for dom0, which carries what is said from one qube to the other: here it is carried to
// the test. TestMain calls it if the test program is executed by that name. It returns the exit status of the service.
func QrexecClientMain() int {
	path := os.Getenv("QREXEC_SOCKET")
	if path == "" {
		path = QrexecSocket
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(conn, strings.Join(os.Args[1:], " "))
	go func() {
		io.Copy(io.Discard, os.Stdin)     //nolint:errcheck // its end counts
		conn.(*net.UnixConn).CloseWrite() //nolint:errcheck // as above
	}()
	for said := json.NewDecoder(conn); ; {
		var m message
		if err := said.Decode(&m); err != nil {
			return 1
		}
		fmt.Print(m.Out)
		if m.Exit != nil {
			return *m.Exit
		}
	}
}

// A message is what a service says, or its end.
type message struct {
	Out  string
	Exit *int
}

// A Call is one of a service.
type Call struct {
	Args  string        // of qrexec-client-vm: the target and the service
	Ended chan struct{} // closed when the caller's standard input has ended
	conn  net.Conn
}

// ServeQrexec listens at a path until the test ends, and returns the calls that come.
func ServeQrexec(t testing.TB, socket string) <-chan *Call {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err == nil {
		err = os.Chmod(socket, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	const callsMax = 100
	calls := make(chan *Call, callsMax)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go accept(conn, calls)
		}
	}()
	return calls
}

func accept(conn net.Conn, calls chan<- *Call) {
	r := bufio.NewReader(conn)
	args, err := r.ReadString('\n')
	if err != nil {
		conn.Close()
		return
	}
	c := &Call{strings.TrimSuffix(args, "\n"), make(chan struct{}), conn}
	calls <- c
	io.Copy(io.Discard, r) //nolint:errcheck // its end counts
	close(c.Ended)
}

// Write is what the service says.
func (c *Call) Write(text []byte) (int, error) {
	return len(text), json.NewEncoder(c.conn).Encode(message{Out: string(text)})
}

// Say is Write for a text. The caller may have ended.
func (c *Call) Say(text string) { c.Write([]byte(text)) } //nolint:errcheck // as above

// Exit ends the service with an exit status. The caller may have ended.
func (c *Call) Exit(status int) { json.NewEncoder(c.conn).Encode(message{Exit: &status}) } //nolint:errcheck // as above
