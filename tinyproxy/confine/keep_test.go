package confine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vifproxy/tinyproxy/limits"
)

// TestLimitsThatAnotherProgramChanges: the sandbox restores them, and says so once. Files of a directory stand for a cgroup, because not every machine
// has controllers.
func TestLimitsThatAnotherProgramChanges(t *testing.T) {
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	must(err)
	defer root.Close()
	g := &groups{root: root, place: sharedGroup, enabled: controllers}
	write := func(file, text string) {
		t.Helper()
		must(os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755))
		must(os.WriteFile(filepath.Join(dir, file), []byte(text+"\n"), 0o644))
	}
	read := func(file string) string { t.Helper(); text, err := g.read(file); must(err); return text }
	write("daemon/cpu.weight", "100")
	write(sharedGroup+"/memory.max", "max")
	write(sharedGroup+"/memory.current", "1")
	must(g.set("daemon/cpu.weight", "1000"))
	must(g.boundAll())
	var files []string
	for _, proxy := range []string{"proxy-1", "proxy-2", "proxy-3"} {
		c := &group{parent: g, name: sharedGroup + "/" + proxy}
		for _, file := range []string{"memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.weight"} {
			write(c.name+"/"+file, "")
			files = append(files, c.name+"/"+file)
		}
		must(c.limit(limits.Need(100, limits.Rules{}, false), proxyWeight))
	}
	files = append(files, "daemon/cpu.weight", sharedGroup+"/memory.max")
	for _, file := range files {
		want := read(file)
		write(file, "9")
		var told []string
		last := ""
		for range 4 { // of 15 files of proxies, four and then others
			var err error
			if last, err = g.restore(last, 4); err != nil {
				told = append(told, err.Error())
			}
		}
		if is := read(file); is != want || len(told) != 1 || !strings.Contains(told[0], "has written 9 into "+dir+"/"+file+"; it was "+want+", and is restored") {
			t.Errorf("%s is %s, want %s; told: %q", file, is, want, told)
		}
	}

	// It leaves alone what is not ours, and what has ended.
	write(sharedGroup+"/proxy-9/memory.max", "9")
	g.forget(sharedGroup + "/proxy-1/")
	write(sharedGroup+"/proxy-1/memory.max", "9")
	must(os.RemoveAll(filepath.Join(dir, sharedGroup, "proxy-2")))
	if _, err := g.restore("", 100); err != nil || read(sharedGroup+"/proxy-9/memory.max") != "9" || read(sharedGroup+"/proxy-1/memory.max") != "9" {
		t.Errorf("changed what is nobody's: %v", err)
	}

	// All proxies use more than they may: the bound falls with what is in use.
	bound := read(sharedGroup + "/memory.max")
	write(sharedGroup+"/memory.current", "70368744177664")
	write(sharedGroup+"/memory.max", "max")
	if _, err := g.restore("", 100); err == nil {
		t.Error("not told")
	}
	if is := read(sharedGroup + "/memory.max"); is != "70368744177664" {
		t.Errorf("all proxies may use %s", is)
	}
	write(sharedGroup+"/memory.current", "1")
	write(sharedGroup+"/memory.max", "70368744177664")
	_ = os.Truncate(filepath.Join(dir, sharedGroup, "memory.max"), 0)
	g.written[sharedGroup+"/memory.max"] = ""
	if _, err := g.restore("", 100); err != nil || read(sharedGroup+"/memory.max") != bound {
		t.Errorf("all proxies may use %s, want %s: %v", read(sharedGroup+"/memory.max"), bound, err)
	}
}
