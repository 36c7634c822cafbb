package main

import (
	"context"
	"log/slog"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
)

// newLogger makes the daemon's logger: structured journal fields under systemd, readable text on a terminal.
func newLogger(format string, level slog.Level) *slog.Logger {
	if format == "auto" {
		format = "text"
		if ok, err := journal.StderrIsJournalStream(); err == nil && ok {
			format = "journal"
		}
	}
	options := &slog.HandlerOptions{Level: level}
	switch format {
	case "journal":
		return slog.New(&journalHandler{level: level})
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
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
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}

// isID tells what only programs read: EVENT and MESSAGE_ID of supervisor.Kind.
func isID(a slog.Attr) bool { return a.Key == "event" || a.Key == "message_id" }

// journalHandler sends each record with its attributes as fields of their own (VM=, IP=, VIF=, …), so that
// `journalctl -u vifproxyd VM=social` works, and as text behind the message for those who read it plainly.
// MESSAGE_ID leads to what packaging/vifproxy.catalog has to say.
type journalHandler struct {
	level slog.Level
	attrs []slog.Attr
}

func (h *journalHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *journalHandler) Handle(_ context.Context, r slog.Record) error {
	var text strings.Builder
	text.WriteString(r.Message)
	fields := map[string]string{}
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
	return journal.Send(strings.TrimSpace(text.String()), priority(r.Level), fields)
}

func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &journalHandler{h.level, append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)}
}

// WithGroup drops the name: the daemon's vocabulary of keys is flat.
func (h *journalHandler) WithGroup(string) slog.Handler { return h }

// dropBuiltin leaves to the journal what it records itself.
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
