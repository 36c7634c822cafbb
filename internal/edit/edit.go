// Package edit changes rule files as people do, with the rights of its caller: the daemon writes none.
//
// Concurrency: its functions may be called from any goroutine. Changes of one directory run one after the other, also those of other
// processes.
package edit

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"

	"vifproxy/internal/policy"
	"vifproxy/internal/regular"
	"vifproxy/rules"
	"vifproxy/rules/lint"
	"vifproxy/tinyproxy"
)

// NamesHeader begins a rule file of names, which people mean when they write hosts.
const NamesHeader = "#: format domains\n"

// Rules are the rule files of a directory, and how they are read.
type Rules struct {
	rules.Set
	Linter lint.Linter
	Ports  []uint16 // that the template opens for all AppVMs
	config tinyproxy.Config
}

// Read reads the rule files of a directory, their template and their ceiling, which are at paths; "" if there is no ceiling.
func Read(dir, template, ceiling string) (Rules, error) {
	set, err := rules.Read(dir, template)
	if err == nil {
		err = set.TemplateErr
	}
	if err == nil {
		set.Ceiling, err = rules.ReadCeiling(ceiling)
	}
	if err != nil {
		return Rules{}, err
	}
	config, _, err := policy.ConfigOf(set.Template)
	return Rules{set, policy.LinterFor(config.Filter), config.ConnectPorts, config}, err
}

// MayAllow returns why hosts are beyond the ceiling; nil if they are not.
func (r Rules) MayAllow(hosts ...rules.Host) error {
	if r.Ceiling == nil {
		return nil
	}
	p := policy.Policy{Template: r.Template, Config: r.config, Ceiling: r.Ceiling}
	return p.MayAllow(hosts...)
}

// Needed returns a host without its port if that port is open for all AppVMs.
func (r Rules) Needed(h rules.Host) rules.Host {
	if slices.Contains(r.Ports, h.Port) {
		return h.WithoutPort()
	}
	return h
}

// A Kind says what the rule file at a path is before a change.
type Kind int

const (
	Written   Kind = iota // it stays as it is, but for the change
	Unwritten             // it says nothing yet, and becomes a list of names
	Missing               // it is made, as a list of names
)

var byteOrderMark = []byte("\ufeff")

// Content returns what the rule file at a path says before a change, with the line that makes an Unwritten or Missing one a list of names.
func Content(path string, kind Kind) ([]byte, error) {
	if kind == Missing {
		return []byte(NamesHeader), nil
	}
	content, err := rules.ReadFile(path)
	return begun(content, kind), err
}

func begun(content []byte, kind Kind) []byte {
	rest, marked := bytes.CutPrefix(content, byteOrderMark)
	if kind != Unwritten {
		return content
	}
	content = append([]byte(NamesHeader), rest...)
	if marked {
		content = append(slices.Clone(byteOrderMark), content...)
	}
	return content
}

// Write replaces the content of a rule file in one step, if what change makes of it can be read.
func Write(path string, kind Kind, change func(content []byte) ([]byte, error)) error {
	valid := func(content []byte) ([]byte, error) {
		changed, err := change(content)
		if err == nil {
			_, err = rules.ParseFile(path, changed)
		}
		return changed, err
	}
	if kind != Missing {
		return rules.Rewrite(path, func(content []byte) ([]byte, error) {
			return valid(begun(content, kind))
		})
	}
	content, err := valid([]byte(NamesHeader))
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err == nil {
		err = regular.WriteNew(path, content)
	}
	return err
}
