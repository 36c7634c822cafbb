package supervisor

import (
	"context"
	"time"

	"vifproxy/control"
)

// countRefused reads what the fence has counted, while no write is under way. A failure leaves the numbers as they were: they
// are for people.
func (l *loop) countRefused() {
	ctx, cancel := context.WithTimeout(context.Background(), syncTimeout)
	defer cancel()
	refused, err := l.Firewall.Refused(ctx)
	if l.troubles.Note(l.Events, time.Now(), "counters of the firewall", err); err == nil {
		l.refused = refused
	}
}

// countersTimeout is how long an answer waits for a write of the firewall to end: the numbers of refused packets are those
// that were read before then.
const countersTimeout = time.Second

// answerSoon answers questions with how things stand: now, or if the firewall is being written, when that is over. The write
// is not put off for them, and the loop does not wait for it.
func (l *loop) answerSoon(questions ...func(control.Status)) {
	l.asked = append(l.asked, questions...)
	if now := time.Now(); l.writing == nil {
		l.answerAll(now)
	} else {
		l.agenda.by(dueAnswers, now.Add(countersTimeout))
	}
}

// answerAll answers all who have asked.
func (l *loop) answerAll(now time.Time) {
	l.agenda.at(dueAnswers, time.Time{})
	if len(l.asked) == 0 {
		return
	}
	if l.writing == nil {
		l.countRefused()
	}
	status := l.statusNow(now)
	for _, tell := range l.asked {
		tell(status)
	}
	l.asked = nil
}
