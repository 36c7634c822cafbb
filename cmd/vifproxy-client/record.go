package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"vifproxy/internal/regular"
)

const (
	entriesMax = 100       // of the record
	recordMax  = 128 << 10 // bytes that are read of it: an entry has up to 400
)

// An entry is what was refused, for vifproxy-unblock.
type entry struct {
	target
	Count int       `json:"count"`
	Last  time.Time `json:"last"`
}

// recordPath returns where `notify` leaves for vifproxy-unblock what was refused; "" if this is no session of a user.
func recordPath() string {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if !filepath.IsAbs(dir) {
		return ""
	}
	return filepath.Join(dir, "vifproxy-client", "refused.json")
}

// saveRecord replaces the record. A reader sees the old one or the new one.
func saveRecord(path string, all []entry) error {
	text, err := json.Marshal(all)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	partial := path + ".partial"
	if err := os.WriteFile(partial, text, 0o600); err != nil {
		return err
	}
	return os.Rename(partial, path)
}

// errNoRecord means that nothing is known: nothing was refused, or the service does not run.
var errNoRecord = errors.New("nothing was refused since the session began, or the service does not run " +
	"(see `systemctl --user status vifproxy-client`)")

// loadRecord returns what was refused since a time, newest first.
func loadRecord(path string, since time.Time) (recent []entry, err error) {
	if path == "" {
		return nil, errors.New("XDG_RUNTIME_DIR is not set: run this in a session of a user, or name the hosts")
	}
	file, _, err := regular.Open(path, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoRecord
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := regular.ReadAll(file, recordMax)
	if err != nil {
		return nil, err
	}
	var all []entry
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, e := range all[:min(len(all), entriesMax)] {
		if e.target, err = newTarget(e.Host, e.Port); err == nil && e.Last.After(since) {
			recent = append(recent, e)
		}
	}
	return recent, nil
}
