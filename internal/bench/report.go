package bench

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report is the results as JSON has them.
type report struct {
	Date   time.Time `json:"date"`
	Kernel string    `json:"kernel"`
	CPUs   int       `json:"cpus"`
	Load   string    `json:"load"` // when it began, loadavg(5)
	Runs   int       `json:"runs"`
	Lines  []line    `json:"figures"`
}

type line struct {
	Name      string    `json:"name"`
	What      string    `json:"what"`
	FloorWhat string    `json:"floor_what"`
	Unit      string    `json:"unit"`
	Figure    float64   `json:"figure"` // median
	Floor     float64   `json:"floor"`  // median
	Ratio     float64   `json:"ratio"`  // 0 where there is no floor
	Goal      string    `json:"goal"`
	Met       bool      `json:"met"`
	Peers     []against `json:"peers"`
	Notes     []string  `json:"notes"`
	Load      string    `json:"load"`    // when it was done
	Figures   []float64 `json:"figures"` // of each run; none if it could not be measured
	Floors    []float64 `json:"floors"`
}

// against is a figure beside a peer.
type against struct {
	Name   string    `json:"name"`
	Value  float64   `json:"value"` // median
	Ratio  float64   `json:"ratio"` // of the figure to it; 0 if either was not measured
	Goal   string    `json:"goal"`  // "" if there is none
	Met    bool      `json:"met"`   // true if there is no goal
	Values []float64 `json:"values"`
}

func newReport(now time.Time, runs int) *report {
	var name unix.Utsname
	_ = unix.Uname(&name) // what it is good for comes out without
	return &report{Date: now, Kernel: unix.ByteSliceToString(name.Release[:]), CPUs: runtime.NumCPU(),
		Load: loadAverage(), Runs: runs}
}

func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

// columns of the table; the last is as wide as it likes.
const columns = "%-11s %12s %12s %8s  %-20s %s\n"

func (r *report) heading() string {
	return fmt.Sprintf("%s, Linux %s, %d CPUs, load %s; medians of %d runs\n\n", r.Date.Format("2006-01-02 15:04"),
		r.Kernel, r.CPUs, r.Load, r.Runs) + fmt.Sprintf(columns, "figure", "measured", "floor", "ratio", "goal", "")
}

// add takes a result up and returns its line of the table. What was not measured is not met.
func (r *report) add(f figure, o outcome) string {
	l := line{
		Name: f.name, What: f.what, FloorWhat: f.floor, Unit: o.unit, Goal: f.goal.text,
		Figure: median(o.figures), Floor: median(o.floors), Notes: append(o.wrong, o.notes...), Load: loadAverage(),
		Figures: o.figures, Floors: o.floors,
	}
	l.Met = len(o.figures) > 0 && f.goal.met(l.Figure, l.Floor) && len(o.wrong) == 0
	if l.Floor != 0 {
		l.Ratio = l.Figure / l.Floor
	}
	for _, p := range f.besides(o) {
		a := p.against(l.Figure, f.goal.peers[p.name])
		l.Met = l.Met && a.Met
		l.Peers = append(l.Peers, a)
	}
	r.Lines = append(r.Lines, l)
	return l.String()
}

// besides are a figure's peers, those that have a goal and could not be measured included.
func (f figure) besides(o outcome) []beside {
	all := slices.Clone(o.peers)
	for _, name := range slices.Sorted(maps.Keys(f.goal.peers)) {
		if !slices.ContainsFunc(all, func(p beside) bool { return p.name == name }) {
			all = append(all, beside{name: name})
		}
	}
	return all
}

func (p beside) against(figure float64, g goal) against {
	a := against{Name: p.name, Value: median(p.values), Goal: g.text, Values: p.values}
	if a.Value != 0 {
		a.Ratio = figure / a.Value
	}
	a.Met = g.text == "" || a.Ratio != 0 && g.met(figure, a.Value)
	return a
}

func (l line) String() string {
	measured, floor, verdict := "—", "—", word(l.Met)
	if len(l.Figures) > 0 {
		measured = quantity(l.Figure, l.Unit)
	} else {
		verdict = "not measured"
	}
	if len(l.Floors) > 0 {
		floor = quantity(l.Floor, l.Unit)
	}
	text := fmt.Sprintf(columns, l.Name, measured, floor, ratio(l.Ratio), l.Goal, verdict)
	text += fmt.Sprintf("%12s%s\n%12sfloor: %s\n", "", l.What, "", l.FloorWhat)
	for _, p := range l.Peers {
		value := "not measured"
		if len(p.Values) > 0 {
			value = quantity(p.Value, l.Unit) + ", " + ratio(p.Ratio)
		}
		text += fmt.Sprintf("%12sbeside %s: %s", "", p.Name, value)
		if p.Goal != "" {
			text += fmt.Sprintf(" (%s: %s)", p.Goal, word(p.Met))
		}
		text += "\n"
	}
	for _, n := range l.Notes {
		text += fmt.Sprintf("%12s%s\n", "", n)
	}
	return text
}

func ratio(r float64) string {
	if r == 0 {
		return "—"
	}
	return fmt.Sprintf("%.2f×", r)
}

func word(met bool) string {
	if met {
		return "met"
	}
	return "missed"
}

func quantity(v float64, unit string) string {
	switch {
	case v == 0, v >= 1000 || v == float64(int(v)):
		return strings.TrimSpace(fmt.Sprintf("%.0f %s", v, unit))
	case v < 10:
		return strings.TrimSpace(fmt.Sprintf("%.2f %s", v, unit))
	}
	return strings.TrimSpace(fmt.Sprintf("%.1f %s", v, unit))
}

func (r *report) footing() string {
	missed := 0
	for _, l := range r.Lines {
		if !l.Met {
			missed++
		}
	}
	return fmt.Sprintf("\n%d of %d goals met, in %v; load now %s. See docs/performance.md.\n",
		len(r.Lines)-missed, len(r.Lines), time.Since(r.Date).Round(time.Second), loadAverage())
}

func (r *report) write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
