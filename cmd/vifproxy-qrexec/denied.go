package main

import (
	"context"
	"encoding/json"
	"io"

	"vifproxy/control"
)

// inputMax bounds what a caller may send, in bytes. Nothing of it means anything; who sends more costs only CPU time.
const inputMax = 64 << 10

// denied prints what the caller's list refuses from now on, one JSON object a line, until standard input or the daemon ends.
func (c call) denied(ctx context.Context) (text string, ok bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	input := make(chan int64, 1)
	go func() {
		n, _ := io.Copy(io.Discard, io.LimitReader(c.stdin, inputMax))
		input <- n
	}()
	type end struct {
		err   error
		begun bool
	}
	output := make(chan end, 1)
	go func() {
		lines, begun := json.NewEncoder(c.stdout), false
		lines.SetEscapeHTML(false)
		err := c.daemon.Refusals(ctx, c.caller, func(r control.Refusal) error {
			begun = true
			if r.Host == "" {
				return nil
			}
			return lines.Encode(r)
		})
		output <- end{err, begun}
	}()
	select {
	case n := <-input: // standard output may be full, so nobody waits for what writes there
		return "", n < inputMax
	case e := <-output:
		if !e.begun {
			return c.no(e.err), false
		}
		return "", true
	}
}
