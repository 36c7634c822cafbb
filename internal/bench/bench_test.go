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
	if all, err := choose(nil); err != nil || len(all) != 23 {
		t.Errorf("%d figures, %v", len(all), err)
	}
}

// Beside a peer a figure has a goal too. A peer or a figure that was not measured has met none.
func TestReportPeers(t *testing.T) {
	f := figure{name: "https", goal: goal{text: "≤ 2×", times: 2, peers: map[string]goal{"squid": {text: "≤ 1.05×", times: 1.05}}}}
	taken := func(squid ...float64) outcome {
		return outcome{unit: "ms", figures: []float64{2, 2, 4}, floors: []float64{1, 1, 1},
			peers: []beside{{"privoxy", []float64{1, 1, 9}}, {"squid", squid}}}
	}
	absent := taken(2)
	absent.peers = absent.peers[:1]
	for name, test := range map[string]struct {
		of    outcome
		met   bool
		wants []string
	}{
		"as fast":      {taken(2, 2, 9), true, []string{" met\n", "beside squid: 2 ms, 1.00× (≤ 1.05×: met)", "beside privoxy: 1 ms, 2.00×\n"}},
		"slower":       {taken(1, 1, 9), false, []string{" missed\n", "beside squid: 1 ms, 2.00× (≤ 1.05×: missed)"}},
		"no peer":      {absent, false, []string{" missed\n", "beside squid: not measured (≤ 1.05×: missed)"}},
		"not measured": {outcome{unit: "ms", wrong: []string{"chromium is missing"}}, false, []string{" not measured\n", "chromium is missing"}},
	} {
		r := newReport(time.Now(), 3)
		text := r.add(f, test.of)
		for _, want := range test.wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in\n%s", name, want, text)
			}
		}
		if r.Lines[0].Met != test.met {
			t.Errorf("%s: met %v", name, r.Lines[0].Met)
		}
	}
}

// The page's pictures are of the size that the page says, and so are its scripts.
func TestWebsite(t *testing.T) {
	site, err := newWebsite()
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range []string{site.picture, site.script} {
		if size := len(object); size < pageObjectSize*95/100 || size > pageObjectSize*105/100 {
			t.Errorf("an object has %d bytes, want %d", size, pageObjectSize)
		}
	}
	if n := strings.Count(site.page, "https://"); n != pageObjects {
		t.Errorf("the page has %d objects, want %d", n, pageObjects)
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
