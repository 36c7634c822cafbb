package lint

import (
	"strings"
	"testing"

	"vifproxy/rules"
	"vifproxy/rules/expression"
)

func TestLinesThatCannotBeNarrowed(t *testing.T) {
	extended := rules.Syntax{Language: expression.Extended}
	for _, tt := range []struct {
		syntax     rules.Syntax
		line, want string
	}{
		{rules.Syntax{}, `^\(a\)\1$`, "refers back to what a parenthesis matched (write a line for each)"},
		{rules.Syntax{}, `^\(a$`, "opens a parenthesis that nothing closes"},
		{rules.Syntax{}, `a\)`, "closes a parenthesis that is not open"},
		{rules.Syntax{}, `[a`, "opens a bracket that nothing closes"},
		{rules.Syntax{}, `[[:host:]]`, "has an unknown class in its brackets"},
		{rules.Syntax{}, `[[.hyphen.]]`, "names a collating element in its brackets"},
		{rules.Syntax{}, `[z-a]`, "has a range that ends before it begins"},
		{rules.Syntax{}, `a\{1`, "opens a brace that nothing closes"},
		{rules.Syntax{}, `a\{2,1\}`, "has no numbers that make sense in its braces"},
		{rules.Syntax{}, `a**`, "repeats what is repeated already"},
		{extended, `a{256}`, "has no numbers that make sense in its braces"},
		{extended, `a{}`, "has no numbers that make sense in its braces"},
		{extended, `(a{99}){99}`, "repeats too much"},
		{extended, `*.bank.example`, "repeats nothing"},
		{extended, `a|*b`, "repeats nothing"},
		{rules.Syntax{}, `a\`, "ends with a backslash"},
		{rules.Syntax{}, strings.Repeat(".", 40), "is too long"},
		{rules.Syntax{Language: expression.Fnmatch}, `a\`, "ends with a backslash"},
		{rules.Syntax{Language: expression.Fnmatch}, `[a`, "opens a bracket that nothing closes"},
	} {
		f, err := rules.ParseFile(somePath, []byte("# a list\n"+tt.line))
		must(t, err)
		_, err = f.Lines(tt.syntax)
		checkError(t, tt.line, err, tt.want)
		if err != nil && !strings.HasPrefix(err.Error(), somePath+":2: ") {
			t.Errorf("%s: %v", tt.line, err)
		}
		if found := (Linter{Syntax: tt.syntax}).File(somePath, []byte(tt.line)); len(found) != 1 || !found[0].Refused {
			t.Errorf("%s: found %+v", tt.line, found)
		}
	}
}

// The example of the help is without a finding.
func TestExampleOfTheHelp(t *testing.T) {
	_, text, _ := strings.Cut(rules.Help, "Example:\n")
	text, _, _ = strings.Cut(text, "\n\n")
	f, err := rules.ParseFile("/rules/banking.10.137.0.11", []byte(strings.ReplaceAll(text, "\n    ", "\n")[4:]+"\n"))
	must(t, err)
	if findings := (Linter{}).Parsed(f); len(findings) > 0 {
		t.Errorf("%v", findings)
	}
}
