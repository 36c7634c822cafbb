// Package wire is what vifproxyd and its resolver, vifproxy-names, say to each other: values, one JSON object a line, over a stream
// socket. The daemon sends an [Order], the resolver a [Report].
//
// The resolver parses what hostile proxies and hostile name servers send, and the daemon does not trust it. So a [Decoder] refuses
// what does not have the form of a message, and what exceeds a bound. After such a refusal the stream is of no more use.
//
// Concurrency: an [Encoder] may be used from any goroutine, and writes each message at once. A [Decoder] belongs to one goroutine.
package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unicode/utf8"
)

// An Order goes to the resolver. Exactly one field is set.
type Order struct {
	Settings *Settings `json:",omitempty"`
	Open     *Gate     `json:",omitempty"` // answered by Report.Opened, unless it is Closed
	Close    int64     `json:",omitempty"` // id of a gate; answered by Report.Closed
	Pinned   *Done     `json:",omitempty"` // answers Report.Pin
	Judged   *Judged   `json:",omitempty"` // answers Report.Judge
	Ask      *Question `json:",omitempty"` // answered by Report.Answer
}

// Settings are what the machine says about names: resolv.conf(5), hosts(5) and the host name. Until the first come, the resolver reads no
// questions of proxies: what has waited for it is not lost before it has the gates.
type Settings struct {
	Servers  []netip.Addr // the name servers, the best first
	Search   []string     // domains that are appended to a name that has few dots
	Dots     int          // as many dots make a name that is first asked for as it is (ndots)
	Hosts    []Host       // in the order of the file
	PinHosts bool         // the C library of proxies reads hosts(5) itself: what permitted names have there stays pinned
	Domain   string       // of the host name; "" if it has none
}

// A Host is one line of hosts(5).
type Host struct {
	Addr  netip.Addr
	Names []string
}

// A Gate is what one generation's list permits as names.
type Gate struct {
	ID  int64      // never 0; the daemon uses no id twice
	UID uint32     // of the processes that may ask
	At  netip.Addr // the address of loopback to which their questions are sent on

	// Closed gates permit nothing. A resolver that has just started is told of those of the last [RecentTime], and does not answer: what a
	// proxy has asked by them is no reason for an alarm.
	Closed bool

	Everything    bool     // names cannot be told apart: any name is permitted
	DefaultAllow  bool     // Lines are what is forbidden
	CaseSensitive bool     // of Lines
	Language      string   // of Lines, as the method String of rules/expression.Language has it
	Lines         []string // as tinyproxy gets them
	Also          []string // names of Upstreams, permitted too

	// Openings are forbidden networks that are open to this uid: addresses in there are answered.
	Openings []netip.Prefix
}

// Done answers Report.Pin. Unless OK, the kernel does not have all of the pin.
type Done struct {
	ID int64
	OK bool
}

// Judged answers Report.Judge. If Failed, no tinyproxy could be asked.
type Judged struct {
	ID      int64
	Permits bool
	Failed  bool `json:",omitempty"`
}

// A Question is asked by the daemon.
type Question struct {
	ID   int64  // never 0
	UID  uint32 // whose gates permit the name; 0: the daemon itself, which may ask for every name
	Name string
}

// A Report comes from the resolver. Exactly one field is set.
type Report struct {
	Ready  bool    `json:",omitempty"` // once, before all others
	Opened int64   `json:",omitempty"` // id of a gate that is in force
	Closed int64   `json:",omitempty"` // id of a gate that is not any more
	Pin    *Pin    `json:",omitempty"` // answered by Order.Pinned
	Unpin  *Pin    `json:",omitempty"` // Seconds and ID are 0; not answered
	Judge  *Doubt  `json:",omitempty"` // answered by Order.Judged
	Answer *Answer `json:",omitempty"` // answers Order.Ask
	Event  *Event  `json:",omitempty"`
}

// A Pin opens addresses to new connections of a uid, for a time.
type Pin struct {
	ID      int64 // never 0
	UID     uint32
	Addrs   []netip.Addr // at least one, and at most [AddrsMax]
	Seconds int          // at most [PinMax]
}

// A Doubt is a name that only a real tinyproxy can compare with the lines of a gate.
type Doubt struct {
	ID   int64 // never 0
	Gate int64
	Name string
}

// An Answer answers Order.Ask. Without a Failure it has addresses.
type Answer struct {
	ID      int64
	Addrs   []netip.Addr // at most [AddrsMax]
	TTL     int          // seconds for which the addresses are good
	Failure Failure
	Why     string // for people, without a period: "192.168.1.1 and 192.168.1.2 are silent"
}

// An Event is what people should be told.
type Event struct {
	UID     uint32
	Failure Failure
	Name    string // that was asked for; bytes that are no letters, digits, '-', '_' or '.' as \DDD
	Type    string // of the records, such as "A" or "TXT"; "" if the message does not make sense
	Why     string // as in Answer
	Count   int    // how often, at least 1
}

