package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"vifproxy/rules"
)

// almostRuleFile is a name that a person may have meant as that of a rule file: a VM's name without an address, or with
// something like one.
var almostRuleFile = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*([._-]?[0-9]+[._-][0-9]+[._-][0-9]+.*)?$`)

// notMeant is what stands in directories and is no rule file.
var notMeant = []string{"README", "LICENSE", "Makefile", templateName}

// misnamedFiles returns the files of a rule directory that were meant as rule files, but are not named so, and are not read.
func misnamedFiles(dir string) (names []string) {
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		name := entry.Name()
		if _, addr, err := rules.ParseFileName(name); addr.IsValid() || err != nil || strings.HasSuffix(name, "~") ||
			!almostRuleFile.MatchString(name) || slices.Contains(notMeant, name) {
			continue
		}
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode().IsRegular() {
			names = append(names, name)
		}
	}
	return names
}

// unread says which files of a rule directory are not read because of their names, and that there is none, if so.
// found is how many rule files there are.
func unread(dir string, found int) (texts []string) {
	if found == 0 {
		text := "there are no rule files in " + dir
		if _, err := os.Stat(dir); os.IsNotExist(err) {
			text = "there is no rule directory " + dir
		}
		texts = append(texts, text+": write NAME.IP there for each AppVM that is to have a proxy, "+
			"or `vifproxyctl allow NAME.IP HOST`")
	}
	if names := misnamedFiles(dir); len(names) > 0 {
		texts = append(texts, fmt.Sprintf("not read because of their names, in %s, are %s: name a rule file NAME.IP, such as banking.10.137.0.11",
			dir, strings.Join(names, ", ")))
	}
	return texts
}
