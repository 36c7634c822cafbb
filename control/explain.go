package control

// A Line is a line of a rule file. Line 0 is one that was allowed for a time only.
type Line struct {
	Path string `json:"path"`
	Line int    `json:"line"`
	Text string `json:"text"`
}

// A Step is what one guard on the way of a request says.
type Step struct {
	Guard  string `json:"guard"` // who: "proxy", "template", "connect-port", "rules", "fence" or "try"
	Passes bool   `json:"passes"`
	Says   string `json:"says"`
	Lines  []Line `json:"lines"` // that match, the first ones
}

// Verdicts about a request.
const (
	Passes    = "passes"
	IsRefused = "is refused" // by the list, a port, the template or the fence
	Fails     = "fails"      // for another reason: its name does not resolve, nobody answers, its proxy is stopped
)

// An Explanation says whether one request of an AppVM would pass, and why.
type Explanation struct {
	VM      string `json:"vm"`
	Request string `json:"request"` // what its browser would send to the proxy
	Verdict string `json:"verdict"`
	Passes  bool   `json:"passes"`         // whether Verdict is Passes
	Steps   []Step `json:"steps"`          // all guards, whatever those before say; the last one is the try
	Remedy  string `json:"remedy"`         // what makes it pass, or what that has shown when it was tried; "" if nothing is known
	What    string `json:"what,omitempty"` // what the try failed by: events.NoAnswer or one of those that follow it, or events.ReasonName
	Note    string `json:"note"`           // why the answer may not be what is in force; "" if it is
}

// Temporary is what an AppVM may reach for a time only.
type Temporary struct {
	Name    string   `json:"name"`
	Hosts   []string `json:"hosts"`   // host names, or *.NAME for all below
	Seconds int      `json:"seconds"` // from now; 0 takes it back
	// Asked is whether the AppVM asked for it. Then a host that is allowed for longer stays so.
	Asked bool `json:"asked,omitempty"`
}

// MaxTemporary is for how many seconds a host can be allowed. A longer allowance is a line in the rule file.
const MaxTemporary = 7 * 24 * 60 * 60

type explainRequest struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}
