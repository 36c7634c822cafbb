#!/bin/sh
# table.sh KERNEL OUTPUT PAGE: writes what a guest has printed into the table of a page, a row for each kernel. It replaces the older row.
set -eu
kernel=$1 out=$2 page=$3
line() { # the row of this kernel
	tr -d '\r' <"$out" | awk -v name="$kernel" -v date="$(date -u +%F)" '
		/MATRIX kernel / { sub(/.*MATRIX kernel /, ""); version = $1 } # the firmware has begun the line
		/^MATRIX modules/ { landlock = $3 ~ /(^|,)landlock(,|$)/ ? "in force" : "not in force" }
		/^MATRIX package/ {
			if ($4 == 0 && $5 > 0) passed += $5
			else { passed += $5; bad = bad (bad ? ", " : "") "`" $3 "`" ($4 == 124 ? " took too long" : " " ($6 ? $6 : "all") " failed") }
			skipped += $7
			seconds += $8
		}
		END { print "| " name " | " version " | " landlock " | " passed " | " skipped " | " (bad ? bad : "none") " | " seconds " | " date " |" }'
}
new=$(mktemp "$page.XXXXXX")
awk -v row="$(line)" -v kernel="$kernel" '
	/^<!-- matrix:end -->/ { if (!put) print row }
	/^\| / && $2 == kernel { if (!put) print row; put = 1; next }
	{ print }' "$page" >"$new"
chmod 644 "$new"
mv "$new" "$page"
