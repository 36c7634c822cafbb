package firewall

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Watch calls wake whenever another program has changed the kernel's nftables ruleset (iptables-nft counts,
// the old iptables does not report), and once when it has subscribed. Changes made by this
// process over netlink are ignored, those of the nft and iptables it runs are not. Watch blocks until ctx
// ends and then returns nil. An error means that it could not subscribe, or that notifications were lost since.
//
// It does not use the library's Monitor, which blocks forever on its channel when the reader leaves, and
// decodes every rule only to have it thrown away.
func Watch(ctx context.Context, wake func()) error {
	conn, err := subscribe()
	if err != nil {
		return err
	}
	defer conn.Close()
	wake()
	if err = follow(ctx, conn, wake); ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("watch nftables: %w", err)
}

// noticeSize is how many bytes of notifications the kernel may keep for us.
const noticeSize = 1 << 20

func subscribe() (*netlink.Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("watch nftables: %w", err)
	}
	// Room for a large transaction's notifications, even if this process has no time to read them at once.
	_ = conn.SetReadBuffer(noticeSize)
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		conn.Close()
		return nil, fmt.Errorf("watch nftables: %w", err)
	}
	return conn, nil
}

// follow reads notifications until the socket fails, as with ENOBUFS when they come too fast, or ctx ends.
func follow(ctx context.Context, conn *netlink.Conn, wake func()) error {
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		messages, err := conn.Receive()
		if err != nil {
			return err
		}
		if foreign(messages) {
			wake()
		}
	}
}

// foreign tells whether one of the messages ends a transaction of another process. Such a message carries the
// id of the thread that made the transaction (nf_tables_fill_gen_info: task_pid_nr), not of its process; ours
// are the ones in /proc/self/task. If that fails, as in a pid namespace, our own are taken for foreign: one
// check too many.
func foreign(messages []netlink.Message) bool {
	for _, m := range messages {
		if m.Header.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
			continue
		}
		if len(m.Data) < 4 { // struct nfgenmsg
			return true
		}
		thread := fmt.Sprintf("/proc/self/task/%d", parse(m.Data).number(unix.NFTA_GEN_PROC_PID))
		if _, err := os.Stat(thread); err != nil {
			return true
		}
	}
	return false
}
