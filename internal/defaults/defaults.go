// Package defaults has what vifproxyd and vifproxyctl take when nothing else is said: paths and ports. It also has the version of
// both, and the place of the programs that the daemon runs.
//
// A test holds these values against the unit, the packages and the manual pages.
//
// Concurrency: any goroutine may call anything here.
package defaults

import (
	"os"
	"path/filepath"
	"runtime/debug"
)

// Paths.
const (
	RulesDir      = "/rw/config/tinyproxy" // with a rule file NAME.IP for each AppVM
	TemplateName  = "config"               // in the rule directory
	RuntimeDir    = "/run/vifproxy"        // with a directory NAME for each AppVM
	StateDir      = "/var/lib/vifproxy"    // what outlives a restart of the daemon
	ControlSocket = RuntimeDir + "/control.sock"
	Tinyproxy     = "/usr/bin/tinyproxy" // that of the distribution
)

// OptionFiles are where the unit takes the daemon's options from. A later one overrules an earlier one.
var OptionFiles = []string{"/etc/default/vifproxyd", "/rw/config/vifproxyd.options"}

// Ports.
const (
	ProxyPort       = 8100 // where an AppVM finds its proxy, at its gateway
	FirstListenPort = 61000
	LastListenPort  = 64999 // the last one where proxies listen behind it
)

// Helper returns where a program is that vifproxyd runs, such as vifproxy-confine: where packages put it, otherwise beside the running
// program.
func Helper(name string) string {
	installed := filepath.Join("/usr/lib/vifproxy", name)
	if _, err := os.Stat(installed); err == nil {
		return installed
	}
	own, err := os.Executable()
	if err != nil {
		return installed
	}
	return filepath.Join(filepath.Dir(own), name)
}

// version is set by the linker: -ldflags '-X vifproxy/internal/defaults.version=…'.
var version string

// Version returns what this program was made from.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
