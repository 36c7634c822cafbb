package firewall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"vifproxy/internal/capability"
)

// errLegacy is the error of the older variant of iptables, which talks to the kernel by a raw socket and has a lock in
// a directory of root's: it needs more than its successor, which CAP_NET_ADMIN is enough for, and says so badly.
var errLegacy = errors.New("only root can use it, with CAP_NET_RAW (use iptables-nft, on Debian by `update-alternatives " +
	"--config iptables`; or have vifproxyd run as root, by /usr/share/doc/vifproxy/examples/run-as-root.conf)")

// usable finds out whether the iptables at path can be used by who we are.
func usable(path string) error {
	if os.Geteuid() == 0 && capability.Have(unix.CAP_NET_RAW) {
		return nil
	}
	version, err := execute(context.Background(), "", path, "--version")
	if err != nil || strings.Contains(version, "(nf_tables)") {
		return err
	}
	return fmt.Errorf("%s, %s: %w", path, strings.TrimSpace(version), errLegacy)
}
