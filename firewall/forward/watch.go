package forward

import (
	"bytes"
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"vifproxy/internal/netlink"
)

// linkEventBytesMax is how many bytes of events the kernel may keep for us.
const linkEventBytesMax = 1 << 20

// WatchLinks calls wake whenever an interface that is no vif comes, goes or changes, and once when it has subscribed: rules of
// hook forward may be about it. It blocks until ctx ends and then returns nil. An error means that it could not subscribe,
// or that notifications were lost since.
func WatchLinks(ctx context.Context, wake func()) error {
	events, err := netlink.Subscribe(unix.NETLINK_ROUTE, linkEventBytesMax, unix.RTNLGRP_LINK)
	if err != nil {
		return fmt.Errorf("watch links: %w", err)
	}
	defer events.Close()
	wake()
	err = events.Follow(ctx, func(m netlink.Message) {
		if !isVif(m.Body) {
			wake()
		}
	})
	if err != nil {
		return fmt.Errorf("watch links: %w", err)
	}
	return nil
}

// isVif reports whether an event is about a vif.
func isVif(body []byte) bool {
	if len(body) < unix.SizeofIfInfomsg {
		return false
	}
	var d netlink.Decoder
	return bytes.HasPrefix(d.Find(body[unix.SizeofIfInfomsg:], unix.IFLA_IFNAME), []byte("vif"))
}
