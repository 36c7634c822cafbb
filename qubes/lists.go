package qubes

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// configured returns the lists among the features of this VM: the value at /vm-config/vifproxy.NAME.A.B.C.D has names and directives,
// separated by white space.
func configured(entries map[string]string) (all []List) {
	for _, path := range slices.Sorted(maps.Keys(entries)) {
		l := List{Path: path}
		l.Name, l.Addr, l.Err = nameAndAddr(strings.TrimPrefix(path, listPrefix))
		for word := range strings.FieldsSeq(entries[path]) {
			line, err := lineOf(word)
			if l.Lines = append(l.Lines, line); err != nil && l.Err == nil {
				l.Err = err
			}
		}
		all = append(all, l)
	}
	return all
}

// lineOf returns the line of a rule file for a word of a feature. A '#' begins no comment there, because a comment would have no end.
func lineOf(word string) (string, error) {
	directive, value, is := strings.Cut(word, "=")
	switch {
	case strings.Contains(word, "#"):
		return word, fmt.Errorf("%q has a '#': there are no comments here", word)
	case !is:
		return word, nil
	case directive == "egress":
		return "#: egress " + value, nil
	case directive == "port":
		return "#: port " + strings.ReplaceAll(value, ",", " "), nil
	}
	return word, fmt.Errorf("%q: write a name, port=PORT or egress=CIDR[:PORT]", word)
}

// WordOf returns the word of a feature for a line of a rule file of names.
func WordOf(line string) string {
	directive, is := strings.CutPrefix(line, "#: ")
	if !is {
		return line
	}
	word, values, _ := strings.Cut(directive, " ")
	return word + "=" + strings.ReplaceAll(values, " ", ",")
}

// ValueMax is how long the value of a feature may be, in bytes: QubesDB takes fewer than 3072 (QDB_MAX_DATA).
const ValueMax = valueMax - 1

// KeyFor returns the name of the feature that is the list of an AppVM.
func KeyFor(name string, addr netip.Addr) string {
	return "vm-config.vifproxy." + name + "." + addr.String()
}

// Key returns the name of the feature that is at a path of QubesDB.
func Key(path string) string { return "vm-config." + strings.TrimPrefix(path, configPrefix) }

// Feature returns the command for dom0 that sets a feature of the firewall VM vm. words are those of the list; nil for a person's own.
func Feature(vm, key string, words []string) string {
	value := "'HOST...'"
	if words != nil {
		value = quoted(strings.Join(words, " "))
	}
	return fmt.Sprintf("qvm-features %s %s %s", quoted(cmp.Or(vm, "sys-firewall")), quoted(key), value)
}

// Incomplete reports whether nothing is wrong with the list but that dom0 has not finished writing it.
func (l List) Incomplete() bool { return errors.Is(l.Err, ErrIncomplete) }

// plain matches what means itself to a shell.
var plain = regexp.MustCompile(`^[A-Za-z0-9_.,:/=-]+$`)

