package supervisor

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vifproxy/internal/proxies"
)

// What a change costs must not grow with the AppVMs that it is not about. Times are for `make bench`; here is what
// can be counted.

const crowd = 250

// runMany runs f with n AppVMs that are served.
func runMany(t *testing.T, n int, f func(m *machine, vifs []string)) {
	run(t, func(m *machine) {
		m.mail.Post(func(l *loop) { l.ports = proxies.NewPorts(proxies.PortRange{First: 1, Last: 1000}) })
		synctest.Wait()
		var vifs []string
		for i := range n {
			ip := fmt.Sprintf("10.137.%d.%d", i/250, i%250+1)
			m.file(fmt.Sprintf("vm%d.%s", i, ip), "bank")
			vifs = append(vifs, fmt.Sprintf("vif%d.0 %s", i+1, ip))
		}
		m.connect(vifs...)
		m.after(time.Minute)
		served := 0
		if m.set(func() { m.syncs, served = 0, len(m.bindings) }); served != n {
			t.Fatalf("%d AppVMs of %d are served", served, n)
		}
		f(m, vifs)
	})
}

// counted are the lines of a journal by their first word.
func counted(journal string) map[string]int {
	n := map[string]int{}
	for line := range strings.Lines(journal) {
		n[strings.Fields(line)[0]]++
	}
	return n
}

func (m *machine) expectCounts(journal string, transactions int, want map[string]int) {
	m.t.Helper()
	got := counted(journal)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		m.t.Errorf("done: %v, want %v\n%s", got, want, journal)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.syncs > transactions {
		m.t.Errorf("%d firewall transactions, want at most %d", m.syncs, transactions)
	}
}

func TestReconcileWithNothingToDoDoesNothing(t *testing.T) {
	runMany(t, crowd, func(m *machine, _ []string) {
		if _, err := m.Update(m.ctx); err != nil {
			t.Error(err)
		}
		m.expectCounts(m.took(), 1, map[string]int{})
	})
}

func TestOneMoreAmongManyIsOneStart(t *testing.T) {
	runMany(t, crowd, func(m *machine, vifs []string) {
		m.file("new.10.138.0.1", "a")
		m.after(time.Second)
		m.set(func() { m.syncs = 0 })
		m.connect(append(vifs, "vif999.0 10.138.0.1")...)
		// One transaction when it appears, with its share of the fence, and one when its proxy listens.
		m.expectCounts(m.after(time.Second), 2, map[string]int{"start": 1, "bind": 1})
	})
}

func TestOneLessAmongManyIsOneEnd(t *testing.T) {
	runMany(t, crowd, func(m *machine, vifs []string) {
		m.connect(vifs[:crowd-1]...)
		// One that unbinds, and one when the process has ended and its port is free.
		m.expectCounts(m.after(time.Second), 2, map[string]int{"unbind": 1, "stop": 1})
	})
}

func TestChangedRuleAmongManyIsOneProcess(t *testing.T) {
	runMany(t, crowd, func(m *machine, _ []string) {
		m.file("vm7.10.137.0.8", "shop")
		m.expectCounts(m.after(time.Second), 3, map[string]int{"start": 1, "unbind": 1, "bind": 1, "kill": 1})
	})
}

// TestNoGoroutineForEachProxy: each would be a stack, for as long as its AppVM is connected.
func TestNoGoroutineForEachProxy(t *testing.T) {
	var goroutines []int
	for _, n := range []int{1, crowd} {
		runMany(t, n, func(*machine, []string) {
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			// Those of the bubble: the runtime has others, which come and go.
			goroutines = append(goroutines, strings.Count(string(stacks), "synctest bubble"))
		})
	}
	if goroutines[0] == 0 || goroutines[1] > goroutines[0] {
		t.Errorf("%d goroutines with one AppVM, %d with %d", goroutines[0], goroutines[1], crowd)
	}
}

// TestAllocationsOfAReconcile asserts that each AppVM adds the same few. What grows faster than the AppVMs is found
// here.
func TestAllocationsOfAReconcile(t *testing.T) {
	numbers := []int{50, 150, crowd}
	var allocs []float64
	for _, n := range numbers {
		runMany(t, n, func(m *machine, _ []string) {
			m.mail.Post(func(l *loop) { // on the loop's goroutine, as always
				allocs = append(allocs, testing.AllocsPerRun(10, func() { l.reconcile(time.Now()) }))
			})
			synctest.Wait()
		})
	}
	const base, each = 75, 4
	t.Logf("%v AppVMs: %v allocations", numbers, allocs)
	for i, n := range numbers {
		if allocs[i] > float64(base+each*n) {
			t.Errorf("%v allocations with %d AppVMs", allocs[i], n)
		}
	}
	if !slices.IsSorted(allocs) {
		t.Errorf("fewer allocations for more AppVMs: %v; is it counted right?", allocs)
	}
}