// A Failure says why a name has no answer.
type Failure string

const (
	Silent      Failure = "silent"       // no name server answered in time
	NoSuchName  Failure = "no-such-name" // the name servers say that there is no such name
	NoAddress   Failure = "no-address"   // the name exists, without an address
	ServerError Failure = "server-error" // the name servers cannot answer, or there is none
	Fence       Failure = "fence"        // it has only addresses that are forbidden
	Owned       Failure = "owned"        // no tinyproxy asks that
	TooMany     Failure = "too-many"     // too many questions
)

var failures = map[Failure]bool{"": true, Silent: true, NoSuchName: true, NoAddress: true, ServerError: true, Fence: true, Owned: true, TooMany: true}

const (
	// RecentTime is how long what a closed gate has permitted is no reason for an alarm: its proxy may just have asked.
	RecentTime = 10 * time.Second
	// RecentMax is how many closed gates of a uid are remembered for that: lists may be long.
	RecentMax = 2
	// AddrsMax is how many addresses a pin or an answer may have. An answer without EDNS has room for 28 of IPv4.
	AddrsMax = 32
	// PinMax is for how many seconds addresses may be pinned.
	PinMax = 3600
	// textMax is how many bytes a name or a reason may have. A name has at most 255 bytes, each of which may be written as four.
	textMax = 1024
	// countMax is how much an event may count.
	countMax = 1 << 30
)

func set(is bool) int {
	if is {
		return 1
	}
	return 0
}

var errFields = errors.New("a message has exactly one field")

// valid returns an error about an order that has not exactly one field. The resolver believes the rest.
func (o *Order) valid() error {
	if set(o.Settings != nil)+set(o.Open != nil)+set(o.Close != 0)+set(o.Pinned != nil)+set(o.Judged != nil)+set(o.Ask != nil) != 1 {
		return errFields
	}
	return nil
}

// valid returns an error about a report that exceeds a bound, or makes no sense whatever the daemon knows.
func (r *Report) valid() error {
	if set(r.Ready)+set(r.Opened != 0)+set(r.Closed != 0)+set(r.Pin != nil)+set(r.Unpin != nil)+set(r.Judge != nil)+set(r.Answer != nil)+
		set(r.Event != nil) != 1 {
		return errFields
	}
	switch {
	case r.Pin != nil:
		if r.Pin.ID == 0 || len(r.Pin.Addrs) == 0 || r.Pin.Seconds < 1 || r.Pin.Seconds > PinMax {
			return fmt.Errorf("pin %d of %d addresses for %d s", r.Pin.ID, len(r.Pin.Addrs), r.Pin.Seconds)
		}
		return addresses(r.Pin.Addrs)
	case r.Unpin != nil:
		if r.Unpin.ID != 0 || len(r.Unpin.Addrs) == 0 || r.Unpin.Seconds != 0 {
			return fmt.Errorf("unpin %d of %d addresses for %d s", r.Unpin.ID, len(r.Unpin.Addrs), r.Unpin.Seconds)
		}
		return addresses(r.Unpin.Addrs)
	case r.Judge != nil:
		if r.Judge.ID == 0 {
			return errors.New("a doubt without an id")
		}
		return texts(r.Judge.Name)
	case r.Answer != nil:
		a := r.Answer
		if a.ID == 0 || a.TTL < 0 || !failures[a.Failure] || (a.Failure == "") != (len(a.Addrs) > 0) {
			return fmt.Errorf("answer %d of %d addresses for %d s with failure %q", a.ID, len(a.Addrs), a.TTL, a.Failure)
		}
		if err := addresses(a.Addrs); err != nil {
			return err
		}
		return texts(a.Why)
	case r.Event != nil:
		e := r.Event
		if e.Failure == "" || !failures[e.Failure] || e.Count < 1 || e.Count > countMax {
			return fmt.Errorf("an event of failure %q, %d times", e.Failure, e.Count)
		}
		return texts(e.Name, e.Type, e.Why)
	}
	return nil
}

func addresses(all []netip.Addr) error {
	if len(all) > AddrsMax {
		return fmt.Errorf("%d addresses", len(all))
	}
	for _, a := range all {
		if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
			return fmt.Errorf("%v is no address", a)
		}
	}
	return nil
}

// texts returns an error about a text that is too long, or that nobody could print: what is not printable ASCII.
func texts(all ...string) error {
	for _, text := range all {
		if len(text) > textMax {
			return fmt.Errorf("a text of %d bytes", len(text))
		}
		for _, c := range []byte(text) {
			if c < ' ' || c >= utf8.RuneSelf || c == 0x7f {
				return fmt.Errorf("the text %q", text)
			}
		}
	}
	return nil
}
