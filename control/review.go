package control

import (
	"context"
	"net/http"
	"time"
)

// A ListUse says which lines of the list of one AppVM requests have used. An AppVM that owns its proxy can make up any of it.
type ListUse struct {
	VM   string `json:"vm"`
	Path string `json:"path"` // of the list. AppVMs of a range have one, and their requests are counted together
	// Uncountable says why nothing is counted; "" if requests are.
	Uncountable string    `json:"uncountable,omitempty"`
	Begun       time.Time `json:"begun"` // when the counting began
	// Counted is for how many seconds since then an AppVM of the list was connected, the daemon ran, and all requests were read.
	Counted int64     `json:"counted"`
	Lost    int       `json:"lost,omitempty"` // requests that were not counted, as too many came
	Last    time.Time `json:"last,omitzero"`  // of these
	Lines   []LineUse `json:"lines"`          // not null
}

// A LineUse says how often a line of a list has let a request pass. A request counts for each line that matches its host.
type LineUse struct {
	Path    string    `json:"path"`    // of the list that has the line: an included one, or that of the AppVM
	Pattern string    `json:"pattern"` // what tinyproxy reads
	Counted int64     `json:"counted"` // seconds of ListUse.Counted since the line came
	Count   int       `json:"count"`
	First   time.Time `json:"first,omitzero"`
	Last    time.Time `json:"last,omitzero"`
	Hosts   []HostUse `json:"hosts,omitempty"`
	More    bool      `json:"more,omitempty"` // requests for other hosts than Hosts have used it
}

// A HostUse is a host that a line has let pass.
type HostUse struct {
	Host  string    `json:"host"` // in lower case
	Count int       `json:"count"`
	Last  time.Time `json:"last"`
}

// Review asks which lines of the lists of the named VMs, or of all, their requests use.
func (c *Client) Review(ctx context.Context, names []string) ([]ListUse, error) {
	var all []ListUse
	err := c.ask(ctx, http.MethodGet, "review", namesRequest{names}, &all)
	return all, err
}
