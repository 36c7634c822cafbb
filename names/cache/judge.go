package cache

import (
	"time"

	"vifproxy/names/ask"
)

// A view is what somebody who looks knows of one family: nothing yet, an answer, or an error.
type view struct {
	known  bool
	answer ask.Answer // TTL is what is left of it
	err    error
}

// view returns what an entry says.
func (e *entry) view(version int, now time.Time) view {
	if left := e.left(version, now); left > 0 {
		return view{known: true, answer: ask.Answer{Addrs: e.addrs, NoSuchName: e.nobody, TTL: left}}
	}
	if e.failing(now) {
		return view{known: true, err: e.err}
	}
	return view{}
}

// judge returns the result of what is known of the family that is preferred, and of the other one. It is not done if it depends on what
// is not known yet.
func judge(preferred, other view, prefer family) (result Result, err error, done bool) {
	switch {
	case !preferred.known:
		return result, nil, false
	case len(preferred.answer.Addrs) > 0:
		return found(preferred.answer, prefer), nil, true
	// No records of any type. Some servers say so of AAAA alone (RFC 4074, 4.2), and so nobody believes it of that.
	case preferred.answer.NoSuchName && prefer == four:
		return Result{NoSuchName: true, TTL: preferred.answer.TTL}, nil, true
	case !other.known:
		return result, nil, false
	case len(other.answer.Addrs) > 0:
		return found(other.answer, 1-prefer), nil, true
	case preferred.err != nil:
		return result, preferred.err, true
	case other.err != nil:
		return result, other.err, true
	}
	return Result{
		NoSuchName: preferred.answer.NoSuchName && other.answer.NoSuchName,
		TTL:        min(preferred.answer.TTL, other.answer.TTL),
	}, nil, true
}

func found(answer ask.Answer, f family) Result {
	result := Result{Addrs4: answer.Addrs, TTL: answer.TTL}
	if f == six {
		result.Addrs4, result.Addrs6 = nil, answer.Addrs
	}
	return result
}

// staleTTL is for how long a stale answer is given out (RFC 8767, 4).
const staleTTL = 30 * time.Second

// outdated returns what a record said before, if that may be given out while no server answers.
func (r *record) outdated(prefer family, now time.Time) (result Result, ok bool) {
	if r == nil {
		return result, false
	}
	for _, f := range []family{prefer, 1 - prefer} {
		if e := &r.families[f]; e.stale(now) {
			result = found(ask.Answer{Addrs: e.addrs, TTL: staleTTL}, f)
			result.Stale = true
			return result, true
		}
	}
	return result, false
}
