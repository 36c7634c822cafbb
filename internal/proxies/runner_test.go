package proxies

import (
	"testing"
	"time"
)

// TestGrace: what was revoked ends within 40 ms of a change that comes into force in 17 to 24 ms, if the proxy is prompt, and else
// within 100 ms; and a request has the time that it takes, on a slow machine too.
func TestGrace(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		took   time.Duration
		prompt bool
		want   time.Duration
	}{
		{20 * ms, false, 66 * ms}, {40 * ms, false, 50 * ms}, {200 * ms, false, 200 * ms}, {time.Second, false, 250 * ms},
		{18 * ms, true, 16 * ms}, {24 * ms, true, 10 * ms}, {26 * ms, true, 18 * ms}, {36 * ms, true, 50 * ms}, {90 * ms, true, 90 * ms}, {time.Second, true, 250 * ms},
	} {
		if got := grace(test.took, test.prompt); got != test.want {
			t.Errorf("after %v, prompt %t: %v, want %v", test.took, test.prompt, got, test.want)
		}
	}
}
