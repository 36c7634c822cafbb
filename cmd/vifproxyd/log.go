package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/journal"

	"vifproxy/internal/backlog"
)

// What waits for a reader of the log. An AppVM can add one message a second.
const (
	logMessages = 1000
	logBytes    = 1 << 20
)

// identifier is the name by which `journalctl -t` finds the daemon. For a message without one journald 257 takes the name of the process,
// which is "(ifproxyd)" until systemd has executed the daemon.
const identifier = "vifproxyd"

// newLogger returns the daemon's logger: structured journal fields under systemd, readable text on a terminal. All messages go through
// the queue, so nothing that logs waits for the reader. The caller closes the queue.
func newLogger(format string, level slog.Level) (*slog.Logger, *backlog.Queue) {
	if format == "auto" {
		format = "text"
		if ok, err := journal.StderrIsJournalStream(); err == nil && ok {
			format = "journal"
		}
	}
	// A reader of standard error that has gone is an error of write(2) then, and does not end the daemon (package signal).
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	if format == "journal" {
		queue := backlog.New(logMessages, logBytes, func(n int) error {
			return journal.Send(lost(n), journal.PriWarning, map[string]string{"COUNT": strconv.Itoa(n), "SYSLOG_IDENTIFIER": identifier})
		})
		return slog.New(&journalHandler{level: level, queue: queue}), queue
	}
	queue := backlog.New(logMessages, logBytes, func(n int) error {
		_, err := fmt.Fprintln(os.Stderr, lost(n))
		return err
	})
	to := &queued{queue: queue}
	options := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(textHandler{slog.NewJSONHandler(to, options), to}), queue
	}
	options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.String(slog.TimeKey, a.Value.Time().Format("15:04:05.000"))
		}
		if isID(a) {
			return slog.Attr{}
		}
		return a
	}
	return slog.New(textHandler{slog.NewTextHandler(to, options), to}), queue
}

// lost returns what the log says instead of n messages.
func lost(n int) string {
	return fmt.Sprintf("%d messages are lost here: what reads the log did not take them", n)
}

// A textHandler is a handler of package slog that writes to a queue.
type textHandler struct {
	slog.Handler
	to *queued
}

// A queued is a writer whose lines go to standard error when that takes them.
type queued struct {
	mu     sync.Mutex
	queue  *backlog.Queue
	urgent bool // what is being written
}

func (h textHandler) Handle(ctx context.Context, r slog.Record) error {
	h.to.mu.Lock()
	defer h.to.mu.Unlock()
	h.to.urgent = r.Level >= slog.LevelError
	return h.Handler.Handle(ctx, r)
}

func (h textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return textHandler{h.Handler.WithAttrs(attrs), h.to}
}

func (h textHandler) WithGroup(name string) slog.Handler {
	return textHandler{h.Handler.WithGroup(name), h.to}
}

// Write is called once for each record (slog.NewTextHandler).
func (w *queued) Write(line []byte) (int, error) {
	kept := bytes.Clone(line)
	w.queue.Put(len(kept), w.urgent, func() error {
		_, err := os.Stderr.Write(kept)
		return err
	})
	return len(line), nil
}

// isID reports whether only programs read a field: EVENT and MESSAGE_ID of an events.Kind.
func isID(a slog.Attr) bool { return a.Key == "event" || a.Key == "message_id" }

// A journalHandler sends each record with its attributes twice: as fields (VM=, IP=, VIF=, …), so that
// `journalctl -u vifproxyd VM=social` works, and as text behind the message, for people. MESSAGE_ID leads to the explanation in
// packaging/vifproxy.catalog.
type journalHandler struct {
	level slog.Level
	queue *backlog.Queue
	attrs []slog.Attr
}

func (h *journalHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *journalHandler) Handle(_ context.Context, r slog.Record) error {
	var text strings.Builder
	text.WriteString(r.Message)
	fields := map[string]string{"SYSLOG_IDENTIFIER": identifier}
	plain := slog.NewTextHandler(&text, &slog.HandlerOptions{ReplaceAttr: dropBuiltin})
	record := slog.NewRecord(r.Time, r.Level, "", 0)
	add := func(a slog.Attr) bool {
		if !isID(a) {
			record.AddAttrs(a)
		}
		fields[strings.ToUpper(a.Key)] = a.Value.Resolve().String()
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	if record.NumAttrs() > 0 {
		text.WriteString(": ")
		if err := plain.Handle(context.Background(), record); err != nil {
			return err
		}
	}
	message := strings.TrimSpace(text.String())
	size := len(message)
	for key, value := range fields {
		size += len(key) + len(value)
	}
	h.queue.Put(size, r.Level >= slog.LevelError, func() error { return journal.Send(message, priority(r.Level), fields) })
	return nil
}

func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &journalHandler{h.level, h.queue, append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)}
}

// WithGroup drops the name: the daemon's vocabulary of keys is flat.
func (h *journalHandler) WithGroup(string) slog.Handler { return h }

// dropBuiltin drops the attributes that the journal records itself.
func dropBuiltin(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
		return slog.Attr{}
	}
	return a
}

func priority(l slog.Level) journal.Priority {
	switch {
	case l >= slog.LevelError:
		return journal.PriErr
	case l >= slog.LevelWarn:
		return journal.PriWarning
	case l >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}
