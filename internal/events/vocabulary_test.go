package events

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// TestCatalog: each MESSAGE_ID is explained, once, with fields that exist, and nothing else is.
func TestCatalog(t *testing.T) {
	text, err := os.ReadFile("../../packaging/vifproxy.catalog")
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]bool{}
	for _, a := range full(t).Attrs() {
		fields[strings.ToUpper(a.Key)] = true
	}
	explained := map[string]int{}
	head := regexp.MustCompile(`^([0-9a-f]{32})\nSubject: .+\nDefined-By: vifproxy\n` +
		`Documentation: man:vifproxy(d\(8\)|ctl\(1\))\n\n`)
	for entry := range strings.SplitSeq("\n"+string(text), "\n-- ") {
		if strings.HasPrefix(entry, "\n#") {
			continue // the comment before the first
		}
		m := head.FindStringSubmatch(entry)
		if m == nil {
			t.Errorf("no entry of a catalog:\n%s", entry)
			continue
		}
		explained[m[1]]++
		for _, field := range regexp.MustCompile(`@([^@\s]*)@`).FindAllStringSubmatch(entry, -1) {
			if !fields[field[1]] {
				t.Errorf("no event has the field %s:\n%s", field[1], entry)
			}
		}
	}
	names := map[string]bool{}
	for _, k := range vocabulary[1:] {
		if explained[k.id] != 1 {
			t.Errorf("%s (%s) is explained %d times", k.name, k.id, explained[k.id])
		}
		if delete(explained, k.id); names[k.name] {
			t.Errorf("two events are called %s", k.name)
		}
		names[k.name] = true
	}
	if len(explained) > 0 {
		t.Errorf("nobody sends %v", explained)
	}
}

// The manual page, which is the help of watch, names each event: in full, or by its end behind one of the same beginning.
func TestManPageNamesEachEvent(t *testing.T) {
	page, err := os.ReadFile("../../packaging/man/vifproxyctl.1")
	if err != nil {
		t.Fatal(err)
	}
	_, list, found := strings.Cut(string(page), "what happened:\n")
	list, _, end := strings.Cut(list, "\n.SS")
	if !found || !end {
		t.Fatal("the page has no list of events")
	}
	named := map[string]bool{}
	begin := ""
	for _, name := range regexp.MustCompile(`-?[a-z]+(-[a-z]+)*`).FindAllString(strings.ReplaceAll(list, `\-`, "-"), -1) {
		if name[0] == '-' {
			name = begin + name
		} else {
			begin, _, _ = strings.Cut(name, "-")
		}
		named[name] = true
	}
	for _, k := range vocabulary[1:] {
		if !named[k.name] {
			t.Errorf("the page does not name %s", k.name)
		}
	}
}

// full is an About that has everything.
func full(t *testing.T) About {
	var a About
	v := reflect.ValueOf(&a).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Int, reflect.Int64:
			f.SetInt(1)
		case reflect.Uint16:
			f.SetUint(1)
		case reflect.Struct:
			f.Set(reflect.ValueOf(vmA))
		default:
			t.Fatalf("a field of kind %s", f.Kind())
		}
	}
	if got := len(a.Attrs()); got != v.NumField() {
		t.Errorf("Attrs tells %d of %d fields", got, v.NumField())
	}
	return a
}
