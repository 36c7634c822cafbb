package review

// Help explains to people what a review says.
const Help = `vifproxyd counts how often each line of a list has let a request pass. review names
    covered    lines that other lines make superfluous, whatever is requested
    unused     lines that no request has needed: no host was requested that other lines do not permit
    wide       lines that permit more than the hosts that were requested, with narrower lines
and a shortest host that each edit takes away. For one NAME it prints all lines. Narrower lines are those of the
hosts. If several hosts of one site were requested, there is a wildcard too, as narrow as they permit, with a
shortest host that it permits and nobody requested.

Time counts while NAME is connected, vifproxyd runs, and all requests are read. A line that was counted for
less than 14 days is named, and --fix leaves it alone. An edit of other lines loses no counts. A disposable
firewall VM begins anew at each start. An AppVM chooses what it requests, so look at what --fix takes away.

Take a line back by removing the remark in front of it. Lines of lists in lists.d are reviewed, and edited
by you, because other VMs use them. If a list is in dom0, --fix prints the command to type there.

Without NAME, or with several, review says of each list only how many lines were counted for too short a time,
and names what rule files have in common.
`
