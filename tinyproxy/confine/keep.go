package confine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"vifproxy/internal/beat"
)

const (
	// limitsInterval is the time between looks whether another program has changed limits of proxies, of which the kernel tells nobody.
	limitsInterval = 30 * time.Second
	// limitsAtOnce is how many files one look reads: those of some twelve proxies. With more proxies, it is the turn of others at the next.
	limitsAtOnce = 64
)

// KeepLimits looks whether another program has changed limits of proxies, and restores these, until ctx ends. It calls told with what
// was changed, and with nil when nothing was changed since.
func (s *Sandbox) KeepLimits(ctx context.Context, told func(error)) {
	if s.groups == nil {
		return
	}
	var last error
	for after := ""; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(beat.Next(time.Now(), limitsInterval))):
		}
		var err error
		if after, err = s.groups.restore(after, limitsAtOnce); err != nil || last != nil {
			told(err)
		}
		last = err
	}
}

// restore compares limits with what was written: of all proxies together and of the daemon always, and then at most so many of those
// that follow after a file. It returns the last of these, for the next call. The error says what another program has changed, and what
// cannot be restored.
func (g *groups) restore(after string, most int) (last string, err error) {
	g.mu.Lock()
	files := slices.Sorted(maps.Keys(g.written))
	g.mu.Unlock()
	var now []string
	for _, file := range files {
		if !strings.Contains(file, "/"+proxyPrefix) {
			now = append(now, file)
		} else if file > after && most > 0 {
			now, last = append(now, file), file
			most--
		}
	}
	if most > 0 {
		last = ""
	}
	var changed []error
	for _, file := range now {
		changed = append(changed, g.compare(file))
	}
	if err := g.boundAll(); err != nil { // the memory of the machine may be another one now
		changed = append(changed, fmt.Errorf("bound the memory of all proxies: %w", err))
	}
	return last, errors.Join(changed...)
}

// compare restores one limit. The error says what it was.
func (g *groups) compare(file string) error {
	g.mu.Lock()
	is, err := g.read(file)
	want, there := g.written[file]
	g.mu.Unlock()
	switch {
	case !there || errors.Is(err, fs.ErrNotExist): // its proxy has ended, or the next start says who took the controller
		return nil
	case err != nil:
		return err
	case is == want:
		return nil
	}
	if file == sharedGroup+"/memory.max" { // boundAll does it, who knows how much is in use
		err = g.boundAll()
	} else {
		err = g.write(file, want)
	}
	if err != nil {
		return fmt.Errorf("another program has written %s into %s/%s, and it cannot be restored: %w", is, g.root.Name(), file, err)
	}
	return fmt.Errorf("another program has written %s into %s/%s; it was %s, and is restored", is, g.root.Name(), file, want)
}

// set writes a limit, and remembers it.
func (g *groups) set(file, value string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := g.write(file, value)
	if err == nil {
		if g.written == nil {
			g.written = map[string]string{}
		}
		g.written[file] = value
	}
	return err
}

// forget forgets the limits of a cgroup that is about to be removed.
func (g *groups) forget(prefix string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	maps.DeleteFunc(g.written, func(file, _ string) bool { return strings.HasPrefix(file, prefix) })
}

// read returns what a file of a limit says.
func (g *groups) read(file string) (string, error) {
	text, err := g.root.ReadFile(file)
	return strings.TrimSpace(string(text)), err
}

// shown returns how the kernel shows a number of bytes: it counts pages (page_counter_memparse in the kernel's mm/page_counter.c).
func shown(bytes uint64) string { return fmt.Sprint(bytes &^ uint64(os.Getpagesize()-1)) }
