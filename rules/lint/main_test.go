package lint

import (
	"bytes"
	"strings"
	"testing"

	"vifproxy/rules"
	"vifproxy/rules/expression"
	"vifproxy/rules/rulestest"
)

const somePath = "/rules/social.10.137.2.13"

// All that a template can make of filter lines, but for FilterURLs.
var syntaxes = []rules.Syntax{
	{Language: expression.Basic},
	{Language: expression.Basic, CaseSensitive: true},
	{Language: expression.Extended},
	{Language: expression.Extended, CaseSensitive: true},
	{Language: expression.Fnmatch},
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func staged(lines []rules.Line) []byte {
	var b bytes.Buffer
	for _, line := range lines {
		b.WriteString(line.Text + "\n")
	}
	return b.Bytes()
}

// start runs a tinyproxy with the built-in template that reads lines as syntax says.
func start(tb testing.TB, syntax rules.Syntax, filter []byte) (*rulestest.Proxy, error) {
	tb.Helper()
	return rulestest.Start(tb, func(v rulestest.Values) string {
		return rules.Builtin().Render(rules.Values(v)) + rulestest.Directives(syntax.Language, syntax.CaseSensitive)
	}, filter)
}

func checkError(t *testing.T, what string, err error, want string) {
	t.Helper()
	switch {
	case err == nil && want != "":
		t.Errorf("%q: no error, want %q", what, want)
	case err != nil && (want == "" || !strings.Contains(err.Error(), want)):
		t.Errorf("%q: error %q, want %q", what, err, want)
	}
}
