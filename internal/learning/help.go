package learning

// Help explains to people what a lesson is.
const Help = `While NAME learns, it reaches every public host by its name, at the ports that are open for it: 80, 443,
and those of the template "config" and of its list. Nothing private is open, no other port, and no address
without a name. Use the pages and programs that the VM is for, and nothing else. The VM can send what it knows
to anybody meanwhile, so do not learn in a VM that you do not trust.

learn prints each host that is new, and whether the list permits it. Ctrl-C and Ctrl-Z end it, and so do the
end of the time, stop, the end of the VM, and the end of vifproxyd. Then the list is in force again, and
connections that were made meanwhile are cut, except those that the list's own process had before.

In the end learn proposes lines, grouped by site, also for hosts that were refused because their port is not
open. On a terminal you tick lines and see the list as it would be, as with denied --pick; Enter writes it.
Elsewhere the lines are printed. A row says what a wildcard would permit that nobody has asked for. Hosts that
browsers are known to request without a page come last. --accept adds lines as allow does; all takes nothing
that was refused. Without --accept the last line is the command that adds what all takes.

If the list has three lines or more in common with that of another VM, learn says how to share them, see
review.

1000 hosts are noted. Later ones are counted and not proposed: accept those that there are, and learn
again. A proxy does not say how many bytes it moves, so learn does not either.

With --json each line is an object, whose "event" says what it is:
    learning      the first line: NAME learns for "seconds" at most
    host          "host" and "port" that were reached, "count" times; "listed" if the list permits the
                  host. A later line takes the place of an earlier one
    cut           "cut" connections to further hosts are not noted, "unread" ones are to no host name
    over          the list is in force again, "why"
    proposal      "sites", "background" (what browsers request without a page), "left_out", and
                  "command" that adds all lines of "sites"
Behind that, --accept prints what allow prints.
`
