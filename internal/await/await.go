// Package await has tests wait: as long as a machine needs that is a hundred times slower, and then with an end that says what did not
// come.
//
// Concurrency: as with [testing.TB.Fatalf], a test calls it from its own goroutine.
package await

import (
	"testing"
	"time"
)

// patience bounds a hang. No test measures time with it.
const patience = 2 * time.Minute

// Value returns what comes from a channel: the zero value if that is closed. The test ends if nothing comes.
func Value[T any](t testing.TB, what string, from <-chan T) (value T) {
	t.Helper()
	select {
	case value = <-from:
	case <-time.After(patience):
		t.Fatalf("waited %v in vain for %s", patience, what)
	}
	return value
}

// Until looks again and again until a condition is met. The test ends if it never is.
func Until(t testing.TB, what string, met func() bool) {
	t.Helper()
	for began := time.Now(); !met(); time.Sleep(time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatalf("waited %v in vain until %s", patience, what)
		}
	}
}

// Success looks again and again until met returns no error, less often the longer that takes, since other tests need the machine too.
// The test ends with the last error if there always is one.
func Success(t testing.TB, what string, met func() error) {
	t.Helper()
	for began := time.Now(); ; {
		err := met()
		if err == nil {
			return
		}
		waited := time.Since(began)
		if waited > patience {
			t.Fatalf("waited in vain until %s: %v", what, err)
		}
		time.Sleep(min(max(waited/10, 5*time.Millisecond), 200*time.Millisecond))
	}
}
