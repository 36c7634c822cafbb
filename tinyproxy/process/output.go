package process

import (
	"bytes"

	"vifproxy/tinyproxy"
)

// An output cuts what one process says into lines for the log of its VM.
type output struct {
	log      *vmLog            // nil for a trial
	heard    func(line string) // of a trial
	level    tinyproxy.LogLevel
	requests *tinyproxy.Requests // nil for a trial
	said     tinyproxy.Tail
	batch    batch  // of lines for the log, while they are read
	part     []byte // of a line that is not complete
	cut      bool   // that line is too long, and in the log; its rest is dropped
}

// Write accepts everything, because tinyproxy would block on a full pipe.
func (o *output) Write(chunk []byte) (int, error) {
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

// end is called when nothing more can come.
func (o *output) end() {
	if len(o.part) > 0 {
		o.line(o.part)
		o.put()
	}
	if o.requests != nil {
		o.requests.End()
	}
}

// put has the lines written that are for the log.
func (o *output) put() {
	if o.log != nil {
		o.log.put(&o.batch)
		o.batch.text = nil
	}
}

func (o *output) line(raw []byte) {
	if o.requests != nil {
		o.requests.Line(raw)
	}
	wanted := o.level.Wants(raw)
	if wanted || tinyproxy.LogLevel("notice").Wants(raw) { // a template may log too little to show why a start fails
		o.said.Add(raw)
	}
	if wanted && o.log != nil {
		o.log.add(&o.batch, raw)
	}
	if o.heard != nil {
		o.heard(string(raw))
	}
	o.part = o.part[:0]
}
