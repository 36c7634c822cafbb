// Package control connects people and scripts with a running vifproxyd, by HTTP and JSON over a unix socket. It is transport: it
// knows how a verb is asked for and answered, and not how it is done.
//
// `GET /v1/status` and `POST /v1/VERB` are answered by the whole [Status] after the verb, or by {"error": "…"} with an HTTP status.
// `GET /v1/appvms` is answered by the status too, without counting what the fence has refused, and `GET /v1/caller` by the status with
// one VM. Six requests have other answers:
//
//	POST /v1/explain   an [Explanation]
//	GET  /v1/denied    a list of [events.Denied]
//	GET  /v1/review    a list of [ListUse]
//	GET  /v1/watch     a stream of [events.Event], one JSON object a line, until either side ends it
//	POST /v1/learn     a stream of [Lesson], one JSON object a line; the lesson is over when either side ends it
//	GET  /v1/refusals  a stream of [Refusal], one JSON object a line, until either side ends it
//
// curl --unix-socket speaks this protocol too.
//
// A client of the socket can change what AppVMs may reach, so two locks protect it: the mode of the socket (see [Listen]), and the
// credentials that the kernel reports of every peer (see [Serve]). The second lock holds if a careless chmod opens the first.
//
// Concurrency: a [Client] may be used from any goroutine. [Serve] calls the methods of a [Service] from a goroutine for each
// connection, all of which have ended when it returns.
package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"vifproxy/internal/events"
	"vifproxy/internal/sightings"
	"vifproxy/internal/usage"
)

// The states of a VM.
const (
	Running  = "running"  // its proxy listens, and the AppVM reaches it
	Starting = "starting" // on the way there
	Waiting  = "waiting"  // has a list, but is not connected
	Failed   = "failed"   // its proxy does not start or does not stay; tried again later
	Refused  = "refused"  // its rule file or the template is wrong; tried again when that changes
	Stopped  = "stopped"  // held by the verbs stop or kill-all
)

// States has all of them, the good ones first.
var States = []string{Running, Starting, Waiting, Failed, Refused, Stopped}

// The kinds of rule files. A white list has the hosts that pass. If the template says FilterDefaultDeny No, all are black lists, with
// the hosts that do not pass.
const (
	White = "white"
	Black = "black"
)

// The kinds of places where a list is. For one AppVM the first that exists counts.
const (
	InDom0     = "dom0"     // a feature of the firewall VM
	InFile     = "file"     // a rule file
	InFirewall = "firewall" // firewall settings of the AppVM
	InRange    = "range"    // a rule file for all AppVMs of a range of addresses
)

// VM is one AppVM that has a list.
type VM struct {
	Name          string    `json:"name"`
	IP            string    `json:"ip"`
	Interfaces    []string  `json:"interfaces"` // empty when not connected; never null on the wire
	Gateway       string    `json:"gateway"`    // where it finds its proxy, as it is shown that; "" when not connected
	PID           int       `json:"pid"`        // of its proxy, 0 if none
	Port          int       `json:"port"`       // on which its proxy listens, 0 if none
	State         string    `json:"state"`
	Since         time.Time `json:"since"` // when it came into this state
	Restarts      int       `json:"restarts"`
	EgressRefused uint64    `json:"egress_refused"`   // packets of its proxy that the fence has refused, see firewall.Backend
	Error         string    `json:"error"`            // what is wrong, also while an older proxy keeps running
	List          string    `json:"list"`             // White or Black, as its proxy reads the rule file; "" if that is not known
	Path          string    `json:"path,omitempty"`   // of its rule file, or in QubesDB of its list
	Origin        string    `json:"origin,omitempty"` // InFile or another kind of place where its list is
	Seen          time.Time `json:"seen"`             // when it was last connected; zero: not since the daemon started
	// Sighting is when its AppVM was last connected, also before the daemon started.
	Sighting sightings.Sighting `json:"sighting,omitzero"`
	// Learning is until when it reaches every public host by its name, see Verbs.Learn; zero if its list is in force.
	Learning time.Time `json:"learning,omitzero"`
	// AnyAddress says why its proxy may connect to any public address; "" if it may connect only to those that names of its list have.
	AnyAddress string `json:"any_address,omitempty"`
	// StoppedBy says who has stopped it, or why that is not known. It is "" if State is not Stopped.
	StoppedBy string `json:"stopped_by,omitempty"`
	// Doubt is the first thing in its rule file that its author hardly meant, with the remedy; "" if there is none. Doubts
	// counts all.
	Doubt  string `json:"doubt,omitempty"`
	Doubts int    `json:"doubts,omitempty"`

	Confinement *Confinement `json:"confinement,omitempty"` // of its proxy, if there is one
	Switchboard *Switchboard `json:"switchboard,omitempty"` // how connections get there
}

