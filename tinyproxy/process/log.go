package process

import (
	"fmt"
	"time"

	"golang.org/x/time/rate"

	"vifproxy/tinyproxy/vmlog"
)

// flushTimeout is how long the end of a process waits for its last lines to be written.
const flushTimeout = 100 * time.Millisecond

// A vmLog is the log of a VM, as the Launcher knows it.
type vmLog struct {
	*vmlog.Log
	intake *rate.Limiter // limits how much is read of its proxies' output

	// Guarded by launcher.mu.
	wanted bool // a proxy runs, or starts
	ending bool // the file will be closed when all is written
}

func newVMLog(vm string, tell vmlog.Listeners, space *vmlog.Space) *vmLog {
	return &vmLog{Log: vmlog.New(vm, tell, space), intake: rate.NewLimiter(readRate, readBurst)}
}

// logOf returns the log of a VM whose proxy is about to start. The caller holds mu.
func (l *Launcher) logOf(name string) *vmLog {
	log := l.logs[name]
	if log == nil {
		log = newVMLog(name, vmlog.Listeners{Denied: l.options.OnDenied, Visited: l.options.OnVisit, Admitted: l.options.OnAdmit}, l.space)
		log.OnChange(func() {
			if f := l.onLogProblem.Load(); f != nil {
				(*f)()
			}
		})
		l.logs[name] = log
	}
	log.wanted = true
	return log
}

// OnLogProblem sets the function to call when LogProblem may return something else. f must not wait.
func (l *Launcher) OnLogProblem(f func()) { l.onLogProblem.Store(&f) }

// LogProblem returns which logs cannot be written and why, or nil.
func (l *Launcher) LogProblem() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var first error // by name
	var named string
	n := 0
	for name, log := range l.logs {
		if err := log.Problem(); err != nil {
			if n++; first == nil || name < named {
				first, named = err, name
			}
		}
	}
	if n > 1 {
		return fmt.Errorf("%w (and %d more)", first, n-1)
	}
	return first
}

// CloseLog closes the log of a VM that has no proxy and needs none. The file stays for people to read, until the daemon stops
// or the VM is back. If the file system does not answer, the log stays in the books, so there is never a second one for the
// same VM.
func (l *Launcher) CloseLog(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	log := l.logs[name]
	if log == nil {
		return
	}
	log.wanted = false
	if log.ending {
		return
	}
	log.ending = true
	log.Then(func() {
		log.End()
		l.mu.Lock()
		defer l.mu.Unlock()
		log.ending = false
		if log.wanted {
			return
		}
		delete(l.logs, name)
		log.Abandon()
		if f := l.onLogProblem.Load(); f != nil {
			(*f)() // what could not be written no longer matters
		}
	})
}
