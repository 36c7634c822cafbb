// Empty is a daemon that does nothing: what the Go runtime itself needs, and package net, without which there is no
// network daemon. Package bench compares vifproxyd's memory with its.
package main

import (
	_ "net"
	"os"
	"os/signal"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, os.Interrupt)
	<-end
}
