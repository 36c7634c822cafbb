package process

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html"
	"strings"
)

var (
	//go:embed refused.html
	refusedHTML string
	//go:embed unreached.html
	unreachedHTML string
)

// An errorPage is shown by an AppVM's browser in place of a page that it asked for over plain HTTP.
type errorPage struct{ code, file, html string }

// errorPages are for a request that the proxy refuses, for a host that it cannot connect to, and for an Upstream (404 in
// 1.10).
var errorPages = []errorPage{
	{"403", "refused.html", withHash(refusedHTML)},
	{"500", "unreached.html", withHash(unreachedHTML)},
	{"502", "unreached.html", withHash(unreachedHTML)},
}

// withHash returns a page whose policy lets its script run.
func withHash(page string) string {
	_, rest, _ := strings.Cut(page, "<script>")
	script, _, _ := strings.Cut(rest, "</script>")
	hash := sha256.Sum256([]byte(script))
	return strings.Replace(page, "SCRIPT-HASH", base64.StdEncoding.EncodeToString(hash[:]), 1)
}

// text returns the page for one proxy.
//
// Nothing on it comes from the client. Of the variables that tinyproxy fills in, {url} and {request} are what the client sent,
// unescaped in every version (src/html-error.c). So the page has neither of them, nor any other brace: 1.10 and 1.11 read
// braces differently. It uses one variable, {cause}, which is a constant of src/reqs.c and selects the words of the page.
//
// The browser fills in the name of the host, because it knows where it wanted to go. It does so as text, and puts the name
// into the command only if it is a plain name: browsers take $(id).example for a host, and somebody may paste the command into
// a shell. The policy in the head lets this one script run and nothing else.
func (p errorPage) text(spec rendered) string {
	return strings.NewReplacer(
		"VM-NAME", html.EscapeString(spec.Name), // which has no braces either: rules/filename.go
		"VM-ADDRESS", spec.Addr.String(),
		"PROXY-ADDRESS", spec.Listen.Addr().String(),
	).Replace(p.html)
}
