#!/bin/sh
# run.sh [PATTERN]: does the simulation find each fault? It copies the working tree, puts one fault into the copy after the other, and
# names those that no run finds. STEPS is how many steps each is given.
set -eu
cd "$(dirname "$0")/../../.."
patches=$(ls "$PWD"/internal/simulate/mutants/${1:-*}.patch)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$tree"
cd "$tree"
simulate() { ${GO:-go} test -count=1 -timeout 0 ./internal/simulate -args -steps="${STEPS:-300000}" </dev/null >log 2>&1; }
simulate || { cat log >&2; echo "the simulation fails without a fault" >&2; exit 1; }
found=0 all=0
for p in $patches; do
	name=$(basename "$p" .patch)
	all=$((all + 1))
	patch -p1 --quiet --forward <"$p" || { echo "$name: the patch does not apply: make it again" >&2; exit 1; }
	if simulate; then
		echo "$name: NOT FOUND: $(head -n 1 "$p")"
	elif grep -q '\[build failed\]' log; then
		cat log >&2
		exit 1
	else
		found=$((found + 1))
		echo "$name: found: $(sed -n 's/^ *simulate_test.go:[0-9]*: //p; /^panic/p' log | head -n 1 | cut -c 1-150)"
	fi
	patch -p1 --quiet --reverse <"$p"
done
echo "$found of $all found"
