package nameserver

import (
	"slices"
	"strings"
	"time"

	"vifproxy/names/wire"
)

const (
	// failureMemory is how long it is known why a name was not answered. tinyproxy says that it failed at once, or when a silent name
	// server has been given up.
	failureMemory = 30 * time.Second

	// failuresMax is how many names of one uid these are.
	failuresMax = 64

	// forgetAt is the number of uids at which those are looked for of which nothing is known any more.
	forgetAt = 1024
)

// A failure says why a name was not answered.
type failure struct {
	name    string
	failure wire.Failure
	why     string
	at      time.Time
}

func (f failure) old(now time.Time) bool { return now.Sub(f.at) > failureMemory }

// failures has the last ones of each uid, the oldest first.
type failures map[uint32][]failure

func (f failures) add(e *wire.Event, now time.Time) {
	name := plain(e.Name)
	all := slices.DeleteFunc(f[e.UID], func(x failure) bool { return x.name == name || x.old(now) })
	if len(all) == failuresMax {
		all = append(all[:0], all[1:]...)
	}
	f[e.UID] = append(all, failure{name, e.Failure, e.Why, now})
	if len(f) > forgetAt {
		for uid, all := range f {
			if all[len(all)-1].old(now) {
				delete(f, uid)
			}
		}
	}
}

func (f failures) last(uid uint32, name string, now time.Time) (last failure, ok bool) {
	name = plain(name)
	i := slices.IndexFunc(f[uid], func(x failure) bool { return x.name == name && !x.old(now) })
	if i < 0 {
		return failure{}, false
	}
	return f[uid][i], true
}

// plain returns a name as names are compared: the DNS does not tell upper from lower case (RFC 4343), and a period at the end says that
// nothing is to be appended.
func plain(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }
