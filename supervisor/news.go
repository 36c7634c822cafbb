package supervisor

import (
	"net/netip"
	"slices"
)

// mostFindings bounds what one rule file can say in the log.
const mostFindings = 20

// tellNews logs what is different in the desired state, once for each change.
func (s *Supervisor) tellNews(before []*Desired) {
	was := make(map[netip.Addr]*Desired, len(before))
	for _, d := range before {
		was[d.Addr] = d
	}
	for _, d := range s.want {
		old := was[d.Addr]
		delete(was, d.Addr)
		log := s.Log.With("vm", d.Name, "ip", d.Addr)
		switch {
		case old == nil:
			log.Info("rule file found")
		case d.Name != old.Name:
			log.Info("rule file renamed", "old", old.Name)
		}
		if old == nil {
			old = &Desired{}
		}
		var known []string
		if old.Policy != nil {
			known = old.Policy.Findings
		}
		if d.Policy != nil {
			for i, finding := range d.Policy.Findings {
				if i == mostFindings {
					log.Warn("more mistakes in the rule file: see `vifproxyctl check`", "count", len(d.Policy.Findings)-i)
					break
				}
				if !slices.Contains(known, finding) {
					log.Warn("rule file can hardly mean this", "err", finding)
				}
			}
		}
		for _, vif := range d.Vifs {
			if !slices.Contains(old.Vifs, vif) {
				log.Info("AppVM connected", "vif", vif)
			}
		}
		for _, vif := range old.Vifs {
			if !slices.Contains(d.Vifs, vif) {
				log.Info("AppVM disconnected", "vif", vif)
			}
		}
		switch {
		case d.Err != nil && (old.Err == nil || old.Err.Error() != d.Err.Error()):
			log.Error("rules refused", "err", d.Err)
		case d.Err == nil && old.Err != nil:
			log.Info("rules accepted")
		}
	}
	for _, old := range was {
		s.Log.Info("rule file gone", "vm", old.Name, "ip", old.Addr)
	}
}
