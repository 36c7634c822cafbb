// Package simulate_test runs the whole supervisor against a simulated machine. A seed decides the order of events, how long effects take
// and whether they fail, and when the daemon is killed. Time is that of testing/synctest. docs/testing.md says how to read a failure.
//
// The same seed gives the same journal, although the supervisor has many goroutines and nobody decides in which order these run. No two
// things happen at one instant: the driver lets one effect end, waits until all goroutines wait, and only then goes on. What goroutines
// begin at that instant it puts into a fixed order before it decides how long each takes. So neither the scheduler, nor the order of a
// map, nor a select that has two ways changes anything. Timers of the supervisor that fire at one instant do so in any order. They meet
// nothing that the others have changed, with one exception, see explains.
package simulate_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/simulate/model"
	"vifproxy/rules"
)

var (
	firstSeed = flag.Uint64("seed", 1, "the first seed; the next runs have the next seeds")
	allSteps  = flag.Int("steps", enough, "how many steps there are in all runs together")
	atOnce    = flag.Bool("at-once", false, "a failure is not made shorter")
)

// One goroutine at a time takes less than many at once, as each waits for another.
func TestMain(m *testing.M) {
	flag.Parse()
	runtime.GOMAXPROCS(1)
	var err error
	if texts.dir, err = os.MkdirTemp("", "simulate"); err == nil {
		err = os.Mkdir(filepath.Join(texts.dir, rules.SharedDir), 0o700)
	}
	if err != nil {
		panic(err)
	}
	status := m.Run()
	os.RemoveAll(texts.dir)
	os.Exit(status)
}

// enough steps reach all rare states: those of the first seeds do, and so do ten times as many of any.
const enough = 20_000

// scriptSteps is how long the script of one run is. The effects of a step are steps too.
const scriptSteps = 300

func TestSimulate(t *testing.T) {
	steps, reached, told := 0, map[string]int{}, time.Now()
	seed := *firstSeed
	for ; steps < *allSteps; seed++ {
		is, s := themeOf(seed).setting, scriptOf(seed, scriptSteps)
		r := run(t, is, s, false)
		if steps += r.steps; r.wrong != nil && *atOnce {
			t.Fatalf("%d steps, %.0f s, seed %d: %v", steps, cpu().Seconds(), seed, r.wrong)
		}
		if r.wrong != nil {
			less, l := shrink(t, is, s)
			t.Fatalf("seed %d: %v\n\nThe same in fewer steps, to be kept in found:\n\t{%q, setting{%d, %d, %d, %t}, script{\n%s\t}},\n\nIts journal:\n%s",
				seed, r.wrong, l.wrong, seed, is.ports, is.slow, is.ceiling, less, strings.Join(l.journal, "\n"))
		}
		for state, n := range r.reached {
			reached[state] += n
		}
		if testing.Verbose() && time.Since(told) > 10*time.Second {
			told = time.Now()
			fmt.Printf("seed %d: %d steps, %.0f a minute of a CPU\n", seed, steps, float64(steps)/cpu().Minutes())
		}
	}
	t.Logf("seeds %d to %d: %d steps, %.0f a minute of a CPU", *firstSeed, seed-1, steps, float64(steps)/cpu().Minutes())
	for _, state := range slices.Sorted(maps.Keys(reached)) {
		t.Logf("%7d × %s", reached[state], state)
	}
	for _, state := range rare {
		if steps < enough || *firstSeed != 1 && steps < 10*enough {
			break
		}
		if reached[state] == 0 {
			t.Errorf("no run has reached this: %s", state)
		}
	}
}

// cpu returns how long this program has had a CPU.
func cpu() time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// rare are states that the runs have to reach, or they show less than they seem to.
var rare = []string{
	"a port freed and taken",
	"a stop outlives the daemon",
	"a trial",
	"a write pending while its process dies",
	"an AppVM is back before it has gone",
	"an event is lost",
	"another process has the port",
	"the daemon is killed while it writes",
	"the rest of a write is put off",
	"the fence around proxies does not stand: all proxies end until it does",
	"proxy finishes its connections",
	"rules refused",
	"host no longer allowed",
}

// found are the scripts that have failed once, as short as they could be made.
var found = []struct {
	what string
	setting
	script script
}{
	{"told to end while a write of the firewall hung, the daemon waited for that write, longer than systemd waits for the daemon", setting{seed: 19}, script{
		{1e6, write, 0, 0x503, 0},
		{2e6, connect, 0, 0, 0},
		{2e9, fault, 0, int(firewallSlow), 1e9},
		{1e6, write, 0, 0x505, 0},
		{50e6, shutDown, 0, 0, 0},
		{20e9, clients, 0, 0, 0},
	}},
	{"a bad list brought back what a good one had taken away while its AppVM was stopped", setting{seed: 1}, script{
		{1e6, write, 0, 0x507, 0},
		{1e6, connect, 0, 0, 0},
		{1e9, stop, 0, 0, 0},
		{1e9, write, 0, 0x501, 0},
		{9e9, write, 0, 0x003, 0},
		{1e9, start, 0, 0, 0},
		{1e9, clients, 0, 0, 0},
	}},
	{"the same while nothing started, because the fence did not stand", setting{seed: 1}, script{
		{1e6, write, 0, 0x507, 0},
		{1e6, connect, 0, 0, 0},
		{1e9, fault, 0, int(firewallUnfenced), 9e9},
		{1e6, flush, 0, 0, 0},
		{1e9, write, 0, 0x501, 0},
		{3e9, write, 0, 0x003, 0},
		{20e9, clients, 0, 0, 0},
	}},
	{"the same while its process was starting", setting{seed: 1}, script{
		{1e6, write, 0, 0x507, 0},
		{1e6, connect, 0, 0, 0},
		{1e9, fault, 0, int(startSlow), 9e9},
		{1e9, write, 0, 0x501, 0},
		{5e8, write, 0, 0x003, 0},
		{20e9, clients, 0, 0, 0},
	}},
	{"the same while its AppVM was stopped, of a host that was allowed for a time as well", setting{17400000715, 60, 1, true}, script{
		{865256, write, 1, 300225, 260800809},
		{191265111, explainIt, 1, 579800, 516208152},
		{116719943, connect, 1, 574538, 1715274049},
		{1928362, connect, 1, 984494, 282314564},
		{23399730, allow, 1, 707853, 720372802},
		{967212, write, 1, 660478, 58496758},
		{729420, write, 1, 610654, 2698911642},
		{4329, allow, 1, 826594, 419381701},
		{863417, write, 1, 1032444, 1998919052},
		{23354442, learn, 1, 589056, 1951130941},
		{12610771, write, 1, 720599, 907482928},
		{25380728, explainIt, 1, 190731, 2718554079},
		{154991, stop, 1, 930450, 1658406257},
		{10606438, write, 1, 569316, 1584221668},
		{74113202, write, 1, 426129, 2105178371},
		{2485808, killAllAndRestart, 1, 659209, 1996474968},
	}},
	{"the same while its process did not start", setting{seed: 1}, script{
		{1e6, write, 0, 0x507, 0},
		{1e6, connect, 0, 0, 0},
		{1e9, fault, 0, int(startFails), 9e9},
		{1e9, write, 0, 0x501, 0},
		{9e9, write, 0, 0x003, 0},
		{1e9, clients, 0, 0, 0},
	}},
	{"a process that had retired, and then lost its port, was bound again when its rules were taken back", setting{seed: 500153}, script{
		{781214, write, 4, 17237, 1679905694},
		{3882983, dom0List, 1, 26581, 15220607568},
		{3332697, flush, 4, 58489, 375210016},
		{675668, connect, 1, 13362, 529853239},
		{170713944, disconnect, 0, 37781, 2644469648},
		{736040, resolvers, 3, 41001, 576250362},
		{517177, allow, 1, 1971, 2724102620},
		{15175987, lose, 1, 29408, 2868282918},
	}},
	{"a firewall that failed for a moment, in which much else happened, was written again half a minute later", setting{seed: 910049}, script{
		{10549448, write, 0, 26942, 454006070},
		{3345967, connect, 0, 62443, 1713810757},
		{55349251, rest, 0, 47348, 1381248186},
		{28857733, write, 3, 33309, 1610224645},
		{663997, flush, 4, 37328, 5869650075},
		{472822, connect, 3, 62765, 1520345989},
		{710395218, forward, 3, 32854, 292875292},
		{466452, write, 3, 34538, 2601347062},
		{2456043, connect, 1, 16822, 4380493118},
		{3806494, dom0List, 4, 441, 2312330272},
		{876446, fault, 1, int(firewallFails), 1921954491},
		{1238962, write, 2, 43941, 470198652},
		{892267, connect, 1, 1532, 1646570935},
		{169875299, fault, 4, int(program), 1785263924},
		{4177202, status, 1, 50433, 592668552},
		{25367457, write, 0, 32276, 22490859},
		{194034, die, 4, 45444, 1537970012},
		{65853854, connect, 4, 50557, 135294399},
		{4742065, rest, 4, 6196, 2477575150},
	}},
	{"while the firewall could not be written, the process that AppVMs still came to ended as one of too many older ones", setting{seed: 2}, script{
		{1e6, write, 0, 0x1500, 0},
		{1e6, connect, 0, 0, 0},
		{1e9, fault, 0, int(firewallFails), 20e9},
		{1e6, write, 0, 0x1501, 0},
		{60e6, write, 0, 0x1502, 0},
		{60e6, write, 0, 0x1503, 0},
		{9e9, clients, 0, 0, 0},
	}},
	{"an AppVM was stopped by a name that was stopped before: its list got another name, and its proxy started", setting{9403000147, 60, 1, true}, script{
		{13543655, rename, 2, 162273, 42229046},
		{275034, write, 2, 16920, 3798882041},
		{14168934646, fill, 2, 420878, 559452436},
		{1741663, stop, 2, 733066, 1705718971},
		{10206411, write, 2, 874399, 2108484647},
		{1339406, rename, 2, 961780, 15956920130},
		{366743, rest, 2, 802128, 1341274650},
		{3046777, connect, 2, 245350, 2273038050},
		{2827466, rename, 2, 209382, 506484592},
		{3590431, stop, 2, 219842, 4050349756},
		{1844490, rest, 2, 990036, 1982634342},
		{1339211, rename, 2, 885043, 703482023},
	}},
	{"a list was renamed: its last good rules still had what was allowed for a time to the AppVM of the old name", setting{8302000429, 60, 1, true}, script{
		{511808, connect, 3, 267877, 1654865364},
		{18856476, write, 3, 671905, 582290118},
		{188899677, learn, 3, 216674, 1345951101},
		{80340740, fault, 3, 14, 3969943826},
		{1514187, allow, 3, 785239, 2677989097},
		{15899375, write, 3, 492834, 3166098062},
		{100775375, allow, 3, 446213, 2317505831},
		{4588604, write, 3, 923151, 1490365155},
		{249258187, rename, 3, 179577, 4205445468},
	}},

	// A mutant that random scripts seldom find.
	{"a write failed, and the process that AppVMs still came to answered requests by rules that had been taken back", setting{seed: 2}, script{
		{1e6, write, 0, 0x1503, 0},
		{1e6, connect, 0, 0, 0},
		{1e9, fault, 0, int(firewallFails), 5e9},
		{1e6, write, 0, 0x1501, 0},
		{9e9, clients, 0, 0, 0},
	}},

	// Faults that were mended before there was a simulation. The directory mutants has each as a patch.
	{"what came up last was taken for last good, not what served last", setting{seed: 1}, script{
		{1e6, write, 0, 0x501, 0},
		{1e6, connect, 0, 0, 0},
		{1e9, write, 0, 0x503, 0},
		{3e9, write, 0, 0x501, 0},
		{5e9, write, 0, 0x001, 0},
		{2e9, clients, 0, 0, 0},
	}},
	{"an AppVM was served alone although another process had died: a binding to that was written again", setting{seed: 2}, script{
		{1e6, write, 0, 0x501, 0},
		{1e6, write, 1, 0x501, 0},
		{1e6, write, 2, 0x501, 0},
		{1e6, write, 3, 0x501, 0},
		{1e6, connect, 1, 0, 0},
		{50e6, connect, 3, 0, 0},
		{1e9, fault, 0, int(startSlow), 2e8},
		{1e6, connect, 2, 0, 0},
		{50e6, fault, 0, int(firewallSlow), 2e8},
		{1e6, disconnect, 3, 0, 0},
		{100e6, die, 1, 0, 0},
		{15e9, clients, 0, 0, 0},
	}},
	{"five ports that another program had kept an AppVM waiting", setting{seed: 1, ports: manyPorts}, script{
		{1e6, write, 0, 0x501, 0},
		{1e6, connect, 0, 0, 0},
		{1e9, fault, 0, int(startTaken), 30e9},
		{1e6, write, 1, 0x501, 0},
		{1e6, connect, 1, 0, 0},
		{10e9, clients, 0, 0, 0},
	}},
	{"sockets that could not be read were not looked at again", setting{seed: 1}, script{
		{1e6, write, 0, 0x501, 0},
		{1e6, connect, 0, 0, 0},
		{1e9, fault, 0, int(listeners), 3e8},
		{1e6, lose, 0, 0, 0},
		{15e9, clients, 0, 0, 0},
	}},
	{"a check beside the loop that took too long ended proxies without a fence 2 s after the loop began to wait for it, not 2 s after it began", setting{1133, 5, 5, false}, script{
		{362867, disconnect, 1, 52468, 2933518180},
		{268662, connect, 1, 267218, 17817828832},
		{4665372, connect, 3, 597775, 2970465973},
		{7781520, fault, 3, 12, 1103777363},
		{712165, write, 1, 253267, 396281330},
		{16475400, write, 3, 127146, 1863604634},
		{2443775, flush, 3, 288898, 3098408925},
		{14284841813, clients, 1, 772071, 317785881},
		{2246103, fault, 3, 12, 2240593731},
		{1338539, flush, 1, 603629, 1108170162},
		{16196551891, clients, 3, 743861, 913218630},
	}},
	{"told to end right after another program had changed the firewall, which hung, the daemon let proxies run without a fence until it had written", setting{60000206, 0, 1, false}, script{
		{3966505, shutDown, 0, 255379, 2010981234},
		{2867, connect, 0, 198711, 2413087370},
		{977681, stop, 3, 329423, 1913172632},
		{4196315, dom0List, 1, 630259, 768868771},
		{1342218211, clients, 1, 350580, 236864196},
		{349054, restart, 1, 1014664, 2577408629},
		{19971386, fault, 0, 12, 974271591},
		{174456, shutDown, 0, 273296, 947289408},
		{918842572, clients, 0, 903993, 1543794863},
		{474680, dom0List, 0, 719615, 1153027010},
		{23534613, fault, 1, 12, 513354175},
		{566847, flush, 1, 331425, 2862575846},
		{827803282, clients, 1, 941339, 1401917075},
		{224493, fault, 0, 12, 945149990},
		{4068613, shutDown, 0, 371208, 38958393},
		{6835901381, clients, 1, 345048, 1686146351},
	}},
	{"an AppVM was allowed a host by a daemon that had still to read that its list had gone: a fault of the model", setting{80000281, 60, 1, false}, script{
		{764107, connect, 4, 629371, 998348185},
		{1852326, write, 4, 433577, 1632843902},
		{4253893, write, 4, 74989, 622748173},
		{686932, write, 4, 113032, 1673511980},
		{360941, update, 4, 899324, 1131034402},
		{175880, remove, 4, 92917, 268818269},
		{972417, allow, 4, 541477, 1901575868},
		{4055620, rest, 4, 1026952, 1157578895},
		{3759211, write, 4, 349823, 1144810936},
		{204798, write, 4, 420031, 159700088},
	}},
	{"what was allowed for a time to an AppVM of a range stayed without end if the AppVM came back, and one with a list of its own had come meanwhile", setting{29000128, 0, 5, false}, script{
		{3443512, connect, 4, 451289, 1163661880},
		{5902145, shareList, 3, 924650, 991788768},
		{1845484, write, 4, 414754, 41538760},
		{827819, write, 3, 334053, 1761973229},
		{10695807824, clients, 3, 287865, 790095468},
		{576742, allow, 4, 534285, 1527112391},
		{21294773, connect, 4, 137761, 1551452051},
		{3056238, write, 2, 451635, 1752292043},
		{28515991, disconnect, 4, 573962, 146677463},
		{660852, connect, 4, 769035, 3346255929},
	}},
	{"told to end while it checked the fence, the daemon cut the check short, and then started a process without a fence", setting{10101000389, 5, 5, true}, script{
		{3368011, connect, 0, 839412, 2849658795},
		{3436771, fault, 2, 12, 1413359072},
		{584016, write, 0, 220155, 528455615},
		{386242, flush, 0, 762915, 2365011754},
		{28548101, flush, 2, 264624, 2130955890},
		{678759500, clients, 0, 820734, 1141578684},
		{148566562, clients, 2, 862576, 2284131654},
		{144399848, connect, 2, 293575, 276391779},
		{4759545, shutDown, 0, 37152, 2091249384},
		{235930201, clients, 0, 615946, 511398821},
		{3412818, fault, 2, 12, 960828459},
		{8831085131, clients, 0, 323927, 2704052326},
	}},
	{"the model took a name without the dot at its end, of what is allowed for a time, for the same", setting{10306000578, 0, 0, false}, script{
		{866173, write, 4, 927989, 881261228},
		{663314, write, 4, 642791, 2796000660},
		{241652, shareList, 3, 588720, 2245078610},
		{571762, connect, 4, 855335, 1830063216},
		{207817706, write, 4, 158552, 2233818826},
		{2559352785, rest, 0, 574987, 2089245697},
		{920583, allow, 4, 837545, 1045523658},
		{472588, write, 4, 954064, 164337764},
		{800569, fault, 2, 8, 1242292958},
		{13942383123, template, 4, 870643, 1293280108},
	}},
	{"rules that served for a moment, while the AppVM waited for others, were no last good rules, and a mistake left it without a proxy", setting{10307000461, 60, 1, false}, script{
		{4337586, write, 3, 431584, 2917979902},
		{68658, connect, 3, 420810, 973817439},
		{22276861, write, 3, 388297, 2889968995},
		{14748334, allow, 3, 999723, 1810217081},
		{3420174, connect, 3, 903844, 2468296747},
		{66007, write, 3, 684655, 593844605},
		{602243, rest, 3, 478891, 570784610},
	}},
	{"the model took what served an AppVM from before its restart for its last good rules", setting{10411000369, 60, 1, true}, script{
		{431580, connect, 1, 873914, 3808783366},
		{4868841167, write, 1, 946336, 2436393825},
		{9538262390, write, 1, 433683, 2376416252},
		{2878751420, write, 1, 363817, 3053983361},
		{193476, write, 1, 999511, 2209576164},
		{204820118, reconnect, 1, 880469, 3245222662},
		{9724509028, rest, 1, 861075, 10150043215},
		{2193668410, write, 1, 335002, 3127002130},
	}},
	{"the model took one of two last good rules that look alike for the only one", setting{10212000650, 0, 5, false}, script{
		{1396084, start, 2, 53892, 488087194},
		{417057, write, 0, 514521, 1389725357},
		{432872, clients, 2, 974453, 1698879318},
		{2000742813, allow, 0, 975644, 2928756119},
		{1143302, takeBack, 0, 712226, 67017513},
		{293464783, connect, 0, 382082, 21045058719},
		{400308, flush, 0, 1029712, 660142631},
		{7796337, write, 0, 181402, 2830222419},
		{15802256736, connect, 0, 1026021, 2846222087},
		{143019107, clients, 0, 535323, 1083567994},
		{11045139780, write, 0, 443203, 2576697320},
		{284235961, rest, 0, 345826, 1247518076},
		{1432746804, connect, 0, 188801, 3362452095},
		{2725173, owned, 0, 182462, 2042994941},
		{806481132, write, 0, 1028536, 1057486950},
	}},
	{"an AppVM that had restarted kept rules from before, and a mistake had them serve it", setting{11204000107, 60, 1, false}, script{
		{668253, connect, 0, 1015618, 2976985866},
		{199067, write, 0, 65352, 555173969},
		{84012191, restart, 0, 947743, 2896428294},
		{3907586, write, 0, 241846, 2707490658},
		{155588521, reconnect, 0, 738542, 1814506754},
		{221663, write, 0, 832228, 1202315541},
	}},
}

