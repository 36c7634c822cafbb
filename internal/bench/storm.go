package bench

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"vifproxy/internal/lab"
)

// A storm: so many AppVMs come, and as many go but for the last, one every gap.
const (
	stormVMs  = 1000
	stormGap  = 10 * time.Millisecond
	stormPool = 200 // have a rule file
	stormMost = 50  // are connected at a time
)

// storm measures from the last of a thousand attaches and detaches until processes and bindings are exactly those
// of who is connected then.
func (b *bench) storm() (outcome, error) {
	s, err := b.site("storm", func(s *site) error {
		for i := range stormPool {
			if err := s.save(i, openLine); err != nil {
				return err
			}
		}
		// The AppVMs' namespace comes with the first of them.
		if err := errors.Join(s.Attach(s.vm(stormPool)), s.start(b.ctx, b.Daemon)); err != nil {
			return err
		}
		return s.untilRunning(b.ctx, 0)
	})
	if err != nil {
		return outcome{}, err
	}
	o := outcome{unit: "ms"}
	for seed := range uint64(max(1, b.Runs/10)) {
		late, took, err := s.blow(b, seed)
		if err != nil {
			return o, err
		}
		o.figures = append(o.figures, milliseconds(took))
		if late > time.Second {
			o.note("the machine took %v more than %v for the storm", late.Round(time.Second/10), stormVMs*stormGap)
		}
	}
	// With so few runs the median says less than the worst.
	o.figures = []float64{slices.Max(o.figures)}
	o.note("the worst of %d storms", max(1, b.Runs/10))
	left, err := s.leftOver(b)
	o.wrong = append(o.wrong, left...)
	return o, err
}

// blow makes a storm. It returns by how much it took longer than it should have, and the time after it until
// everything is as it should be.
func (s *site) blow(b *bench, seed uint64) (late, took time.Duration, err error) {
	random := rand.New(rand.NewPCG(seed, seed))
	free := random.Perm(stormPool)
	var here []lab.VM
	numbers := map[string]int{}
	var leaving sync.WaitGroup
	defer leaving.Wait()
	var mu sync.Mutex
	var problems error
	detach := func(vm lab.VM) { // beside the others: the kernel waits for RCU, see lab.Detach
		here = slices.DeleteFunc(here, func(o lab.VM) bool { return o == vm })
		free = append(free, numbers[vm.Vif()])
		leaving.Go(func() {
			if err := s.Detach(vm.Vif()); err != nil {
				mu.Lock()
				defer mu.Unlock()
				problems = errors.Join(problems, err)
			}
		})
	}
	began := time.Now()
	tick := time.NewTicker(stormGap)
	defer tick.Stop()
	for range stormVMs {
		<-tick.C
		if err := b.ctx.Err(); err != nil {
			return 0, 0, err
		}
		if len(here) == stormMost {
			detach(here[random.IntN(len(here))])
		}
		vm := s.vm(free[0])
		numbers[vm.Vif()], free = free[0], free[1:]
		if err := s.Attach(vm); err != nil {
			return 0, 0, err
		}
		here = append(here, vm)
	}
	leaving.Wait()
	over := time.Now()
	var want []string
	for _, vm := range here {
		want = append(want, fmt.Sprintf("%s %v", vm.Vif(), vm.IP))
	}
	slices.Sort(want)
	err = until(b.ctx, "processes and bindings are those of the connected", 5*time.Millisecond, func() (bool, error) {
		got, err := s.bindings()
		if err != nil || !slices.Equal(got, want) {
			return false, err
		}
		n, err := s.proxies()
		return n == len(want), err
	})
	took = time.Since(over)
	for _, vm := range slices.Clone(here) {
		detach(vm)
	}
	leaving.Wait()
	return over.Sub(began) - stormVMs*stormGap, took, errors.Join(err, problems)
}

// leftOver looks, when nobody is connected any more, what is there all the same.
func (s *site) leftOver(b *bench) (left []string, err error) {
	if err := s.untilAtRest(b.ctx); err != nil {
		return nil, err
	}
	bindings, err := s.bindings()
	n, err2 := s.proxies()
	if len(bindings) > 0 || n > 0 {
		left = append(left, fmt.Sprintf("left over: %d processes, bindings %v", n, bindings))
	}
	var err3 error
	for i := range stormPool { // what remains of an AppVM is its log, see package tinyproxy
		entries, err := os.ReadDir(fmt.Sprintf("%s/run/vm%d", s.dir, i))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			err3 = err
		}
		for _, e := range entries {
			if e.Name() != "log" && e.Name() != "log.1" {
				left = append(left, fmt.Sprintf("left over: run/vm%d/%s", i, e.Name()))
			}
		}
	}
	return left, errors.Join(err, err2, err3)
}
