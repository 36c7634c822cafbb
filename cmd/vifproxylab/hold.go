package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"

	"vifproxy/internal/lab"
)

// Between two invocations a process in the background keeps the lab: it holds the lab's servers and answers on a socket. A client of the
// socket always speaks to exactly that process, which a pid could not guarantee.

const (
	holdVerb  = "hold-in-background" // not for people
	nextDomID = -1                   // in an attach: the holder chooses
	none      = 0                    // an argument or reply that says nothing; gob cannot send struct{}
)

var (
	stateDir   = cmp.Or(os.Getenv("VIFPROXYLAB_DIR"), "/run/vifproxylab")
	socketFile = filepath.Join(stateDir, "socket")
	caFile     = filepath.Join(stateDir, "ca.pem")
	logFile    = filepath.Join(stateDir, "log")
)

// up starts the holder and waits until the lab stands.
func up(out io.Writer, ruleset string) error {
	switch err := call("Status", none, &Report{}); {
	case err == nil:
		return errors.New("a lab is up already: see 'vifproxylab status', end it with 'vifproxylab down'")
	case !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED):
		return err
	}
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return err
	}
	log, err := os.Create(logFile)
	if err != nil {
		return err
	}
	defer log.Close()
	ready, holderEnd, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	holder := exec.Command("/proc/self/exe", holdVerb, "--ruleset="+ruleset)
	holder.Args[0] = "vifproxylab"
	holder.Stdout, holder.Stderr = holderEnd, log
	holder.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = holder.Start()
	holderEnd.Close()
	if err != nil {
		return err
	}
	if n, _ := ready.Read(make([]byte, 1)); n == 0 { // it ended instead
		said, _ := os.ReadFile(logFile)
		return errors.Join(errors.New(strings.TrimSpace(string(said))), holder.Wait())
	}
	fmt.Fprintf(out, "A lab with ruleset %s is up. Connect an AppVM: vifproxylab attach NAME IP\n", ruleset)
	return holder.Process.Release()
}

// hold is the process in the background: it holds a lab until it is told to end it. It writes a line to
// standard output when the lab stands.
func hold(ctx context.Context, ruleset lab.Ruleset) error {
	l, err := lab.New(ctx, lab.Options{Name: "shell", Ruleset: ruleset})
	if err != nil {
		return err
	}
	h := &holder{lab: l}
	if err := h.open(); err != nil {
		return errors.Join(err, h.close())
	}
	defer context.AfterFunc(ctx, func() { h.listener.Close() })()
	server := rpc.NewServer()
	if err := server.RegisterName("Lab", h); err != nil {
		return errors.Join(err, h.close())
	}
	fmt.Println("ready")
	os.Stdout.Close()
	for {
		conn, err := h.listener.Accept()
		if err != nil {
			return h.close()
		}
		// One connection at once is enough: the lab attaches one AppVM at once, and people type slowly.
		server.ServeConn(conn)
	}
}

// A holder has the methods that the background process offers on its socket.
type holder struct {
	lab      *lab.Lab
	listener net.Listener
	closed   bool
}

func (h *holder) open() (err error) {
	if err := os.WriteFile(caFile, h.lab.CA, 0o644); err != nil {
		return err
	}
	if err := os.Remove(socketFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	h.listener, err = net.Listen("unix", socketFile)
	return err
}

// close ends the lab. When it returns another one can be built.
func (h *holder) close() error {
	if h.closed {
		return nil
	}
	h.closed = true
	err := h.lab.Close()
	if h.listener != nil {
		h.listener.Close()
	}
	return errors.Join(err, os.RemoveAll(stateDir))
}

// Attach connects an AppVM and replies with its vif.
func (h *holder) Attach(vm lab.VM, vif *string) error {
	if vm.DomID == nextDomID {
		vm.DomID = 1
		for _, other := range h.lab.Connections() {
			vm.DomID = max(vm.DomID, other.DomID)
		}
		vm.DomID++
	}
	*vif = vm.Vif()
	return h.lab.Attach(vm)
}

// Detach disconnects a vif, or all vifs of an AppVM.
func (h *holder) Detach(which string, _ *int) error {
	err := fmt.Errorf("there is no AppVM and no vif %q", which)
	for _, vm := range h.lab.Connections() {
		if vm.Name == which || vm.Vif() == which {
			if err = h.lab.Detach(vm.Vif()); err != nil {
				return err
			}
		}
	}
	return err
}

// RunArgs replies with the command line that runs a program in the firewall VM.
func (h *holder) RunArgs(args []string, argv *[]string) error {
	*argv = h.lab.Command(context.Background(), args[0], args[1:]...).Args
	return nil
}

// CurlArgs replies with the command line that runs curl in an AppVM; the first argument is the AppVM.
func (h *holder) CurlArgs(args []string, argv *[]string) error {
	for _, vm := range h.lab.Connections() {
		if vm.Name == args[0] {
			proxy := fmt.Sprintf("http://%v:%d", vm.Gateway, lab.ProxyPort)
			curl := append([]string{"--proxy", proxy, "--cacert", caFile}, args[1:]...)
			*argv = h.lab.VMCommand(context.Background(), vm.Name, "curl", curl...).Args
			return nil
		}
	}
	return fmt.Errorf("there is no AppVM %q: connect it with 'vifproxylab attach %s IP'", args[0], args[0])
}

// Report is what Status replies. Its name is exported for net/rpc.
type Report struct {
	PID     int
	Name    string
	Ruleset lab.Ruleset
	VMs     []lab.VM
}

// Status replies with what there is.
func (h *holder) Status(_ int, r *Report) error {
	*r = Report{PID: os.Getpid(), Name: h.lab.Name, Ruleset: h.lab.Ruleset, VMs: h.lab.Connections()}
	return nil
}

// Down ends the lab.
func (h *holder) Down(_ int, _ *int) error { return h.close() }

// call asks the holder.
func call(method string, args, reply any) error {
	client, err := rpc.Dial("unix", socketFile)
	if err != nil {
		return fmt.Errorf("no lab is up (%w): build one with 'vifproxylab up'", err)
	}
	defer client.Close()
	return client.Call("Lab."+method, args, reply)
}

func status(out io.Writer) error {
	var r Report
	if err := call("Status", none, &r); err != nil {
		return err
	}
	fmt.Fprintf(out, "ruleset %s, held by process %d, namespaces %s-*\n", r.Ruleset, r.PID, r.Name)
	if len(r.VMs) == 0 {
		_, err := fmt.Fprintln(out, "no AppVM is connected")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tIP\tINTERFACE\tGATEWAY")
	for _, vm := range r.VMs {
		fmt.Fprintf(table, "%s\t%v\t%s\t%v\n", vm.Name, vm.IP, vm.Vif(), vm.Gateway)
	}
	return table.Flush()
}

// down ends the lab; if its holder was killed, it removes what that left.
func down(out io.Writer) error {
	err := call("Down", none, new(int))
	switch {
	case errors.Is(err, os.ErrNotExist):
		_, err := fmt.Fprintln(out, "No lab is up.")
		return err
	case errors.Is(err, syscall.ECONNREFUSED):
		if err := lab.Reclaim(); err != nil {
			return err
		}
		_, err := fmt.Fprintln(out, "The lab's process was gone already; what it left is removed.")
		return errors.Join(err, os.RemoveAll(stateDir))
	case err != nil:
		return err
	}
	_, err = fmt.Fprintln(out, "The lab is gone.")
	return err
}
