package forward

import (
	"context"
	"errors"
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
		words := strings.Fields(line)
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

// legacyRule reads the options of a rule. An option that it does not know may match or not.
func (c *chain) legacyRule(r *rule, words []string) {
	not := false
	for i := 0; i < len(words); i++ {
		value := ""
		if i+1 < len(words) {
			value = words[i+1]
		}
		add := func(m match) {
			if not {
				m = m.inverted()
			}
			not = false
			r.matches = append(r.matches, m)
			i++
		}
		switch words[i] {
		case "!":
			not = true
		case "-o":
			n := legacyName(value)
			if !n.prefix {
				c.out = append(c.out, n.name)
			}
			add(match{byOut: true, of: n.out})
		case "--mark":
			text, _, _ := strings.Cut(value, "/")
			n, err := strconv.ParseUint(text, 0, 32)
			add(marked(whether(err == nil && n == 0)))
		case "--dst-group":
			add(match{byOut: true, of: legacyGroup(value)})
		case "-i":
			add(match{of: legacyName(value).in})
		case "-s":
			add(constant(maybe))
		case "-d":
			a := never
			if _, bits, _ := strings.Cut(value, "/"); len(bits) == 1 && bits < "8" { // wider than any private network
				a = maybe
			}
			add(constant(a))
		case "-p":
			a := never
			if value == "tcp" || value == "udp" || value == "all" {
				a = maybe
			}
			add(constant(a))
		case "--state", "--ctstate":
			bits := uint32(0)
			for _, s := range strings.Split(value, ",") {
				bits |= map[string]uint32{"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "UNTRACKED": 64}[s]
			}
			add(match{of: state(bits)})
		case "--dport", "--dports":
			a := never
			for _, s := range strings.Split(value, ",") {
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
			add(constant(a))
		case "-m", "--comment", "--reject-with", "--log-prefix", "--log-level":
			if words[i] == "--comment" || words[i] == "--log-prefix" { // in quotes if it has spaces
				for strings.HasPrefix(value, `"`) && i+2 < len(words) && (!strings.HasSuffix(words[i+1], `"`) || words[i+1] == `"`) {
					i++
				}
			} else if value == "limit" || value == "hashlimit" || value == "connlimit" {
				r.matches = append(r.matches, constant(maybe))
			}
			i++
		case "-j", "-g":
			switch value {
			case "DROP", "REJECT", "TARPIT":
				r.ending = dropped
			case "ACCEPT":
				r.ending = accepted
			case "RETURN":
				r.ending = returns
			case "MARK", "CONNMARK":
				r.marks = true
			case "LOG", "TCPMSS", "NFLOG", "AUDIT", "TRACE", "SECMARK", "TOS", "DSCP":
			case "QUEUE", "NFQUEUE":
				r.ending = unsure
			default:
				r.ending, r.to = jumps, value
				if words[i] == "-g" {
					r.ending = leaps
				}
			}
			i++
		default:
			if strings.HasPrefix(words[i], "-") {
				r.matches = append(r.matches, constant(maybe))
				not = false
			}
		}
	}
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
