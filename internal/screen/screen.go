// Package screen shows lines of text on a whole terminal and gives keys to what shows them, until a person has done with it.
//
// The terminal is told which cells hold which characters of printable ASCII, and nothing else: a line cannot move the cursor, change a
// colour or reach another line, whatever text is in it. Every style can be told from others without colours.
//
// Concurrency: [Show] calls its [Model] from the goroutine that called Show. It ends its own goroutines before it returns.
package screen

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/gdamore/tcell/v3"
	"github.com/gdamore/tcell/v3/color"
	"golang.org/x/sys/unix"

	"vifproxy/internal/terminal"
)

// A Style says how a line stands out.
type Style int

// The styles.
const (
	Plain   Style = iota
	Heading       // bold
	Marked        // reversed
	Good          // green
	Warning       // yellow
	Bad           // red and bold
	Faint
)

// A Line is one line of a screen.
type Line struct {
	Text  string
	Style Style
}

// A Model is what a screen shows.
type Model interface {
	// Lines returns what a screen of this size shows. Lines below its end, and what is beyond its width, are not shown.
	Lines(width, height int) []Line
	// Key takes a key: a character, or a name such as "up", "enter" and "ctrl+c".
	Key(key string)
	// Asks reports whether the next key is an answer to a question. A key that came before the question was shown is not.
	Asks() bool
	// Over reports whether the person has done with it.
	Over() bool
}

// keys are the names of keys that are no character.
var keys = map[tcell.Key]string{
	tcell.KeyUp: "up", tcell.KeyDown: "down", tcell.KeyPgUp: "pgup", tcell.KeyPgDn: "pgdn", tcell.KeyHome: "home", tcell.KeyEnd: "end",
	tcell.KeyEnter: "enter", tcell.KeyEscape: "esc", tcell.KeyTab: "tab", tcell.KeyBacktab: "tab", tcell.KeyCtrlC: "ctrl+c",
}

// Usable returns an error that says why this program has no terminal on which it can show a screen; nil if it has one. instead is what to
// do without.
func Usable(instead string) error {
	for name, file := range map[string]*os.File{"standard input": os.Stdin, "standard output": os.Stdout} {
		if _, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS); err != nil {
			return errors.New(name + " is not a terminal: " + instead)
		}
	}
	if term := os.Getenv("TERM"); term == "" || term == "dumb" {
		return errors.New("by TERM=" + terminal.Quote(term) + " this terminal cannot place a cursor: " + instead)
	}
	return nil
}

// Show shows a model on the terminal of this program, and calls what comes from changes, which may change the model. It returns when the
// model is over, or ctx ends, or a signal ends this program. The terminal is as it was before.
func Show(ctx context.Context, m Model, changes <-chan func()) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// Nothing is asked of the terminal (tcell 3.6.0 would wait up to 1 s for answers): what it can do is known from TERM, and an
	// answer that comes late is not taken for keys.
	s, err := tcell.NewTerminfoScreen(tcell.OptNegotiation(false), tcell.OptSanitizeContent(true), tcell.OptKeyboardProtocol(0))
	if err == nil {
		err = s.Init()
	}
	if err != nil {
		return err
	}
	defer s.Fini()
	s.EnablePaste() // to know what is pasted: that is no answer
	pasted := false
	for asked := draw(s, m); !m.Over(); {
		asks := m.Asks()
		select {
		case <-ctx.Done():
			return nil
		case change := <-changes:
			change()
		case event := <-s.EventQ():
			switch event := event.(type) {
			case nil:
				return errors.New("the terminal has gone")
			case *tcell.EventResize:
				s.Sync()
			case *tcell.EventPaste:
				pasted = event.Start()
			case *tcell.EventKey:
				if key := nameOf(event); key != "" && !pasted && (!asks || event.When().After(asked)) {
					m.Key(key)
				}
			}
		}
		if drawn := draw(s, m); m.Asks() && !asks {
			asked = drawn
		}
	}
	return nil
}

// nameOf returns the name of a key, as [Model.Key] takes it; "" if it has none.
func nameOf(event *tcell.EventKey) string {
	if event.Key() != tcell.KeyRune {
		return keys[event.Key()]
	}
	if event.Modifiers()&^tcell.ModShift != 0 {
		return ""
	}
	return event.Str()
}

// draw shows a model, and returns when it did.
func draw(s tcell.Screen, m Model) time.Time {
	width, height := s.Size()
	s.Clear()
	for y, line := range m.Lines(width, height) {
		if y == height {
			break
		}
		style := styles[line.Style]
		x := 0
		for _, c := range []byte(terminal.ASCII(line.Text)) {
			if x == width {
				break
			}
			s.Put(x, y, string(rune(c)), style)
			x++
		}
		if line.Style == Marked {
			for ; x < width; x++ {
				s.Put(x, y, " ", style)
			}
		}
	}
	s.Show()
	return time.Now()
}

var styles = map[Style]tcell.Style{
	Plain:   tcell.StyleDefault,
	Heading: tcell.StyleDefault.Bold(true),
	Marked:  tcell.StyleDefault.Reverse(true),
	Good:    tcell.StyleDefault.Foreground(color.Green),
	Warning: tcell.StyleDefault.Foreground(color.Olive),
	Bad:     tcell.StyleDefault.Foreground(color.Maroon).Bold(true),
	Faint:   tcell.StyleDefault.Dim(true),
}
