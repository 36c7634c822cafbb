package control

import (
	"context"
	"net/http"
	"time"
)

// LearnMax is for how many seconds an AppVM may learn.
const LearnMax = 60 * 60

// A LearnRequest asks for a lesson, or for its end.
type LearnRequest struct {
	Name    string `json:"name"`
	Seconds int    `json:"seconds"` // 0 ends the lesson that is under way
}

// The lines of a lesson.
const (
	LessonBegins = "learning" // the first one: Seconds from now on the AppVM reaches hosts that its list does not permit
	LessonHost   = "host"     // a host that it has reached, or has reached again: the line takes the place of earlier ones
	LessonCut    = "cut"      // Cut or Unread have changed
	LessonOver   = "over"     // the last one: its list is in force again, for the reason Why
)

// A Lesson is one line of what an AppVM reaches while its list is learnt. Fields that do not apply are left out.
type Lesson struct {
	Event   string `json:"event"`
	VM      string `json:"vm,omitempty"`
	Seconds int    `json:"seconds,omitempty"`
	*LearntHost
	Why    string `json:"why,omitempty"`
	Cut    int    `json:"cut,omitempty"`    // connections that are not noted, because too many hosts are
	Unread int    `json:"unread,omitempty"` // connections of which the host is not known, or is no host name
}

// A LearntHost is a host that an AppVM has reached at one port.
type LearntHost struct {
	Host    string    `json:"host"` // a host name in lower case, or an address
	Port    uint16    `json:"port"`
	Count   int       `json:"count"` // of connections
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Listed  bool      `json:"listed"`            // its list permits it
	Browser string    `json:"browser,omitempty"` // what browsers want of it by themselves, for a person
}

// Learn calls each for every line of a lesson, until that is over, ctx ends, each fails, or the daemon has gone. If ctx ends, so does the
// lesson. It returns nil after the line that says why it is over.
func (c *Client) Learn(ctx context.Context, r LearnRequest, each func(Lesson) error) error {
	over := false
	err := follow(ctx, c, http.MethodPost, "learn", r, func(l Lesson) error {
		over = l.Event == LessonOver
		return each(l)
	})
	if over {
		return nil
	}
	return err
}

// EndLesson ends the lesson of an AppVM, if there is one. It returns when the list is in force again, and the process of the lesson has ended. The client that follows it gets all that was noted, and the line that says that it is over.
func (c *Client) EndLesson(ctx context.Context, name string) error {
	answer, err := c.open(ctx, http.MethodPost, "learn", LearnRequest{Name: name})
	if err != nil {
		return err
	}
	return answer.Close()
}
