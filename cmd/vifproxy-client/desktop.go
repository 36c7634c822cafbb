package main

import (
	"context"
	"errors"
	"html"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// Names of the Desktop Notifications Specification 1.3.
const (
	notifications     = "org.freedesktop.Notifications"
	notificationsPath = dbus.ObjectPath("/org/freedesktop/Notifications")

	closedByPerson = 2 // reason of NotificationClosed
)

// The keys of the buttons. Neither is "default", which is a click on the notification itself: such a click decides nothing.
const (
	keyMinutes = "minutes"
	keyAlways  = "always"
)

const (
	busTimeout = 5 * time.Second  // for an answer of the desktop
	showTime   = 30 * time.Second // for which a notification stays, if the desktop heeds that
	eventsMax  = 64               // that wait to be read
)

// A desktop shows notifications: whatever program has the name org.freedesktop.Notifications on the session's bus.
type desktop struct {
	conn         *dbus.Conn
	events       chan *dbus.Signal
	capabilities []string // nil: not known yet
}

// openDesktop connects to the session's bus.
func openDesktop(ctx context.Context) (*desktop, error) {
	// Without autolaunch: a bus that nobody else is on shows nothing.
	conn, err := dbus.SessionBusPrivateNoAutoStartup(dbus.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	d := &desktop{conn: conn, events: make(chan *dbus.Signal, eventsMax)}
	conn.Signal(d.events)
	err = errors.Join(conn.Auth(nil), conn.Hello())
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(notifications), dbus.WithMatchInterface(notifications), dbus.WithMatchObjectPath(notificationsPath)},
		{dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, notifications)},
	} {
		if err == nil {
			err = conn.AddMatchSignal(match...)
		}
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return d, nil
}

func (d *desktop) call(method string, args []any, result any) error {
	ctx, cancel := context.WithTimeout(context.Background(), busTimeout)
	defer cancel()
	return d.conn.Object(notifications, notificationsPath).CallWithContext(ctx, notifications+"."+method, 0, args...).Store(result)
}

// learn asks the desktop what it can do, unless that is known.
func (d *desktop) learn() error {
	if d.capabilities != nil {
		return nil
	}
	capabilities := []string{}
	if err := d.call("GetCapabilities", nil, &capabilities); err != nil {
		return err
	}
	d.capabilities = capabilities
	return nil
}

// has reports whether the desktop can do what the specification has a word for, as far as it was learned.
func (d *desktop) has(capability string) bool { return slices.Contains(d.capabilities, capability) }

// show shows a notification in the place of another one, or of none (0), and returns its number. With targets it has buttons for them; a
// desktop without buttons shows which program asks instead.
func (d *desktop) show(replaces uint32, title string, lines []string, targets bool) (id uint32, err error) {
	if err := d.learn(); err != nil {
		return 0, err
	}
	actions := []string{}
	if targets && d.has("actions") {
		actions = []string{keyMinutes, "10 minutes", keyAlways, "Always"}
	} else if targets {
		lines = append(slices.Clone(lines), inATerminal)
	}
	hints := map[string]dbus.Variant{"category": dbus.MakeVariant("network"), "urgency": dbus.MakeVariant(byte(1))}
	err = d.call("Notify", []any{"vifproxy", replaces, "dialog-warning", title, d.body(lines), actions, hints, int32(showTime.Milliseconds())}, &id)
	return id, err
}

const inATerminal = "To allow a host, run `vifproxy-unblock` in a terminal."

// body returns lines as the body of a notification. Nothing of it is markup, also to a desktop that takes what looks like it for that
// without saying so.
func (d *desktop) body(lines []string) string {
	text := strings.Join(lines, "\n")
	if d.has("body-markup") {
		return html.EscapeString(text)
	}
	return strings.NewReplacer("<", " ", ">", " ", "&", "+").Replace(text)
}

// An event is what became of a notification.
type event struct {
	id       uint32
	pressed  string // the key of a button; empty: the notification is gone
	byPerson bool   // if it is gone
	restart  bool   // another program shows notifications now, or none
	there    bool   // then one does
}

// eventOf returns what a signal says, and whether it says anything. Any program of the session can send one.
func (d *desktop) eventOf(s *dbus.Signal) (e event, ok bool) {
	switch s.Name {
	case "org.freedesktop.DBus.NameOwnerChanged":
		var name, before, now string
		d.capabilities = nil
		return event{restart: true, there: dbus.Store(s.Body, &name, &before, &now) == nil && now != ""}, true
	case notifications + ".ActionInvoked":
		ok = dbus.Store(s.Body, &e.id, &e.pressed) == nil && (e.pressed == keyMinutes || e.pressed == keyAlways)
		return e, ok
	case notifications + ".NotificationClosed":
		var reason uint32
		ok = dbus.Store(s.Body, &e.id, &reason) == nil
		e.byPerson = reason == closedByPerson
		return e, ok
	}
	return e, false
}
