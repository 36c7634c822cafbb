// Empty is a daemon that does nothing: what the Go runtime itself needs. Package bench compares vifproxyd's memory
// with its.
package main

import (
	"os"
	"os/signal"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, os.Interrupt)
	<-end
}
