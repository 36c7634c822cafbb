package forward

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"vifproxy/firewall/legacy"
)

// legacyTables may drop what is forwarded.
var legacyTables = []string{"mangle", "filter", "security"}

// legacyForward returns the chains of the tables of iptables-legacy, IPv4 and IPv6.
func legacyForward(ctx context.Context) (all []*chain, unread string, err error) {
	for _, ip := range []string{"ip", "ip6"} {
		tables, err := legacy.Tables(ip)
		if err != nil {
			return nil, "", err
		}
		tables = slices.DeleteFunc(tables, func(name string) bool { return !slices.Contains(legacyTables, name) })
		if len(tables) == 0 {
			continue
		}
		program, err := legacy.Find(ctx, ip)
		if errors.Is(err, legacy.ErrMayNot) {
			unread = "chain FORWARD of iptables-legacy: " + err.Error()
			continue
		} else if err != nil {
			return nil, "", err
		}
		for _, table := range tables {
			text, err := program.List(ctx, "-t", table, "-S")
			if err != nil {
				return nil, "", err
			}
			place := ip + "tables-legacy"
			if table != "filter" {
				place += ", table " + table
			}
			all = append(all, parseLegacy(text, place, ip == "ip6")...)
		}
	}
	return all, unread, nil
}

// parseLegacy reads the output of iptables -S for a table.
func parseLegacy(text, program string, six bool) (all []*chain) {
	chains := make(map[string]*chain)
	count := make(map[string]int)
	for line := range strings.Lines(text) {
		words := legacyWords(line)
		if len(words) < 2 {
			continue
		}
		name := words[1]
		switch words[0] {
		case "-P", "-N":
			c := &chain{place: program + ", chain " + name, families: []bool{six}, table: chains,
				hook: words[0] == "-P" && (name == "FORWARD" || name == "POSTROUTING"), policy: accepted}
			if len(words) > 2 && words[2] == "DROP" {
				c.policy = dropped
			}
			chains[name] = c
			all = append(all, c)
		case "-A":
			if c := chains[name]; c != nil {
				count[name]++
				r := rule{place: place(program, name, count[name])}
				c.legacyRule(&r, words[2:])
				c.rules = append(c.rules, r)
			}
		}
	}
	return all
}

// legacyWords splits a line at its spaces, except inside of quotes.
func legacyWords(line string) (words []string) {
	var word []byte
	inWord, inQuotes := false, false
	for i := 0; i < len(line); i++ {
		switch b := line[i]; {
		case b == '"':
			inWord, inQuotes = true, !inQuotes
		case b == '\\' && inQuotes && i+1 < len(line):
			i++
			word = append(word, line[i])
		case !inQuotes && (b == ' ' || b == '\n'):
			if inWord {
				words = append(words, string(word))
			}
			word, inWord = word[:0], false
		default:
			word, inWord = append(word, b), true
		}
	}
	if inWord {
		words = append(words, string(word))
	}
	return words
}

// legacyRule reads the options of a rule. An option that is not known may match or not.
func (c *chain) legacyRule(r *rule, words []string) {
	leaving := false // what -m policy asks is about the way out
	for len(words) > 0 {
		option := words[0]
		words = words[1:]
		not := option == "!" && len(words) > 0
		if not {
			option, words = words[0], words[1:]
		}
		value := func() (text string) {
			if len(words) > 0 {
				text, words = words[0], words[1:]
			}
			return text
		}
		var m match
		switch option {
		case "-j", "-g":
			c.legacyTarget(r, value(), option == "-g")
			continue
		case "-m":
			c.legacyModule(r, value())
			continue
		case "--dir":
			leaving = value() == "out"
			continue
		case "--comment", "--reject-with", "--log-prefix", "--log-level":
			value()
			continue
		case "--pol":
			m = policy(leaving, value() == "none")
		case "--match-set":
			value() // its name
			parts := strings.Split(value(), ",")
			m = inIPSet(byte(len(parts)), parts[len(parts)-1] == "dst")
		default:
			known, understood := c.legacyMatch(option, value)
			if m = known; !understood && !strings.HasPrefix(option, "-") { // the value of an option that is not known
				continue
			}
		}
		if not {
			m = m.inverted()
		}
		r.matches = append(r.matches, m)
	}
}

