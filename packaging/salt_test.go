//go:build e2e

package packaging

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vifproxy/rules"
)

// The Salt formula, rendered by Jinja and YAML as Salt does it; Debian has no Salt.
func TestSaltFormula(t *testing.T) {
	cmd := exec.Command("python3", "testdata/render.py")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	must(t, err)
	var files struct {
		Top       map[string]map[string][]string         `json:"vifproxy/init.top"`
		PillarTop map[string]map[string][]string         `json:"pillar/vifproxy/init.top"`
		Dom0      map[string]map[string][]map[string]any `json:"vifproxy/dom0.sls"`
		Rules     map[string]map[string][]map[string]any `json:"vifproxy/rules.sls"`
		Pillar    map[string]struct {
			AppVMs map[string]struct{ IP string } `json:"appvms"`
		} `json:"pillar/vifproxy/init.sls"`
	}
	must(t, json.Unmarshal(out, &files))

	has := func(got any, want string) {
		t.Helper()
		if fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s", got, want)
		}
	}
	const netvm = "sys-vifproxy"
	has(files.Top["base"], "map[dom0:[vifproxy.dom0] "+netvm+":[vifproxy.rules]]")
	has(files.PillarTop["base"], "map[dom0:[vifproxy] "+netvm+":[vifproxy]]")

	// arguments of a state, which must be there once
	state := func(file map[string]map[string][]map[string]any, id, function string) map[string]any {
		t.Helper()
		all := map[string]any{}
		for _, argument := range file[id][function] {
			for name, value := range argument {
				all[name] = value
			}
		}
		if len(file[id]) != 1 || len(all) == 0 {
			t.Fatalf("state %s: %v, want one %s", id, file[id], function)
		}
		return all
	}
	made := state(files.Dom0, "vifproxy-netvm", "qvm.vm")
	has(made["name"], netvm)
	has(made["present"], "[map[template:debian-12] map[label:orange]]")
	has(made["service"], "[map[enable:[vifproxy]]]")
	for _, pref := range []map[string]any{{"netvm": "sys-firewall"}, {"provides-network": true}} {
		is := func(other any) bool { return fmt.Sprint(other) == fmt.Sprint(pref) }
		if !slices.ContainsFunc(made["prefs"].([]any), is) {
			t.Errorf("preferences %v are without %v", made["prefs"], pref)
		}
	}
	appvms := files.Pillar["vifproxy"].AppVMs
	if len(appvms) != 2 || len(files.Dom0) != 1+3*len(appvms) || len(files.Rules) != len(appvms) {
		t.Errorf("%d AppVMs make %d states in dom0 and %d rule files", len(appvms), len(files.Dom0), len(files.Rules))
	}
	dir := t.TempDir()
	for name, appvm := range appvms {
		has(state(files.Dom0, "vifproxy-"+name+"-netvm", "qvm.prefs")["netvm"], netvm)
		has(state(files.Dom0, "vifproxy-"+name+"-ip", "cmd.run")["name"], "qvm-prefs -- "+name+" ip "+appvm.IP)
		firewall := state(files.Dom0, "vifproxy-"+name+"-firewall", "cmd.run")
		has(firewall["name"], "qvm-firewall "+name+" add --before 0 drop")
		closed(t, fmt.Sprint(firewall["unless"]))

		path := "/rw/config/tinyproxy/" + name + "." + appvm.IP
		var lines []string
		for _, line := range state(files.Rules, path, "file.managed")["contents"].([]any) {
			lines = append(lines, line.(string)+"\n")
		}
		must(t, os.WriteFile(filepath.Join(dir, filepath.Base(path)), []byte(strings.Join(lines, "")), 0o644))
	}

	// The daemon takes the rule files.
	set, err := rules.Read(dir, filepath.Join(dir, "config"))
	must(t, err)
	if len(set.Files) != len(appvms) {
		t.Errorf("%d rule files of %d are read", len(set.Files), len(appvms))
	}
	for _, refused := range set.Refused {
		t.Error(refused.Err)
	}
}

// closed runs the question whether an AppVM is closed already against what qvm-firewall may answer.
func closed(t *testing.T, question string) {
	t.Helper()
	bin := t.TempDir()
	for answer, want := range map[string]bool{
		"action=drop\\naction=accept\\n":                   true,
		"action=drop\\n":                                   true,
		"action=accept\\n":                                 false,
		"action=accept specialtarget=dns\\naction=drop\\n": false,
		"action=drop proto=icmp\\naction=accept\\n":        false,
	} {
		script := fmt.Sprintf("#!/bin/sh\n[ $1 = --raw ] && [ $3 = list ] && printf '%s'\n", answer)
		must(t, os.WriteFile(filepath.Join(bin, "qvm-firewall"), []byte(script), 0o755))
		cmd := exec.Command("sh", "-c", question)
		cmd.Env = []string{"PATH=" + bin + ":/usr/bin:/bin"}
		if is := cmd.Run() == nil; is != want {
			t.Errorf("%s\nwith the answer %q says %v", question, answer, is)
		}
	}
}
