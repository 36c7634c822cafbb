// Package doctor examines everything around vifproxyd: the daemon and its options, tinyproxy, the firewall, rule files, limits,
// connected AppVMs, routes, resolvers, the service in dom0. It changes nothing, and it needs no daemon.
//
// Each subject has a file of its own. A subject reports findings; the caller prints them.
//
// Concurrency: Examine may be called from any goroutine, several at once. The package has no state. What an examination
// waits for, such as the answers of resolvers, it waits for in goroutines that have ended when Examine returns.
package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"vifproxy/control"
	"vifproxy/netwatch"
	"vifproxy/rules"
)

// A Level says how much a finding matters.
type Level string

const (
	OK    Level = "ok"
	Note  Level = "note"  // may be meant so
	Wrong Level = "wrong" // has to be mended
)

// A Finding is one thing that an examination has to say.
type Finding struct {
	Check   string   `json:"check"` // the subject
	Level   Level    `json:"level"`
	Text    string   `json:"text"`
	Remedy  string   `json:"remedy"`            // "" if there is nothing to do
	Details []string `json:"details,omitempty"` // what Text sums up
}

// Config is what an examination has to know.
type Config struct {
	Root    string        // before the paths of the system's files: "", but in tests
	Version string        // of the program that asks: the daemon should be of the same
	Socket  string        // of the daemon
	Setup   control.Setup // how a daemon would be started, used if none answers
}

// doctor is one examination.
type doctor struct {
	Config
	status   *control.Status // nil: there is no daemon
	setup    control.Setup   // the daemon's, or that of Config
	links    netwatch.Snapshot
	rules    rules.Set
	findings []Finding

	stuck, leaves bool         // what a trial sent has not left this VM, or has
	answering     []netip.Addr // resolvers that answer
	stopped       []netip.Addr // resolvers that no question of a proxy gets out to
}

// timeout bounds an examination.
const timeout = time.Minute

// Examine looks at everything and returns what it found, in the order of the subjects.
func Examine(ctx context.Context, c Config) []Finding {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	d := &doctor{Config: c, setup: c.Setup, findings: []Finding{}}
	d.daemon(ctx)
	d.options()
	d.program(ctx)
	here := d.here()
	if here {
		d.firewall(ctx)
	}
	d.switchboard()
	d.confinement()
	d.ruleFiles()
	d.limits()
	if here {
		if d.appVMs() {
			d.netvm(ctx)
			d.bypasses(ctx)
		}
		d.network()
		d.resolver()
		d.resolvers(ctx)
		d.trial(ctx)
		d.others()
	}
	d.service(ctx)
	d.persistence(ctx)
	return d.findings
}

// report adds a finding.
func (d *doctor) report(check string, level Level, remedy, format string, args ...any) {
	d.findings = append(d.findings, Finding{Check: check, Level: level, Text: fmt.Sprintf(format, args...), Remedy: remedy})
}

// namedMax is how many subjects a finding names; its details have all.
const namedMax = 10

// reportEach adds one finding about subjects of one kind. The format one is a sentence about a single subject; many is about their
// number and their names. Without subjects there is no finding.
func (d *doctor) reportEach(check string, level Level, remedy, one, many string, subjects []string) {
	switch len(subjects) {
	case 0:
		return
	case 1:
		d.report(check, level, remedy, one, subjects[0])
		return
	}
	names := strings.Join(subjects[:min(len(subjects), namedMax)], ", ")
	if more := len(subjects) - namedMax; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	d.report(check, level, remedy, many, len(subjects), names)
	if len(subjects) > namedMax {
		d.findings[len(d.findings)-1].Details = subjects
	}
}
