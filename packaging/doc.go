// Package packaging has the units, the packages and all else that installs vifproxy. Its Go files are tests alone, of vifproxy as users get
// it: packages, unit and installation, on a Debian with a real systemd, whose network is that of a lab's firewall VM. `make e2e` runs them.
package packaging
