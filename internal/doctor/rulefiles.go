package doctor

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"vifproxy/internal/notroot"
	"vifproxy/internal/policy"
	"vifproxy/rules"
	"vifproxy/rules/lint"
)

func (d *doctor) ruleFiles() {
	const check = "rules"
	dir := d.setup.RulesDir
	var err error
	d.rules, err = rules.Read(dir, d.setup.Template)
	if err != nil {
		d.report(check, Wrong, "", "%v", err)
		return
	}
	bad := func(err error) {
		text := err.Error()
		if !slices.ContainsFunc(d.findings, func(f Finding) bool { return strings.Contains(f.Text, text) }) {
			d.report(check, Wrong, "", "%s", text) // else the daemon has said so
		}
	}
	if err := d.rules.TemplateErr; err != nil {
		bad(err)
	}
	d.ceiling(bad)
	for _, refused := range d.rules.Refused {
		bad(refused.Err)
	}
	if d.status == nil { // else it has said so
		paths := []string{dir, d.setup.Template}
		if d.setup.Ceiling != "" {
			paths = append(paths, d.setup.Ceiling)
		}
		for _, file := range d.rules.Files {
			paths = append(paths, file.Path)
		}
		paths = slices.DeleteFunc(paths, func(path string) bool { return !notroot.Unreadable(path) })
		d.reportEach(check, Wrong, notroot.MakeReadable, "%s: "+notReadable, "%d files: "+notReadable+": %s", paths)
	}
	if filter, err := policy.FilterOf(d.rules.Template); err == nil && d.rules.TemplateErr == nil {
		if !filter.DefaultDeny && len(d.rules.Files) > 0 {
			d.report(check, Note, "write FilterDefaultDeny Yes into "+d.rules.Template.Path+" if the files are white lists",
				"black lists: FilterDefaultDeny No lets these VMs reach all hosts but those in their rule files: %s", namesOf(d.rules.Files))
		}
		d.doubts(policy.LinterFor(filter))
		d.idle()
	}
	d.unincluded()
	found := len(d.rules.Files) + len(d.rules.Ranges) + len(d.rules.Refused)
	elsewhere := 0
	if d.status != nil {
		elsewhere = len(d.status.VMs)
	}
	for _, text := range rules.Unread(dir, found+elsewhere) {
		text, remedy, _ := strings.Cut(text, ": ")
		d.report(check, Note, remedy, "%s", text)
	}
	if found == 0 {
		return
	}
	files := "rule files"
	if len(d.rules.Files) == 1 {
		files = "rule file"
	}
	d.report(check, OK, "", "%s: %d %s can be read", dir, len(d.rules.Files), files)
}

// unincluded reports lists in lists.d that no rule file includes. While a rule file is refused, nobody knows what it would include.
func (d *doctor) unincluded() {
	included := map[string]bool{}
	for _, f := range d.rules.Files {
		for _, path := range f.Included {
			included[filepath.Base(path)] = true
		}
	}
	for _, r := range d.rules.Ranges {
		for _, path := range r.File.Included {
			included[filepath.Base(path)] = true
		}
		if r.Err != nil {
			return
		}
	}
	dir := filepath.Join(d.setup.RulesDir, rules.SharedDir)
	entries, err := os.ReadDir(dir)
	if err != nil || len(d.rules.Refused) > 0 {
		return
	}
	var idle []string
	for _, e := range entries {
		if path := filepath.Join(dir, e.Name()); rules.IsSharedList(path) && !included[e.Name()] {
			idle = append(idle, path)
		}
	}
	d.reportEach("rules", Note, `remove it, or include it by the line "#: include LIST" in a rule file`, "%s: no rule file includes this list",
		"%d lists: no rule file includes them: %s", idle)
}

// ceiling examines what no list may go beyond.
func (d *doctor) ceiling(bad func(error)) {
	ceiling, err := rules.ReadCeiling(d.setup.Ceiling)
	switch {
	case err != nil:
		bad(err)
		return
	case ceiling == nil:
		return
	}
	in := policy.Input{Bind: netip.IPv4Unspecified(), Ceiling: ceiling}
	for _, file := range d.rules.Files {
		if _, err := policy.New(file, nil, d.rules.Template, in); err != nil && d.rules.TemplateErr == nil {
			bad(err)
		}
	}
	d.report("rules", OK, "", "no list goes beyond the ceiling %s: one that does is refused", ceiling.Path)
}

// shortTimeout is a Timeout that breaks connections of web sites: they send a sign of life each 30 to 60 s.
const shortTimeout = 60 * time.Second

// timeoutLine matches the directive by which tinyproxy ends connections on which nothing has come for so many seconds.
var timeoutLine = regexp.MustCompile(`(?mi)^[ \t]*timeout[ \t]+"?([0-9]+)`)

// idle reports a template that ends idle connections soon.
func (d *doctor) idle() {
	_, text, err := policy.ConfigOf(d.rules.Template)
	found := timeoutLine.FindAllStringSubmatch(text, -1)
	if err != nil || len(found) == 0 {
		return // 600 s (conf.c of tinyproxy 1.11)
	}
	seconds, err := strconv.Atoi(found[len(found)-1][1]) // the last one counts
	if err == nil && time.Duration(seconds)*time.Second < shortTimeout {
		d.report("rules", Note, "write Timeout 600 into "+d.rules.Template.Path,
			"Timeout %d in the template ends each connection on which nothing has come for so many seconds: web sockets and slow pages break", seconds)
	}
}

// doubts names files with lines that their authors hardly meant.
func (d *doctor) doubts(c lint.Linter) {
	var names, texts []string
	remedy := ""
	for _, file := range d.rules.Files {
		if found := c.Parsed(file); len(found) > 0 {
			names, texts = append(names, file.Name), append(texts, fmt.Sprint(found[0]))
			remedy = "vifproxyctl check " + file.Path
		}
	}
	if len(names) == 1 {
		d.report("rules", Note, remedy, "%s", texts[0])
		return
	}
	d.reportEach("rules", Note, "vifproxyctl check", "%s", "%d rule files have lines that their authors hardly meant: %s", names)
	if len(names) > 1 {
		d.findings[len(d.findings)-1].Details = texts
	}
}

// namesOf returns the names of the VMs of rule files.
func namesOf(files []rules.File) string {
	names := make([]string, len(files))
	for i, file := range files {
		names[i] = file.Name
	}
	return strings.Join(names, ", ")
}

// notReadable is what is wrong with such a file.
const notReadable = "only its owner may read it, and " + notroot.InGroup
