package rules

import (
	"net/netip"
	"strings"
	"testing"
)

var someValues = Values{
	Port:      61001,
	VMIP:      netip.MustParseAddr("10.137.2.13"),
	BindIP:    netip.MustParseAddr("10.138.0.1"),
	LogFile:   "/run/vifproxy/social/log",
	PidFile:   "/run/vifproxy/social/pid",
	RulesFile: "/run/vifproxy/social/61001/rules",
}

const needed = "Port {port}\nListen {bind_ip}\nFilter \"{rules_file}\"\nFilterDefaultDeny Yes\n"

func TestRender(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"Allow {vm_ip}", "Allow 10.137.2.13"},
		{"{log_file}{pid_file}\n", "/run/vifproxy/social/log/run/vifproxy/social/pid\n"},
		{"a {{b}} {{{port}}} {{port}} }}{{", "a {b} {61001} {port} }{"},
		{"a\r\nb\r\n", "a\nb\n"},
		{"# Bücher\n", "# Bücher\n"},
	} {
		tmpl, err := ParseTemplate("/rules/config", needed+c.text)
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		want := "Port 61001\nListen 10.138.0.1\nFilter \"/run/vifproxy/social/61001/rules\"\nFilterDefaultDeny Yes\n" + c.want
		if got := tmpl.Render(someValues); got != want {
			t.Errorf("%q: got %q, want %q", c.text, got, want)
		}
	}
}

func TestParseTemplateErrors(t *testing.T) {
	for _, c := range []struct{ what, text, err string }{
		{"unknown", needed + "User {user}", `/rules/config:5: unknown placeholder "{user}" (known are ` +
			`{port}, {vm_ip}, {bind_ip}, {log_file}, {pid_file} and {rules_file}; write {{ and }} for braces)`},
		{"unknown in a comment", "# {x}\n" + needed, `:1: unknown placeholder "{x}"`},
		{"empty", "\nPort {}", `:2: unknown placeholder "{}"`},
		{"spaces", "Port { port }", `:1: unknown placeholder "{ port }"`},
		{"case", "Port {Port}", `:1: unknown placeholder "{Port}"`},
		{"nested", "Port {{{port{}", `:1: unknown placeholder "{port{}"`},
		{"a password", "Upstream http me:{pass}@proxy.example:3128", ":1: unknown placeholder in a line that is not shown, as it may hold a password"},
		{"open", "a\nb {port\n}",
			`:2: a single "{" (write {{ or }} for a brace that belongs to no placeholder)`},
		{"closed", "a\nb }\n", `:2: a single "}"`},
		{"three", "{port}}} }", `:1: a single "}"`},
		{"no port", "Listen {bind_ip}\nFilter {rules_file}",
			"/rules/config: the placeholder {port} is not used (add the line: Port {port})"},
		{"no bind_ip", "Port {port}\nFilter {rules_file}",
			"{bind_ip} is not used (add the line: Listen {bind_ip})"},
		{"no rules_file", "Port {port}\nListen {bind_ip}",
			`{rules_file} is not used (add the line: Filter "{rules_file}")`},
		{"port in a comment", strings.Replace(needed, "Port", "# Port", 1),
			"the placeholder {port} is not used"},
		{"literal braces", strings.Replace(needed, "{port}", "{{port}}", 1),
			"the placeholder {port} is not used"},
		{"no FilterDefaultDeny", strings.Replace(needed, "FilterDefaultDeny Yes\n", "", 1),
			"/rules/config: FilterDefaultDeny is not said (write FilterDefaultDeny Yes for white lists: hosts pass that a rule " +
				"file names; or FilterDefaultDeny No for black lists: all others pass)"},
		{"FilterDefaultDeny in a comment", strings.Replace(needed, "FilterDefaultDeny", " # FilterDefaultDeny", 1),
			"FilterDefaultDeny is not said"},
		{"cut in the middle", needed[:len(needed)-len("es\n")], `:4: "FilterDefaultDeny Y" says neither Yes nor No`},
		{"without a value", strings.Replace(needed, " Yes", "", 1), `:4: "FilterDefaultDeny" says neither Yes nor No`},
		{"a number", strings.Replace(needed, "Yes", "1", 1), `:4: "FilterDefaultDeny 1" says neither`},
		{"a comment behind", strings.Replace(needed, "Yes", "Yes # no", 1), `says neither Yes nor No`},
		{"NUL", needed + "\x00", ":5: a NUL byte"},
		{"invalid UTF-8", needed + "# f\xfcr", ":5: invalid UTF-8: byte 0xfc (save the file as UTF-8)"},
		{"too large", needed + strings.Repeat("#", sizeMax), "/rules/config: is larger than 1024 KiB"},
	} {
		_, err := ParseTemplate("/rules/config", c.text)
		checkError(t, c.what, err, c.err)
	}
}

// The spellings are those that tinyproxy takes.
func TestTemplateSaysWhetherListsAreWhite(t *testing.T) {
	for _, line := range []string{"FilterDefaultDeny Yes", "\tfilterdefaultdeny \tON\r", "FILTERDEFAULTDENY no", "FilterDefaultDeny Off "} {
		if _, err := ParseTemplate("/rules/config", strings.Replace(needed, "FilterDefaultDeny Yes", line, 1)); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestBuiltinNamesEveryPlaceholder(t *testing.T) {
	text := Builtin().Render(someValues)
	for _, want := range []string{
		"Port 61001\n", "Listen 10.138.0.1\n", "Allow 10.137.2.13\n", `LogFile "/run/vifproxy/social/log"`,
		`PidFile "/run/vifproxy/social/pid"`, `Filter "/run/vifproxy/social/61001/rules"`,
		"FilterDefaultDeny Yes\n", "ConnectPort 443\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func FuzzParseTemplate(f *testing.F) {
	for _, seed := range []string{builtinText, needed, needed + "{{}}", "{", "}", "{port}}", "{{{port}}}",
		"#{x}\n", "a\r\n{vm_ip}\r"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		tmpl, err := ParseTemplate("/rules/config", text)
		if err != nil {
			if strings.ContainsFunc(err.Error(), isControl) {
				t.Fatalf("unsafe error text: %q", err)
			}
			return
		}
		// An independent reading, from left to right.
		want := strings.ReplaceAll(text, "\r\n", "\n")
		want = strings.NewReplacer("{{", "{", "}}", "}", "{port}", "61001", "{vm_ip}", "10.137.2.13",
			"{bind_ip}", "10.138.0.1", "{log_file}", someValues.LogFile, "{pid_file}", someValues.PidFile,
			"{rules_file}", someValues.RulesFile).Replace(want)
		if got := tmpl.Render(someValues); got != want {
			t.Fatalf("%q: rendered %q, want %q", text, got, want)
		}
	})
}
