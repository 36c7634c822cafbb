// Package learning is the client's side of a lesson: it follows what an AppVM reaches, shows it, and proposes lines for it.
//
// Concurrency: a [Learner] belongs to one goroutine. Follow starts one that ends the lesson at a signal, and ends before Follow returns.
package learning

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"vifproxy/control"
	"vifproxy/internal/events"
	"vifproxy/internal/propose"
	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
)

// closedTimeout is how long a Learner waits for the list to be in force again. The daemon writes the firewall in milliseconds.
const closedTimeout = 20 * time.Second

var errNotClosed = fmt.Errorf("vifproxyd has not said for %v that the list is in force again: see `vifproxyctl show`", closedTimeout)

// A Learner is one run of `vifproxyctl learn`.
type Learner struct {
	Client *control.Client
	VM     string
	Out    io.Writer
	JSON   bool // print the lines of the lesson, instead of text

	began       bool
	hosts       []*control.LearntHost // in the order in which they came
	known       map[string]*control.LearntHost
	cut, unread int
	shut        []propose.Host // that were refused meanwhile because their port is not open
}

// Follow has the AppVM learn for a time, and shows what it reaches. It returns when the list is in force again, and reports whether the
// lesson had begun. A signal (Ctrl-C, and Ctrl-Z, because nobody would look) ends the lesson; a second one has its usual
// effect.
func (l *Learner) Follow(ctx context.Context, duration time.Duration) (began bool, err error) {
	l.known = map[string]*control.LearntHost{}
	ctx, hangUp := context.WithCancelCause(ctx)
	interrupted, restore := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGTSTP)
	defer restore()
	var ending sync.WaitGroup
	defer ending.Wait()
	defer hangUp(nil)
	ending.Go(func() {
		<-interrupted.Done()
		if ctx.Err() != nil { // the lesson is over
			return
		}
		restore()
		bounded, cancel := context.WithTimeoutCause(ctx, closedTimeout, errNotClosed)
		defer cancel()
		if err := l.Client.EndLesson(bounded, l.VM); err != nil {
			hangUp(err)
		}
		<-bounded.Done() // the lesson is over, or does not end
		hangUp(context.Cause(bounded))
	})
	asked := time.Now()
	err = l.Client.Learn(ctx, control.LearnRequest{Name: l.VM, Seconds: int(duration / time.Second)}, l.line)
	if err == nil { // the daemon answers when the process of the lesson has ended
		err = l.Client.EndLesson(ctx, l.VM)
	}
	if err == nil {
		err = l.closedPorts(ctx, asked)
	}
	return l.began, err
}

// closedPorts takes in which hosts were refused since a moment because their port is not open. A lesson opens no port, and a page that needs
// such a host needs it behind the list too.
func (l *Learner) closedPorts(ctx context.Context, since time.Time) error {
	all, err := l.Client.Denied(ctx, []string{l.VM}, since)
	for _, d := range all {
		for _, h := range d.Hosts {
			if d.VM != l.VM || h.Reason != events.ReasonPort {
				continue
			}
			l.shut = append(l.shut, propose.Host{Name: h.Host, Port: h.Port, Count: h.Count, First: h.First, Last: h.Last, Browser: h.Browser, Closed: true})
			if !l.JSON && err == nil {
				_, err = fmt.Fprintf(l.Out, "%s  %-50s  refused: its port is not open\n", h.Last.Local().Format("15:04:05"),
					terminal.Quote(fmt.Sprintf("%s:%d", h.Host, h.Port)))
			}
		}
	}
	return err
}

// line takes in a line of the lesson, and shows it.
func (l *Learner) line(line control.Lesson) error {
	text := ""
	switch line.Event {
	case control.LessonBegins:
		l.began = true
		text = fmt.Sprintf("%s reaches every public host by its name for %v; Ctrl-C ends that\n",
			terminal.Quote(l.VM), usage.Length{D: time.Duration(line.Seconds) * time.Second})
	case control.LessonHost:
		h := line.LearntHost
		if h == nil {
			return errors.New("cannot parse vifproxyd's reply: a host without its name")
		}
		key := fmt.Sprintf("%s:%d", h.Host, h.Port)
		if known := l.known[key]; known != nil {
			*known = *h
			break
		}
		l.known[key] = h
		l.hosts = append(l.hosts, h)
		text = fmt.Sprintf("%s  %-50s  %s\n", h.First.Local().Format("15:04:05"), terminal.Quote(key), note(h))
	case control.LessonCut:
		l.cut, l.unread = line.Cut, line.Unread
	case control.LessonOver:
		l.cut, l.unread = line.Cut, line.Unread
		text = fmt.Sprintf("the list of %s is in force again: %s\n", terminal.Quote(l.VM), terminal.Quote(line.Why))
	}
	if l.JSON {
		return l.Object(line)
	}
	_, err := io.WriteString(l.Out, text)
	return err
}

func note(h *control.LearntHost) string {
	switch {
	case h.Listed:
		return "on the list"
	case h.Browser != "":
		return "new, by itself: " + terminal.Quote(h.Browser)
	}
	return "new"
}

// Object prints one line of JSON.
func (l *Learner) Object(v any) error {
	text, err := terminal.JSON(v, "")
	if err == nil {
		_, err = l.Out.Write(text)
	}
	return err
}

// Gaps returns what is not in the record, for people.
func (l *Learner) Gaps() (all []string) {
	if l.cut > 0 {
		all = append(all, fmt.Sprintf("%d connections to further hosts are not noted, and there is no proposal for these: learn again", l.cut))
	}
	if l.unread > 0 {
		all = append(all, fmt.Sprintf("of %d connections the host is not known, or is no host name: there is no proposal for these", l.unread))
	}
	return all
}

// A Proposal is what a lesson proposes.
type Proposal struct {
	Event string `json:"event"` // "proposal"
	propose.Proposal
	Command string `json:"command,omitempty"` // adds the lines of all sites
}

// Propose returns lines for what the AppVM has reached and its list does not permit.
func (l *Learner) Propose(list propose.List) Proposal {
	asked := make([]propose.Host, 0, len(l.hosts))
	for _, h := range l.hosts {
		port := h.Port
		if port == 80 {
			port = 0 // plain requests need no line for their port
		}
		asked = append(asked, propose.Host{Name: h.Host, Port: port, Count: h.Count, First: h.First, Last: h.Last, Browser: h.Browser})
	}
	p := Proposal{Event: "proposal", Proposal: propose.Of(list, append(asked, l.shut...))}
	if all, err := p.Lines(propose.All); err == nil {
		p.Command = "vifproxyctl allow " + l.VM + " " + strings.Join(all, " ")
	}
	return p
}

// Lines returns the lines that sites accept, separated by commas: see [propose.Proposal.Accept]. The error says that there are none.
func (p Proposal) Lines(sites string) (texts []string, err error) {
	lines, err := p.Accept(strings.Split(sites, ","))
	for _, line := range lines {
		texts = append(texts, line.Text)
	}
	return texts, err
}

// Show prints the proposal, with the command that adds all lines if that helps.
func (l *Learner) Show(p Proposal, command bool) error {
	if l.JSON {
		return l.Object(p)
	}
	text := p.Text()
	if text == "" {
		text = "nothing to propose: the list permits all that was reached\n"
	}
	if command && p.Command != "" {
		text += "to add the lines of all sites:\n" + terminal.Quote(p.Command) + "\n"
	}
	_, err := io.WriteString(l.Out, text)
	return err
}
