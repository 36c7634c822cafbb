//go:build profile

package main

import (
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"syscall"
)

// This vifproxyd is for `make bench` alone. At every SIGUSR2 it writes the profiles of the time since the signal before into the directory
// that VIFPROXYD_PROFILE names, and then a file "done".
func init() {
	dir := os.Getenv("VIFPROXYD_PROFILE")
	if dir == "" {
		return
	}
	runtime.MemProfileRate = 4 << 10 // there is little
	usr2 := make(chan os.Signal, 1)
	signal.Notify(usr2, syscall.SIGUSR2)
	go func() {
		for {
			if err := section(dir, usr2); err != nil {
				panic(err)
			}
		}
	}()
}

func section(dir string, end <-chan os.Signal) (err error) {
	write := func(name string, profile func(*os.File) error) error {
		path := filepath.Join(dir, name)
		f, err := os.Create(path + ".part") // the next section's begins while somebody reads this one's
		if err != nil {
			return err
		}
		return errors.Join(profile(f), f.Close(), os.Rename(path+".part", path))
	}
	err = write("cpu", func(f *os.File) error {
		runtime.SetCPUProfileRate(1000) // what is measured takes milliseconds; pprof complains, and keeps to it
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		<-end
		pprof.StopCPUProfile()
		return nil
	})
	return errors.Join(err,
		write("heap", func(f *os.File) error { return pprof.WriteHeapProfile(f) }),
		write("done", func(f *os.File) error { _, err := f.WriteString("done\n"); return err }))
}
