package main

import (
	"testing"
)

// TestModelOfChaos holds the model to what people expect, since the chaos run is worth no more than it.
func TestModelOfChaos(t *testing.T) {
	const a, b = hosts(1), hosts(2)
	file := func(h hosts) content { return content{kind: good, lines: h} }
	bad := content{kind: misread}
	type (
		step  = func(*model, *appVM)
		steps []step
	)
	write := func(c content) step { return func(m *model, vm *appVM) { m.setFile(vm, "vm.10.0.0.1", c) } }
	settle := func(m *model, vm *appVM) { m.settle() }
	leave := func(m *model, vm *appVM) { vm.disconnect("vif1.0") }
	come := func(m *model, vm *appVM) { vm.connect("vif1.0") }
	crash := func(m *model, vm *appVM) { m.ends(); m.down = false }
	feature := func(c content) step { return func(m *model, vm *appVM) { m.setFeature(vm, "vm.10.0.0.1", c) } }
	second := func(c content) step { return func(m *model, vm *appVM) { m.setFeature(vm, "z.10.0.0.1", c) } }
	half := func(c content) step { return func(m *model, vm *appVM) { m.setHalf(vm, c, true) } }
	settings := func(c content) step { return func(m *model, vm *appVM) { m.setList(vm, inFirewall, c) } }
	hold := func(m *model, vm *appVM) { m.mayHold(vm, true); vm.holds(true) }
	lack := func(m *model, _ *appVM) { m.mayLack() }
	learn := func(m *model, vm *appVM) { vm.mayLearn() }
	letGo := func(m *model, vm *appVM) { m.mayHold(vm, false); vm.holds(false) }
	ceiling := func(c content) step { return func(m *model, vm *appVM) { m.setCeiling(c) } }
	under := func(c content) step { // a daemon begins with a ceiling, and the AppVM has its list
		return func(m *model, vm *appVM) {
			m.ends()
			m.setCeiling(c)
			m.down = false
			m.starts(true)
			m.settle()
		}
	}
	include := func(c content) step { c.includes = true; return write(c) }
	share := func(c content) step { return func(m *model, vm *appVM) { m.setShared(c) } }
	open := func(m *model, vm *appVM) { m.setTemplate(content{kind: good, open: true}) }
	for name, test := range map[string]struct {
		steps     // after an AppVM has come and a was permitted
		may, must hosts
		certain   bool
	}{
		"in force":                        {nil, a, a, true},
		"a change may be in force":        {steps{write(file(b))}, a | b, 0, false},
		"an addition cuts nobody off":     {steps{write(file(a | b))}, a | b, a, true},
		"another format may cut off":      {steps{write(content{kind: good, lines: a | b, text: ofDomains})}, a | b, 0, false},
		"what was taken away is refused":  {steps{write(file(b)), settle}, b, b, true},
		"a bad file keeps the last good":  {steps{write(bad), settle}, a, a, true},
		"who knows whether it was read":   {steps{write(file(b)), write(bad), settle}, a | b, 0, true},
		"no file, no proxy":               {steps{write(content{}), settle}, 0, 0, false},
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
		"a file that comes back is held":  {steps{hold, write(content{}), settle, write(file(a)), settle}, 0, 0, false},
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
		"the file counts again":           {steps{feature(file(b)), settle, feature(content{}), settle}, a, a, true},
		"settings are the last":           {steps{settings(file(b)), settle}, a, a, true},
		"and count if there is no other":  {steps{settings(file(b)), write(content{}), settle}, b, b, true},
		"half of them is none":            {steps{settings(file(b)), write(content{}), settle, settings(bad), settle}, b, b, true},
		"half may count after a crash":    {steps{settings(file(b)), write(content{}), settle, half(file(a)), crash}, a, 0, false},
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
			m := newModel("10.0.0.1")
			vm := m.vms[0]
			come(m, vm)
			write(file(a))(m, vm)
			settle(m, vm)
			for _, s := range test.steps {
				s(m, vm)
			}
			must, certain := m.must(vm)
			if may := m.may(vm); may != test.may || must != test.must || certain != test.certain {
				t.Errorf("may %v, must %v, certain %t; want %v, %v, %t",
					may, must, certain, test.may, test.must, test.certain)
			}
		})
	}
}
