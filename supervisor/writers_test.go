package supervisor

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/mailbox"
	"vifproxy/internal/news"
)

// A file that somebody writes is no mistake, unless that lasts. What ran goes on, also where it has to be started again.
func TestFileThatIsBeingWritten(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		path := filepath.Join(m.dir, "social.10.137.0.1")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		m.Wake(mailbox.Rules)
		m.expect(m.after(time.Second), "")
		vm := m.vm("social")
		if vm.State != control.Running || !strings.Contains(vm.Error, "is open for writing") {
			t.Errorf("%+v", vm)
		}
		told := func() bool {
			status, err := m.Status(m.ctx)
			if err != nil {
				t.Error(err)
			}
			return slices.Contains(status.Problems, path+": "+news.ErrStillWritten.Error())
		}
		m.mail.Post(func(l *loop) {
			if l.want[0].Told != nil {
				t.Errorf("told at once: %v", l.want[0].Told)
			}
		})
		if told() {
			t.Errorf("told at once")
		}
		if m.after(news.LongWriteMin + 2*time.Second); !told() {
			t.Errorf("not told")
		}
		m.proxy("social").gone("die", errors.New("killed"))
		m.expect(m.after(time.Second), "die :1\nstart social (10.137.0.1) at 10.138.1.1: a :2\n"+
			"unbind vif1.0 10.137.0.1 :1\nbind vif1.0 10.137.0.1 :2")
		if _, err := f.WriteString("b\n"); err != nil {
			t.Fatal(err)
		}
		f.Close() // and nothing tells of it
		m.expect(m.after(2*time.Second), "start social (10.137.0.1) at 10.138.1.1: b :3\n"+
			"unbind vif1.0 10.137.0.1 :2\nbind vif1.0 10.137.0.1 :3\nkill :2")
		if told() {
			t.Errorf("still told")
		}
	})
}
