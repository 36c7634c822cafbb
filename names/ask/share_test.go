package ask_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"vifproxy/internal/await"
	"vifproxy/names/ask"
	"vifproxy/names/ask/asktest"
)

// However many AppVMs ask names that nobody answers, as often as they can, one more is answered, and the sockets are bounded.
func TestGreedyShares(t *testing.T) {
	asker, share, _ := asking(t, func(q asktest.Query) {
		if q.Name == name {
			right(q)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	for range 50 {
		greedy := asker.Share()
		for i := range 64 {
			asking.Go(func() {
				for ctx.Err() == nil {
					greedy.Ask(ctx, fmt.Sprintf("silent%d.example.", i), typA)
				}
			})
		}
	}
	await.Until(t, "most sockets are open", func() bool { return asker.Sockets() >= ask.SocketsMax*9/10 })
	late := 0
	for range 20 {
		await.Success(t, "the modest one is answered", func() error { // this machine may be slower than an answer may be late
			_, err := share.Ask(t.Context(), name, typA)
			if err != nil {
				late++
			}
			return err
		})
		if n := asker.Sockets(); n > ask.SocketsMax+ask.OwnSockets*51 {
			t.Errorf("%d sockets are open", n)
		}
	}
	if late > 10 {
		t.Errorf("%d of %d questions were not answered", late, 20+late)
	}
	cancel()
	asking.Wait()
	await.Until(t, "no socket is open", func() bool { return asker.Sockets() == 0 }) // silent servers are waited for
}

// An AppVM that asks for more than any page needs gets errors, which say so.
func TestTooManyQuestions(t *testing.T) {
	_, share, servers := asking(t, right)
	var answered, refused atomic.Int32
	var asking sync.WaitGroup
	for range 600 {
		asking.Go(func() {
			_, err := share.Ask(t.Context(), name, typA)
			var e *ask.Error
			switch {
			case err == nil:
				answered.Add(1)
			case errors.As(err, &e) && e.Reason == ask.Busy:
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	asking.Wait()
	// A question is sent again where its answer is late.
	if n := servers[0].Asked(); answered.Load() < 256 || refused.Load() == 0 || n < int(answered.Load()) || n >= 600 {
		t.Errorf("%d of 600 questions were answered, %d refused; %d were sent", answered.Load(), refused.Load(), n)
	}
}
