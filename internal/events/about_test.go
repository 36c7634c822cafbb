package events

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

// The page on the journal names every field that an event can have.
func TestFieldsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/journal.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[About]()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if field := "`" + strings.ToUpper(name) + "`"; !strings.Contains(string(page), field) {
			t.Errorf("docs/journal.md lacks %s", field)
		}
	}
}
