package limits

import "fmt"

// What the resolver may take, see package names. With 250 AppVMs of 50 names each it has some MiB; the bounds are for AppVMs that all
// fill their caches and have as many questions under way as they may.
const (
	namesTasks       = 64        // threads of Go
	namesTasksOfUser = 512       // in all networks of this machine: tests run many at once
	namesMemory      = 256 << 20 // bytes
	namesDescriptors = 16384     // a socket for each question under way to a name server: 1024, and some of each AppVM (SocketsMax, OwnSockets in names/ask)
	namesReserved    = 512 << 20 // writable address space besides: Go maps 64 MiB at once, and stacks of threads
)

// Of the lists the resolver has a matcher each (package rules/match), which takes 80 to 500 bytes for a line of a list as people write
// them, and up to 13 for each byte of a long one. All together may take half of its memory: the rest is for answers, and for what Go
// collects late. 256,000 lines of 37 bytes make a process of 194 MB.
const (
	listsPart   = 2   // of the memory of the resolver: one part in so many
	listPart    = 4   // of that, for one list
	smallPart   = 64  // of that: a list that takes no more is small
	sparedPart  = 4   // of that: only small lists take the last of it
	perName     = 256 // bytes for a line
	perNameByte = 12  // and for each of its bytes
)

// ListRoom returns how many bytes the resolver has for lists, of a machine with so much memory.
func ListRoom(memory uint64) uint64 { return min(namesMemory, memory/4) / listsPart }

// ListRoom returns how many bytes the resolver has for lists on this machine.
func (c Ceilings) ListRoom() uint64 { return ListRoom(c.memory) }

// Names returns how many bytes the resolver takes for a list, at most.
func (r Rules) Names() uint64 { return perName*uint64(r.Lines) + perNameByte*uint64(r.Bytes) }

// A Shelf has the lists that the resolver holds. Small lists always find room, until all of it is taken; larger ones leave a part to
// them.
type Shelf struct {
	Room  uint64 // bytes
	taken uint64
}

// Put makes room for a list, or returns a *TooLong.
func (s *Shelf) Put(r Rules) error {
	need, most, why := r.Names(), s.Room/listPart, "one list may take a quarter of what it has for all"
	remedy := "shorten it"
	if need <= most {
		others := s.Room
		if need > s.Room/smallPart {
			others -= s.Room / sparedPart
		}
		remedy += ", or another AppVM's list"
		most, why = others-min(others, s.taken), fmt.Sprintf("other lists take %d of %d MiB", s.taken>>20, s.Room>>20)
	}
	if s.Room < namesMemory/listsPart {
		remedy += ", or give this VM more memory"
	}
	if need > most {
		return &TooLong{Lines: r.Lines, Possible: int(uint64(r.Lines) * most / need), who: "the resolver has room for", Scarce: why,
			Remedy: remedy}
	}
	s.taken += need
	return nil
}

// Take takes a list away that was put there.
func (s *Shelf) Take(r Rules) { s.taken -= r.Names() }

// Names returns what the resolver may take on this machine.
func (c Ceilings) Names() Needs {
	memory := min(namesMemory, c.memory/4)
	return Needs{
		Limits:  Limits{Tasks: min(namesTasksOfUser, c.tasks), Memory: memory, Descriptors: min(namesDescriptors, c.descriptors)},
		Serving: namesTasks, Writable: min(memory+namesReserved, c.writable),
	}
}
