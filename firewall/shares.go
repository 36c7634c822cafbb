package firewall

const (
	ratePart = 64 // of the table, in new connections a second: with what each leaves behind, a quarter of it
	rateMin  = 32 // new connections a second, for a table however small
)

// ConnectionRate returns how many new connections a second one AppVM may make in the long run, and as many its proxy, if connection
// tracking has so many places.
func ConnectionRate(tracked int) int { return max(tracked/ratePart, rateMin) }
