package main

import (
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"
	"time"
)

func TestNobodyWaitsForSystemd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		var sent []string
		n := newNotifier(func(state string) {
			<-gate
			sent = append(sent, state)
		})
		n.notify("WATCHDOG=1")
		synctest.Wait()
		for i := range 1000 {
			n.notify("WATCHDOG=1")
			n.notify(fmt.Sprintf("STATUS=%d", i))
		}
		n.notify("STOPPING=1")
		begin := time.Now()
		n.close(time.Second)
		if took := time.Since(begin); took != time.Second {
			t.Errorf("the end took %v", took)
		}
		close(gate)
		<-n.done
		if want := []string{"WATCHDOG=1", "WATCHDOG=1", "STATUS=999", "STOPPING=1"}; !reflect.DeepEqual(sent, want) {
			t.Errorf("sent %q, want %q", sent, want)
		}
	})
}
