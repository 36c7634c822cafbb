package check

import (
	"os"

	"vifproxy/rules"
)

// IsRuleDir reports whether a path leads to a directory that is not named like a rule file.
func IsRuleDir(path string) bool {
	info, err := os.Stat(path)
	_, addr, wrong := rules.ParseFileName(path)
	return err == nil && info.IsDir() && wrong == nil && !addr.IsValid()
}
