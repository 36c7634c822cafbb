package rules

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkRead reads the rule files of 250 AppVMs, which have not changed since.
func BenchmarkRead(b *testing.B) {
	dir := b.TempDir()
	for i := range 250 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("vm%d.10.137.1.%d", i, i+1)), []byte("example.com\n"), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	r := NewReader(dir, filepath.Join(dir, "config"))
	b.ReportAllocs()
	for b.Loop() {
		if set, err := r.Read(); err != nil || len(set.Files) != 250 {
			b.Fatal(len(set.Files), err)
		}
	}
}
