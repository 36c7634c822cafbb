// Package handover is what vifproxyd and a waiting vifproxy-confine say to each other: what it should become, and why it could
// not. It imports next to nothing, because the start of vifproxy-confine is a third of a confined start.
//
// Concurrency: there are only values, and functions of values.
package handover

import (
	"strconv"
	"strings"
	"syscall"
)

// Exit statuses of vifproxy-confine.
const (
	CannotConfine = 126
	CannotExecute = 127
)

// A Message is what a vifproxy-confine puts into force, and what it becomes. A descriptor is -1 if there is none.
type Message struct {
	UID     uint32
	Limits  string // resource limits, "7:464,6:400"
	Slack   int    // of timers, in nanoseconds
	Argv    []string
	Output  int    // standard output and error
	Ruleset int    // of Landlock
	Gate    int    // files with seccomp filters: the one that lets a single execve pass
	Calls   int    // and the one with the list of calls
	Program int    // what it becomes, if that is not the file that Argv[0] names
	Pass    [2]int // descriptors 3 and 4 of what it becomes
}

// fields returns the descriptors of a message by the letters that they are announced with.
func (m *Message) fields() []struct {
	letter byte
	fd     *int
} {
	return []struct {
		letter byte
		fd     *int
	}{{'o', &m.Output}, {'l', &m.Ruleset}, {'1', &m.Gate}, {'a', &m.Calls}, {'p', &m.Program}, {'3', &m.Pass[0]}, {'4', &m.Pass[1]}}
}

// Encode returns a message as it is sent over a SOCK_SEQPACKET socket: words separated by NUL. The first word has a letter for
// each descriptor, and uid, limits, slack and argv follow.
func (m Message) Encode() (text string, fds []int) {
	letters := ""
	for _, f := range m.fields() {
		if *f.fd >= 0 {
			letters, fds = letters+string(f.letter), append(fds, *f.fd)
		}
	}
	words := append([]string{letters, strconv.FormatUint(uint64(m.UID), 10), m.Limits, strconv.Itoa(m.Slack)}, m.Argv...)
	return strings.Join(words, "\x00"), fds
}

// Decode reads the result of Encode. It reports whether the text makes sense.
func Decode(text string, fds []int) (m Message, ok bool) {
	words := strings.Split(text, "\x00")
	if len(words) < 5 || len(fds) != len(words[0]) {
		return m, false
	}
	uid, errUID := strconv.ParseUint(words[1], 10, 32)
	slack, errSlack := strconv.Atoi(words[3])
	m = Message{UID: uint32(uid), Limits: words[2], Slack: slack, Argv: words[4:]}
	for _, f := range m.fields() {
		*f.fd = -1
		if i := strings.IndexByte(words[0], f.letter); i >= 0 {
			*f.fd = fds[i]
		}
	}
	return m, errUID == nil && errSlack == nil && m.Output >= 0
}

const failure = "vifproxy-confine: errno "

// Failure returns the last line of a vifproxy-confine that failed.
func Failure(errno syscall.Errno, what string) string {
	return failure + strconv.Itoa(int(errno)) + ": " + what + ": " + errno.Error()
}

// ParseFailure returns the errno in such a line.
func ParseFailure(line string) (errno syscall.Errno, ok bool) {
	rest, ok := strings.CutPrefix(line, failure)
	number, _, colon := strings.Cut(rest, ": ")
	n, err := strconv.Atoi(number)
	return syscall.Errno(n), ok && colon && err == nil
}
