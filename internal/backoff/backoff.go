// Package backoff remembers failures and says when to try again.
//
// Concurrency: a Failure is a value; Failures belong to one goroutine.
package backoff

import (
	"hash/fnv"
	"math/rand/v2"
	"time"
)

const (
	firstRetry   = 100 * time.Millisecond
	lastRetry    = 30 * time.Second
	lastBadRetry = 10 * time.Minute // of a start that fails because of rules or template
	provenAfter  = 10 * time.Second // a proxy that served this long has no history
)

// A Failure is what is remembered of something that did not work, such as a policy whose process did not stay up. The zero Failure is none.
type Failure struct {
	Count int
	Retry time.Time // not before
	Err   error
	Bad   bool // tinyproxy has refused the configuration: another try changes nothing until somebody corrects it
}

// Next returns the failure after one more of whom. A proxy that had served for a while is started again at once.
func (f Failure) Next(now time.Time, whom string, err error, bad bool, served time.Duration) Failure {
	if served >= provenAfter {
		f = Failure{}
	}
	f.Count++
	f.Err, f.Bad = err, bad || f.Bad // another failure, such as a lack of descriptors, is no better judgement
	f.Retry = now
	if f.Count > 1 || served == 0 {
		most := lastRetry
		if bad {
			most = lastBadRetry
		}
		f.Retry = now.Add(retryDelay(f.Count, most, now, whom))
	}
	return f
}

// retryDelay doubles from firstRetry to most, each ±20 %, so that proxies that died together come back apart. The nanoseconds of now, and
// whom it concerns, decide by how much, so a clock that runs again gives the same delays again (internal/simulate).
func retryDelay(count int, most time.Duration, now time.Time, whom string) time.Duration {
	d := most
	if shift := count - 1; shift < 16 {
		d = min(firstRetry<<shift, most)
	}
	apart := fnv.New64a()
	apart.Write([]byte(whom)) //nolint:errcheck // it never fails
	return time.Duration(float64(d) * (0.8 + 0.4*rand.New(rand.NewPCG(uint64(now.UnixNano()), apart.Sum64()+uint64(count))).Float64()))
}

// Failures are what is remembered of several things, by their keys.
type Failures map[string]Failure

// Any reports whether something waits for its next try.
func (all Failures) Any() bool {
	for _, f := range all {
		if f.Err != nil {
			return true
		}
	}
	return false
}

// AnyBad reports whether tinyproxy has refused a configuration.
func (all Failures) AnyBad() bool {
	for _, f := range all {
		if f.Bad {
			return true
		}
	}
	return false
}

// Forgive ends all waiting periods. A policy that tinyproxy has refused stays refused until it comes up, so the last good policy does
// not end because a try fails for another reason.
func (all Failures) Forgive() {
	for key, f := range all {
		if all[key] = (Failure{Bad: true}); !f.Bad {
			delete(all, key)
		}
	}
}
