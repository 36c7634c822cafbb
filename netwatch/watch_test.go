package netwatch

import (
	"encoding/binary"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// event encodes a message; f.update and the decoders take its body, f.concerns all of it.
func event(kind uint16, body ...[]byte) []byte {
	joined := slices.Concat(body...)
	e := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(joined)))
	e = binary.NativeEndian.AppendUint16(e, kind)
	return slices.Concat(e, make([]byte, 10), joined)
}

func attribute(kind uint16, value ...byte) []byte {
	a := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(value)))
	a = binary.NativeEndian.AppendUint16(a, kind)
	a = append(a, value...)
	return append(a, make([]byte, (4-len(a)%4)%4)...)
}

func linkEvent(kind uint16, family byte, index byte, name string, up bool) []byte {
	body := make([]byte, unix.SizeofIfInfomsg)
	body[0] = family
	binary.NativeEndian.PutUint32(body[4:], uint32(index))
	if up {
		binary.NativeEndian.PutUint32(body[8:], unix.IFF_UP)
	}
	return event(kind, body, attribute(unix.IFLA_IFNAME, append([]byte(name), 0)...))
}

func addrEvent(kind uint16, family byte, index byte) []byte {
	body := make([]byte, unix.SizeofIfAddrmsg)
	body[0] = family
	binary.NativeEndian.PutUint32(body[4:], uint32(index))
	return event(kind, body, attribute(unix.IFA_LOCAL, 10, 138, 1, 1))
}

func routeEvent(kind uint16, family, bits, table, index byte) []byte {
	body := make([]byte, unix.SizeofRtMsg)
	body[0], body[1], body[4], body[7] = family, bits, table, unix.RTN_UNICAST
	return event(kind, body, attribute(unix.RTA_DST, 10, 137, 0, 15),
		attribute(unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(index))...))
}

// concerns returns what a datagram of events hints at.
func (f *filter) concerns(datagram []byte) (hints []Hint) {
	messages, err := syscall.ParseNetlinkMessage(datagram)
	if err != nil {
		hints = append(hints, Hint{})
	}
	for _, m := range messages {
		if hint, concerns := f.update(m.Header.Type, m.Data); concerns {
			hints = append(hints, hint)
		}
	}
	return hints
}

func TestFilter(t *testing.T) {
	const v4, v6, main = unix.AF_INET, unix.AF_INET6, unix.RT_TABLE_MAIN
	known := []link{{2, "eth0", true}, {4, "vif2.0", true}}
	tests := []struct {
		name     string
		datagram []byte
		known    bool // concerns, when the filter knows the links
		unknown  bool // and when it could not read them
	}{
		{"a vif comes", linkEvent(unix.RTM_NEWLINK, 0, 5, "vif3.0", false), true, true},
		{"a vif says the same again", linkEvent(unix.RTM_NEWLINK, 0, 4, "vif2.0", true), false, true},
		{"a vif is not UP any more", linkEvent(unix.RTM_NEWLINK, 0, 4, "vif2.0", false), true, true},
		{"a vif goes", linkEvent(unix.RTM_DELLINK, 0, 4, "vif2.0", true), true, true},
		{"an unknown vif goes", linkEvent(unix.RTM_DELLINK, 0, 9, "vif7.0", false), true, true},
		{"a vif is renamed", linkEvent(unix.RTM_NEWLINK, 0, 4, "old", true), true, true},
		{"a vif is renamed to another vif", linkEvent(unix.RTM_NEWLINK, 0, 4, "vif2.1", true), true, true},
		{"a renamed vif goes", linkEvent(unix.RTM_DELLINK, 0, 4, "old", true), true, true},
		{"a link becomes a vif", linkEvent(unix.RTM_NEWLINK, 0, 2, "vif3.0", true), true, true},
		{"another link comes", linkEvent(unix.RTM_NEWLINK, 0, 5, "vif3.0-emu", true), false, true},
		{"another link changes", linkEvent(unix.RTM_NEWLINK, 0, 2, "eth0", false), false, true},
		{"another link goes", linkEvent(unix.RTM_DELLINK, 0, 2, "eth0", false), false, true},
		{"a vif leaves a bridge", linkEvent(unix.RTM_DELLINK, unix.AF_BRIDGE, 4, "vif2.0", true), false, false},
		{"address of a vif", addrEvent(unix.RTM_NEWADDR, v4, 4), true, true},
		{"address of a vif goes", addrEvent(unix.RTM_DELADDR, v4, 4), true, true},
		{"address of another link", addrEvent(unix.RTM_NEWADDR, v4, 2), false, true},
		{"address of an unknown link", addrEvent(unix.RTM_DELADDR, v4, 9), true, true},
		{"IPv6 address", addrEvent(unix.RTM_NEWADDR, v6, 4), false, false},
		{"host route", routeEvent(unix.RTM_NEWROUTE, v4, 32, main, 4), true, true},
		{"host route goes", routeEvent(unix.RTM_DELROUTE, v4, 32, main, 4), true, true},
		{"host route to another link", routeEvent(unix.RTM_NEWROUTE, v4, 32, main, 2), true, true},
		{"network route", routeEvent(unix.RTM_NEWROUTE, v4, 24, main, 4), false, false},
		{"local table", routeEvent(unix.RTM_NEWROUTE, v4, 32, unix.RT_TABLE_LOCAL, 4), false, false},
		{"IPv6 route", routeEvent(unix.RTM_NEWROUTE, v6, 32, main, 4), false, false},
		{"neighbour", event(unix.RTM_NEWNEIGH, make([]byte, 12)), false, false},
		{"no body", event(unix.RTM_NEWLINK), false, false},
		{"body too short", event(unix.RTM_NEWLINK, make([]byte, 4)), true, true},
		{"attribute too long", append(addrEvent(unix.RTM_NEWADDR, v4, 2)[:24], 9, 0, 2, 0, 1, 2, 3, 4), true, true},
		{"host route with an address too long", event(unix.RTM_NEWROUTE,
			append([]byte{v4, 32}, make([]byte, 10)...), attribute(unix.RTA_DST, 1, 2, 3, 4, 5)), true, true},
		{"cut off", linkEvent(unix.RTM_NEWLINK, 0, 2, "eth0", true)[:30], true, true},
		{"the second of two", slices.Concat(linkEvent(unix.RTM_NEWLINK, 0, 2, "eth0", false),
			linkEvent(unix.RTM_NEWLINK, 0, 5, "vif3.0", false)), true, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := newFilter(known, true).concerns(test.datagram) != nil; got != test.known {
				t.Errorf("links known: concerns = %v, want %v", got, test.known)
			}
			if got := newFilter(nil, false).concerns(test.datagram) != nil; got != test.unknown {
				t.Errorf("links unknown: concerns = %v, want %v", got, test.unknown)
			}
		})
	}
}

