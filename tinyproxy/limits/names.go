package limits

// What the resolver may take, see package names. With 250 AppVMs of 50 names each it has some MiB; the bounds are for AppVMs that all
// fill their caches and have as many questions under way as they may.
const (
	namesTasks       = 64        // threads of Go
	namesTasksOfUser = 512       // in all networks of this machine: tests run many at once
	namesMemory      = 256 << 20 // bytes
	namesDescriptors = 16384     // a socket for each question under way to a name server: 1024, and some of each AppVM (SocketsMax, OwnSockets in names/ask)
	namesReserved    = 512 << 20 // writable address space besides: Go maps 64 MiB at once, and stacks of threads
)

// Names returns what the resolver may take on this machine.
func (c Ceilings) Names() Needs {
	memory := min(namesMemory, c.memory/4)
	return Needs{
		Limits:  Limits{Tasks: min(namesTasksOfUser, c.tasks), Memory: memory, Descriptors: min(namesDescriptors, c.descriptors)},
		Serving: namesTasks, Writable: min(memory+namesReserved, c.writable),
	}
}
