//go:build e2e

package packaging

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vifproxy/internal/dom0"
	"vifproxy/qubes/qubestest"
)

// sls is a file of states: by id, then by function, its arguments.
type sls map[string]map[string][]map[string]any

// formula is the Salt formula, rendered by Jinja and YAML as Salt does it; Debian has no Salt.
type formula struct {
	Top             map[string]map[string][]string `json:"vifproxy/init.top"`
	PillarTop       map[string]map[string][]string `json:"pillar/vifproxy/init.top"`
	Dom0            sls                            `json:"vifproxy/dom0.sls"`
	Removed         sls                            `json:"vifproxy/removed.sls"`
	Template        sls                            `json:"vifproxy/template.sls"`
	TemplateRemoved sls                            `json:"vifproxy/template-removed.sls"`
	Pillar          map[string]struct {
		Template, Netvm, Upstream string
		AppVMs                    map[string]struct {
			IP   string
			List []string
		} `json:"appvms"`
	} `json:"pillar/vifproxy/init.sls"`
}

func renderFormula(t *testing.T) (f formula) {
	cmd := exec.Command("python3", "testdata/render.py")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	must(t, err)
	must(t, json.Unmarshal(out, &f))
	return f
}

// The states of the formula, applied to a double of dom0: they make what they should, do nothing when applied again, and are taken back.
func TestSaltFormula(t *testing.T) {
	f := renderFormula(t)
	config := f.Pillar["vifproxy"]
	has := func(got any, want string) {
		t.Helper()
		if fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s", got, want)
		}
	}
	has(f.Top["base"], "map["+config.Template+":[vifproxy.template] dom0:[vifproxy.dom0]]")
	has(f.PillarTop["base"], "map[dom0:[vifproxy]]")
	const packages = "salt://vifproxy/packages/"
	has(f.Template, "map[vifproxy-packages:map[pkg.installed:[map[sources:[map[vifproxy:"+packages+"vifproxy.deb] map[vifproxy-client:"+packages+"vifproxy-client.deb]]]]]]")
	has(f.TemplateRemoved, "map[vifproxy-packages-removed:map[pkg.removed:[map[pkgs:[vifproxy vifproxy-client]]]]]")

	d := newDom0(t)
	before := d.state()
	d.apply(f.Dom0)
	want := []string{
		"firewall/banking: action=drop,action=accept", "firewall/shopping: action=drop,action=accept",
		"prefs/" + config.Netvm + "/netvm: " + config.Upstream, "prefs/" + config.Netvm + "/provides-network: True",
		"features/" + config.Netvm + "/service.vifproxy: 1",
	}
	for name, appvm := range config.AppVMs {
		want = append(want, "prefs/"+name+"/netvm: "+config.Netvm, "prefs/"+name+"/ip: "+appvm.IP,
			"features/"+config.Netvm+"/vm-config.vifproxy."+name+"."+appvm.IP+": "+strings.Join(appvm.List, " "))
	}
	after := d.state()
	for _, line := range want {
		if !slices.Contains(after, line) {
			t.Errorf("%s is not there:\n%s", line, strings.Join(after, "\n"))
		}
	}
	ran := d.ran
	d.apply(f.Dom0)
	if again := d.state(); d.ran != ran || !slices.Equal(again, after) {
		t.Errorf("applied again, %d commands run, and make\n%s", d.ran-ran, strings.Join(again, "\n"))
	}
	d.read(len(config.AppVMs))
	policy, err := os.ReadFile(filepath.Join(d.dir, "etc/qubes/policy.d/30-vifproxy.policy"))
	must(t, err)
	if text := string(policy); strings.Contains(text, "sys-firewall") || !strings.Contains(text, "\nvifproxy.Allow        *  @anyvm  @default      ask target="+config.Netvm+" ") {
		t.Errorf("the policy:\n%s", text)
	}

	d.apply(f.Removed)
	left := slices.DeleteFunc(d.state(), func(line string) bool {
		return slices.Contains(before, line) || strings.HasPrefix(line, "prefs/"+config.Netvm+"/") || strings.Contains(line, "/ip: ") ||
			strings.HasSuffix(line, "/netvm: "+config.Upstream)
	})
	if len(left) > 0 {
		t.Errorf("taken back, this stays:\n%s", strings.Join(left, "\n"))
	}
	if _, err := os.Stat(filepath.Join(d.dir, "etc/qubes/policy.d/30-vifproxy.policy")); err == nil {
		t.Error("taken back, the policy stays")
	}
	ran = d.ran
	if d.apply(f.Removed); d.ran != ran {
		t.Errorf("taken back again, %d commands run", d.ran-ran)
	}
}

