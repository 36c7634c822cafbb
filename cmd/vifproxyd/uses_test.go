package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

// used returns how the daemon has counted the requests of work: a text for each line that was used, and the whole answer.
func (s *site) used() (lines []string, use control.ListUse, err error) {
	all, err := control.NewClient(s.socket()).Review(s.Context(), []string{"work"})
	if err != nil || len(all) != 1 {
		return nil, use, fmt.Errorf("%+v, %v", all, err)
	}
	for _, l := range all[0].Lines {
		if l.Count > 0 {
			lines = append(lines, fmt.Sprintf("%s %d", l.Pattern, l.Count))
		}
	}
	slices.Sort(lines)
	return lines, all[0], nil
}

// untilUsed waits until the daemon has counted so much.
func (s *site) untilUsed(want ...string) {
	s.Helper()
	slices.Sort(want)
	s.until("the requests are counted", func() error {
		if got, _, err := s.used(); err != nil || !slices.Equal(got, want) {
			return fmt.Errorf("%q, %w", got, err)
		}
		return nil
	})
}

// The daemon counts for each line the requests that it lets pass, also if they fail then. Counts outlive the daemon, however it ends, and an
// edit of other lines. If the daemon cannot read its record, it says so and begins a new one.
func TestUsesAreCounted(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	file := filepath.Join(s.stateDir(), "uses")
	s.list("common", "#: format domains", "shop.example", "nobody.example")
	list := []string{"#: format domains", "#: include common", "bank.example", "*.news.example", "www.news.example", "nowhere.example", "old.example"}
	const (
		bank, news, nowhere, shop, wide = `^bank\.example\.?$ `, `^www\.news\.example\.?$ `, `^nowhere\.example\.?$ `, `^shop\.example\.?$ `,
			`^([a-zA-Z0-9_-]+\.)+news\.example\.?$ `
	)
	s.rules("work.10.137.31.2", list...)
	s.attach("work", "10.137.31.2")
	s.start()
	s.opens("work", "http://bank.example/", "http://shop.example/", "http://www.news.example/")
	s.refuses("work", "http://evil.example/")
	s.Get("work", "http://nowhere.example/")
	s.untilUsed(wide+"1", bank+"1", nowhere+"1", news+"1", shop+"1")
	s.until("the record is written", func() error {
		text, err := os.ReadFile(file)
		if info, statErr := os.Stat(file); statErr != nil || info.Mode().Perm() != 0o600 || !strings.Contains(string(text), "nowhere.example\"") {
			return fmt.Errorf("%v, %v, %v: %s", info, statErr, err, text)
		}
		return nil
	})
	_, before, err := s.used()
	s.must(err)

	s.crash()
	s.start()
	s.untilUsed(wide+"1", bank+"1", nowhere+"1", news+"1", shop+"1")
	if _, use, err := s.used(); err != nil || !use.Begun.Equal(before.Begun) {
		t.Errorf("after a crash: %+v, %v, and before %+v", use, err, before)
	}
	s.opens("work", "http://bank.example/")
	s.untilUsed(wide+"1", bank+"2", nowhere+"1", news+"1", shop+"1")

	// review names the lines that nobody needs, and comments them out with --fix. That is in force at once, and cuts nothing that was used.
	s.says("review work", "www.news.example is covered: line 4 permits the same hosts", "old.example is unused: no request needed it in ",
		"; it was counted for too short a time to propose that", "lists.d/common:3: nobody.example is unused: ")
	said := s.on(0, "review", "work", "--fix", "--narrow", "--after=0s")
	if !strings.Contains(said, "- *.news.example  (no longer permits a.news.example)") || !strings.Contains(said, "in force after ") {
		t.Errorf("review --fix: %s", said)
	}
	day := time.Now().Format(time.DateOnly)
	content, err := os.ReadFile(filepath.Join(s.rulesDir(), "work.10.137.31.2"))
	if want := fmt.Sprintf("#: format domains\n#: include common\nbank.example\n# wide, %[1]s: *.news.example\nwww.news.example\n# covered, %[1]s: www.news.example\n"+
		"nowhere.example\n# unused, %[1]s: old.example\n", day); err != nil || string(content) != want {
		t.Errorf("the list:\n%s, want\n%s, %v", content, want, err)
	}
	s.opens("work", "http://www.news.example/")
	s.refuses("work", "http://news.example/", "http://old.example/", "http://a.news.example/")
	s.untilUsed(bank+"2", nowhere+"1", news+"2", shop+"1")

	s.rules("work.10.137.31.2", append(list[:3:3], "# more", "*.news.example", "echo.example", "nowhere.example")...)
	s.update()
	s.stop()
	s.start()
	s.untilUsed(wide+"2", bank+"2", nowhere+"1", shop+"1")

	// More names than are remembered: their line keeps its count.
	for i := range 300 {
		s.Get("work", fmt.Sprintf("http://n%d.news.example/", i))
	}
	s.untilUsed(wide+"302", bank+"2", nowhere+"1", shop+"1")
	if _, use, err := s.used(); err != nil || use.Lost != 0 || !slices.ContainsFunc(use.Lines, func(l control.LineUse) bool { return l.More && len(l.Hosts) <= 256 }) {
		t.Errorf("after 300 names: %d lost, %v", use.Lost, err)
	}
	s.stop()

	for _, garbage := range []string{"{", `{"lists": [{"path": "` + filepath.Join(s.rulesDir(), "work.10.137.31.2") + `", "lines": [{"count": -1}]}]}`} {
		s.must(writeFile(file, []byte(garbage), 0o600))
		s.start()
		s.until("the log says that it begins again", func() error {
			if text := s.daemon.log.String(); !strings.Contains(text, "the counting begins again") {
				return fmt.Errorf("the log:\n%s", text)
			}
			return nil
		})
		s.opens("work", "http://bank.example/")
		s.refuses("work", "http://evil.example/")
		s.untilUsed(bank + "1")
		s.stop()
	}
}
