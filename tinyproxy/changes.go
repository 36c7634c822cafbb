package tinyproxy

import (
	"compress/gzip"
	"io"
	"os"
)

// changelogMax is how many bytes are read of a change log.
const changelogMax = 1 << 20

// DebianChanges returns the change log of Debian's package of tinyproxy, below a root directory; "" if there is none.
// Distributions patch without a new version number, and name advisories there.
func DebianChanges(root string) string {
	for _, name := range []string{"tinyproxy-bin", "tinyproxy"} {
		if text := gunzip(root + "/usr/share/doc/" + name + "/changelog.Debian.gz"); text != "" {
			return text
		}
	}
	return ""
}

func gunzip(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	unpacked, err := gzip.NewReader(file)
	if err != nil {
		return ""
	}
	text, err := io.ReadAll(io.LimitReader(unpacked, changelogMax))
	if err != nil {
		return ""
	}
	return string(text)
}
