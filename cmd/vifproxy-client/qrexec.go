package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"vifproxy/internal/terminal"
)

const (
	// client calls a service of another qube. Which one that is, dom0 decides.
	client = "qrexec-client-vm"

	// policyRefused is its status if dom0's policy refuses the call, or a person has (qrexec-client-vm.c of qubes-core-qrexec).
	policyRefused = 126

	lineMax     = 4 << 10          // of a stream's line, and of what is kept of a service's output
	callTimeout = 10 * time.Minute // dom0 asks a person meanwhile
	endTimeout  = 5 * time.Second  // for a process that was asked to end

	firstRetry   = time.Second      // after a stream that has ended
	lastRetry    = 5 * time.Minute  // of one that keeps ending
	seldom       = 30 * time.Minute // to look whether dom0's policy still refuses, or the program is still missing
	provenStream = time.Minute      // a stream that lasted this long worked
)

// command returns a process that ends with the context.
func command(ctx context.Context, service string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, client, "@default", service)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = endTimeout
	return cmd
}

// permit calls the service that permits a target, and returns what it says for a person, in one plain line. The error says why the
// target is not permitted.
func permit(ctx context.Context, t target, always bool) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	cmd := command(ctx, t.service(always))
	var out, errs head
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	said := out.line()
	switch {
	case err == nil:
		return said, nil
	case ctx.Err() != nil:
		return "", fmt.Errorf("%s: dom0 has not answered within %v", t, callTimeout)
	case statusOf(err) == policyRefused && said == "":
		return "", fmt.Errorf("%s: refused in dom0", t)
	case said == "":
		said = errs.line()
	}
	if said == "" {
		said = err.Error()
	}
	return "", fmt.Errorf("%s: %s", t, strings.TrimSpace(strings.TrimPrefix(said, noPrefix)))
}

// noPrefix begins what a service says if its answer is no.
const noPrefix = "no: "

// statusOf returns the exit status that an error of exec tells; -1 if none.
func statusOf(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// A head keeps the beginning of what is written to it.
type head struct{ kept bytes.Buffer }

func (h *head) Write(p []byte) (int, error) {
	h.kept.Write(p[:min(len(p), lineMax-h.kept.Len())])
	return len(p), nil
}

// wordsMax is how many characters of a service's answer a person is shown. A command for dom0 in it must not be cut.
const wordsMax = 500

// line returns the first line that is not empty, made safe for a terminal and short.
func (h *head) line() string {
	for line := range strings.Lines(h.kept.String()) {
		if line = strings.TrimSpace(terminal.OneLine(strings.TrimRight(line, "\r\n"))); line != "" {
			if words := []rune(line); len(words) > wordsMax {
				line = string(words[:wordsMax-1]) + "…"
			}
			return line
		}
	}
	return ""
}

// follow calls vifproxy.Denied, again and again until the context ends, and passes each refusal on. It logs a change of what is wrong,
// once.
func follow(ctx context.Context, log *slog.Logger, refused chan<- refusal) {
	var r retries
	for ctx.Err() == nil {
		start := time.Now()
		err := followOnce(ctx, log, refused)
		if ctx.Err() != nil {
			return
		}
		problem, wait := r.after(err, time.Since(start))
		if problem != "" {
			log.Warn(problem, "again", wait)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// retries says when to call again. The zero value has seen nothing yet.
type retries struct {
	delay time.Duration
	told  string
}

// after returns what to tell of a stream that has ended, "" if that has been told, and how long to wait for the next one.
func (r *retries) after(err error, lasted time.Duration) (problem string, wait time.Duration) {
	if lasted >= provenStream {
		*r = retries{}
	}
	switch {
	case errors.Is(err, exec.ErrNotFound):
		problem, wait = client+" is missing: refused hosts are shown only in a qube of Qubes OS", seldom
	case statusOf(err) == policyRefused:
		problem, wait = "dom0's policy does not let this qube call vifproxy.Denied: no refused host is shown until it does; "+
			"the file for /etc/qubes/policy.d in dom0 is in the package vifproxy", seldom
	default:
		r.delay = min(max(2*r.delay, firstRetry), lastRetry)
		problem, wait = "vifproxy.Denied has ended: the firewall VM restarts, or vifproxyd does not run there", r.delay
		if err != nil {
			problem = fmt.Sprintf("vifproxy.Denied has ended: %v", err)
		}
	}
	if problem == r.told {
		return "", wait
	}
	r.told = problem
	return problem, wait
}

// followOnce follows one call until it ends.
func followOnce(ctx context.Context, log *slog.Logger, refused chan<- refusal) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := command(ctx, "vifproxy.Denied")
	// The other side ends when its stdin does. So it ends with this process, also if that is killed.
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var errs head
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		return err
	}
	bad, why := 0, ""
	err = readLines(stdout, func(line []byte) bool {
		if reason, no := strings.CutPrefix(string(line), noPrefix); no {
			why = terminal.OneLine(reason[:min(len(reason), wordsMax)])
			return true
		}
		r, err := parse(line)
		if err != nil {
			if bad++; bad == 1 {
				log.Warn("vifproxy.Denied has said what is no refusal, which is passed over", "line", terminal.Quote(string(line[:min(len(line), wordsMax)])))
			}
			return true
		}
		select {
		case refused <- r:
			return true
		case <-ctx.Done():
			return false
		}
	})
	stdin.Close()
	defer time.AfterFunc(endTimeout, cancel).Stop()
	ended := cmd.Wait()
	if statusOf(ended) >= 0 {
		if why = cmp.Or(why, errs.line()); why != "" {
			return fmt.Errorf("%w: %s", ended, why)
		}
		return ended
	}
	return err
}

// readLines calls use for each line, without its newline, until it returns false. A line longer than lineMax is passed over, as is a last
// line without a newline, which may be half of one.
func readLines(from io.Reader, use func([]byte) bool) error {
	r := bufio.NewReaderSize(from, lineMax)
	for {
		line, err := r.ReadSlice('\n')
		tooLong := false
		for errors.Is(err, bufio.ErrBufferFull) {
			tooLong = true
			line, err = r.ReadSlice('\n')
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if !tooLong && len(bytes.TrimSpace(line)) > 0 && !use(bytes.TrimSpace(line)) {
			return nil
		}
	}
}
