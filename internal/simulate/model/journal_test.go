package model

import (
	"bytes"
	"flag"
	"net/netip"
	"os"
	"strings"
	"testing"
)

var journal = flag.String("journal", "", "a journal of the chaos run, which is replayed")

// TestJournal replays a journal that somebody names. It says at which lines real state is not what the inputs say.
func TestJournal(t *testing.T) {
	if *journal == "" {
		t.Skip("no -journal=FILE")
	}
	f, err := os.Open(*journal)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	differences, rests, err := Replay(f)
	if err != nil {
		t.Error(err)
	}
	for _, d := range differences {
		t.Error(d)
	}
	t.Logf("%d rests, %d differences", rests, len(differences))
}

// A journal says where what was seen is not what the inputs say, and nothing else.
func TestReplay(t *testing.T) {
	var b bytes.Buffer
	ip := netip.MustParseAddr("10.0.0.1")
	m := New(7, Write(&b), ip)
	vm := m.VMs[0]
	m.Starts(false)
	m.SetFile(vm, "vm.10.0.0.1", List{Kind: Good, Lines: 3, Text: "a\nb\n"})
	m.Connect(vm, "vif1.0")
	runs := Row{VM: ip, Name: "vm", Vifs: []string{"vif1.0"}, State: "running"}
	rest := func(show Row, seen Policy) {
		before := m.Differs([]Row{show})
		if err := m.Rest([]Row{show}); (err != nil) != (before != nil) {
			t.Errorf("at rest %v, before %v", err, before)
		}
		m.Saw(vm, seen) //nolint:errcheck // the replay says it
	}
	rest(runs, Policy{true, 3})
	m.Note("a bad edit")
	m.SetFile(vm, "vm.10.0.0.1", List{Kind: Misread})
	runs.Error = true
	rest(runs, Policy{true, 3})
	right := b.String()
	for what, test := range map[string]struct {
		old, new string
		line     int    // at which there is a difference
		err      string // or what is wrong with the journal
	}{
		"all as it should be":         {},
		"another host":                {`"saw":{"served":true,"permits":"ab"}`, `"saw":{"served":true,"permits":"abc"}`, 6, ""},
		"one host less":               {`"saw":{"served":true,"permits":"ab"}`, `"saw":{"served":true,"permits":"a"}`, 6, ""},
		"no proxy":                    {`"saw":{"served":true,"permits":"ab"}`, `"saw":{"served":false,"permits":""}`, 6, ""},
		"stopped":                     {`"state":"running"`, `"state":"stopped"`, 5, ""},
		"another vif":                 {`"vifs":["vif1.0"]`, `"vifs":["vif2.0"]`, 5, ""},
		"a list that says less":       {`"permits":"ab","text"`, `"permits":"a","text"`, 6, ""},
		"an address of nobody":        {`"vm":"10.0.0.1","name":"vif1.0"`, `"vm":"10.0.0.2","name":"vif1.0"`, 4, ""},
		"what nobody has heard of":    {`"what":"note"`, `"what":"nothing"`, 7, ""},
		"no begin":                    {`"what":"begin"`, `"what":"note"`, 0, "line 1"},
		"half a line":                 {`"permits":"ab","text"`, `"permits`, 0, "line 3"},
		"letters that are no hosts":   {`"permits":"ab","text"`, `"permits":"az","text"`, 0, "line 3"},
		"a list that is of no kind":   {`{"kind":"misread"}`, `{"kind":"new"}`, 0, "line 8"},
		"a list that is not there":    {`,"list":{"kind":"misread"}`, ``, 8, ""},
		"another file beside the one": {`"name":"vm.10.0.0.1","list":{"kind":"misread"}`, `"name":"z.10.0.0.1","list":{"kind":"good"}`, 0, ""},
	} {
		t.Run(what, func(t *testing.T) {
			if !strings.Contains(right, test.old) {
				t.Fatalf("no %s in\n%s", test.old, right)
			}
			differences, rests, err := Replay(strings.NewReader(strings.Replace(right, test.old, test.new, 1)))
			switch {
			case test.err != "":
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want one in %s", err, test.err)
				}
			case err != nil:
				t.Error(err)
			case test.line == 0 && (len(differences) > 0 || rests != 2):
				t.Errorf("%d rests; %v", rests, differences)
			case test.line != 0 && (len(differences) == 0 || differences[0].Line != test.line):
				t.Errorf("%v, want the first difference at line %d", differences, test.line)
			}
		})
	}
}
