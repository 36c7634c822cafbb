#!/bin/sh
# Tests of Go that call t.Parallel wait until all others have run. One would expect that they begin in the order of their source, as
# the others do, and that a test that takes long begins early if it stands in the first file.
#
# They begin with the last test of the last file (Go 1.19 to 1.26): all wait for one channel to be closed, and closing it wakes the
# one that came last first (closechan in runtime/chan.go keeps them in a stack). Only the first one may get ahead. A parallel
# subtest, even of the test that begins first, begins after all parallel tests of its package have begun.
#
# It matters to somebody whose tests wait much and whose machine runs few at once: the longest one is alone at the end.
set -eu
. "$(dirname "$0")/common"
need golang-1.19-go=1.19.8-2 golang-1.19-src=1.19.8-2

export GOROOT="$root/usr/lib/go-1.19" GOCACHE="$root/cache" GOPATH="$root/go" GO111MODULE=off CGO_ENABLED=0 GOFLAGS=
export HOME="$root" GOTMPDIR="$root"
"$GOROOT/bin/go" version
mkdir "$root/order"
cd "$root/order"
{
	echo 'package order'
	echo 'import ("testing"; "time")'
	echo 'func run(t *testing.T) { print(t.Name()[4:], " "); time.Sleep(10 * time.Millisecond) }'
	for i in 1 2 3 4 5; do
		echo "func Test$i(t *testing.T) { t.Parallel(); run(t) }"
	done
	echo 'func Test6(t *testing.T) { t.Parallel(); t.Run("sub", func(t *testing.T) { t.Parallel(); run(t) }) }'
} >order_test.go

# The first one may run at any place: it may take its turn before the others wait. With one thread for all of them, none overtakes.
order=$(GOMAXPROCS=1 "$GOROOT/bin/go" test -vet=off -count=1 -parallel=1 2>&1 | grep -o '^[1-6].*sub' | sed 's/\b1 //')
saw "tests that begin one after the other" "5 4 3 2 6/sub" "$order"