// A dom0Double is what the tools of dom0 keep, in files, and scripts in the place of these tools.
type dom0Double struct {
	*testing.T
	dir string
	ran int // commands of cmd.run
}

func newDom0(t *testing.T) *dom0Double {
	d := &dom0Double{T: t, dir: t.TempDir()}
	for name, script := range map[string]string{
		"qvm-firewall": `case "$*" in
			"--raw $2 list") cat firewall/$2 ;;
			"$1 add --before 0 drop") sed -i '1i action=drop' firewall/$1 ;;
			"$1 del --rule-no 0") sed -i 1d firewall/$1 ;;
			*) echo "qvm-firewall $*: not a call of it" >&2; exit 2 ;;
			esac`,
		"qvm-prefs": `[ "$1" = -- ] || exit 2
			if [ $# = 4 ]; then echo "$4" >prefs/$2/$3; else cat prefs/$2/$3; fi`,
	} {
		must(t, os.MkdirAll(filepath.Join(d.dir, "bin"), 0o755))
		must(t, os.WriteFile(filepath.Join(d.dir, "bin", name), []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	}
	for _, vm := range []string{"banking", "shopping"} {
		d.write("firewall/"+vm, "action=accept")
		d.write("prefs/"+vm+"/ip", "10.137.0.99")
		d.write("prefs/"+vm+"/netvm", "sys-firewall")
	}
	return d
}

func (d *dom0Double) write(path, value string) {
	d.Helper()
	must(d.T, os.MkdirAll(filepath.Dir(filepath.Join(d.dir, path)), 0o755))
	must(d.T, os.WriteFile(filepath.Join(d.dir, path), []byte(value+"\n"), 0o644))
}

// state returns what there is, a line for each file.
func (d *dom0Double) state() (lines []string) {
	d.Helper()
	for _, kind := range []string{"features", "firewall", "prefs"} {
		_ = filepath.Walk(filepath.Join(d.dir, kind), func(path string, info os.FileInfo, err error) error {
			if err == nil && !info.IsDir() {
				text, _ := os.ReadFile(path)
				name, _ := filepath.Rel(d.dir, path)
				lines = append(lines, name+": "+strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", ","))
			}
			return nil
		})
	}
	return lines
}

// apply applies states in an order that their requirements permit, as the modules of qubes-mgmt-salt-dom0-qvm 4.3.6 do.
func (d *dom0Double) apply(states sls) {
	d.Helper()
	done := map[string]bool{}
	for range states {
		for _, id := range slices.Sorted(maps.Keys(states)) {
			if done[id] || !d.canApply(states, states[id], done) {
				continue
			}
			done[id] = true
			for function, arguments := range states[id] {
				all := map[string]any{}
				for _, a := range arguments {
					maps.Copy(all, a)
				}
				d.do(id, function, all)
			}
		}
	}
	if len(done) < len(states) {
		d.Errorf("of %v only %v can be applied", slices.Sorted(maps.Keys(states)), slices.Sorted(maps.Keys(done)))
	}
}

func (d *dom0Double) canApply(states sls, state map[string][]map[string]any, done map[string]bool) bool {
	d.Helper()
	for _, arguments := range state {
		for _, a := range arguments {
			required, _ := a["require"].([]any)
			for _, r := range required {
				for module, id := range r.(map[string]any) {
					if !slices.ContainsFunc(slices.Collect(maps.Keys(states[id.(string)])), func(f string) bool { return strings.HasPrefix(f, module+".") }) {
						d.Fatalf("%s %s is required, and not there", module, id)
					}
					if !done[id.(string)] {
						return false
					}
				}
			}
		}
	}
	return true
}

func (d *dom0Double) do(id, function string, arguments map[string]any) {
	d.Helper()
	name := fmt.Sprint(arguments["name"])
	delete(arguments, "name")
	delete(arguments, "require")
	switch function {
	case "qvm.vm":
		for part, what := range arguments {
			if part != "present" {
				d.do(id, "qvm."+part, merged(name, what))
			}
		}
	case "qvm.prefs":
		for key, value := range arguments {
			if text := fmt.Sprint(value); text == "true" {
				d.write("prefs/"+name+"/"+key, "True")
			} else {
				d.write("prefs/"+name+"/"+key, text)
			}
		}
	case "qvm.service", "qvm.features":
		prefix := map[string]string{"qvm.service": "service.", "qvm.features": ""}[function]
		for action, keys := range arguments {
			for _, key := range keys.([]any) {
				switch action {
				case "enable":
					d.write("features/"+name+"/"+prefix+key.(string), "1")
				case "default":
					_ = os.Remove(filepath.Join(d.dir, "features", name, prefix+key.(string)))
				case "set":
					for key, value := range key.(map[string]any) {
						d.write("features/"+name+"/"+key, value.(string))
					}
				default:
					d.Errorf("%s: %s has no %s", id, function, action)
				}
			}
		}
	case "file.managed":
		d.write(name, strings.TrimSuffix(arguments["contents"].(string), "\n"))
	case "file.absent":
		_ = os.Remove(filepath.Join(d.dir, name))
	case "cmd.run":
		met := func(condition string) bool {
			question, asks := arguments[condition].(string)
			return asks && d.run(question) == nil
		}
		if _, asks := arguments["onlyif"]; met("unless") || asks && !met("onlyif") {
			return
		}
		d.ran++
		must(d.T, d.run(name))
	default:
		d.Errorf("%s: what is %s?", id, function)
	}
}

// merged returns the arguments of a part of qvm.vm as those of the function of its own.
func merged(name string, part any) map[string]any {
	all := map[string]any{"name": name}
	for _, a := range part.([]any) {
		maps.Copy(all, a.(map[string]any))
	}
	return all
}

func (d *dom0Double) run(command string) error {
	cmd := exec.Command("sh", "-c", command)
	cmd.Dir, cmd.Env = d.dir, []string{"PATH=" + filepath.Join(d.dir, "bin") + ":/usr/bin:/bin"}
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

// read has the daemon's own reader take the lists, as QubesDB has them.
func (d *dom0Double) read(want int) {
	d.Helper()
	db := qubestest.Start(d.T, filepath.Join(d.TempDir(), "qubesdb.ro.sock"))
	features, err := filepath.Glob(filepath.Join(d.dir, "features", "*", "vm-config.*"))
	must(d.T, err)
	for _, path := range features {
		value, err := os.ReadFile(path)
		must(d.T, err)
		db.Write("/vm-config/"+strings.TrimPrefix(filepath.Base(path), "vm-config."), strings.TrimSpace(string(value)))
	}
	lists, err := dom0.New(db.Socket, false).Lists()
	must(d.T, err)
	if len(lists.First) != want {
		d.Errorf("%d lists of %d are read", len(lists.First), want)
	}
	for _, l := range lists.First {
		if _, err := l.Parse(); err != nil {
			d.Error(err)
		}
	}
}
