// Package screentest runs a program in a real terminal, tmux, for tests: it types, and waits for what the terminal shows.
//
// Concurrency: as with [testing.TB.Fatalf], a test calls it from its own goroutine.
package screentest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"vifproxy/internal/await"
)

// A Terminal runs one program.
type Terminal struct {
	t      testing.TB
	socket string // of tmux
}

// options are those of tmux. All of the terminal is the program's.
const options = `set -g status off
set -s escape-time 0
set -g default-terminal tmux-256color
`

// script runs a program and says when it has ended. tmux would know it too, but version 3.3a sometimes does not notice: the program stays a
// zombie, and has no exit status.
const script = `"$@"; echo "ended with status $?"; while read -r _; do :; done`

var ended = regexp.MustCompile(`(?m)^ended with status (\d+)$`)

// New runs a program in a new terminal of width columns and height lines, with more variables in its environment. enter is the command
// before tmux, such as nsenter to another network; none is needed.
func New(t testing.TB, enter []string, width, height int, variables []string, program ...string) *Terminal {
	t.Helper()
	dir, err := os.MkdirTemp("", "screen") // short: it is the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	s := &Terminal{t, filepath.Join(dir, "tmux")}
	config := filepath.Join(dir, "config")
	if err := os.WriteFile(config, []byte(options), 0o600); err != nil {
		t.Fatal(err)
	}
	words := append(append([]string{}, enter...), "tmux", "-u", "-f", config, "-S", s.socket, "new-session", "-d",
		"-x", strconv.Itoa(width), "-y", strconv.Itoa(height))
	for _, v := range variables {
		words = append(words, "-e", v)
	}
	s.output(append(append(words, "--", "sh", "-c", script, "sh"), program...))
	t.Cleanup(func() {
		_ = exec.CommandContext(context.Background(), "tmux", "-S", s.socket, "kill-server").Run() // it may have ended
		_ = os.RemoveAll(dir)
	})
	return s
}

// output runs a command, which must go well, and returns what it prints.
func (s *Terminal) output(words []string) string {
	s.t.Helper()
	out, err := exec.CommandContext(s.t.Context(), words[0], words[1:]...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v: %s", strings.Join(words, " "), err, out)
	}
	return string(out)
}

func (s *Terminal) tmux(words ...string) string {
	s.t.Helper()
	return s.output(append([]string{"tmux", "-S", s.socket}, words...))
}

// Type presses keys, by their names in tmux: Down, Enter, Escape, a.
func (s *Terminal) Type(keys ...string) {
	s.t.Helper()
	s.tmux(append([]string{"send-keys"}, keys...)...)
}

// Answer presses a key, and again after ten seconds, until the terminal does not show the question any more. A key does not count if the
// program has not yet noted that the question is shown.
func (s *Terminal) Answer(key, question string) {
	s.t.Helper()
	var pressed time.Time
	await.Success(s.t, "the question is answered", func() error {
		screen := s.Screen()
		if !strings.Contains(screen, question) {
			return nil
		}
		if time.Since(pressed) > 10*time.Second {
			s.Type(key)
			pressed = time.Now()
		}
		return fmt.Errorf("it is still there:\n%s", screen)
	})
}

// Paste pastes a text as a terminal does.
func (s *Terminal) Paste(text string) {
	s.t.Helper()
	s.tmux("set-buffer", text)
	s.tmux("paste-buffer", "-p")
}

// Resize gives the terminal another size.
func (s *Terminal) Resize(width, height int) {
	s.t.Helper()
	s.tmux("resize-window", "-x", strconv.Itoa(width), "-y", strconv.Itoa(height))
}

// Screen returns what the terminal shows now, without blanks at the ends of lines.
func (s *Terminal) Screen() string {
	s.t.Helper()
	lines := strings.Split(s.tmux("capture-pane", "-p"), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " ")
	}
	return strings.Join(lines, "\n")
}

// Coloured returns what the terminal shows now, with its colours and attributes as escape sequences.
func (s *Terminal) Coloured() string {
	s.t.Helper()
	return s.tmux("capture-pane", "-p", "-e")
}

// Shows waits until the terminal shows all texts at once, and returns the screen.
func (s *Terminal) Shows(texts ...string) (screen string) {
	s.t.Helper()
	await.Success(s.t, "the terminal shows all texts", func() error {
		screen = s.Screen()
		for _, text := range texts {
			if !strings.Contains(screen, text) {
				return fmt.Errorf("%q is not on the screen:\n%s", text, screen)
			}
		}
		return nil
	})
	return screen
}

// Ends waits until the program has ended, and returns its exit status and the last screen.
func (s *Terminal) Ends() (status int, screen string) {
	s.t.Helper()
	await.Success(s.t, "the program in the terminal has ended", func() error {
		screen = s.Screen()
		m := ended.FindStringSubmatch(screen)
		if m == nil {
			return fmt.Errorf("it runs, and shows:\n%s", screen)
		}
		var err error
		status, err = strconv.Atoi(m[1])
		return err
	})
	return status, screen
}
