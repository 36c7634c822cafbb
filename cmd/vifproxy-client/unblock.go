package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"vifproxy/internal/browsers"
	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
)

// errRefused ends the program with status 1: the reasons have been printed.
var errRefused = errors.New("not all hosts are allowed")

// runUnblock permits hosts. Without any it lists what was refused lately, and asks.
func runUnblock(ctx context.Context, in io.Reader, out io.Writer, hosts []string, always bool) error {
	var targets []target
	for _, text := range hosts {
		t, err := targetOf(text)
		if err != nil {
			return err
		}
		targets = append(targets, t)
	}
	if len(targets) == 0 {
		recent, err := loadRecord(recordPath(), time.Now().Add(-recentTime))
		if err == nil && len(recent) == 0 {
			err = fmt.Errorf("nothing was refused in the last %v: reload the page that misses something", usage.Length{D: recentTime})
		}
		if err != nil {
			return err
		}
		answers := bufio.NewReader(io.LimitReader(in, lineMax))
		if targets, err = choose(answers, out, recent); err != nil || len(targets) == 0 {
			return err
		}
		if !always {
			if always, err = howLong(answers, out); err != nil {
				return err
			}
		}
	}
	var failed bool
	for _, t := range targets {
		fmt.Fprintf(out, "%s: dom0 asks now\n", t)
		said, err := permit(ctx, t, always)
		if err != nil {
			failed = true
			said = err.Error()
		} else if said == "" {
			said = t.String() + " is allowed."
		}
		fmt.Fprintln(out, said)
	}
	if failed {
		return errRefused
	}
	return nil
}

// targetOf returns the target that a person means: HOST, HOST:PORT or a URL.
func targetOf(text string) (target, error) {
	host, port := text, ""
	if u, err := url.Parse(text); err == nil && u.Host != "" {
		host, port = u.Hostname(), u.Port()
	} else if h, p, err := net.SplitHostPort(text); err == nil {
		host, port = h, p
	}
	number := uint64(0)
	if port != "" {
		var err error
		if number, err = strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
			return target{}, usageError(fmt.Sprintf("%s: a port is a number from 1 to 65535", terminal.Quote(text)))
		}
	}
	t, err := newTarget(host, uint16(number))
	if err != nil {
		return target{}, usageError(err.Error())
	}
	return t, nil
}

// choose lists what was refused, and returns what a person chooses of it.
func choose(in *bufio.Reader, out io.Writer, recent []entry) ([]target, error) {
	rows := make([][]string, len(recent))
	for i, e := range recent {
		rows[i] = []string{fmt.Sprintf("%3d", i+1), e.String(), e.Last.Local().Format(time.TimeOnly), browsers.Purpose(e.Host)}
	}
	for line := range strings.Lines(usage.Aligned(rows)) {
		fmt.Fprintln(out, strings.TrimRight(line, " \n"))
	}
	for {
		words, err := ask(in, out, "Allow which? Numbers, such as 1 3; nothing for none: ")
		if err != nil || len(words) == 0 {
			return nil, err
		}
		var targets []target
		for _, word := range words {
			i, err := strconv.Atoi(word)
			if err != nil || i < 1 || i > len(recent) {
				fmt.Fprintf(out, "%s is no number from 1 to %d.\n", terminal.Quote(word), len(recent))
				targets = nil
				break
			}
			targets = append(targets, recent[i-1].target)
		}
		if targets != nil {
			return targets, nil
		}
	}
}

// howLong asks whether it is for ten minutes or for good.
func howLong(in *bufio.Reader, out io.Writer) (always bool, err error) {
	for {
		words, err := ask(in, out, "For 10 minutes (m) or always (a)? [m] ")
		switch {
		case err != nil:
			return false, err
		case len(words) == 0 || len(words) == 1 && words[0] == "m":
			return false, nil
		case len(words) == 1 && words[0] == "a":
			return true, nil
		}
	}
}

// ask returns the words of an answer. The end of the input is no answer.
func ask(in *bufio.Reader, out io.Writer, question string) ([]string, error) {
	fmt.Fprint(out, question)
	line, err := in.ReadString('\n')
	if err != nil {
		fmt.Fprintln(out)
		if errors.Is(err, io.EOF) {
			return nil, errors.New("no answer: nothing is allowed")
		}
		return nil, err
	}
	return strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' || r == '\n' || r == '\r' }), nil
}
