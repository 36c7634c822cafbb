package explain

import (
	"errors"
	"testing"

	"vifproxy/tinyproxy"
)

// A request that could not be tried is told so, with the reason.
func TestWhatIsNotTried(t *testing.T) {
	step := Tried{Err: errors.New("too many requests")}.step(tinyproxy.Request{Host: "bank.example", Port: 443})
	if step.Passes || step.Says != "not tried: too many requests" {
		t.Errorf("%+v", step)
	}
}
