#!/bin/sh
# table.sh KERNEL RESULTS PAGE SUITES: writes what guests have printed into the table of a page, a row for each kernel. It replaces the
# older row. SUITES are all that the row should have.
set -eu
kernel=$1 results=$2 page=$3
line() { # the row of this kernel
	awk -v name="$kernel" -v suites="$4" '
		BEGIN {
			count = split(suites, all)
			for (i = 1; i <= count; i++) {
				sub(/[:@].*/, "", all[i])
				wanted[all[i]] = 1
			}
		}
		/^kernel/ { version = $2 }
		/^modules/ { landlock = $2 ~ /(^|,)landlock(,|$)/ ? "in force" : "not in force" }
		/^package/ { has[$2] = 1 }
		/^package/ && wanted[$2] && $3 != "needs" {
			if ($3 != 0 || $4 == 0) bad = bad (bad ? ", " : "") "`" $2 "`" ($3 == 124 ? " took too long" : " " ($5 ? $5 : "all") " failed")
			passed += $4
			skipped += $6
			seconds += $7
			if (!date || $8 < date) date = $8
		}
		END {
			if (name ~ /\+programs$/) sub(/-.*/, "", version) # who built it says nothing
			for (i = 1; i <= count; i++) {
				if (!has[all[i]]) out = out (out ? ", " : "") "`" all[i] "`"
			}
			print "| " name " | " version " | " landlock " | " passed " | " skipped " | " (bad ? bad : "none") " | " \
				(out ? out : "none") " | " seconds " | " date " |"
		}' "$results"
}
new=$(mktemp "$page.XXXXXX")
awk -v row="$(line "$@")" -v kernel="$kernel" '
	/^<!-- matrix:end -->/ { if (!put) print row }
	/^\| / && $2 == kernel { if (!put) print row; put = 1; next }
	{ print }' "$page" >"$new"
chmod 644 "$new"
mv "$new" "$page"
