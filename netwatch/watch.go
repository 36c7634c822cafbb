package netwatch

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"vifproxy/internal/netlink"
)

// queueSize is how many bytes of events the kernel may keep for us, and it doubles that (sock_setsockopt in
// net/core/sock.c). An attach takes about 10 kB of it.
const queueSize = 4 << 20

// A Hint says where something may have changed: at a link, or at a host that a route leads to. The zero Hint means anywhere.
type Hint struct {
	Link int32 // index; 0 in the zero Hint, and where a route leads nowhere
	Host netip.Addr
}

// Watch calls wake when the Snapshot may have changed, and once when it has subscribed. It may call it needlessly. wake must not
// block.
//
// Watch returns nil when ctx ends. An error means that it could not subscribe, or that events were lost since then: it does not
// report later changes.
func Watch(ctx context.Context, wake func(Hint)) error {
	err := follow(ctx, wake, func() (*netlink.Subscription, error) { return subscribe(queueSize) }, readLinks)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	for _, forbidden := range []error{unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.EPERM, unix.EACCES} {
		if errors.Is(err, forbidden) {
			err = fmt.Errorf("%w (allow AF_NETLINK in RestrictAddressFamilies= of the service)", err)
		}
	}
	return fmt.Errorf("watch the network: %w", err)
}

func subscribe(queueSize int) (*netlink.Subscription, error) {
	return netlink.Subscribe(unix.NETLINK_ROUTE, queueSize, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE)
}

// follow subscribes and passes events on until that fails, or ctx ends.
func follow(ctx context.Context, wake func(Hint),
	subscribe func() (*netlink.Subscription, error), list func() ([]link, error)) error {
	events, err := subscribe()
	if err != nil {
		return err
	}
	defer events.Close()

	// The list only saves wakes, so it may fail. It comes after the subscription, as every Read does: a link that comes at
	// this moment is in the list, or in the queue, or in both.
	links, err := list()
	f := newFilter(links, err == nil)
	wake(Hint{})
	return events.Follow(ctx, func(m netlink.Message) {
		if hint, concerns := f.update(m.Type, m.Body); concerns {
			wake(hint)
		}
	})
}

// A filter holds the content of the last event about each link, because most events repeat it. An attach sends six events about the
// link, two of which change its name or UP, and a guest toggles its carrier as often as it likes.
type filter struct {
	links    map[int32]link // by index; a link that is not a vif is the zero link
	complete bool           // a link that is not in links is new
}

func newFilter(links []link, complete bool) *filter {
	f := &filter{links: make(map[int32]link, len(links)), complete: complete}
	for _, l := range links {
		f.links[l.index] = onlyVif(l)
	}
	return f
}

func onlyVif(l link) link {
	if _, _, ok := ParseVif(l.name); !ok {
		return link{}
	}
	return l
}

// update takes note of one event, and reports whether and where it may be about a change of the Snapshot.
func (f *filter) update(kind uint16, body []byte) (hint Hint, concerns bool) {
	switch fam := family(body); {
	// A bridge reports about its ports with the same types, and family AF_BRIDGE.
	case fam == unix.AF_UNSPEC && (kind == unix.RTM_NEWLINK || kind == unix.RTM_DELLINK):
		l, err := decodeLink(body)
		if err != nil {
			return Hint{}, true
		}
		hint.Link = l.index
		before, known := f.links[l.index]
		now := onlyVif(l)
		if kind == unix.RTM_NEWLINK {
			f.links[l.index] = now
			return hint, now != before || !known && !f.complete
		}
		delete(f.links, l.index)
		return hint, now != link{} || before != link{} || !known && !f.complete
	case fam == unix.AF_INET && (kind == unix.RTM_NEWADDR || kind == unix.RTM_DELADDR):
		a, err := decodeAddress(body)
		if err != nil {
			return Hint{}, true
		}
		l, known := f.links[a.index]
		return Hint{Link: a.index}, !known || l != link{}
	case fam == unix.AF_INET && (kind == unix.RTM_NEWROUTE || kind == unix.RTM_DELROUTE):
		// Whatever its link: when one route replaces another, there is an event about the new one only.
		r, err := decodeRoute(body)
		if err != nil {
			return Hint{}, true
		}
		return Hint{r.oif, r.dst}, r.toHost()
	}
	return Hint{}, false
}
