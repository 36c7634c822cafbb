package rules

// Help describes the format of rule files, for people. `vifproxyctl help rules` prints it, and the manual page
// vifproxy-rules(5) is made of it.
const Help = `A rule file says what one AppVM may reach through its proxy. Its name is NAME.IP, with the name and
the IPv4 address of the AppVM, and it is in /rw/config/tinyproxy of the firewall VM. It is in
force as soon as it is saved. A mistake in it keeps what was in force before, and
"vifproxyctl show" says file and line.

Example:
    #: format domains
    bank.example
    *.bank.example         # all hosts below, not bank.example itself
    git.example:22         # with a port that is not open for all
    192.168.1.5            # an address that the browser asks for as such
    #: egress 192.168.1.5/32

Lines:

One name or pattern a line, up to 511 bytes. A '#' begins a comment, at the start of a line or
after white space. White space around a line, and empty lines, mean nothing. Upper and lower
case are the same. A file is up to 1 MiB.

Names:

Behind the line "#: format domains" each line is one of
    HOST        that host alone
    *.HOST      every host below it
    ADDRESS     an IPv4 address, or an IPv6 address in brackets
    ...:PORT    any of these, and the port is opened, for tunnels and for plain requests
International names may be written as people write them. A port is open for all hosts of the
list, since tinyproxy ties no port to a host, and for this AppVM alone.

Patterns:

Without that line, or behind "#: format patterns", each line is a POSIX regular expression that
matches anywhere in the name, unless it is anchored:
    ^bank\.example$
        bank.example alone
    ^[a-zA-Z0-9._-]*\.bank\.example$
        every host below it
Basic expressions, or what FilterType in the template says. A line matches nothing but host names and
addresses, whatever it looks like. A name that is not meant as a pattern permits far more than
it seems to: "bank.example" matches bankxexample.evil.example too. "vifproxyctl check" finds such
lines.

Directives:
    #: format domains
        lines are names; above the first of them
    #: format patterns
        lines are patterns, as without it
    #: port PORT...
        open these ports, up to 32 in all, for all hosts of the list; 80,
        443 and the ConnectPorts of the template are open anyway
    #: egress CIDR
        listed hosts may be at these addresses although they are private, at the ports that
        are open
    #: egress CIDR:PORT
        the same, at this port, which is opened for tunnels too; an IPv6 network is in brackets
A network opens neither the firewall VM nor AppVMs; a single address leads where it says. Networks
are /8 and narrower, of IPv6 /7.

Files:
    /rw/config/tinyproxy/NAME.IP
        rule files
    /rw/config/tinyproxy/config
        the template of all proxies' tinyproxy.conf, if there is one
    /usr/share/doc/vifproxy/examples
        examples of both
`