// quoted returns text as a shell reads it back.
func quoted(text string) string {
	if plain.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// nameAndAddr takes NAME.A.B.C.D apart.
func nameAndAddr(text string) (name string, addr netip.Addr, err error) {
	parts := strings.Split(text, ".")
	if len(parts) > 4 {
		addr, err = netip.ParseAddr(strings.Join(parts[len(parts)-4:], "."))
		name = strings.Join(parts[:len(parts)-4], ".")
	}
	if err != nil || name == "" || !addr.Is4() {
		return "", netip.Addr{}, fmt.Errorf("%q is not NAME.A.B.C.D, an AppVM's name and its address", text)
	}
	return name, addr, nil
}

// settled returns the lists that follow from firewall settings: those that accept hosts by name, and drop the rest. Settings that name
// no host are none of our business.
func settled(entries map[string]string, writing map[netip.Addr]bool, now time.Time) (all []List) {
	byAddr := map[netip.Addr]map[string]string{}
	for path, value := range entries {
		text, key, below := strings.Cut(strings.TrimPrefix(path, firewallPrefix), "/")
		addr, err := netip.ParseAddr(text)
		if err != nil || !addr.Is4() || !below {
			continue // AppVMs have IPv4 addresses here; the value at the address itself ends a change
		}
		if byAddr[addr] == nil {
			byAddr[addr] = map[string]string{}
		}
		byAddr[addr][key] = value
	}
	for addr := range writing {
		if _, there := byAddr[addr]; !there && addr.Is4() {
			byAddr[addr] = nil
		}
	}
	for _, addr := range slices.SortedFunc(maps.Keys(byAddr), netip.Addr.Compare) {
		l := List{Addr: addr, Path: firewallPrefix + addr.String(), Firewall: true}
		named := false
		if writing[addr] {
			l.Err, named = ErrIncomplete, true
		} else {
			l.Lines, l.Until, named, l.Err = listOf(byAddr[addr], now)
		}
		if named {
			all = append(all, l)
		}
	}
	return all
}

// A rule is one firewall rule of an AppVM (qubes/firewall.py of qubes-core-admin: Rule.rule).
type rule struct {
	accept           bool
	host, proto      string
	to               netip.Prefix
	first, last      uint16 // ports; 0 to 0 is any
	target, icmpType string
	expires          time.Time // zero: never
}

// listOf returns what a rule file says that permits the same, until when, and whether the settings name a host at all.
func listOf(settings map[string]string, now time.Time) (lines []string, until time.Time, named bool, err error) {
	var rules []rule
	var flaws []error
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		if _, err := strconv.ParseUint(key, 10, 64); err != nil {
			continue // policy
		}
		named = named || strings.Contains(settings[key], "dsthost=")
		r, err := parseRule(settings[key])
		if len(key) != keyLength {
			err = fmt.Errorf("its number does not have %d digits, and Qubes passes it over", keyLength)
		}
		if err != nil {
			flaws = append(flaws, fmt.Errorf("rule %s: %w", key, err))
		}
		rules = append(rules, r)
	}
	if !named || len(flaws) > 0 {
		return nil, until, named, errors.Join(flaws...)
	}
	dropped := false
	for _, r := range rules {
		tcp := cmp.Or(r.proto, "tcp") == "tcp" && r.target == "" && r.icmpType == ""
		everywhere := r.host == "" && (!r.to.IsValid() || r.to.Bits() == 0)
		switch {
		case !tcp:
			continue
		case !r.expires.IsZero() && !now.Before(r.expires):
			continue
		case !r.accept && everywhere && r.first == 0:
			dropped = true
		case !r.accept:
			return nil, until, true, errors.New("it drops something before it drops all; vifproxy can only add up what is accepted")
		case everywhere:
			return nil, until, true, errors.New("it accepts all hosts")
		default:
			lines = append(lines, r.lines()...)
		}
		if !r.expires.IsZero() && (until.IsZero() || r.expires.Before(until)) {
			until = r.expires
		}
		if dropped {
			break
		}
	}
	if !dropped && settings["policy"] != "drop" {
		return nil, until, true, errors.New("it does not end in drop, so all hosts may be reached")
	}
	slices.Sort(lines)
	return slices.Compact(lines), until, true, nil
}

// keyLength is how many digits the number of a rule has (get_rules in qubesagent/firewall.py of qubes-core-agent-linux). Numbers of other
// lengths would not be in order.
const keyLength = 4

// portsMax is how many ports one rule may open, as many as a rule file may (rules.PortsMax).
const portsMax = 32

func parseRule(text string) (r rule, err error) {
	said := map[string]bool{}
	for word := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(word, "=")
		switch {
		case said[key]:
			return rule{}, fmt.Errorf("it says %s twice", key)
		case value == "" && key != "comment":
			return rule{}, fmt.Errorf("%q has no value", word)
		}
		said[key] = true
		switch key {
		case "action":
			if r.accept = value == "accept"; !r.accept && value != "drop" {
				err = fmt.Errorf("%q is no action", value)
			}
		case "dsthost":
			r.host = value
		case "dst4", "dst6":
			r.to, err = netip.ParsePrefix(value)
		case "proto":
			if r.proto = value; !slices.Contains([]string{"tcp", "udp", "icmp"}, value) {
				err = fmt.Errorf("%q is no protocol", value)
			}
		case "dstports":
			first, last, _ := strings.Cut(value, "-")
			var a, b uint64
			if a, err = strconv.ParseUint(first, 10, 16); err == nil {
				b, err = strconv.ParseUint(cmp.Or(last, first), 10, 16)
			}
			if r.first, r.last = uint16(a), uint16(b); err == nil && (a == 0 || b < a || b-a >= portsMax) {
				err = fmt.Errorf("%q are too many ports: %d at most", value, portsMax)
			}
		case "specialtarget":
			r.target = value
		case "icmptype":
			r.icmpType = value
		case "expire": // in seconds since 1970
			var seconds int64
			seconds, err = strconv.ParseInt(value, 10, 48) // millions of years, which time.Time can say
			r.expires = time.Unix(seconds, 0)
		case "comment":
		default:
			err = fmt.Errorf("%q is unknown", key)
		}
		if err != nil {
			return rule{}, err
		}
	}
	if !said["action"] {
		return rule{}, errors.New("it has no action")
	}
	return r, nil
}

// lines returns what a rule file says for a rule that accepts. A single address may also be asked for as such.
func (r rule) lines() (all []string) {
	for port := int(r.first); port <= int(r.last); port++ {
		suffix := ""
		if port > 0 {
			suffix = ":" + strconv.Itoa(port)
		}
		if r.host != "" {
			all = append(all, r.host+suffix)
			continue
		}
		network, addr := r.to.String(), r.to.Addr().String()
		if r.to.Addr().Is6() {
			addr = "[" + addr + "]"
			if suffix != "" {
				network = "[" + network + "]"
			}
		}
		if all = append(all, "#: egress "+network+suffix); r.to.IsSingleIP() {
			all = append(all, addr+suffix)
		}
	}
	return all
}
