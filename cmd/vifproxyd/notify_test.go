package main

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
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
		time.Sleep(aliveInterval)
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

// Each sign of life wakes systemd up, and a busy loop gives hundreds a second.
func TestSignsOfLifeAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := 0
		n := newNotifier(func(string) { sent++ })
		for range 1000 {
			n.notify("WATCHDOG=1")
			time.Sleep(aliveInterval / 100)
		}
		if n.close(time.Second); sent != 10 {
			t.Errorf("%d signs of life in %v, want 10", sent, 10*aliveInterval)
		}
	})
}

// systemd takes no state of more than 4096 bytes, and no status that is no text.
func TestLongStatus(t *testing.T) {
	for _, filler := range []string{"x", "é", "☠"} {
		var sent []string
		n := newNotifier(func(state string) { sent = append(sent, state) })
		whole := "STATUS=" + strings.Repeat("x", 4096-len("STATUS="))
		n.notify(whole)
		n.close(time.Minute)
		n = newNotifier(func(state string) { sent = append(sent, state) })
		n.notify("STATUS=" + strings.Repeat(filler, 4096))
		n.close(time.Minute)
		if len(sent) != 2 || sent[0] != whole {
			t.Fatalf("sent %q", sent)
		}
		if cut := sent[1]; len(cut) > 4096 || len(cut) < 4090 || !utf8.ValidString(cut) || !strings.HasSuffix(cut, filler+"…") {
			t.Errorf("sent %d bytes, %q at the end", len(cut), cut[len(cut)-10:])
		}
	}
}
