package unanswered

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		begin, took := time.Now(), time.Duration(0)
		timer := AfterFunc(time.Second, func() { calls, took = calls+1, time.Since(begin) })
		time.Sleep(time.Minute)
		synctest.Wait()
		if calls != 1 || took != time.Second || timer.Stop() {
			t.Errorf("%d calls, the first after %v", calls, took)
		}
		timer = AfterFunc(time.Second, func() { calls++ })
		time.Sleep(999 * time.Millisecond)
		if !timer.Stop() || timer.Stop() {
			t.Error("Stop does not say that it has prevented the call, once")
		}
		time.Sleep(time.Minute)
		if synctest.Wait(); calls != 1 {
			t.Error("the call came although the timer was stopped")
		}
	})
}

// TestStandstill: while a process stands still, nothing that it has asked is late. Another process asks and is stopped, and the answer
// comes just after it goes on.
func TestStandstill(t *testing.T) {
	const most = time.Second
	if os.Getenv("ASK") != "" {
		var q Questions
		_, ok := Ask(&q, "standard input", most, func() (none struct{}) {
			fmt.Println("asked")
			os.Stdin.Read(make([]byte, 1)) //nolint:errcheck // that it returns is the answer
			time.Sleep(most / 20)
			return none
		})
		fmt.Println("in time:", ok)
		return
	}
	self := exec.Command(os.Args[0], "-test.run=^TestStandstill$")
	self.Env = append(os.Environ(), "ASK=1")
	question, err := self.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	answer, err := self.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := self.Start(); err != nil {
		t.Fatal(err)
	}
	defer self.Wait()         //nolint:errcheck // what it says counts
	defer self.Process.Kill() //nolint:errcheck // it may have ended
	said := bufio.NewScanner(question)
	expect := func(want string) {
		if said.Scan(); said.Text() != want {
			t.Fatalf("the other process says %q, want %q", said.Text(), want)
		}
	}
	expect("asked")
	if err := self.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * most)
	if _, err := answer.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	if err := self.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	expect("in time: true")
}
