package supervisor

import (
	"testing"
	"time"
)

func TestSuspendIsTold(t *testing.T) {
	for name, test := range map[string]struct {
		runs, suspended time.Duration
		want            bool
	}{
		"rounds without a pause":    {0, 0, false},
		"an ordinary round":         {30 * time.Second, 0, false},
		"a loop that was held up":   {10 * time.Minute, 0, false},
		"suspended over night":      {time.Second, 8 * time.Hour, true},
		"for long, in a long pause": {30 * time.Second, 6 * time.Second, true},
		"for a moment":              {30 * time.Second, 2 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := slept(test.runs, test.runs+test.suspended); got != test.want {
				t.Errorf("slept is %t, want %t", got, test.want)
			}
		})
	}
}

// TestASuspendCountsForWhatIsAllowed: the hour is over when the machine resumes, and not an hour of work later.
func TestASuspendCountsForWhatIsAllowed(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", `^a\.example$`)
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.allow(3600, "b.example")
		m.after(time.Second)
		m.set(func() { m.asleep = 50 * time.Minute })
		m.Wake(0) // as WakeAt would
		m.expect(m.after(9*time.Minute), "")
		m.expect(m.after(2*time.Minute), `unbind vif1.0 10.137.0.1 :2
			bind vif1.0 10.137.0.1 :1
			kill :2`)
	})
}
