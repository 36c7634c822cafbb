package ipt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"

	"vifproxy/firewall"
	"vifproxy/firewall/legacy"
)

// legacyInput is INPUT of iptables-legacy. It is read and written by that program, if the kernel has its table filter in this
// network.
type legacyInput struct {
	log     *slog.Logger
	cfg     *firewall.Config
	program legacy.Program
	told    bool // that it cannot be looked at
}

func (in *legacyInput) String() string { return "chain INPUT of iptables-legacy" }

// read returns that there is no chain if the daemon may not look.
func (in *legacyInput) read(ctx context.Context) (rules []inputRule, there bool, err error) {
	tables, err := legacy.Tables("ip")
	if err == nil && slices.Contains(tables, "filter") {
		in.program, err = legacy.Find(ctx, "ip")
	} else if err == nil {
		return nil, false, nil
	}
	if errors.Is(err, legacy.ErrMayNot) || errors.Is(err, fs.ErrPermission) {
		// Usually somebody has listed the rules once with that program, which makes empty tables.
		if !in.told {
			in.log.Warn("rules of iptables-legacy cannot be looked at: what they refuse to AppVMs stays refused", "err", err)
		}
		in.told = true
		return nil, false, nil
	} else if err != nil {
		return nil, false, err
	}
	text, err := in.program.List(ctx, "-S", "INPUT")
	if err != nil {
		return nil, false, err
	}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "-A ") {
			ours := strings.Contains(line, fmt.Sprintf(" --comment %q ", firewall.AdmissionComment))
			rules = append(rules, inputRule{ours: ours, print: line})
		}
	}
	return rules, true, nil
}

// write cannot tell whether the chain has changed since, but it deletes rules by their content.
func (in *legacyInput) write(ctx context.Context, gone []inputRule, admit bool) error {
	var changes []string
	for _, r := range gone {
		changes = append(changes, deletion(r.print))
	}
	if admit {
		what := fmt.Sprintf("-p tcp -m tcp --dport %d:%d -m conntrack --ctstate DNAT --ctorigdstport %d", in.cfg.FirstPort, in.cfg.LastPort, in.cfg.ProxyPort)
		if in.cfg.Switchboard {
			what = fmt.Sprintf("-i vif+ -p tcp -m tcp --dport %d", in.cfg.ProxyPort)
		}
		changes = append(changes, fmt.Sprintf("-I INPUT %s -m comment --comment %q -j ACCEPT", what, firewall.AdmissionComment))
	}
	return in.program.Restore(ctx, "filter", changes...)
}

// deletion returns the line that deletes a rule.
func deletion(rule string) string { return strings.Replace(rule, "-A ", "-D ", 1) }
