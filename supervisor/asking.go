package supervisor

import (
	"context"
	"time"

	"vifproxy/control"
	"vifproxy/internal/agenda"
)

// countRefused reads what the fence has counted, while no write is under way. If it fails, the numbers stay: they are for people.
func (l *loop) countRefused() {
	ctx, cancel := context.WithTimeout(context.Background(), syncTimeout)
	defer cancel()
	refused, err := l.Firewall.Refused(ctx)
	if l.troubles.Note(l.Events, time.Now(), "counters of the firewall", err); err == nil {
		l.refused = refused
	}
}

// countersTimeout is how long an answer waits for a write of the firewall. Then it has the numbers that were read before.
const countersTimeout = time.Second

// answerSoon answers questions with the status: now, or if the firewall is being written, when that is over. It does not put the write
// off, and does not wait for it.
func (l *loop) answerSoon(questions ...func(control.Status)) {
	l.questions = append(l.questions, questions...)
	if now := time.Now(); l.writing == nil {
		l.answerAll(now)
	} else if len(questions) > 0 {
		l.agenda.By(agenda.Answers, now.Add(countersTimeout))
	}
}

// answerAll answers all questions.
func (l *loop) answerAll(now time.Time) {
	l.agenda.At(agenda.Answers, time.Time{})
	if len(l.questions) == 0 {
		return
	}
	if l.writing == nil {
		l.countRefused()
	}
	status := l.statusNow(now)
	for _, tell := range l.questions {
		tell(status)
	}
	l.questions = nil
}
