package netlink

import (
	"context"
	"time"

	"github.com/mdlayher/netlink"
)

// A Subscription receives what the kernel multicasts to groups of one family.
type Subscription struct{ conn *netlink.Conn }

// Subscribe joins groups, such as unix.NFNLGRP_NFTABLES, in the network namespace of the calling thread. room is how many
// bytes of messages the kernel may keep for this process if it has no time to read them at once.
func Subscribe(family int, room int, groups ...uint32) (*Subscription, error) {
	conn, err := netlink.Dial(family, &netlink.Config{MessageBufferSize: answerSize})
	if err != nil {
		return nil, err
	}
	_ = conn.SetReadBuffer(room)
	for _, group := range groups {
		if err := conn.JoinGroup(group); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return &Subscription{conn}, nil
}

// Follow calls each for every message until ctx ends, and then returns nil. An error means that messages were lost, as with
// ENOBUFS when they come too fast.
func (s *Subscription) Follow(ctx context.Context, each func(Message)) error {
	defer context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		messages, err := s.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, m := range messages {
			each(m)
		}
	}
}

// Receive waits for messages, and returns those that came at once.
func (s *Subscription) Receive() (all []Message, err error) {
	messages, err := s.conn.Receive()
	for _, m := range messages {
		all = append(all, Message{uint16(m.Header.Type), uint16(m.Header.Flags), m.Data})
	}
	return all, err
}

// Close leaves the groups.
func (s *Subscription) Close() error { return s.conn.Close() }
