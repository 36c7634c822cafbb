package vmlog

import (
	"bytes"

	"vifproxy/tinyproxy"
)

// An Output cuts what one process says into lines for the log of its VM. One goroutine at a time may use it, but for Said.
type Output struct {
	Log      *Log              // nil for a trial
	Heard    func(line string) // of a trial
	Level    tinyproxy.LogLevel
	Requests *tinyproxy.Requests // nil for a trial
	Said     tinyproxy.Tail

	batch batch  // of lines for the log, while they are read
	part  []byte // of a line that is not complete
	cut   bool   // that line is too long, and in the log; its rest is dropped
}

// Write accepts everything, because tinyproxy would block on a full pipe.
func (o *Output) Write(chunk []byte) (int, error) {
	for rest := chunk; len(rest) > 0; {
		piece, after, ended := bytes.Cut(rest, []byte("\n"))
		rest = after
		if !o.cut {
			o.part = append(o.part, piece[:min(len(piece), lineMax-len(o.part))]...)
			if o.cut = len(o.part) == lineMax; ended || o.cut {
				o.line(bytes.TrimSuffix(o.part, []byte("\r")))
			}
		}
		o.cut = o.cut && !ended
	}
	if len(o.part) == 0 {
		o.part = nil // a silent process keeps no buffer
	}
	o.put()
	return len(chunk), nil
}

// End is called when nothing more can come.
func (o *Output) End() {
	if len(o.part) > 0 {
		o.line(o.part)
		o.put()
	}
	if o.Requests != nil {
		o.Requests.End()
	}
}

// put has the lines written that are for the log.
func (o *Output) put() {
	if o.Log != nil {
		o.Log.put(&o.batch)
		o.batch.text = nil
	}
}

func (o *Output) line(raw []byte) {
	if o.Requests != nil {
		o.Requests.Line(raw)
	}
	wanted := o.Level.Wants(raw)
	if wanted || tinyproxy.LogLevel("notice").Wants(raw) { // a template may log too little to show why a start fails
		o.Said.Add(raw)
	}
	if wanted && o.Log != nil {
		o.Log.add(&o.batch, raw)
	}
	if o.Heard != nil {
		o.Heard(string(raw))
	}
	o.part = o.part[:0]
}
