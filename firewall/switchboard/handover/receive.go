package handover

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// A Switchboard is what the daemon has to work with.
type Switchboard struct {
	Bindings, Sockets, Expected, Port *os.File // see Map

	connections, lookup *os.File // links
	namespace, group    string   // inodes of what they have to be attached to
}

// ErrNotLoaded is the error if nothing was handed over.
var ErrNotLoaded = errors.New("the unit has not loaded it")

// Close gives all up. The programs stay attached as long as another process, such as systemd, holds their links.
func (s *Switchboard) Close() error {
	var all []error
	for _, p := range s.places() {
		if *p.file != nil {
			all = append(all, (*p.file).Close())
		}
	}
	return errors.Join(all...)
}

// place is where a descriptor belongs, and what its fdinfo has to say (proc_pid_fdinfo(5)).
type place struct {
	name string
	file **os.File
	want map[string]string
}

func (s *Switchboard) places() []place {
	like := func(m Map) map[string]string {
		return map[string]string{
			"map_type": strconv.Itoa(int(m.Type)), "key_size": strconv.Itoa(int(m.KeySize)), "value_size": strconv.Itoa(int(m.ValueSize)),
		}
	}
	attached := func(as int) map[string]string { return map[string]string{"attach_type": strconv.Itoa(as)} }
	return []place{
		{Bindings.Name, &s.Bindings, like(Bindings)}, {Sockets.Name, &s.Sockets, like(Sockets)},
		{Expected.Name, &s.Expected, like(Expected)}, {Port.Name, &s.Port, like(Port)},
		{ConnectionsName, &s.connections, attached(unix.BPF_CGROUP_SOCK_OPS)}, {LookupName, &s.lookup, attached(unix.BPF_SK_LOOKUP)},
	}
}

// Inherited returns the descriptors that systemd has given to this process (sd_listen_fds(3)). No program that this process executes
// inherits them. It is to be called once, before this process executes any.
func Inherited() []*os.File { return activation.Files(true) }

// receive sorts descriptors by their names, and closes those that are not ours. group is the directory of the proxies' cgroup. The error
// says why there is no switchboard.
func receive(all []*os.File, group string) (_ *Switchboard, err error) {
	s := new(Switchboard)
	places := s.places()
	var refused *os.File
	for _, f := range all {
		i := slices.IndexFunc(places, func(p place) bool { return p.name == f.Name() })
		switch {
		case f.Name() == RefusedName && refused == nil:
			refused = f
			defer f.Close()
		case i >= 0 && *places[i].file == nil:
			*places[i].file = f
		case i >= 0:
			f.Close()
			err = errors.Join(err, fmt.Errorf("%s was handed over twice", f.Name()))
		default:
			f.Close()
		}
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	if refused != nil {
		return nil, reason(refused)
	}
	if !slices.ContainsFunc(places, func(p place) bool { return *p.file != nil }) {
		return nil, ErrNotLoaded
	}
	for _, p := range places {
		if *p.file == nil {
			return nil, fmt.Errorf("%s was not handed over", p.name)
		}
		if err := p.check(); err != nil {
			return nil, fmt.Errorf("%s is not what it should be: %w", p.name, err)
		}
	}
	if err := s.here(group); err != nil {
		return nil, err
	}
	if err := s.Attached(); err != nil {
		return nil, err
	}
	return s, nil
}

// reasonMax is how much of a reason is read.
const reasonMax = 1 << 10

// reason reads why there is no switchboard.
func reason(f *os.File) error {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, reasonMax))
	if err != nil {
		return fmt.Errorf("read the reason: %w", err)
	}
	return errors.New(string(text))
}

// check compares the file with what is wanted.
func (p place) check() error {
	is, err := info(*p.file)
	if err != nil {
		return err
	}
	for what, want := range p.want {
		if is[what] != want {
			return fmt.Errorf("%s %q instead of %q", what, is[what], want)
		}
	}
	return nil
}

// here notes to what the programs have to be attached: to the network namespace of this thread, and to the proxies' cgroup.
func (s *Switchboard) here(group string) (err error) {
	if s.namespace, err = inode("/proc/thread-self/ns/net"); err != nil {
		return fmt.Errorf("look at the network namespace: %w", err)
	}
	if s.group, err = inode(group); err != nil {
		return fmt.Errorf("look at the cgroup of the proxies: %w", err)
	}
	return nil
}

// Attached returns an error if the programs are attached elsewhere, or if somebody has detached them.
func (s *Switchboard) Attached() error {
	for _, l := range []struct {
		file              *os.File
		name, line, where string
		to                string
	}{
		{s.lookup, LookupName, "netns_ino", "network namespace", s.namespace}, // 0 if it is detached (kernel/bpf/net_namespace.c)
		{s.connections, ConnectionsName, "cgroup_id", "cgroup", s.group},      // the same (kernel/bpf/cgroup.c)
	} {
		is, err := info(l.file)
		if err != nil {
			return err
		}
		if is[l.line] != l.to {
			return fmt.Errorf("%s is attached to another %s, or to none any more", l.name, l.where)
		}
	}
	return nil
}

// inode returns the inode of a file, as fdinfo has it. That of a cgroup is its id.
func inode(path string) (string, error) {
	var is unix.Stat_t
	err := unix.Stat(path, &is)
	return strconv.FormatUint(is.Ino, 10), err
}

// info reads the lines of a descriptor's fdinfo.
func info(f *os.File) (map[string]string, error) {
	text, err := os.Open(fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd()))
	if err != nil {
		return nil, err
	}
	defer text.Close()
	is := map[string]string{}
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		is[name] = strings.TrimSpace(value)
	}
	return is, lines.Err()
}
