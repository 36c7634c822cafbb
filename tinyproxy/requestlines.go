package tinyproxy

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"vifproxy/internal/events"
)

// Line reads one line of the log.
func (r *Requests) Line(raw []byte) {
	process, message, ok := bytes.Cut(raw, []byte("]: "))
	if !ok {
		return
	}
	level, _, _ := bytes.Cut(process, []byte(" "))
	_, process, _ = bytes.Cut(process, []byte(" ["))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	switch string(level) {
	case "CONNECT":
		if rest, ok := bytes.CutPrefix(message, []byte("Connect (file descriptor ")); ok {
			r.forget(client(process, rest))
		} else if rest, ok := bytes.CutPrefix(message, []byte("Request (file descriptor ")); ok {
			_, line, _ := bytes.Cut(rest, []byte("): "))
			r.ask(client(process, rest), string(line))
		} else if rest, ok := bytes.CutPrefix(message, []byte("Established connection to ")); ok {
			_, rest, _ := bytes.Cut(rest, []byte(`"`)) // host "HOST", upstream proxy "HOST", socks5 proxy "HOST"
			host, _, _ := bytes.Cut(rest, []byte(`"`))
			r.established(string(host))
		}
	case "INFO":
		if rest, ok := bytes.CutPrefix(message, []byte("Refused CONNECT method on port ")); ok {
			r.refusedPort(string(rest))
		} else if rest, ok := bytes.CutPrefix(message, []byte("opensock: opening connection to ")); ok {
			r.open(string(rest))
		} else if rest, ok := bytes.CutPrefix(message, []byte("Closed connection between local client (fd:")); ok {
			r.drop(client(process, rest))
		} else if rest, ok := bytes.CutPrefix(message, []byte("process_server_headers failed: ")); ok {
			r.noAnswer(string(rest), "Broken pipe") // the AppVM no longer wants the answer
		} else if rest, ok := bytes.CutPrefix(message, []byte("process_client_headers failed: ")); ok {
			r.noAnswer(string(rest), "Success") // the AppVM did not send all of its request
		}
	case "NOTICE":
		if rest, ok := bytes.CutPrefix(message, []byte("Proxying refused on filtered ")); ok {
			r.filtered(rest)
		} else if bytes.HasPrefix(message, []byte("Unauthorized connection from ")) {
			r.deny(events.Denial{Reason: events.ReasonTemplate, What: "Allow", Why: "Allow and Deny in the template `config` do not let it in"})
		}
	case "WARNING":
		if bytes.HasPrefix(message, []byte("Maximum number of connections reached")) {
			r.deny(events.Denial{Reason: events.ReasonFull,
				Why: fmt.Sprintf("all %d connections of MaxClients are open: the next one waits", r.config.MaxClients)})
		}
	case "ERROR":
		if rest, ok := bytes.CutPrefix(message, []byte("opensock: Could not establish a connection to ")); ok {
			r.failed(string(rest), events.ReasonConnect, "no connection")
		} else if rest, ok := bytes.CutPrefix(message, []byte("opensock: Could not retrieve address info for ")); ok {
			target, why, _ := strings.Cut(string(rest), ": ")
			r.failed(target, events.ReasonName, why)
		} else if rest, ok := bytes.CutPrefix(message, []byte("opensock: Could not retrieve info for ")); ok { // 1.10
			r.failed(string(rest), events.ReasonName, "no name server has an address for it, or none answers")
		}
	}
	r.wake(time.Now())
}

// client returns the descriptor of a client that a line names, together with the process that has it.
func client(process, rest []byte) string {
	fd, _, _ := bytes.Cut(rest, []byte(")"))
	return string(process[:min(len(process), 20)]) + " " + string(fd[:min(len(fd), 20)])
}
