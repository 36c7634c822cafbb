package rules

import (
	"bytes"
	"testing"

	"vifproxy/rules/rulestest"
)

func staged(lines []Line) []byte {
	var b bytes.Buffer
	for _, line := range lines {
		b.WriteString(line.Text + "\n")
	}
	return b.Bytes()
}

// start runs a tinyproxy with the built-in template that reads lines as syntax says.
func start(tb testing.TB, syntax Syntax, filter []byte) (*rulestest.Proxy, error) {
	tb.Helper()
	return rulestest.Start(tb, func(v rulestest.Values) string {
		return Builtin().Render(Values(v)) + rulestest.Directives(syntax.Language, syntax.CaseSensitive)
	}, filter)
}
