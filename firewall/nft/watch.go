package nft

import (
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"vifproxy/firewall/ruleset"
	"vifproxy/internal/netlink"
)

// Watch calls wake whenever another program has changed the kernel's nftables ruleset (iptables-nft counts,
// the old iptables does not report), and once when it has subscribed. Changes made by this
// process over netlink are ignored, those of the nft and iptables it runs are not. Watch blocks until ctx
// ends and then returns nil. An error means that it could not subscribe, or that notifications were lost since.
func Watch(ctx context.Context, wake func()) error {
	events, err := subscribe()
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	defer events.Close()
	wake()
	err = events.Follow(ctx, func(m netlink.Message) {
		if foreign(m) {
			wake()
		}
	})
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	return nil
}

// eventBytesMax is how many bytes of notifications the kernel may keep for us: those of a large transaction.
const eventBytesMax = 1 << 20

func subscribe() (*netlink.Subscription, error) {
	return netlink.Subscribe(unix.NETLINK_NETFILTER, eventBytesMax, unix.NFNLGRP_NFTABLES)
}

// foreign reports whether a message ends a transaction of another process. Such a message carries the
// id of the thread that made the transaction (nf_tables_fill_gen_info: task_pid_nr), not of its process; ours
// are the ones in /proc/self/task. In a pid namespace these have other ids, and our own transactions are taken for foreign: one check
// too many. There, one of another program may have the id of a thread of ours, so its name is compared as well.
func foreign(m netlink.Message) bool {
	if m.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
		return false
	}
	o, err := ruleset.Parse(m.Body)
	if err != nil {
		return true
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/comm", o.Number(unix.NFTA_GEN_PROC_PID)))
	return err != nil || strings.TrimSuffix(string(name), "\n") != o.Text(unix.NFTA_GEN_PROC_NAME)
}