// legacyModule reads the name of an extension.
func (c *chain) legacyModule(r *rule, name string) {
	switch name {
	case "limit", "hashlimit", "connlimit":
		r.matches = append(r.matches, constant(maybe))
	case "realm", "iface", "bpf":
		r.matches = append(r.matches, match{byOut: true, of: constant(maybe).of})
	case "connlabel", "recent": // they may note it as well
		r.marks = true
	}
}

// legacyTarget reads what becomes of a packet: the name of a chain, or a target.
func (c *chain) legacyTarget(r *rule, name string, leap bool) {
	switch {
	case c.table[name] != nil && leap:
		r.ending, r.to = leaps, name
	case c.table[name] != nil:
		r.ending, r.to = jumps, name
	default:
		end, marks := targetOf(name)
		r.ending, r.marks = end, r.marks || marks
	}
}

// legacyMatch reads an option, and takes its value if it is understood.
func (c *chain) legacyMatch(option string, value func() string) (m match, understood bool) {
	switch option {
	case "-o":
		n := legacyName(value())
		if !n.prefix {
			c.out = append(c.out, n.name)
		}
		return match{byOut: true, of: n.out}, true
	case "-i":
		return match{of: legacyName(value()).in}, true
	case "-s":
		value()
		return constant(maybe), true
	case "-d":
		return constant(legacyDestination(value())), true
	case "-p":
		return constant(legacyProtocol(value())), true
	case "--dport", "--dports":
		return constant(legacyPorts(value())), true
	case "--state", "--ctstate":
		return match{of: legacyStates(value())}, true
	case "--mark":
		text, _, _ := strings.Cut(value(), "/")
		n, err := strconv.ParseUint(text, 0, 32)
		if err != nil {
			return marked(maybe), true
		}
		return marked(whether(n == 0)), true
	case "--label", "--rcheck", "--update":
		return marked(maybe), false
	case "--dst-group":
		return match{byOut: true, of: legacyGroup(value())}, true
	case "--physdev-out", "--physdev-is-out":
		return match{byOut: true, of: constant(maybe).of}, false
	}
	return constant(maybe), false
}

// legacyDestination reports whether a packet goes to a network: it does not if that is no wider than a private one.
func legacyDestination(text string) answer {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		_, err = netip.ParseAddr(text)
	}
	if err != nil || prefix.IsValid() && prefix.Bits() < 8 {
		return maybe
	}
	return never
}

func legacyProtocol(text string) answer {
	switch text {
	case "tcp", "udp", "6", "17", "all":
		return maybe
	}
	return never
}

func legacyStates(text string) func(asked) answer {
	bits := uint32(0)
	for _, s := range strings.Split(text, ",") {
		bits |= map[string]uint32{"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "SNAT": 1 << 6, "DNAT": 1 << 7, "UNTRACKED": 1 << 8}[s]
	}
	return xtState(bits)
}

func legacyPorts(text string) (a answer) {
	for _, s := range strings.Split(text, ",") {
		from, to, isRange := strings.Cut(s, ":")
		first, err1 := strconv.ParseUint(from, 10, 16)
		last, err2 := first, err1
		if isRange {
			last, err2 = strconv.ParseUint(to, 10, 16)
		}
		if err1 != nil || err2 != nil {
			a = max(a, maybe)
		} else {
			a = max(a, ports(uint16(first), uint16(last)))
		}
	}
	return a
}

// legacyGroup reports whether a packet leaves by an interface of a group, as in "0x7" or "0x7/0xff".
func legacyGroup(text string) func(asked) answer {
	group, mask, masked := strings.Cut(text, "/")
	number, err := strconv.ParseUint(group, 0, 32)
	bits, err2 := uint64(0xffffffff), error(nil)
	if masked {
		bits, err2 = strconv.ParseUint(mask, 0, 32)
	}
	return func(q asked) answer {
		if err != nil || err2 != nil { // by a name of /etc/iproute2/group
			return maybe
		}
		return whether((uint64(q.out.group)^number)&bits == 0)
	}
}

// legacyName reads a name as iptables writes it: "eth+" is all names that begin with eth.
func legacyName(text string) linkName {
	name, prefix := strings.CutSuffix(text, "+")
	return linkName{name, prefix}
}
