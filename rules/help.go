package rules

// Help describes the format of rule files, for people. `vifproxyctl help rules` prints it, and the manual page
// vifproxy-rules(5) is made of it.
const Help = `A rule file says what one AppVM may reach through its proxy. It is in /rw/config/tinyproxy of the
firewall VM. Its name is NAME.IP, with the name and the IPv4 address of the AppVM. It is in force
as soon as it is saved. If it has a mistake, what was in force before stays in force, and
"vifproxyctl show" names file and line.

Example:
    #: format domains
    bank.example
    *.bank.example         # all hosts below it, but not bank.example itself
    git.example:22         # with a port that is not open for all
    192.168.1.5            # an address that the browser asks for as such
    #: egress 192.168.1.5/32

Lines:

Each line is one name or one pattern, of up to 511 bytes. A '#' at the start of a line or after white
space begins a comment. Empty lines and white space around a line mean nothing. Upper and lower case
are the same. A file has up to 1 MiB.

Names:

After the line "#: format domains" each line is one of
    HOST        that host alone
    *.HOST      every host below it
    ADDRESS     an IPv4 address, or an IPv6 address in brackets
    ...:PORT    any of these; the port is opened, for tunnels and for plain requests
International names may be written as people write them. A port is open for this AppVM alone, but
for all hosts of its list, because tinyproxy cannot tie a port to a host.

Patterns:

Without that line, or after "#: format patterns", each line is a POSIX regular expression. It
matches anywhere in the name, unless it is anchored:
    ^bank\.example$
        bank.example alone
    ^[a-zA-Z0-9._-]*\.bank\.example$
        every host below it
Expressions are basic, unless FilterType in the template says otherwise. A line matches nothing but
host names and addresses. A name that was not meant as a pattern permits far more than it seems to:
"bank.example" matches bankxexample.evil.example too. "vifproxyctl check" finds such lines.

Directives:
    #: format domains
        lines are names; write it above the first of them
    #: format patterns
        lines are patterns, as without it
    #: port PORT...
        opens these ports, up to 32 in all, for all hosts of the list; 80,
        443 and the ConnectPorts of the template are always open
    #: egress CIDR
        listed hosts may be at these addresses although they are private, by the ports that
        are open
    #: egress CIDR:PORT
        the same by this port, which is opened for tunnels too; an IPv6 network is in brackets
    #: include LIST
        the lines of the list lists.d/LIST, see below
A network never opens the firewall VM or AppVMs. A single address (/32, of IPv6 /128) is opened whoever
has it. IPv4 networks are /8 or narrower, IPv6 networks /7 or narrower.

Shared lists:

A list that several AppVMs use is a file in the directory lists.d, beside the rule files. Its name has
letters, digits, '_', '-' and '.'. A rule file includes it:
    #: format domains
    #: include updates
    bank.example
A change of the list is in force for all who include it. It is written like a rule file, begins with
"#: format domains" like these if it has names, and may include other lists. All of it is read, or the
rule file is refused and what was in force before stays in force: "vifproxyctl show" names the file and
the line. A list in dom0 includes none; "vifproxyctl export" writes out what a rule file includes.

Ranges:

The file NAME.A.B.C.D_BITS, such as disp.10.138.0.0_16, is for all AppVMs of a range of addresses that
have no other list, as disposables have. Each has a proxy of its own, named disp-10.138.3.4, as long as
it is connected. NAME has up to 15 characters. Of two ranges that overlap, the narrower one counts.

Lists in dom0:

A list can also be a feature of the firewall VM, which dom0 sets. It counts instead of a rule file:
    $ qvm-features sys-firewall vm-config.vifproxy.NAME.IP \
        'bank.example *.bank.example'
The value has names as above, port=PORT[,PORT...] and egress=CIDR[:PORT], separated by spaces. It has up
to 3071 bytes, and no comments. A change is in force at once, and a restart of the firewall VM keeps it.
"qvm-features --unset" takes the list away; then the rule file counts again, if there is one.
"vifproxyctl export NAME" prints the command for a rule file.

If dom0 has switched the service vifproxy-firewall on for the firewall VM, an AppVM without a list has
that of its firewall settings, if these name hosts and end in drop. The AppVM is named vm-A.B.C.D here.

Files:
    /rw/config/tinyproxy/NAME.IP
        rule files of AppVMs; NAME.IP_BITS those of ranges
    /rw/config/tinyproxy/lists.d/LIST
        lists that rule files include
    /rw/config/tinyproxy/config
        the template of all proxies' tinyproxy.conf, if there is one
    /usr/share/doc/vifproxy/examples
        examples of both
`
