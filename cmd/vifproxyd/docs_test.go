package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"vifproxy/internal/lab"
)

// documented is a command of vifproxyctl in a code block of a page, with or without a prompt, up to what a shell or a
// reader takes for something else: a pipe, a file, a comment, a column of explanations.
var documented = regexp.MustCompile(`^\s*(?:\[[a-z-]+\])?(?:\$ )?(?:sudo )?vifproxyctl (.+?)(?:\s{2,}.*| [|#>].*)?$`)

// TestCommandsOfTheDocs runs every command that the pages tell people to type, in their order.
func TestCommandsOfTheDocs(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	for name, ip := range map[string]string{"banking": "10.137.0.11", "social": "10.137.0.12", "work": "10.137.0.13"} {
		s.rules(name+"."+ip, "#: format domains", "bank.example", "login.example", "cdn.example")
		s.attach(name, ip)
	}
	s.start()
	for _, page := range []string{"README.md", "docs/guide.md", "docs/journal.md", "docs/migration.md"} {
		commands := commandsOf(t, page)
		if len(commands) == 0 {
			t.Errorf("%s tells of no command: is it still read rightly?", page)
		}
		for _, command := range commands {
			s.documented(page, command)
		}
	}
	s.stop()
}

func commandsOf(t *testing.T, page string) (commands []string) {
	text, err := os.ReadFile(filepath.Join("../..", page))
	if err != nil {
		t.Fatal(err)
	}
	code := false
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			code = !code
		} else if m := documented.FindStringSubmatch(strings.TrimRight(line, "\n")); code && m != nil {
			commands = append(commands, m[1])
		}
	}
	return commands
}

// documented runs one. What is optional in it is left out, and of alternatives the help of each is asked for.
func (s *site) documented(page, command string) {
	s.Helper()
	command = regexp.MustCompile(`\[[^]]*\]`).ReplaceAllString(command, "")
	args := strings.Fields(strings.ReplaceAll(strings.ReplaceAll(command, "NAME...", "banking"), "NAME", "banking"))
	if strings.Contains(args[0], "|") {
		for _, verb := range strings.Split(args[0], "|") {
			s.documented(page, "help "+verb)
		}
		return
	}
	switch args[0] {
	case "live": // for a terminal, see TestLive
		s.documented(page, "help live")
		return
	case "watch", "learn":
		s.begins(page, args)
		return
	case "allow", "deny", "check", "import":
		args = append(args, "--rules-dir="+s.rulesDir())
	case "diff": // the edited copy that the page has is any rule file
		files, err := filepath.Glob(filepath.Join(s.rulesDir(), "banking.*"))
		s.must(err)
		args = append(args[:2], files...)
	}
	if args[0] == "import" {
		args = append(args, s.rulesDir())
	}
	// These tell by 1 what they found; anything else is a command that is not as the page has it.
	findings := []string{"explain", "check", "doctor", "import"}
	_, errs, status := s.ctl(args...)
	if status != 0 && !(status == 1 && slices.Contains(findings, args[0])) {
		s.Errorf("%s: vifproxyctl %s: exit status %d: %s", page, strings.Join(args, " "), status, errs)
	}
}

// begins runs a command that does not end by itself, until it has said something.
func (s *site) begins(page string, args []string) {
	s.Helper()
	cmd := exec.Command(filepath.Join(programs, "vifproxyctl"), append([]string{"--socket=" + s.socket()}, args...)...)
	out, err := cmd.StdoutPipe()
	s.must(err)
	s.must(cmd.Start())
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		s.Errorf("%s: vifproxyctl %s says nothing: %v", page, strings.Join(args, " "), err)
	}
	s.must(cmd.Process.Signal(syscall.SIGTERM)) // SIGINT is ignored below a shell that runs the tests in the background
	cmd.Wait()                                  //nolint:errcheck // by the signal
}
