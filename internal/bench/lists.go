package bench

import (
	"fmt"
	"time"

	"vifproxy/rules"
	"vifproxy/rules/expression"
	"vifproxy/rules/match"
)

// comparedLines is how many lines each of two compared lists has.
const comparedLines = 1000

// lists measures how long it takes to find what each line of a list permits beyond another one, beside making the automata of both.
func (b *bench) lists() (outcome, error) {
	var list, wider []string
	for i := range comparedLines {
		list = append(list, fmt.Sprintf(`^www\.site%d\.example\.?$`, i))
		wider = append(wider, fmt.Sprintf(`^([a-zA-Z0-9_-]+\.)+site%d\.example\.?$`, i))
	}
	syntax := rules.Syntax{Language: expression.Extended}
	made := func() (*match.Matcher, *match.Matcher) { return match.New(list, syntax), match.New(wider, syntax) }
	return b.alternate("ms", func() (float64, error) {
		begin := time.Now()
		made()
		return milliseconds(time.Since(begin)), nil
	}, func() (float64, error) {
		begin := time.Now()
		narrow, wide := made()
		difference := narrow.Without(wide, match.Hosts)
		for i := range list {
			if host, found, err := difference.Beyond(i); found || err != nil {
				return 0, fmt.Errorf("%s permits %s: %w", list[i], host, err)
			}
		}
		return milliseconds(time.Since(begin)), nil
	})
}
