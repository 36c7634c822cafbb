package bench

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestGoals(t *testing.T) {
	for _, test := range []struct {
		goal         goal
		value, floor float64
		met          bool
	}{
		{goal{times: 1.3}, 13, 10, true},
		{goal{times: 1.3}, 13.1, 10, false},
		{goal{times: 2, plus: 10}, 30, 10, true},
		{goal{times: 2, plus: 10}, 30.1, 10, false},
		{goal{}, 0, 0, true},
		{goal{}, 1, 0, false},
		{goal{times: 0.98, atLeast: true}, 98, 100, true},
		{goal{times: 0.98, atLeast: true}, 97, 100, false},
	} {
		if met := test.goal.met(test.value, test.floor); met != test.met {
			t.Errorf("%+v with %v and floor %v: met %v", test.goal, test.value, test.floor, met)
		}
	}
}

func TestQuantile(t *testing.T) {
	all := []float64{5, 1, 4, 2, 3}
	if m, last := median(all), quantile(all, 0.99); m != 3 || last != 5 {
		t.Errorf("median %v, p99 %v", m, last)
	}
	if !slices.Equal(all, []float64{5, 1, 4, 2, 3}) {
		t.Errorf("reordered: %v", all)
	}
	if m := median(nil); m != 0 {
		t.Errorf("median of nothing: %v", m)
	}
}

func TestChoose(t *testing.T) {
	chosen, err := choose([]string{"write", "attach"})
	if err != nil || len(chosen) != 2 || chosen[0].name != "write" || chosen[1].name != "attach" {
		t.Errorf("%v, %v", chosen, err)
	}
	if _, err := choose([]string{"speed"}); err == nil || !strings.Contains(err.Error(), "there are attach, rules, ") {
		t.Error(err)
	}
	if all, err := choose(nil); err != nil || len(all) != 12 {
		t.Errorf("%d figures, %v", len(all), err)
	}
}

// A goal's number may be met and the figure missed all the same; both the table and the JSON say so.
func TestReport(t *testing.T) {
	r := newReport(time.Now(), 3)
	f := figure{name: "storm", what: "what it is", floor: "one", goal: goal{text: "≤ 2×", times: 2}}
	good := r.add(f, outcome{unit: "ms", figures: []float64{3, 1, 2}, floors: []float64{1, 1, 9}})
	first, _, _ := strings.Cut(good, "\n")
	if !strings.Contains(good, "2 ms") || !strings.Contains(good, "2.00×") || !strings.HasSuffix(first, " met") {
		t.Error(good)
	}
	bad := r.add(f, outcome{unit: "ms", figures: []float64{1}, floors: []float64{1}, wrong: []string{"left over"}})
	if !strings.Contains(bad, "missed") || !strings.Contains(bad, "left over") {
		t.Error(bad)
	}
	path := filepath.Join(t.TempDir(), "out.json")
	if err := r.write(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got report
	if err := json.Unmarshal(text, &got); err != nil || len(got.Lines) != 2 || !got.Lines[0].Met || got.Lines[1].Met {
		t.Errorf("%v: %s", err, text)
	}
	if !strings.Contains(r.footing(), "1 of 2 goals met") {
		t.Error(r.footing())
	}
}
