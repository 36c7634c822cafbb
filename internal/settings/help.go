package settings

// Help explains the formats to people.
const Help = `FORMAT is one of
    env                variables for shells and their programs, or /etc/environment (the default)
    firefox            lines for user.js in a profile of Firefox, each with its reason
    firefox-policy     JSON for /etc/firefox/policies/policies.json: the proxy, locked
    chromium-policy    JSON for a file *.json in /etc/chromium/policies/managed: the same
    pac                a proxy auto-configuration file, for browsers and desktops
    apt                a file for /etc/apt/apt.conf.d
    dnf                a file for /etc/dnf/libdnf5.conf.d, or lines for /etc/dnf/dnf.conf
    git                lines for ~/.gitconfig. Git reads the variables of env too, and so does flatpak
    systemd            a file for /etc/systemd/system.conf.d: the variables for services

With the package vifproxy-client in its template, NAME does all of this by itself: see
vifproxy-client(1).

The formats for browsers also turn off what the browser requests without a page: telemetry, updates, lists
of unsafe sites, the search for a captive portal, DNS over HTTPS, early requests for pages, accounts,
push messages, news in a new tab. Debian and Fedora update the browser. A policy is for all users and all
profiles of a VM, also for new ones as in a disposable. In a session of GNOME Chromium ignores the
variables of env.

To use a policy, run the first two commands in the VM of vifproxyctl and the others in NAME. They keep the
policy below /rw, because a restart of NAME takes /etc from its template again:
    $ sudo vifproxyctl client NAME --format=firefox-policy >policies.json
    $ qvm-copy policies.json        # dom0 asks where to: NAME

    $ sudo cp ~/QubesIncoming/*/policies.json /rw/config/firefox-policies.json
    $ echo install -D -m 644 /rw/config/firefox-policies.json \
        /etc/firefox/policies/policies.json | sudo tee -a /rw/config/rc.local
    $ sudo chmod +x /rw/config/rc.local; sudo /rw/config/rc.local
`
