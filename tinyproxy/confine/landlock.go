package confine

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"vifproxy/internal/unanswered"
	"vifproxy/tinyproxy/kernel"
)

// A proxy reads these in addition to its own files, and nothing in /etc but the time zone. If the C library can read neither
// resolv.conf(5) nor nsswitch.conf(5), it asks 127.0.0.1 for names, by DNS and by nothing else (glibc 2.36, __res_vinit in
// resolv/res_init.c; tried), and the kernel sends these questions on to our resolver. The loader does without /etc/ld.so.cache, which
// is about libraries in these directories.
var (
	libraries  = []string{"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"}
	otherFiles = []string{"/etc/localtime", "/usr/share/tinyproxy", "/sys/devices/system/cpu/online"}
)

const (
	readable   = unix.LANDLOCK_ACCESS_FS_READ_FILE
	executable = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_EXECUTE
	// 1.10 keeps what its processes share in files that it makes in /tmp and unlinks at once.
	scratch = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
)

// ruleset makes the Landlock rules of one proxy. The daemon does it, because it may open everything.
func (s *Sandbox) ruleset(b Box, p program) (_ int, err error) {
	attr, _ := kernel.Handled(s.abi)
	fd, err := kernel.CreateRuleset(&attr, unsafe.Sizeof(attr), 0)
	if err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	var failed []error
	open := find
	path := func(access uint64, paths ...string) {
		for _, path := range paths {
			if err := addPath(fd, path, access&attr.Handled_access_fs, open); err != nil {
				failed = append(failed, fmt.Errorf("permit %s: %w", path, err))
			}
		}
	}
	path(executable, p.executes...)
	path(readable, libraries...)
	path(readable, otherFiles...)
	if p.scratch {
		path(scratch, "/tmp")
	}
	open = s.findInTime // pages may be anywhere
	path(readable, b.Read...)
	if attr.Handled_access_net != 0 {
		port := func(access uint64, numbers ...uint16) {
			for _, n := range numbers {
				if err := addPort(fd, access, n); err != nil {
					failed = append(failed, fmt.Errorf("permit port %d: %w", n, err))
				}
			}
		}
		port(unix.LANDLOCK_ACCESS_NET_BIND_TCP, b.Bind...)
		port(unix.LANDLOCK_ACCESS_NET_CONNECT_TCP, b.Connect...)
	}
	return fd, errors.Join(failed...)
}

// addPath permits access beneath path, or to the file there. A path that does not exist needs no permission.
func addPath(ruleset int, path string, access uint64, open func(string) (*os.File, error)) error {
	file, err := open(path)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(file.Fd())}
	return addRule(ruleset, unix.LANDLOCK_RULE_PATH_BENEATH, unsafe.Pointer(&rule))
}

func find(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// findInTime is find for a path that may lead to a file system that does not answer. Several may ask for one path at once.
func (s *Sandbox) findInTime(path string) (*os.File, error) {
	type answer struct {
		file *os.File // closed by itself if it comes too late
		err  error
	}
	a, ok := unanswered.InTurn(&s.unanswered, path, pathTimeout, func() (a answer) {
		a.file, a.err = find(path)
		return a
	})
	if !ok {
		return nil, errSilent
	}
	return a.file, a.err
}

const ruleNetPort = 2 // LANDLOCK_RULE_NET_PORT

// addPort permits access to a TCP port.
func addPort(ruleset int, access uint64, port uint16) error {
	rule := [2]uint64{access, uint64(port)} // struct landlock_net_port_attr
	return addRule(ruleset, ruleNetPort, unsafe.Pointer(&rule))
}

func addRule(ruleset int, kind uintptr, rule unsafe.Pointer) error {
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), kind, uintptr(rule), 0, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("landlock_add_rule", errno)
	}
	return nil
}

// A program is what must be known of a tinyproxy to run it.
type program struct {
	executes []string // itself and its loader
	scratch  bool     // it is 1.10
}

// ErrScript is the error of a program that is a script. Its interpreter, once let in, could be given any other script.
var ErrScript = errors.New("confinement lets no interpreter in")

// inspect reads a program.
func inspect(path string) (program, error) {
	p := program{executes: []string{path}}
	content, err := os.Open(path)
	if err != nil {
		return p, err
	}
	defer content.Close()
	var magic [2]byte
	if _, err := content.ReadAt(magic[:], 0); err == nil && string(magic[:]) == "#!" {
		return p, ErrScript
	}
	file, err := elf.NewFile(content)
	if err != nil {
		return p, nil // execve(2) gives a better message
	}
	for _, segment := range file.Progs {
		if segment.Type == elf.PT_INTERP {
			loader := make([]byte, segment.Filesz)
			if _, err := segment.ReadAt(loader, 0); err != nil {
				return p, fmt.Errorf("read program %s: %w", path, err)
			}
			p.executes = append(p.executes, strings.TrimRight(string(loader), "\x00"))
		}
	}
	if section := file.Section(".rodata"); section != nil {
		data, err := section.Data()
		if err != nil {
			return p, fmt.Errorf("read program %s: %w", path, err)
		}
		p.scratch = strings.Contains(string(data), "/tmp/tinyproxy.shared.") // src/heap.c
	}
	return p, nil
}
