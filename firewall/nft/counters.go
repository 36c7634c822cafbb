package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"vifproxy/firewall/ruleset"
	"vifproxy/internal/netlink"
)

// refusals adds up the kernel's counters, which begin at 0 again whenever rules are loaded.
type refusals struct{ total, last map[uint32]uint64 }

func (r *refusals) add(now map[uint32]uint64) {
	if r.total == nil {
		r.total = map[uint32]uint64{}
	}
	for uid, n := range now {
		if last := r.last[uid]; n >= last {
			r.total[uid] += n - last
		} else {
			r.total[uid] += n
		}
	}
	r.last = now
}

// countRefused reads how many packets of each uid the fence has counted. Without a fence there are none.
func (k *kernel) countRefused() (map[uint32]uint64, error) {
	count := make(map[uint32]uint64)
	var d netlink.Decoder
	err := k.Walk(refusedSet.dump, func(o ruleset.Object) error {
		for _, e := range d.All(o.Get(unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
			uid := d.Find(e, unix.NFTA_SET_ELEM_KEY, unix.NFTA_DATA_VALUE)
			packets := d.Find(e, unix.NFTA_SET_ELEM_EXPR, unix.NFTA_EXPR_DATA, unix.NFTA_COUNTER_PACKETS)
			if len(uid) == 4 && len(packets) == 8 {
				count[binary.NativeEndian.Uint32(uid)] = binary.BigEndian.Uint64(packets) // nft_meta.c: a number of the host
			}
		}
		return d.Err()
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("counters of the fence: %w", err)
	}
	return count, nil
}
