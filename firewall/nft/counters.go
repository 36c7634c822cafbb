package nft

// refusals adds up counters of the kernel that begin at 0 again whenever rules are loaded.
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
