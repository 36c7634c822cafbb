package main

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"vifproxy/internal/manpage"
)

var rewrite = flag.Bool("update", false, "write the manual page")

// The page in the package says what the program's help says: `make man` makes it.
func TestManPage(t *testing.T) {
	var text bytes.Buffer
	must(t, printHelp(&text))
	page := manpage.Page{Name: "vifproxy-client", Section: 1, Summary: "what AppVMs have of vifproxy"}
	page.Help(text.String())
	page.Head("See also")
	page.Text("qrexec-client-vm(1), environment.d(5), apt.conf(5), dnf5.conf(5)\n")
	const path = "../../packaging/man/vifproxy-client.1"
	if *rewrite {
		must(t, os.WriteFile(path, []byte(page.String()), 0o644))
	}
	got, err := os.ReadFile(path)
	must(t, err)
	if string(got) != page.String() {
		t.Errorf("%s is not up to date: run `make man`. It should be\n%s", path, page.String())
	}
}
