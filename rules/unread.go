package rules

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"vifproxy/internal/defaults"
	"vifproxy/internal/terminal"
)

// beside matches names that nobody takes for rule files: notes, scripts, and files that editors leave.
var beside = regexp.MustCompile(`(?i)^(README|LICENSE|COPYING|CHANGELOG|NOTES?|Makefile)|\.(md|py|sh|pac|swp)$|~$`)

// misnamedFiles returns the files of a rule directory that are not read because of their names.
func misnamedFiles(dir string) (names []string) {
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		name := entry.Name()
		if isRuleFile(name) || name == defaults.TemplateName ||
			strings.HasPrefix(name, ".") || beside.MatchString(name) {
			continue
		}
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode().IsRegular() {
			names = append(names, name)
		}
	}
	return names
}

// misnamedTemplate is a name that a person may have given to the template.
var misnamedTemplate = regexp.MustCompile(`(?i)^(config(\..*)?|tinyproxy\.conf)$`)

// Unread returns a sentence for each kind of file in a rule directory that is not read because of its name, and one if there are
// no rule files. found is the number of rule files.
func Unread(dir string, found int) (texts []string) {
	if found == 0 {
		text := "there are no rule files in " + dir
		if _, err := os.Stat(dir); os.IsNotExist(err) {
			text = "there is no rule directory " + dir
		}
		texts = append(texts, text+": write NAME.IP there for each AppVM that is to have a proxy, "+
			"or `vifproxyctl allow NAME.IP HOST`")
	}
	var names, templates []string
	for _, name := range misnamedFiles(dir) {
		if misnamedTemplate.MatchString(name) {
			templates = append(templates, terminal.Quote(name))
		} else {
			names = append(names, terminal.Quote(name))
		}
	}
	if names != nil {
		texts = append(texts, fmt.Sprintf("not read because of their names, in %s, are %s: name a rule file NAME.IP, such as banking.10.137.0.11",
			dir, strings.Join(names, ", ")))
	}
	if templates != nil {
		texts = append(texts, fmt.Sprintf("not read because of their names, in %s, are %s: the template is named %s", dir,
			strings.Join(templates, ", "), defaults.TemplateName))
	}
	return texts
}
