package footprint

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mapped returns what Release unmaps of this program, and how much of that is mapped now, in KiB.
func mapped(t *testing.T) (all []span, resident int) {
	t.Helper()
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	if all, err = untouched(strings.NewReader(string(text)), self); err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		_, rest, _ := strings.Cut(string(text), fmt.Sprintf("%08x-%08x ", s.start, s.end))
		_, rest, _ = strings.Cut(rest, "\nRss:")
		var n int
		if _, err := fmt.Sscanf(rest, "%d kB", &n); err != nil {
			t.Fatal(err)
		}
		resident += n
	}
	return all, resident
}

// TestRelease: after it, less of the program is mapped, and the program runs on.
func TestRelease(t *testing.T) {
	all, _ := mapped(t)
	if len(all) == 0 {
		t.Fatal("nothing of this program is mapped")
	}
	for _, s := range all {
		if _, _, err := unix.Syscall(unix.SYS_MADVISE, s.start, s.end-s.start, unix.MADV_POPULATE_READ); err != 0 {
			t.Skipf("the kernel cannot map all of it: %v", err) // before 5.14
		}
	}
	_, before := mapped(t)
	if err := Release(); err != nil {
		t.Fatal(err)
	}
	if _, after := mapped(t); after >= before {
		t.Errorf("%d KiB are mapped, and %d before", after, before)
	}
}

// TestWhatHasChangedStays: these are the mappings of a program that is loaded at any address, whose linker has changed pages, and others.
func TestWhatHasChangedStays(t *testing.T) {
	const smaps = `56a00000-56a8f000 r-xp 00000000 fe:00 1234                       /usr/sbin/vifproxyd
Size:                572 kB
Rss:                 512 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd ex mr mw me sd
56a8f000-56b21000 r--p 0008f000 fe:00 1234                       /usr/sbin/vifproxyd
Rss:                 584 kB
Anonymous:           164 kB
Swap:                  0 kB
56b21000-56b22000 r--p 00121000 fe:00 1234                       /usr/sbin/vifproxyd
Anonymous:             0 kB
Swap:                  4 kB
56b22000-56b30000 rw-p 00122000 fe:00 1234                       /usr/sbin/vifproxyd
Anonymous:             0 kB
56b30000-56b40000 r--s 00122000 fe:00 1234                       /usr/sbin/vifproxyd
Anonymous:             0 kB
56b40000-56b50000 r--p 00000000 fe:00 1235                       /usr/sbin/vifproxyd (deleted)
Anonymous:             0 kB
7f000000-7f100000 r-xp 00000000 fe:00 99                         /usr/lib/libc.so.6
Anonymous:             0 kB
7f200000-7f300000 r--p 00000000 00:00 0
Anonymous:             0 kB
7f300000-7f400000 r--p 00000000 fe:00 1234                       /usr/sbin/vifproxyd
Anonymous:             0 kB
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
Anonymous:             0 kB
`
	want := []span{{0x56a00000, 0x56a8f000}, {0x7f300000, 0x7f400000}}
	if got, err := untouched(strings.NewReader(smaps), "/usr/sbin/vifproxyd"); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%x, want %x: %v", got, want, err)
	}
}
