package ruleset

import (
	"math"
	"testing"
)

func TestGenerationWraps(t *testing.T) {
	if got := Following(math.MaxUint32); got != 1 { // nf_tables_commit: while (++base_seq == 0)
		t.Errorf("%d follows the last", got)
	}
}
