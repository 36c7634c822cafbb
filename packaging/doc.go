// Package packaging has the units, the packages and all else that installs vifproxy. Its Go files are tests alone, which boot a Debian: see
// docs/testing.md.
package packaging
