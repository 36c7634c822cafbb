package plan

import (
	"maps"
	"slices"
	"time"

	"vifproxy/rules"
)

// Temporary is what AppVMs may reach for a time, and until when, in time since the machine began.
type Temporary map[Identity]map[rules.Host]time.Duration

// Ports returns how many different ports an AppVM would have open for a time with these hosts more.
func (t Temporary) Ports(who Identity, more []rules.Host) int {
	ports := map[uint16]bool{}
	for _, host := range slices.AppendSeq(slices.Clone(more), maps.Keys(t[who])) {
		ports[host.Port] = true
	}
	delete(ports, 0)
	return len(ports)
}

// Allow lets an AppVM reach a host until a time. A host that is allowed for longer stays so, unless the time may be shortened.
func (t Temporary) Allow(who Identity, host rules.Host, until time.Duration, shorten bool) {
	if t[who] == nil {
		t[who] = map[rules.Host]time.Duration{}
	}
	if shorten || until > t[who][host] {
		t[who][host] = until
	}
}

// TakeBack takes back a host, and returns what that was: a host without a port stands for all its ports.
func (t Temporary) TakeBack(who Identity, host rules.Host) (back []rules.Host) {
	for there := range t[who] {
		if there == host || host.Port == 0 && there.WithoutPort() == host {
			delete(t[who], there)
			back = append(back, there)
		}
	}
	return back
}

// Expire takes back what is over, and calls over for each of these. It returns when the next is over; 0 if there is none.
func (t Temporary) Expire(now time.Duration, over func(Identity, rules.Host)) (next time.Duration) {
	for who, hosts := range t {
		for host, until := range hosts {
			if until <= now {
				delete(hosts, host)
				over(who, host)
			} else if next == 0 || until < next {
				next = until
			}
		}
		if len(hosts) == 0 {
			delete(t, who)
		}
	}
	return next
}
