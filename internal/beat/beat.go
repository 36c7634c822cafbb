// Package beat has jobs that need no certain moment done at the same moments, so an idle machine wakes up once for several of them.
package beat

import "time"

// Next returns the first moment after now at which jobs of an interval are due: a whole number of intervals by the wall clock. So jobs
// of 10 s, 20 s and 30 s are due together each minute. If somebody sets the clock, the next one still comes within the interval.
func Next(now time.Time, interval time.Duration) time.Time {
	return now.Add(now.Truncate(interval).Add(interval).Sub(now))
}
