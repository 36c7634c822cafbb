package nft

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// evictInterval is the time between looks at how many connections are tracked.
	evictInterval = 2 * time.Second
	// evictShare is the part of the table that has to be in use, one in so many, until somebody looks for expired entries.
	evictShare = 8
)

// KeepEvicting has the kernel evict expired entries of connection tracking as long as the table is in use, until ctx ends. Otherwise
// they count until the kernel's own collector comes round. In a small table that is once a minute, whatever the timeouts are:
// it averages them with a hundred made-up ones of INT_MAX (gc_worker in net/netfilter/nf_conntrack_core.c, Linux 5.16 to 6.18).
// told gets an error when looking begins to fail, and nil when it works again.
func KeepEvicting(ctx context.Context, told func(error)) {
	tick := time.NewTicker(evictInterval)
	defer tick.Stop()
	var last error
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		_, err := evictIfMany()
		if (err == nil) != (last == nil) {
			told(err)
		}
		last = err
	}
}

// evictIfMany evicts expired entries if there may be enough of them, and reports whether it did.
func evictIfMany() (did bool, err error) {
	n, err := tracked()
	if err != nil || n*evictShare <= TrackedMax() {
		return false, err
	}
	return true, evictExpired()
}

// tracked returns how many entries connection tracking has, expired ones included; 0 where nothing is tracked.
func tracked() (int, error) {
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("count tracked connections: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// evictExpired asks for all entries of a family that has none. The kernel evicts what has expired on its way through the table
// (ctnetlink_dump_table in net/netfilter/nf_conntrack_netlink.c, since Linux 4.9).
func evictExpired() error {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.NFPROTO_ARP, Version: nl.NFNETLINK_V0})
	if _, err := req.Execute(unix.NETLINK_NETFILTER, 0); err != nil {
		return fmt.Errorf("evict expired connections from tracking: %w", err)
	}
	return nil
}
