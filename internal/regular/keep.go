package regular

import (
	"context"
	"time"
)

// retryDelay is how long after a write that failed the next one comes if nothing changes: the disk may have room again.
const retryDelay = 5 * time.Second

// Keep calls write, which writes a file, when what the file should hold has changed, until ctx ends, and then once more. It waits for delay
// after a change, because changes come in bursts, and for interval after a write. It calls report after each write.
func Keep(ctx context.Context, changed <-chan struct{}, delay, interval time.Duration, write func() error, report func(error)) {
	var failed <-chan time.Time // when it is time to try again
	for {
		select {
		case <-changed:
		case <-failed:
		case <-ctx.Done():
		}
		pause(ctx, delay)
		last := ctx.Err() != nil // what changes while it writes is written too
		err := write()
		if report(err); last {
			return
		}
		if failed = nil; err != nil {
			failed = time.After(retryDelay)
			continue
		}
		pause(ctx, interval)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
