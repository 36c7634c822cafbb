package ask

import (
	"fmt"
	"strings"
)

// Error says it in one sentence, such as "10.139.1.1 does not answer, 10.139.1.2 answers ServerFailure".
func (e *Error) Error() string {
	switch {
	case e.Reason == NoServer:
		return "no name server is configured"
	case e.Reason == Busy:
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
	case f.Err != nil:
		return fmt.Sprintf("%s: %v", f.Server.Addr(), f.Err)
	case f.RCode != 0:
		return fmt.Sprintf("%s answers %s", f.Server.Addr(), strings.TrimPrefix(f.RCode.String(), "RCode"))
	}
	return fmt.Sprintf("%s does not answer", f.Server.Addr())
}
