package firewall

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// WatchLinks calls wake whenever an interface that is no vif comes, goes or changes, and once when it has subscribed: rules of
// hook forward may be about it. It blocks until ctx ends and then returns nil. An error means that it could not subscribe,
// or that notifications were lost since.
func WatchLinks(ctx context.Context, wake func()) error {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return fmt.Errorf("watch links: %w", err)
	}
	defer conn.Close()
	_ = conn.SetReadBuffer(noticeSize)
	if err := conn.JoinGroup(unix.RTNLGRP_LINK); err != nil {
		return fmt.Errorf("watch links: %w", err)
	}
	wake()
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		messages, err := conn.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watch links: %w", err)
		}
		for _, m := range messages {
			if len(m.Data) < unix.SizeofIfInfomsg || !strings.HasPrefix(string(inside(m.Data[unix.SizeofIfInfomsg:], unix.IFLA_IFNAME)), "vif") {
				wake()
				break
			}
		}
	}
}