// AllDoubts returns what people should look at: whether the AppVM is the one that its list was made for, and what the list says.
func (vm VM) AllDoubts() (all []string) {
	if vm.Sighting.Doubt != "" {
		all = append(all, vm.Sighting.Doubt+": remove the list, if it was made for another VM that had this address")
	}
	switch {
	case vm.Doubts > 1:
		all = append(all, fmt.Sprintf("%s; and %d more: vifproxyctl check %s", vm.Doubt, vm.Doubts-1, vm.Name))
	case vm.Doubt != "":
		all = append(all, vm.Doubt)
	}
	return all
}

// InTrouble reports whether something is wrong with the VM. One that was stopped is in none, whatever there is to say about its rule
// file.
func (vm VM) InTrouble() bool {
	return vm.State == Failed || vm.State == Refused || vm.Error != "" && vm.State != Stopped
}

// Confinement is what keeps a proxy from doing anything but its work.
type Confinement struct {
	Applied []string `json:"applied"` // mechanisms in force
	Missing []Lack   `json:"missing"` // what this machine lacks; never null on the wire
}

// Lack is what a machine does not have to confine proxies with.
type Lack struct {
	Mechanism string `json:"mechanism"` // one of those that can be in Applied
	Cause     string `json:"cause"`
	Remedy    string `json:"remedy"`
	InPart    bool   `json:"in_part"` // the mechanism is in force, but not all that it can do
}

// Setup is how the daemon was started, as far as its clients need to know.
type Setup struct {
	Version    string    `json:"version"`
	Started    time.Time `json:"started"`
	UID        int       `json:"uid"` // that it runs as; by its unit not 0
	RulesDir   string    `json:"rules_dir"`
	QubesDB    string    `json:"qubesdb,omitempty"` // its socket, where lists of dom0 are; "" if these do not count
	Template   string    `json:"template"`
	Ceiling    string    `json:"ceiling,omitempty"` // a list that no list may go beyond; "" if there is none
	RuntimeDir string    `json:"runtime_dir"`       // with a directory for each VM; its log is in there
	Tinyproxy  string    `json:"tinyproxy"`
	ProxyPort  int       `json:"proxy_port"` // where every AppVM finds its own proxy, on its gateway
	PID        int       `json:"pid"`
	Leave      []string  `json:"leave,omitempty"` // interfaces by which alone proxies may leave, if that was said

	EgressAllow []string `json:"egress_allow,omitempty"` // what is open for all proxies, as #: egress has it

	Confinement Confinement `json:"confinement"` // of all proxies that start

	Switchboard Switchboard `json:"switchboard"`

	Names Names `json:"names"`
}

// Names says who answers the proxies' questions for names.
type Names struct {
	UID     uint32   `json:"uid"`     // of the resolver
	Servers []string `json:"servers"` // that it asks, and may still ask
}

// Switchboard says how connections of AppVMs get to their proxies.
type Switchboard struct {
	Used   bool   `json:"used"`          // the kernel hands them to the proxies' sockets; otherwise nat translates them
	Why    string `json:"why,omitempty"` // not
	Loaded bool   `json:"loaded"`        // the kernel sets options of the proxies' connections, such as TCP_NODELAY
}

// WayToProxies is what a problem begins with that keeps AppVMs from their proxies.
const WayToProxies = "way to the proxies"

// Status is the state of the daemon and of all VMs.
type Status struct {
	VMs      []VM     `json:"vms"`
	Setup    Setup    `json:"setup"`
	Backend  string   `json:"backend"`       // of the firewall
	Barred   []Barred `json:"barred"`        // interfaces by which proxies may not leave
	Problems []string `json:"problems"`      // those that are not one VM's: template, directory, firewall
	Cut      int      `json:"cut,omitempty"` // connections that the verb has cut

	TakenBack []string `json:"taken_back,omitempty"` // hosts that were allowed for a time, and that Allow has taken back
}

// Barred is an interface by which the firewall forwards nothing of AppVMs, so proxies may not leave there either.
type Barred struct {
	Interface string `json:"interface"`
	Rule      string `json:"rule"` // of the firewall, for that
}

// A Service does what a client asks for, for people and for AppVMs. Its methods may be called concurrently. They return promptly if ctx
// ends, which it does if the client hangs up or the daemon stops.
type Service interface {
	Verbs
	// Caller returns the status with the one list that an AppVM of this name has for itself. It is for an AppVM that asks by qrexec, and
	// refuses one that asks too often ([TooMany]).
	Caller(ctx context.Context, name string) (Status, error)
	// Refusals calls send for what the list of such an AppVM refuses from now on, until ctx ends, send fails, or the list is gone. The
	// first Refusal has no host: it says that none is missed any more.
	Refusals(ctx context.Context, name string, send func(Refusal) error) error
}

