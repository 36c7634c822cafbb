package tracking

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"vifproxy/internal/beat"
	"vifproxy/internal/netlink"
)

const (
	evictInterval = 2 * time.Second  // between looks at how many connections are tracked
	emptyInterval = 10 * time.Second // the same while less than one in emptyShare is in use
	emptyShare    = 64
	evictShare    = 8 // the part of the table that has to be in use, one in so many, until somebody looks for expired entries
)

// KeepEvicting has the kernel evict expired entries of connection tracking as long as the table is in use, until ctx ends. Otherwise
// they count until the kernel's own collector comes round. In a small table that is once a minute, whatever the timeouts are:
// it averages them with a hundred made-up ones of INT_MAX (gc_worker in net/netfilter/nf_conntrack_core.c, Linux 5.16 to 6.18;
// findings/expired-connections-still-count.sh).
// told gets an error when looking begins to fail, and nil when it works again.
func KeepEvicting(ctx context.Context, told func(error)) {
	var last error
	for interval := evictInterval; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(beat.Next(time.Now(), interval))):
		}
		_, next, err := evictIfMany()
		if (err == nil) != (last == nil) {
			told(err)
		}
		last, interval = err, next
	}
}

// evictIfMany evicts expired entries if there may be enough of them. It reports whether it did, and returns the time until the next look.
func evictIfMany() (did bool, next time.Duration, err error) {
	n, _, err := stats()
	switch most := Places(); {
	case err != nil:
		return false, evictInterval, err
	case n*emptyShare < most:
		return false, emptyInterval, nil
	case n*evictShare <= most:
		return false, evictInterval, nil
	}
	return true, evictInterval, evictExpired()
}

// placesDefault is how many places there are if the kernel does not say it.
const placesDefault = 2048

// Places returns how many connections can be tracked. Tests replace it. The unit hides /proc/sys (ProcSubset=pid), where the kernel
// itself is asked.
var Places = func() int {
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if n, bad := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && bad == nil {
		return n
	}
	if _, places, err := stats(); err == nil && places > 0 {
		return places
	}
	return placesDefault
}

// stats returns how many entries connection tracking has, expired ones included, and for how many there is room; 0 for that
// where the kernel does not say it (before Linux 5.0).
func stats() (entries, places int, err error) {
	const getStats, ofEntries, ofPlaces = 5, 1, 2                                       // IPCTNL_MSG_CT_GET_STATS, CTA_STATS_GLOBAL_*
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|getStats, unix.NLM_F_ACK) // the answer is one of many, with no last one
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	answers, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return 0, 0, fmt.Errorf("count tracked connections: %w", err)
	}
	var d netlink.Decoder
	for _, answer := range answers {
		attributes := answer[min(nl.SizeofNfgenmsg, len(answer)):]
		if n := d.Find(attributes, ofEntries); len(n) == 4 {
			entries = int(binary.BigEndian.Uint32(n))
		}
		if n := d.Find(attributes, ofPlaces); len(n) == 4 {
			places = int(binary.BigEndian.Uint32(n))
		}
	}
	return entries, places, d.Err()
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