// TestFilterForgets shows that what the filter holds is bounded by the links there are.
func TestFilterForgets(t *testing.T) {
	f := newFilter(nil, true)
	for i := range byte(100) {
		f.concerns(linkEvent(unix.RTM_NEWLINK, 0, i, "vif1.0", true))
		f.concerns(linkEvent(unix.RTM_DELLINK, 0, i, "vif1.0", true))
	}
	if len(f.links) != 0 {
		t.Errorf("%d links held, all have gone", len(f.links))
	}
}

// FuzzEvents feeds the decoders. They must not panic, must not report less than the filter needs, and an
// event that repeats the one before must wake nobody.
func FuzzEvents(f *testing.F) {
	for _, datagram := range recording(f) {
		f.Add(datagram)
	}
	f.Add(linkEvent(unix.RTM_NEWLINK, 0, 4, "vif2.0", true))
	f.Add(event(unix.RTM_NEWROUTE, []byte{unix.AF_INET, 32, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}))
	f.Fuzz(func(t *testing.T, datagram []byte) {
		events := newFilter(nil, true)
		events.concerns(datagram)
		if len(events.links) > len(datagram)/unix.SizeofIfInfomsg {
			t.Errorf("%d links learned from %d bytes", len(events.links), len(datagram))
		}
		for i := range events.links {
			if l := events.links[i]; l != (link{}) && (l.index != i || onlyVif(l) != l) {
				t.Errorf("learned %+v as link %d", l, i)
			}
		}
		for _, body := range [][]byte{datagram, datagram[min(16, len(datagram)):]} {
			l, err := decodeLink(body)
			if err == nil && strings.Contains(l.name, "\x00") {
				t.Errorf("link name %q", l.name)
			}
			_, _ = decodeAddress(body)
			r, err := decodeRoute(body)
			if err == nil && r.toHost() && !r.dst.Is4() {
				t.Errorf("host route to %v", r.dst)
			}
			if l, err := decodeLink(body); err == nil && family(body) == unix.AF_UNSPEC {
				events.update(unix.RTM_NEWLINK, body)
				if _, again := events.update(unix.RTM_NEWLINK, body); again {
					t.Errorf("the same event about link %d concerned twice", l.index)
				}
			}
		}
	})
}

func FuzzParseVif(f *testing.F) {
	for _, name := range []string{"vif7.0", "vif07.0", "vif7.0-emu", "vif.", "vif32753.1", "eth0"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		domid, devid, ok := ParseVif(name)
		if ok && (domid > domidMax || vifName(domid, devid) != name) {
			t.Errorf("ParseVif(%q) = %d, %d", name, domid, devid)
		}
	})
}