// Verbs are what people ask for. They return when their work is done.
type Verbs interface {
	Status(ctx context.Context) (Status, error)
	// AppVMs is Status without counting what the fence has refused: EgressRefused is as it was counted last.
	AppVMs(ctx context.Context) (Status, error)
	// Update reads everything again and waits until it is in force; what is stopped stays stopped.
	Update(ctx context.Context) (Status, error)
	// Start, Stop and Restart do nothing at all, and return an *UnknownError, when one of names is unknown.
	Start(ctx context.Context, names []string) (Status, error)
	Stop(ctx context.Context, names []string) (Status, error)
	Restart(ctx context.Context, names []string) (Status, error)
	// KillAll ends every proxy at once, connections and all. Nobody gets one then until Start; or, with restart, all do.
	KillAll(ctx context.Context, restart bool) (Status, error)
	// Allow lets an AppVM reach hosts for a time, or takes that back.
	Allow(ctx context.Context, t Temporary) (Status, error)
	// Learn lets an AppVM reach every public host by its name for a time, and calls send for what it reaches. It returns when that is
	// over, ctx ends or send fails, and nothing is open any more then. For no time it ends the lesson that is under way, if
	// there is one, and returns when its process has ended.
	Learn(ctx context.Context, r LearnRequest, send func(Lesson) error) error
	// Explain says what would become of a request for a URL, or a HOST[:PORT].
	Explain(ctx context.Context, name, url string) (Explanation, error)
	// Denied is what the named VMs, or all, were refused since then. Unknown names are an *UnknownError.
	Denied(ctx context.Context, names []string, since time.Time) ([]events.Denied, error)
	// Review is which lines of the lists of the named VMs, or of all, their requests use. Unknown names are an *UnknownError.
	Review(ctx context.Context, names []string) ([]ListUse, error)
	// Watch calls send for what happens to the named VMs, or to all, and to the daemon, until ctx ends or send
	// fails. The first event is Watching. Unknown names are an *UnknownError.
	Watch(ctx context.Context, names []string, send func(events.Event) error) error
}

// OnlyName is the abstract unix socket that a vifproxyd takes, so that a network namespace has one vifproxyd at most.
const OnlyName = "@vifproxyd"

// UnknownError says that there is no rule file for Names.
type UnknownError struct {
	Names, Known []string
}

// AllKnown returns an *UnknownError if some names are not among those known, and nil otherwise.
func AllKnown(names, known []string) error {
	var missing []string
	for _, name := range names {
		if !slices.Contains(known, name) {
			missing = append(missing, name)
		}
	}
	if missing != nil {
		return &UnknownError{Names: missing, Known: known}
	}
	return nil
}

func (e *UnknownError) Error() string {
	if len(e.Known) == 0 {
		return fmt.Sprintf("no rule file for %s: there are no rule files at all", quoteSome(e.Names))
	}
	text := fmt.Sprintf("no rule file for %s: there are %s", quoteSome(e.Names), quoteSome(e.Known))
	if meant := usage.NearestName(e.Names[0], e.Known); meant != "" && len(e.Names) == 1 {
		text += fmt.Sprintf("; did you mean %.64q?", meant)
	}
	return text
}

// quoteSome returns up to 20 names in quotation marks, and how many more there are. A name may be hostile.
func quoteSome(names []string) string {
	const most = 20
	var quoted []string
	for _, name := range names[:min(len(names), most)] {
		quoted = append(quoted, fmt.Sprintf("%.64q", name))
	}
	if more := len(names) - most; more > 0 {
		quoted = append(quoted, fmt.Sprintf("%d more", more))
	}
	return strings.Join(quoted, ", ")
}

// A Refusal is a request that an AppVM's own list has refused, as that AppVM may be told.
type Refusal struct {
	Time    time.Time     `json:"time"`
	Host    string        `json:"host"` // as a list of names has it; if that is not possible, as the AppVM sent it, escaped
	Port    uint16        `json:"port"`
	Reason  events.Reason `json:"reason"`            // ReasonList or ReasonPort
	Site    string        `json:"site"`              // the registrable domain of Host; Host itself if it has none
	Browser string        `json:"browser,omitempty"` // what browsers want of Host by themselves, for a person
}

// Bodies of requests.
type (
	noRequest     struct{}
	callerRequest struct {
		Name string `json:"name"`
	}
	namesRequest struct {
		Names []string `json:"names"`
	}
	deniedRequest struct {
		Names []string  `json:"names"`
		Since time.Time `json:"since"`
	}
	killRequest struct {
		Restart bool `json:"restart"`
	}
)

// Bounds of what either side takes from the other, in bytes and in names.
const (
	maxHeader  = 8 << 10
	maxRequest = 64 << 10
	maxReply   = 16 << 20
	maxEvent   = 1 << 20
	maxNames   = 1024
)
