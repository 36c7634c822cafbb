package model

import (
	"net/netip"
	"testing"
)

// TestModel holds the model to what people expect, since a run is worth no more than it.
func TestModel(t *testing.T) {
	const a, b, everything = Hosts(1), Hosts(2), Hosts(15)
	file := func(h Hosts) List { return List{Kind: Good, Lines: h} }
	bad := List{Kind: Misread}
	type (
		step  = func(*Model, *AppVM)
		steps []step
	)
	write := func(l List) step { return func(m *Model, vm *AppVM) { m.SetFile(vm, "vm.10.0.0.1", l) } }
	settle := func(m *Model, vm *AppVM) { m.Rest(nil) } //nolint:errcheck // nothing was seen
	leave := func(m *Model, vm *AppVM) { m.Disconnect(vm, "vif1.0") }
	come := func(m *Model, vm *AppVM) { m.Connect(vm, "vif1.0") }
	crash := func(m *Model, vm *AppVM) { m.Ends(); m.Starts(m.Under()) }
	feature := func(l List) step { return func(m *Model, vm *AppVM) { m.SetFeature(vm, "vm.10.0.0.1", l) } }
	second := func(l List) step { return func(m *Model, vm *AppVM) { m.SetFeature(vm, "z.10.0.0.1", l) } }
	half := func(l List) step { return func(m *Model, vm *AppVM) { m.SetHalf(vm, l, true) } }
	settings := func(l List) step { return func(m *Model, vm *AppVM) { m.SetSettings(vm, l) } }
	hold := func(m *Model, vm *AppVM) { m.MayHold(vm, true); m.Holds(vm, true) }
	lack := func(m *Model, _ *AppVM) { m.Lack(true) }
	learn := func(m *Model, vm *AppVM) { m.Learns(vm, true) }
	letGo := func(m *Model, vm *AppVM) { m.MayHold(vm, false); m.Holds(vm, false) }
	ceiling := func(l List) step { return func(m *Model, vm *AppVM) { m.SetCeiling(l) } }
	under := func(l List) step { // a daemon begins with a ceiling, and the AppVM has its list
		return func(m *Model, vm *AppVM) {
			m.Ends()
			m.SetCeiling(l)
			m.Starts(true)
			settle(m, vm)
		}
	}
	include := func(l List) step { l.Includes = true; return write(l) }
	share := func(l List) step { return func(m *Model, vm *AppVM) { m.SetShared(l) } }
	open := func(m *Model, vm *AppVM) { m.SetTemplate(List{Kind: Good, Open: true}) }
	for name, test := range map[string]struct {
		steps     // after an AppVM has come and a was permitted
		may, must Hosts
		certain   bool
	}{
		"in force":                        {nil, a, a, true},
		"a change may be in force":        {steps{write(file(b))}, a | b, 0, false},
		"an addition cuts nobody off":     {steps{write(file(a | b))}, a | b, a, true},
		"another format may cut off":      {steps{write(List{Kind: Good, Lines: a | b, Text: "#: format domains"})}, a | b, 0, false},
		"what was taken away is refused":  {steps{write(file(b)), settle}, b, b, true},
		"a bad file keeps the last good":  {steps{write(bad), settle}, a, a, true},
		"who knows whether it was read":   {steps{write(file(b)), write(bad), settle}, a | b, 0, true},
		"no file, no proxy":               {steps{write(List{}), settle}, 0, 0, false},
		"gone":                            {steps{leave, settle}, 0, 0, false},
		"a flap may lose the last good":   {steps{write(bad), leave, come, settle}, a, 0, false},
		"so does a crash, for certain":    {steps{write(bad), crash, settle}, 0, 0, false},
		"held":                            {steps{hold}, 0, 0, false},
		"held for long":                   {steps{hold, settle}, 0, 0, false},
		"held, and then rebooted":         {steps{hold, leave, come, settle}, 0, 0, false},
		"a lesson permits everything":     {steps{learn}, everything, 0, false},
		"and is over when all is settled": {steps{learn, settle}, a, a, true},
		"nobody learns who is held":       {steps{hold, learn}, 0, 0, false},
		"held, and let go":                {steps{hold, settle, letGo, settle}, a, a, true},
		"the file changed meanwhile":      {steps{hold, settle, write(file(b)), settle, letGo, settle}, b, b, true},
		"to the worse":                    {steps{hold, write(bad), settle, letGo, settle}, a, a, true},
		"a file that comes back is held":  {steps{hold, write(List{}), settle, write(file(a)), settle}, 0, 0, false},
		"a change that could not start":   {steps{lack, write(file(b)), write(bad), settle}, a | b, 0, false},
		"a crash does not let go":         {steps{hold, settle, crash, settle}, 0, 0, false},
		"who knows which template rules":  {steps{open}, everything, 0, false},
		"default allow":                   {steps{open, settle}, everything &^ a, everything &^ a, true},
		"a line more forbids":             {steps{open, settle, write(file(a | b))}, everything &^ a, 0, false},
		"a line less cuts nobody off":     {steps{open, settle, write(file(0))}, everything, everything &^ a, true},
		"the last good has its template":  {steps{write(bad), settle, open, settle}, a, a, true},
		"dom0 may count":                  {steps{feature(file(b))}, a | b, 0, false},
		"dom0 counts before a file":       {steps{feature(file(b)), settle}, b, b, true},
		"a file is as if it were not":     {steps{feature(file(b)), settle, write(file(a | b))}, b, b, true},
		"dom0's mistake is no file":       {steps{feature(bad), settle, write(file(b)), settle}, a, a, true},
		"dom0 adds":                       {steps{feature(file(b)), settle, feature(file(a | b))}, a | b, b, true},
		"dom0 has two":                    {steps{feature(file(b)), settle, second(file(a)), settle}, b, b, true},
		"the file counts again":           {steps{feature(file(b)), settle, feature(List{}), settle}, a, a, true},
		"settings are the last":           {steps{settings(file(b)), settle}, a, a, true},
		"and count if there is no other":  {steps{settings(file(b)), write(List{}), settle}, b, b, true},
		"half of them is none":            {steps{settings(file(b)), write(List{}), settle, settings(bad), settle}, b, b, true},
		"half may count after a crash":    {steps{settings(file(b)), write(List{}), settle, half(file(a)), crash}, a, 0, false},
		"what a ceiling admits":           {steps{under(file(a | b))}, a, a, true},
		"beyond it there is no proxy":     {steps{under(file(b))}, 0, 0, false},
		"nobody begins without it":        {steps{under(bad)}, 0, 0, false},
		"an edit beyond it is refused":    {steps{under(file(a)), write(file(a | b)), settle}, a, a, true},
		"who knows whether it was raised": {steps{under(file(a)), write(file(a | b)), ceiling(file(a | b))}, a | b, 0, false},
		"a lower one takes away":          {steps{under(file(a | b)), write(file(a | b)), settle, ceiling(file(a)), settle}, a, a, true},
		"for good, if the list is bad":    {steps{under(file(a | b)), write(file(a | b)), settle, write(bad), ceiling(file(a)), settle, ceiling(file(a | b)), settle}, a, a, true},
		"what it does not concern stays":  {steps{under(file(a | b)), ceiling(file(a))}, a, a, true},
		"a bad one keeps what there is":   {steps{under(file(a)), ceiling(bad), settle, write(file(0)), settle}, a, a, true},
		"a lesson stays below it":         {steps{under(file(a | b)), learn}, a | b, 0, false},
		"below it none is default allow":  {steps{under(file(a)), open, settle}, a, a, true},
		"a shared list is not there":      {steps{include(file(a)), settle}, a, a, true},
		"it adds":                         {steps{share(file(b)), include(file(a)), settle}, a | b, a | b, true},
		"and takes away":                  {steps{share(file(b)), include(file(a)), settle, share(file(0)), settle}, a, a, true},
		"a bad one keeps the last good":   {steps{share(file(b)), include(file(a)), settle, share(bad), settle}, a | b, a | b, true},
		"whichever was read first":        {steps{share(file(b)), settle, share(file(0)), include(file(a))}, a | b, 0, false},
		"others do not notice":            {steps{share(file(b)), share(bad)}, a, a, true},
		"dom0 permits what it names":      {steps{feature(file(b)), settle, open, settle}, b, b, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := New(everything, nil, netip.MustParseAddr("10.0.0.1"))
			vm := m.VMs[0]
			m.Starts(false)
			come(m, vm)
			write(file(a))(m, vm)
			settle(m, vm)
			for _, s := range test.steps {
				s(m, vm)
			}
			must, certain := m.Must(vm)
			if may := m.May(vm); may != test.may || must != test.must || certain != test.certain {
				t.Errorf("may %v, must %v, certain %t; want %v, %v, %t",
					may, must, certain, test.may, test.must, test.certain)
			}
		})
	}
}
