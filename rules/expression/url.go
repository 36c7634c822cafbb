package expression

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"vifproxy/rules/flaws"
)

// OfURL returns the expression that matches what tinyproxy compares with FilterURLs, HOST:PORT of a tunnel and the whole URL of a page,
// if a compiled expression matches its host; "" if it matches none. It admits nothing between host, port and path that could belong to another host.
//
// Because there is something before and behind the host then, a '^' or '$' inside of parentheses, as in (^|\.)bank\.example, becomes an
// alternative of its own.
func OfURL(compiled string, caseSensitive bool) (text string, flaw *flaws.Flaw) {
	p := newParser(compiled, Extended, caseSensitive)
	e, flaw := p.parse()
	if flaw != nil {
		return "", flaw
	}
	var hosts []string
	if strings.Contains(compiled, ":") { // a whole IPv6 address: Compile admits colons in nothing else
		hosts = []string{`\[?` + strings.Trim(compiled, "^$") + `\]?`}
		e = nil
	}
	for _, b := range e {
		if !b.begins() || !b.Ends() || len(b) < 2 {
			return "", p.fail(0, "is open at an end", "this is a fault of vifproxy")
		}
		for _, one := range b[1:len(b)-1].apart(beginning, alternativesMax) {
			for _, both := range one.apart(ending, alternativesMax) {
				if both.anchored() {
					return "", p.fail(0, "has a '^' or '$' in its middle, which cannot be compared with an Upstream", "write a line for each host")
				}
				if text, possible := both.emit(p.fold, false); possible {
					hosts = append(hosts, text)
				}
			}
		}
	}
	if len(hosts) == 0 {
		return "", nil
	}
	if text = beforeHost + strings.Join(hosts, "|") + behindHost; len(text) > LineMax || len(hosts) > alternativesMax {
		return "", &flaws.Flaw{Text: fmt.Sprintf("%s is too long: with an Upstream, hosts are compared as a part of URLs, and the line has %d bytes "+
			"of at most %d", flaws.Excerpt(compiled), len(text), LineMax), Remedy: "make two lines of it"}
	}
	return text, nil
}

// What is before the host in a URL, and behind it.
const (
	beforeHost = `^((http|ftp)://)?(`
	behindHost = `)(:[0-9]{1,5})?(/.*)?$`
)

// simple matches hosts, and what is below a domain, in what OfURL returns. Of these the C library needs as many states for several as
// for each by itself. Of others it may need the product: ".*a.*" and ".*b.*" have two each, and ten of their kind a thousand.
var simple = regexp.MustCompile(`^\^\(\(http\|ftp\)://\)\?\(` +
	`(?:\(\[(?:a-z|a-zA-Z)0-9_-\]\+\\\.\)\+|\[a-zA-Z0-9\._-\]\*)?(?:[a-zA-Z0-9_-]|\\\.|\[[a-zA-Z]{2}\])+(?:\\\.\?)?` +
	`\)\(:`)

// JoinURLs makes fewer of what OfURL has returned, which match the same. tinyproxy compares a host with one after the other, and the C
// library keeps what it has found out about each: that a URL begins with "http://" takes 14 KB. The text at i is now a part of the one
// at places[i].
func JoinURLs(texts []string) (joined []string, places []int) {
	open := -1 // the one that gets more
	for _, text := range texts {
		host := strings.TrimSuffix(strings.TrimPrefix(text, beforeHost), behindHost)
		switch joins := simple.MatchString(text); {
		case joins && open >= 0 && len(joined[open])+len("|")+len(host) <= LineMax:
			joined[open] = strings.TrimSuffix(joined[open], behindHost) + "|" + host + behindHost
			places = append(places, open)
		default:
			joined = append(joined, text)
			places = append(places, len(joined)-1)
			if joins {
				open = len(joined) - 1
			}
		}
	}
	return joined, places
}

// alternativesMax is how many alternatives are made of one.
const alternativesMax = 64

// An edge is an end of a text.
type edge struct {
	anchors []string
	last    bool
}

var (
	beginning = edge{[]string{"^", "\\`"}, false}
	ending    = edge{[]string{"$", `\'`}, true}
)

// apart returns the alternatives that a branch stands for, in which no group begins, or ends, with an anchor to that end.
func (b Branch) apart(at edge, most int) []Branch {
	pieces := slices.Clone(b)
	if at.last {
		slices.Reverse(pieces)
	}
	for i, p := range pieces {
		// An anchor is at the edge only if all that stands before it can match the empty text.
		reachable := !slices.ContainsFunc(pieces[:i], func(before Piece) bool { return before.Assertion != "" || before.Min > 0 })
		if slices.Contains(at.anchors, p.Assertion) {
			if !reachable {
				return nil
			}
			rest := slices.Clone(pieces[i+1:])
			if at.last {
				slices.Reverse(rest)
			}
			return rest.apart(at, most)
		}
		if p.Group == nil || p.Min != 1 || p.Max != 1 {
			continue
		}
		var anchored, rest Expression
		for _, inner := range *p.Group {
			inner = slices.Clone(inner)
			if at.last {
				slices.Reverse(inner)
			}
			if len(inner) > 0 && slices.Contains(at.anchors, inner[0].Assertion) {
				anchored = append(anchored, inner[1:])
			} else {
				rest = append(rest, inner)
			}
		}
		if anchored == nil {
			continue
		}
		var all []Branch
		add := func(pieces Branch) {
			if at.last {
				slices.Reverse(pieces)
			}
			if most > len(all) {
				all = append(all, pieces.apart(at, most-len(all))...)
			}
		}
		if reachable {
			for _, inner := range anchored {
				add(slices.Concat(inner, pieces[i+1:]))
			}
		}
		if rest != nil {
			group := p
			if at.last {
				for j := range rest {
					slices.Reverse(rest[j])
				}
			}
			group.Group = &rest
			add(slices.Concat(pieces[:i], Branch{group}, pieces[i+1:]))
		}
		return all
	}
	return []Branch{b}
}

// anchored reports whether an assertion in a branch is about an end of the text.
func (b Branch) anchored() bool {
	return slices.ContainsFunc(b, func(p Piece) bool {
		return slices.Contains([]string{"^", "$", "\\`", `\'`, `\B`}, p.Assertion) ||
			p.Group != nil && slices.ContainsFunc(*p.Group, Branch.anchored)
	})
}
