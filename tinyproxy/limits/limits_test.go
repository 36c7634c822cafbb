package limits

import (
	"errors"
	"math"
	"strings"
	"testing"
)

// TestWhatFits has the clients that a machine has room for, by what is scarce there.
func TestWhatFits(t *testing.T) {
	const much = math.MaxUint64
	plenty := Ceilings{tasks: much, descriptors: much, writable: much, addresses: much, memory: 64 << 30}
	for _, test := range []struct {
		change   func(*Ceilings)
		possible int
		remedy   string
	}{
		{func(c *Ceilings) { c.tasks = 1550 }, 1534, "write MaxClients 1534 or less, or raise LimitNPROC= in the unit"},
		{func(c *Ceilings) { c.descriptors = 4096 }, 1008, "or raise LimitNOFILE= "},
		{func(c *Ceilings) { c.writable = 64 << 20 }, 64, "or raise LimitDATA= "},
		{func(c *Ceilings) { c.addresses = 4<<30 + 33<<20 }, 2, "or raise LimitAS= "},
		{func(c *Ceilings) { c.memory = 400 << 20 }, 672, "or give this VM more memory"},
		{func(c *Ceilings) { c.tasks = 10 }, 0, "raise LimitNPROC= in the unit"},
	} {
		c := plenty
		test.change(&c)
		if err := c.fit(test.possible, Rules{}); err != nil {
			t.Errorf("%d clients: %v", test.possible, err)
		}
		var tooMany *TooManyClients
		if err := c.fit(test.possible+1, Rules{}); !errors.As(err, &tooMany) || tooMany.Possible != test.possible ||
			!strings.Contains(tooMany.Remedy, test.remedy) {
			t.Errorf("%d clients: %+v, want %d, %q", test.possible+1, err, test.possible, test.remedy)
		}
	}
	if err := plenty.fit(math.MaxInt, Rules{}); err == nil {
		t.Error("any number of clients fits")
	}
	if small := (Ceilings{tasks: 300, descriptors: much, writable: much, addresses: much, memory: 1 << 30}); small.fit(100, Rules{}) != nil ||
		!strings.Contains(small.Rlimits(Need(200, Rules{}, false), false), "6:300") {
		t.Error("RLIMIT_NPROC, which all generations share, is not cut to what the daemon has")
	}
	// A list takes memory, and where the clients alone would fit, the list is what is too long.
	plenty.memory = 400 << 20
	names := func(n int) Rules { return Rules{n, 30 * n} }
	var tooLong *TooLong
	if err := plenty.Fits(100, names(36000)); !errors.As(err, &tooLong) || tooLong.Lines != 36000 || tooLong.Possible != 6771 ||
		tooLong.Remedy != "shorten it, or give this VM more memory" {
		t.Errorf("36000 names in 400 MiB: %+v", err)
	}
	if err := plenty.Fits(100, names(6771)); err != nil {
		t.Errorf("as many as are possible: %v", err)
	}
	var tooMany *TooManyClients
	if err := plenty.Fits(4000, names(6771)); !errors.As(err, &tooMany) {
		t.Errorf("too many clients, whatever the list: %v", err)
	}
}

// TestShelf: the longest lists find no room first, and small ones find some until all of it is taken.
func TestShelf(t *testing.T) {
	list := func(lines int) Rules { return Rules{Lines: lines} }
	s := Shelf{Room: ListRoom(8 << 30)}
	all := int(s.Room / perName)
	if all != 1<<19 {
		t.Fatalf("room for %d lines of no bytes", all)
	}
	var tooLong *TooLong
	if err := s.Put(list(all/listPart + 1)); !errors.As(err, &tooLong) || tooLong.Possible != all/listPart ||
		tooLong.Error() != "a list of 131073 lines: the resolver has room for 131072 such lines: one list may take a quarter of what it has for all" {
		t.Errorf("more than a quarter: %v", err)
	}
	for i := range 3 {
		if err := s.Put(list(all / listPart)); err != nil {
			t.Errorf("quarter %d: %v", i, err)
		}
	}
	large := list(all/smallPart + 1)
	if err := s.Put(large); !errors.As(err, &tooLong) || tooLong.Possible != 0 ||
		tooLong.Error() != "a list of 8193 lines: the resolver has room for 0 such lines: other lists take 96 of 128 MiB" {
		t.Errorf("a large one beside three quarters: %v", err)
	}
	for i := range smallPart / sparedPart {
		if err := s.Put(list(all / smallPart)); err != nil {
			t.Errorf("small one %d: %v", i, err)
		}
	}
	if err := s.Put(list(1)); err == nil {
		t.Error("there is room where there is none")
	}
	s.Take(list(all / listPart))
	if err := s.Put(large); err == nil {
		t.Error("a large list takes what is left to small ones")
	}
	s.Take(list(all / listPart))
	if err := s.Put(large); err != nil {
		t.Error(err)
	}
	if ListRoom(400<<20) != 50<<20 {
		t.Errorf("%d bytes of a small machine", ListRoom(400<<20))
	}
}

// TestTogether: all proxies leave a quarter to the rest, of a small machine more, and never more than half.
func TestTogether(t *testing.T) {
	for memory, want := range map[uint64]uint64{4096: 3072, 400: 300, 300: 204, 210: 114, 128: 64} {
		if got := Together(memory << 20); got != want<<20 {
			t.Errorf("of %d MiB all proxies may have %d, want %d", memory, got>>20, want)
		}
	}
}