func TestFound(t *testing.T) {
	for _, f := range found {
		if r := run(t, f.setting, f.script, true); r.wrong != nil {
			t.Errorf("%s:\n%s", f.what, strings.Join(r.journal, "\n"))
		}
	}
}

// shrink deletes steps from a script as long as it still fails, and returns what is left, with its journal.
func shrink(t *testing.T, is setting, s script) (script, result) {
	for size := len(s) / 2; size > 0; size /= 2 {
		for at := 0; at < len(s); {
			less := slices.Delete(slices.Clone(s), at, min(at+size, len(s)))
			if r := run(t, is, less, false); r.wrong != nil {
				s = less
			} else {
				at += size
			}
		}
	}
	return s, run(t, is, s, true)
}

func TestOneSeedGivesOneJournal(t *testing.T) {
	for seed := range uint64(3) {
		is, s := themeOf(seed).setting, scriptOf(seed, scriptSteps)
		r := run(t, is, s, true)
		if differences, rests, err := model.Replay(&r.told); err != nil || len(differences) > 0 || rests == 0 {
			t.Errorf("seed %d: %d rests, and the model says of what it was told: %v %v", seed, rests, differences, err)
		}
		first, second := r.journal, run(t, is, s, true).journal
		for i := range max(len(first), len(second)) {
			if i >= len(first) || i >= len(second) || first[i] != second[i] {
				t.Fatalf("seed %d: two journals, from line %d on:\n%s\n\n%s", seed, i+1, around(first, i), around(second, i))
			}
		}
	}
}

// around returns the lines of a journal around one.
func around(journal []string, i int) string {
	return strings.Join(journal[min(len(journal), max(0, i-5)):min(len(journal), i+5)], "\n")
}

// A write that has failed is tried again in its time, whatever another program does to the firewall meanwhile.
func TestARetryIsNotLost(t *testing.T) {
	for pause := time.Millisecond; pause < 150*time.Millisecond; pause += 5 * time.Millisecond {
		r := run(t, setting{seed: 1}, script{
			{1e6, write, 0, 0x501, 0},
			{1e6, connect, 0, 0, 0},
			{3e9, fault, 0, int(firewallFails), 30e6},
			{1e6, write, 0, 0x503, 0},
			{pause, forward, 0, 0, 0},
			{500e6, clients, 0, 0, 0},
		}, true)
		moved := slices.ContainsFunc(r.journal, func(line string) bool {
			at, what, _ := strings.Cut(strings.TrimSpace(line), " ")
			return strings.HasPrefix(at, "3.") && strings.HasPrefix(what, "bind ") // in the second after that
		})
		if r.wrong != nil || !moved {
			t.Errorf("after %v: %v\n%s", pause, r.wrong, strings.Join(r.journal, "\n"))
		}
	}
}
