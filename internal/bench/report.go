package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
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
	Notes     []string  `json:"notes"`
	Load      string    `json:"load"`    // when it was done
	Figures   []float64 `json:"figures"` // of each run
	Floors    []float64 `json:"floors"`
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

// add takes a result up and returns its line of the table.
func (r *report) add(f figure, o outcome) string {
	l := line{
		Name: f.name, What: f.what, FloorWhat: f.floor, Unit: o.unit, Goal: f.goal.text,
		Figure: median(o.figures), Floor: median(o.floors), Notes: append(o.wrong, o.notes...), Load: loadAverage(),
		Figures: o.figures, Floors: o.floors,
	}
	l.Met = f.goal.met(l.Figure, l.Floor) && len(o.wrong) == 0
	if l.Floor != 0 {
		l.Ratio = l.Figure / l.Floor
	}
	r.Lines = append(r.Lines, l)
	floor, ratio := "—", "—"
	if len(o.floors) > 0 {
		floor = quantity(l.Floor, l.Unit)
	}
	if l.Ratio != 0 {
		ratio = fmt.Sprintf("%.2f×", l.Ratio)
	}
	verdict := "missed"
	if l.Met {
		verdict = "met"
	}
	text := fmt.Sprintf(columns, l.Name, quantity(l.Figure, l.Unit), floor, ratio, l.Goal, verdict)
	text += fmt.Sprintf("%12s%s\n%12sfloor: %s\n", "", l.What, "", l.FloorWhat)
	for _, n := range l.Notes {
		text += fmt.Sprintf("%12s%s\n", "", n)
	}
	return text
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
