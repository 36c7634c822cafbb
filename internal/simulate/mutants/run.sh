#!/bin/sh
# run.sh [PATTERN]: does the simulation find each fault? Each is built into a program of tests of its own, over the sources as they are. That
# runs random scripts until something is violated, STEPS steps at most; if nothing is, the scripts in found. A table says after how many
# steps, and what was violated.
set -eu
cd "$(dirname "$0")/../../.."
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

build() { ${GO:-go} test -c -ldflags='-s -w' -overlay "$tmp/overlay" -o "$tmp/simulate" ./internal/simulate; }
simulate() { (cd internal/simulate && "$tmp/simulate" -test.timeout 0 "$@" </dev/null >"$tmp/log" 2>&1); }
violated() { sed -nE 's/^ *simulate_test.go:[0-9]+: //p; s/^(panic|fatal error): /&/p' "$tmp/log" | head -n 1 | cut -c 1-150; }

echo '{}' >"$tmp/overlay"
build
simulate || { cat "$tmp/log" >&2; echo "the simulation fails without a fault" >&2; exit 1; }
found=0 all=0
for p in internal/simulate/mutants/${1:-*}.patch; do
	name=$(basename "$p" .patch)
	all=$((all + 1))
	rm -rf "$tmp/mutant"
	replace=
	for file in $(sed -n 's|^+++ b/||p' "$p"); do
		mkdir -p "$tmp/mutant/$(dirname "$file")"
		cp "$file" "$tmp/mutant/$file"
		replace="$replace${replace:+, }\"$PWD/$file\": \"$tmp/mutant/$file\""
	done
	patch --quiet -p1 -d "$tmp/mutant" <"$p" || { echo "$name: the patch does not apply: make it again" >&2; exit 1; }
	echo "{\"Replace\": {$replace}}" >"$tmp/overlay"
	build
	if ! simulate -test.run '^TestSimulate$' -at-once -steps="${STEPS:-1000000}"; then
		found=$((found + 1))
		echo "$name | $(violated)"
	elif ! simulate -test.run 'TestFound|TestARetry'; then
		found=$((found + 1))
		echo "$name | a script in found"
	else
		echo "$name | NOT FOUND: $(head -n 1 "$p")"
	fi
done
echo "$found of $all found"
