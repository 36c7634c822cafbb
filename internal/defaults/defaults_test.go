package defaults

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const top = "../.."

// Unit, packages, installation below /rw, manual pages, completion and documents name the defaults as they are here.
func TestDefaultsAreEverywhere(t *testing.T) {
	unit := []string{"RuntimeDirectory=" + strings.TrimPrefix(RuntimeDir, "/run/"), "StateDirectory=" + strings.TrimPrefix(StateDir, "/var/lib/")}
	for _, file := range OptionFiles {
		unit = append(unit, "EnvironmentFile=-"+file)
	}
	for path, texts := range map[string][]string{
		"packaging/vifproxyd.service": unit,
		"packaging/vifproxyd.default": {OptionFiles[1]},
		"packaging/nfpm.yaml":         {"dst: " + OptionFiles[0]},
		"packaging/deb/postrm":        {StateDir, OptionFiles[1]},
		"packaging/rpm/postun":        {StateDir},
		"packaging/install-rw.sh":     {RulesDir, StateDir, Tinyproxy},
		"packaging/vifproxy.catalog":  {fmt.Sprintf("%d unless configured otherwise", ProxyPort), RuntimeDir + ","},
		"packaging/man/vifproxyd.8": {"rules-dir=" + RulesDir, "runtime-dir=" + RuntimeDir, "state-dir=" + StateDir, "control-socket=" + ControlSocket,
			fmt.Sprintf("proxy-port=%d", ProxyPort), fmt.Sprintf("listen-ports=%d-%d", FirstListenPort, LastListenPort), "tinyproxy=" + Tinyproxy, "FILE " + TemplateName},
		"packaging/man/vifproxyctl.1":            {RulesDir, ControlSocket, Tinyproxy},
		"packaging/examples/banking.10.137.0.11": {RulesDir + "/"},
		"Makefile":                               {"vifproxy/internal/defaults.version="},
		"README.md":                              {RulesDir, fmt.Sprintf("port %d", ProxyPort)},
		"docs/guide.md":                          {RulesDir, fmt.Sprintf("port %d", ProxyPort), OptionFiles[1]},
		"docs/migration.md":                      {RulesDir, RuntimeDir},
	} {
		content, err := os.ReadFile(filepath.Join(top, path))
		if err != nil {
			t.Error(err)
			continue
		}
		plain := strings.NewReplacer(`\-`, "-", `\(dq`, `"`).Replace(string(content))
		for _, text := range texts {
			if !strings.Contains(plain, text) {
				t.Errorf("%s does not have %q", path, text)
			}
		}
	}
}
