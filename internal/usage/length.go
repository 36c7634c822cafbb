package usage

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A Length is the value of an option: a time as package time has it, or with days.
type Length struct {
	D     time.Duration
	Given bool   // also if it is 0
	Typed string // as it was given
}

const hoursADay = 24

// withDays is a time that begins with days. More than 5 digits would overflow a time.Duration.
var withDays = regexp.MustCompile(`^([0-9]{1,5})d(.*)$`)

// Set is of flag.Value.
func (l *Length) Set(text string) (err error) {
	rest := text
	var days int
	if m := withDays.FindStringSubmatch(text); m != nil {
		days, _ = strconv.Atoi(m[1])
		rest = m[2]
		if rest == "" {
			rest = "0"
		}
	}
	*l = Length{Given: true, Typed: text}
	if l.D, err = time.ParseDuration(rest); err != nil || days > 0 && l.D < 0 {
		return fmt.Errorf("write a time with its unit, such as 30s, 10m, 1h30m or 7d")
	}
	l.D += time.Duration(days*hoursADay) * time.Hour
	return nil
}

// String is short: 10m, 1h30m, 7d, 1d12h.
func (l Length) String() string {
	days, rest := l.D/(hoursADay*time.Hour), l.D%(hoursADay*time.Hour)
	if days > 0 && rest == 0 {
		return fmt.Sprintf("%dd", days)
	}
	if days > 0 {
		return fmt.Sprintf("%dd%v", days, Length{D: rest})
	}
	text := l.D.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
