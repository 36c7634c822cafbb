package ask

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// A Reason is why a question has no answer.
type Reason int

const (
	NoServer    Reason = iota // none is configured
	Silent                    // no server says anything, or none can be reached
	ServerError               // a server says that it cannot answer, or says what makes no sense
	Busy                      // too many questions are under way, or come too fast
)

// An Error says why a question has no answer.
type Error struct {
	Reason Reason
	Faults []Fault // of each server that was asked
}

// A Fault is what was wrong with one server.
type Fault struct {
	Server netip.AddrPort
	RCode  dnsmessage.RCode // what it said, if it is not 0
	Err    error            // why it cannot be asked or understood; nil if it said an RCode, or nothing
}

// Error says it in one sentence, such as "10.139.1.1 does not answer, 10.139.1.2 answers ServerFailure".
func (e *Error) Error() string {
	switch e.Reason {
	case NoServer:
		return "no name server is configured"
	case Busy:
		return "too many questions"
	}
	var all []string
	for _, fault := range e.Faults {
		all = append(all, fault.String())
	}
	return strings.Join(all, ", ")
}

// String says it in plain words.
func (f Fault) String() string {
	switch {
	case errors.Is(f.Err, unix.EPERM): // netfilter has dropped the question on its way out
		return fmt.Sprintf("a rule of this VM's firewall drops questions to %s", f.Server.Addr())
	case f.Err != nil:
		return fmt.Sprintf("%s: %v", f.Server.Addr(), f.Err)
	case f.RCode != 0:
		return fmt.Sprintf("%s answers %s", f.Server.Addr(), strings.TrimPrefix(f.RCode.String(), "RCode"))
	}
	return fmt.Sprintf("%s does not answer", f.Server.Addr())
}
