package ask

import (
	"context"
	"errors"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// rounds are the times after which all servers are asked again that have said nothing: a packet may be lost.
var rounds = []time.Duration{500 * time.Millisecond, 1500 * time.Millisecond, 4 * time.Second}

const (
	silentTotal = 4 * time.Second // for a question, if all servers are known to be silent
	newsMax     = 3               // of one exchange
)

// A race is one question to several servers side by side. The first good answer wins. It belongs to one goroutine.
type race struct {
	share    *Share
	question dnsmessage.Question
	ctx      context.Context
	turns    []turn
	started  int       // of these
	states   []state   // of the turns
	outcomes chan news // has room for all that may come
}

// A state is what one server has made of the question.
type state struct {
	asked       int  // how often
	silent      bool // for silentAfter
	unreachable int  // how often
	failed      bool // it need not be asked again
	fault       Fault
}

// news is what comes of a question to one server.
type news struct {
	turn   int
	reply  *reply // nil if there is none
	err    error  // it cannot be asked, or nobody can read what it says
	silent bool   // it may still answer
}

// question asks the servers for the addresses of a name.
func (s *Share) question(ctx context.Context, name string, t dnsmessage.Type) (reply, error) {
	full, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return reply{}, err
	}
	done, err := s.admit(ctx)
	if err != nil {
		return reply{}, err
	}
	defer done()
	limit := total
	if s.asker.Silent() {
		limit = silentTotal
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r := &race{share: s, question: dnsmessage.Question{Name: full, Type: t, Class: dnsmessage.ClassINET}, ctx: ctx}
	if r.turns = s.asker.turns(time.Now()); len(r.turns) == 0 {
		return reply{}, &Error{Reason: NoServer}
	}
	r.states = make([]state, len(r.turns))
	r.outcomes = make(chan news, newsMax*len(r.turns)*(1+len(rounds)))
	return r.run()
}

// run asks, waits and asks again.
func (r *race) run() (reply, error) {
	next := time.NewTimer(r.next())
	defer next.Stop()
	round := 0
	again := time.NewTimer(rounds[0])
	defer again.Stop()
	for !r.over() {
		select {
		case <-next.C:
			next.Reset(r.next())
		case <-again.C:
			for i := range r.started {
				if !r.states[i].failed {
					r.ask(i)
				}
			}
			if round++; round < len(rounds) {
				again.Reset(rounds[round] - rounds[round-1])
			}
		case n := <-r.outcomes:
			switch state := &r.states[n.turn]; {
			case n.silent:
				state.silent = true
				state.fault.Err = n.err
			case n.err != nil:
				state.fault.Err = n.err
				state.unreachable++
				next.Reset(r.next())
			case n.reply.good():
				return *n.reply, nil
			default:
				state.fault.RCode, state.fault.Err = n.reply.rcode, n.reply.fault
				state.failed = true
				next.Reset(r.next())
			}
		case <-r.ctx.Done():
			return reply{}, r.failure()
		}
	}
	return reply{}, r.failure()
}

// good reports whether a reply ends the question.
func (r *reply) good() bool {
	return r.fault == nil && (r.rcode == dnsmessage.RCodeSuccess || r.rcode == dnsmessage.RCodeNameError)
}

// next asks the servers whose turn it is, and returns when the turn of the following one is.
func (r *race) next() time.Duration {
	for r.started < len(r.turns) {
		i := r.started
		r.started++
		r.ask(i)
		if wait := r.turns[i].wait; wait > 0 {
			return wait
		}
	}
	return total
}

// ask asks one server once more, unless too many sockets are open.
func (r *race) ask(i int) {
	state := &r.states[i]
	state.fault.Server = r.turns[i].addr
	if !r.share.open() {
		return
	}
	e := exchange{race: r, turn: i, server: r.turns[i].server, nth: state.asked}
	state.asked++
	go func() {
		defer r.share.close()
		e.run()
	}()
}

// over reports whether nobody will answer. If one server has said that it cannot, the silent ones are not waited for until the end. If
// none can be reached, they have a second try.
func (r *race) over() bool {
	failed, unreachable := 0, 0
	for i, state := range r.states {
		switch {
		case i >= r.started:
			return false
		case state.failed:
			failed++
		case state.unreachable > 1:
			unreachable++
		case !state.silent:
			return false
		}
	}
	return failed > 0 || unreachable == len(r.states)
}

// failure returns why there is no answer.
func (r *race) failure() error {
	e := &Error{Reason: Silent}
	for _, state := range r.states[:r.started] {
		if state.asked == 0 {
			continue
		}
		if state.failed || errors.Is(state.fault.Err, errMalformed) {
			e.Reason = ServerError
		}
		e.Faults = append(e.Faults, state.fault)
	}
	if len(e.Faults) == 0 {
		return &Error{Reason: Busy}
	}
	return e
}
