package main

import (
	"io"
	"os"

	"vifproxy/internal/simulate/model"
)

// This file is the words of the model in the chaos run, which says what should be, and the journal.

type (
	hosts   = model.Hosts
	content = model.List
	policy  = model.Policy
	appVM   = model.AppVM
)

const (
	absent  = model.Absent
	good    = model.Good
	misread = model.Misread
	misrun  = model.Misrun
)

// universe is the hosts that clients ask for. No rule file ever has a line for the last one.
var universe = []string{
	"a.example", "b.example", "c.example", "d.example", "e.example", "f.example",
	"echo.example", "never.example",
}

const (
	listable   = hosts(1<<7 - 1)
	everything = hosts(1<<8 - 1)
)

// newJournal returns the file for a journal.
func newJournal(s *site) *os.File {
	f, err := os.CreateTemp(*chaosJournal, "vifproxy-chaos-*.jsonl")
	s.must(err)
	s.Cleanup(func() {
		f.Close()
		if !s.Failed() && *chaosJournal == "" {
			os.Remove(f.Name())
		}
	})
	return f
}

// replay has a new model judge the journal: it holds all that the model needs, and what was seen.
func (c *chaos) replay() {
	_, err := c.journal.Seek(0, io.SeekStart)
	c.must(err)
	differences, rests, err := model.Replay(c.journal)
	c.must(err)
	if rests != c.counts["settled"] {
		c.fail("the journal has %d rests, and there were %d", rests, c.counts["settled"])
	}
	for _, d := range differences {
		c.fail("%s: %v", c.journal.Name(), d)
	}
}
