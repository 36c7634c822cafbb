package rules

import (
	"net/netip"
	"slices"
)

// A Range is a rule file for all AppVMs of a range of addresses that have no other list.
type Range struct {
	Name string // what their names begin with
	In   netip.Prefix
	Path string
	File File  // the zero File if Err is set
	Err  error // an *Error, or nil
}

// NameOf returns the name of an AppVM of the range. The firewall VM is told no names, so it has the address.
func (r Range) NameOf(addr netip.Addr) string { return r.Name + "-" + addr.String() }

// Of returns the list of one AppVM of the range.
func (r Range) Of(addr netip.Addr) File {
	f := r.File
	f.Name, f.Addr = r.NameOf(addr), addr
	return f
}

// InRange returns the narrowest range that has an address.
func (s Set) InRange(addr netip.Addr) (r Range, ok bool) {
	i := slices.IndexFunc(s.Ranges, func(r Range) bool { return r.In.Contains(addr) })
	if i < 0 {
		return Range{}, false
	}
	return s.Ranges[i], true
}

// Of returns the list of the AppVM with an address, if it has one that can be used.
func (s Set) Of(addr netip.Addr) (File, bool) {
	if i := slices.IndexFunc(s.Files, func(f File) bool { return f.Addr == addr }); i >= 0 {
		return s.Files[i], true
	}
	if slices.ContainsFunc(s.Refused, func(r Refused) bool { return r.Addr == addr }) {
		return File{}, false
	}
	r, ok := s.InRange(addr)
	if !ok || r.Err != nil {
		return File{}, false
	}
	return r.Of(addr), true
}
